//! `forward=` in a network of a user's own: a relay for each guest, which listens on the host and connects in the namespace.
//!
//! It ends with the guest's QEMU, also with one that has become a daemon: that holds the other end of a pipe. Guests see the host's
//! address in their network as the one who connects.
//!
//! It is two processes: the first one starts the second one again when that is killed, and each of them can do without the other.
//! Both hold a lock, by which others know whether the ports lead anywhere.

use crate::output::errno::reason;
use crate::state::journal::Files;
use crate::sys::process::{Stderr, inherited};
use crate::sys::{descriptors, lock, process};
use model::error::{Error, Result};
use model::nat::forward::{Forward, Protocol};
use model::nat::guest::Guest;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::Duration;

/// The name that it runs under; the program dispatches on it.
pub const NAME: &str = "kvm-bridge-relay";
/// So often is it looked, in such steps, whether the one of a guest's last run has ended.
const ATTEMPTS: u32 = 200;
const STEP: Duration = Duration::from_millis(10);
/// After so long one that was killed is started again.
const PAUSE: Duration = Duration::from_millis(100);
/// A connection that is not accepted in the guest in this time fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// What has been silent for so long by UDP is over (as nf_conntrack_udp_timeout_stream of the kernel has it).
const SILENCE: Duration = Duration::from_secs(120);
/// Whoever is silent for so long is asked whether they are there.
const IDLE: Duration = Duration::from_secs(60);
/// One direction may be silent for so long after the other has ended.
const HALF: Duration = Duration::from_secs(600);
/// So many connections at once, of all clients.
const MOST: usize = 512;
/// What a thread needs.
const STACK: usize = 64 * 1024;
/// The longest datagram.
const LONGEST: usize = 65_535;

/// The lock that the relay of a guest holds.
fn lock_of(files: &Files, guest: &Guest) -> PathBuf {
    files.nat().join(format!("relay-{}", guest.address))
}

/// Whether what is forwarded to a guest gets there.
pub fn runs(files: &Files, guest: &Guest) -> bool {
    guest.forwards.is_empty() || lock::is_held(&lock_of(files, guest))
}

/// Leaves one behind that leads these ports of the host's to a guest, as long as the other end of `lives` is open.
pub(super) fn leave_behind(files: &Files, guest: &Guest, lives: &OwnedFd, ports: &[OwnedFd]) -> Result<()> {
    let cannot = |error: io::Error| Error::new(format!("cannot forward ports: {}", reason(&error)), "Try again.");
    let (ours, theirs) = descriptors::pair().map_err(cannot)?;
    // That of the guest's last run may be about to end.
    let try_lock = |_| match lock::try_for_life(&lock_of(files, guest)) {
        Ok(None) => {
            std::thread::sleep(STEP);
            None
        }
        tried => tried.transpose(),
    };
    let lock =
        (0..ATTEMPTS).find_map(try_lock).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(cannot)?;
    let files: Vec<_> = [lives.as_fd(), lock.as_fd()].into_iter().chain(ports.iter().map(AsFd::as_fd)).collect();
    descriptors::send(&ours, b"ports", &files).map_err(cannot)?;
    let (address, forwards) = (guest.address.to_string(), guest.forwards.iter().map(Forward::to_string));
    let words = [NAME.to_owned(), address].into_iter().chain(forwards);
    let words: Vec<CString> = words.map(|word| CString::new(word).unwrap_or_default()).collect();
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    process::leave_behind(&words, &theirs, Stderr::Null)
}

/// Runs as the relay: `words` are its name, the guest's address, and what is forwarded.
pub fn main(words: &[OsString]) -> i32 {
    let words: Vec<&str> = words.iter().skip(1).filter_map(|word| word.to_str()).collect();
    let Some((Ok(guest), forwards)) = words.split_first().map(|(guest, rest)| (guest.parse::<Ipv4Addr>(), rest)) else {
        return 1;
    };
    let Ok(Some((_, files))) = descriptors::receive(&inherited(), PATIENCE) else { return 1 };
    let _ = nix::sys::prctl::set_name(c"kvm-bridge-rel");
    process::ignore_requests_to_end();
    process::raise_limits();
    let mut files = files.into_iter();
    let (Some(lives), Some(_lock)) = (files.next(), files.next()) else { return 1 };
    let ports: Vec<OwnedFd> = files.collect();
    // No client can fill or crash the one that only waits.
    loop {
        let ended = process::fork_for(|| serve(guest, forwards, &lives, &ports)).and_then(|one| waitpid(one, None));
        match ended {
            Ok(WaitStatus::Signaled(..)) => std::thread::sleep(PAUSE),
            Ok(WaitStatus::Exited(_, status)) => return status,
            _ => return 1,
        }
    }
}

/// Leads all, until the guest's QEMU has ended.
fn serve(guest: Ipv4Addr, forwards: &[&str], lives: &OwnedFd, ports: &[OwnedFd]) -> i32 {
    for (forward, port) in forwards.iter().zip(ports) {
        let Ok(port) = port.try_clone() else { return 1 };
        let Ok(Forward { protocol, to, .. }) = forward.parse() else { return 1 };
        let to = SocketAddr::from((guest, to));
        let serve = move || match protocol {
            Protocol::Tcp => serve_tcp(port, to),
            Protocol::Udp => serve_udp(port, to),
        };
        if Builder::new().stack_size(STACK).spawn(serve).is_err() {
            return 1;
        }
    }
    let mut end = [PollFd::new(lives.as_fd(), PollFlags::POLLIN)];
    while poll(&mut end, PollTimeout::NONE) == Err(nix::Error::EINTR) {}
    0
}

fn serve_tcp(port: OwnedFd, to: SocketAddr) -> io::Result<()> {
    let count = Arc::new(AtomicUsize::new(0));
    for client in TcpListener::from(port).incoming() {
        let Ok(client) = client else {
            // Too many files are open: some will be closed.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if count.fetch_add(1, Ordering::Relaxed) >= MOST {
            count.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let own = Arc::clone(&count);
        let lead = move || {
            let _ = lead(&client, to);
            own.fetch_sub(1, Ordering::Relaxed);
        };
        if Builder::new().stack_size(STACK).spawn(lead).is_err() {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Leads one connection, until both directions have ended.
fn lead(client: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let guest = TcpStream::connect_timeout(&to, PATIENCE)?;
    for end in [client, &guest] {
        set_socket_keepalive(end, true)?;
        set_tcp_keepidle(end, IDLE)?;
        set_tcp_keepintvl(end, IDLE / 4)?;
        set_tcp_keepcnt(end, 4)?;
    }
    let copy = |mut from: &TcpStream, mut into: &TcpStream| {
        let copied = io::copy(&mut from, &mut into);
        let _ = into.shutdown(Shutdown::Write);
        // Who has been told that no more comes, and says nothing either, is done.
        let _ = into.set_read_timeout(Some(HALF));
        if copied.is_err() {
            let _ = from.shutdown(Shutdown::Both);
        }
    };
    std::thread::scope(|scope| {
        Builder::new().stack_size(STACK).spawn_scoped(scope, || copy(client, &guest))?;
        copy(&guest, client);
        Ok(())
    })
}

/// A socket for one client's datagrams.
fn socket_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Leads datagrams: each client has a socket of its own in the network, so that answers find back.
fn serve_udp(port: OwnedFd, to: SocketAddr) -> io::Result<()> {
    let host = Arc::new(UdpSocket::from(port));
    let clients: Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>> = Arc::default();
    let mut datagram = vec![0; LONGEST];
    loop {
        let Ok((length, from)) = host.recv_from(&mut datagram) else { continue };
        let Ok(mut known) = clients.lock() else { return Ok(()) };
        let own = match known.get(&from) {
            Some(own) => Arc::clone(own),
            None if known.len() >= MOST => continue,
            None => {
                // Too many files are open, for now.
                let Ok(own) = socket_to(to) else { continue };
                let own = Arc::new(own);
                known.insert(from, Arc::clone(&own));
                let (answers, host, clients) = (Arc::clone(&own), Arc::clone(&host), Arc::clone(&clients));
                let answer = move || {
                    let mut datagram = vec![0; LONGEST];
                    // A guest that does not listen yet refuses (ECONNREFUSED), and may listen soon.
                    loop {
                        match answers.recv(&mut datagram) {
                            Ok(length) => drop(host.send_to(&datagram[..length], from)),
                            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                            Err(_) => break,
                        }
                    }
                    if let Ok(mut clients) = clients.lock() {
                        clients.remove(&from);
                    }
                };
                if Builder::new().stack_size(STACK).spawn(answer).is_err() {
                    known.remove(&from);
                    continue;
                }
                own
            }
        };
        drop(known);
        let _ = own.send(&datagram[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Ipv6Addr;

    #[test]
    fn connections_are_led_both_ways_until_both_ends_are_done() {
        let guest = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = guest.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut text = String::new();
            let (mut stream, _) = guest.accept().unwrap();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(format!("got {text}").as_bytes()).unwrap();
        });
        let port = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let on = port.local_addr().unwrap();
        std::thread::spawn(move || serve_tcp(port.into(), to));
        let mut client = TcpStream::connect(on).unwrap();
        client.write_all(b"this").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "got this");
    }

    #[test]
    fn each_client_has_its_own_answers_by_udp() {
        let guest = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = guest.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut datagram = [0; 64];
            while let Ok((length, from)) = guest.recv_from(&mut datagram) {
                let _ = guest.send_to(&datagram[..length], from);
            }
        });
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let on = port.local_addr().unwrap();
        std::thread::spawn(move || serve_udp(port.into(), to));
        let clients = [0, 1].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        for (client, text) in clients.iter().zip([b"one", b"two"]) {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.send_to(text, on).unwrap();
        }
        for (client, text) in clients.iter().zip([b"one", b"two"]) {
            let mut datagram = [0; 64];
            let (length, from) = client.recv_from(&mut datagram).unwrap();
            assert_eq!((&datagram[..length], from), (text.as_slice(), on));
        }
    }
}
