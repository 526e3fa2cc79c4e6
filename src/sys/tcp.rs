//! Connections by TCP: to the first of several addresses that answers, and joined with the standard files.
#![forbid(unsafe_code)]

use crate::sys::files;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay, socket_error,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// The next address is tried too when one has not answered for so long (RFC 8305, Connection Attempt Delay).
const HEAD_START: Duration = Duration::from_millis(250);
/// Whoever is silent for so long is asked whether they are there.
const IDLE: Duration = Duration::from_secs(60);
/// As much is carried at once.
const CHUNK: usize = 64 * 1024;

/// Somebody to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The address and port.
    pub address: SocketAddr,
    /// The only interface by which that may be, if there is one.
    pub interface: Option<OsString>,
}

/// Connects to the first that answers, and tells which that is. If nobody does until `end`, it is the failure of one of them: that
/// it refuses, if one does.
pub fn connect(targets: &[Target], end: Instant) -> io::Result<(usize, TcpStream)> {
    let mut waiting = targets.iter().enumerate();
    let mut pending: Vec<(usize, OwnedFd)> = Vec::new();
    let mut failure: Option<io::Error> = None;
    let mut next = Instant::now();
    loop {
        let now = Instant::now();
        let is_time = pending.is_empty() || now >= next;
        if let Some((at, target)) = is_time.then(|| waiting.next()).flatten() {
            match begin(target) {
                Ok(socket) => pending.push((at, socket)),
                Err(error) => failure = Some(worse(failure, error)),
            }
            next = now + HEAD_START;
            continue;
        }
        if pending.is_empty() || now >= end {
            return Err(failure.unwrap_or_else(|| io::ErrorKind::TimedOut.into()));
        }
        let until = if waiting.len() > 0 { next.min(end) } else { end };
        let mut files: Vec<PollFd> =
            pending.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLOUT)).collect();
        wait(&mut files, Some(until))?;
        let ready: Vec<bool> = files.iter().map(|file| file.any().unwrap_or_default()).collect();
        let (ready, waits): (Vec<_>, Vec<_>) = pending.drain(..).zip(ready).partition(|(_, is_ready)| *is_ready);
        pending = waits.into_iter().map(|(socket, _)| socket).collect();
        for ((at, socket), _) in ready {
            match socket_error(&socket).map_err(io::Error::from).and_then(|outcome| Ok(outcome?)) {
                Ok(()) => return prepare(socket).map(|stream| (at, stream)),
                Err(error) => failure = Some(worse(failure, error)),
            }
        }
    }
}

/// The failure that tells more of two.
fn worse(before: Option<io::Error>, now: io::Error) -> io::Error {
    before.filter(|before| before.kind() == io::ErrorKind::ConnectionRefused).unwrap_or(now)
}

fn begin(target: &Target) -> io::Result<OwnedFd> {
    let family = if target.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if let Some(interface) = &target.interface {
        match setsockopt(&socket, BindToDevice, interface) {
            // Before Linux 5.7 it was root's; a route has to do.
            Ok(()) | Err(nix::Error::EPERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::net::connect(&socket, &target.address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// A connection as it is to be used: what waits for it waits, a keystroke goes at once, and whoever is gone is found out.
fn prepare(socket: OwnedFd) -> io::Result<TcpStream> {
    set_socket_keepalive(&socket, true)?;
    set_tcp_keepidle(&socket, IDLE)?;
    set_tcp_keepintvl(&socket, IDLE / 4)?;
    set_tcp_keepcnt(&socket, 4)?;
    set_tcp_nodelay(&socket, true)?;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// How a connection that is joined with the standard files has ended.
#[derive(Debug)]
pub enum End {
    /// Both sides are done, or who read stdout has gone.
    Done,
    /// `is_over` said so.
    Over,
    /// The other side broke it off.
    Broken(io::Error),
    /// What came could not be written to stdout.
    Unwritable(io::Error),
}

/// Carries stdin to a connection and what comes from there to stdout, until both have ended: the end of one direction is told, and the
/// other goes on. With a person at the terminal the end of what comes is the end. Each time that there is `news`, `is_over` is asked whether there is
/// anybody left at the other side.
pub fn join(stream: TcpStream, news: BorrowedFd, mut is_over: impl FnMut() -> bool) -> io::Result<End> {
    let stream = Arc::new(stream);
    let (done, told) = files::pipe()?;
    let up = Arc::clone(&stream);
    Builder::new().spawn(move || {
        let _ = carry(&io::stdin(), &*up);
        let _ = up.shutdown(Shutdown::Write);
        drop(told);
    })?;
    let mut chunk = vec![0; CHUNK];
    let mut hear = |file: &dyn AsFd| -> io::Result<bool> {
        loop {
            let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN), PollFd::new(news, PollFlags::POLLIN)];
            wait(&mut files, None)?;
            let [is_there, is_news] = files.map(|file| file.any().unwrap_or_default());
            if is_there || is_news && is_over() {
                return Ok(is_there);
            }
        }
    };
    loop {
        if !hear(&*stream)? {
            return Ok(End::Over);
        }
        match rustix::io::read(&*stream, &mut chunk) {
            Ok(0) => break,
            Ok(length) => match write_all(&io::stdout(), &chunk[..length]) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Done),
                Err(error) => return Ok(End::Unwritable(error)),
                Ok(()) => {}
            },
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Ok(End::Broken(error.into())),
        }
    }
    if io::stdin().is_terminal() {
        return Ok(End::Done);
    }
    close_stdout();
    Ok(if hear(&done)? { End::Done } else { End::Over })
}

/// Whoever reads stdout reads its end.
fn close_stdout() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

/// Carries all that comes to its end.
fn carry(from: &impl AsFd, to: &impl AsFd) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match rustix::io::read(from, &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => write_all(to, &chunk[..length])?,
            // Somebody else has it so that it does not wait: it is theirs as well.
            Err(rustix::io::Errno::AGAIN) => wait(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], None)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn write_all(to: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(rustix::io::Errno::AGAIN) => wait(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], None)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sleeps until there is something, or the time is over.
fn wait(files: &mut [PollFd], end: Option<Instant>) -> io::Result<()> {
    let left = end.map(|end| end.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    match poll(files, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    fn target(address: &str) -> Target {
        Target { address: address.parse().unwrap(), interface: None }
    }

    #[test]
    fn the_first_that_answers_is_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let closed = {
            let other = TcpListener::bind("127.0.0.1:0").unwrap();
            other.local_addr().unwrap().to_string()
        };
        let end = || Instant::now() + Duration::from_secs(20);
        let (at, _) = connect(&[target(&closed), target(&open)], end()).unwrap();
        assert_eq!(at, 1);
        let error = connect(&[target(&closed)], end()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let bound = Target { interface: Some("lo".into()), ..target(&open) };
        let nowhere = Target { interface: Some("no-such".into()), ..target(&open) };
        assert_eq!(connect(&[nowhere, bound], end()).unwrap().0, 1);
        assert_eq!(connect(&[], end()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn all_is_carried_to_its_end() {
        let (mut out, into) = files::pipe().unwrap();
        let (from, text) = files::pipe().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || write_all(&text, &vec![7; 300_000]));
            scope.spawn(move || carry(&from, &into));
            let mut all = Vec::new();
            out.read_to_end(&mut all).unwrap();
            assert_eq!(all, vec![7; 300_000]);
        });
    }
}
