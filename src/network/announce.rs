//! `announce=on`: tells on the caller's stderr which address the guest got.
//!
//! QEMU is in our place by then. Where the guest's bridge has a reaper, that listens too: no process more. One that is
//! started for this guest is told of its cards, one that is there takes over what we listen with. Where there is none, as on
//! a bridge that somebody else made, one process listens, which ends when it has told or the TAP goes. Whoever listens holds
//! the caller's stderr open for no longer than that.

pub mod inbox;

use crate::netlink::Netlink;
use crate::sys::packet::{AT_ONCE, BUFFER, Packets};
use crate::sys::process;
use crate::vm::VmId;
use model::error::Result;
use model::ifname::IfName;
use model::layout::duration;
use model::mac::Mac;
use model::packet::dhcp::{Kind, Message};
use model::packet::frame;
use model::packet::frame::Told;
use model::text;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::SFlag;
use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The name that the process of its own runs under; the program dispatches on it.
pub const NAME: &str = "kvm-bridge-announcer";

/// Listens for one network card.
#[derive(Debug)]
pub struct Announcer {
    packets: Packets,
    mac: Mac,
    vm: String,
    bridge: String,
    /// Where it tells, if not on the stderr of its own process.
    stderr: Option<OwnedFd>,
}

impl Announcer {
    /// Listens on the port of the bridge that has this card's TAP, if it is there.
    pub fn on_port(netlink: &mut Netlink, bridge: &IfName, index: u32, mac: Mac) -> std::io::Result<Option<Self>> {
        let mut ports = netlink.ports(index)?.into_iter();
        let Some(port) = ports.find(|port| port.mac == Some(mac.of_tap())) else { return Ok(None) };
        let vm = port.vm().unwrap_or(port.name.as_str()).to_owned();
        Ok(Some(Self {
            packets: Packets::open_for_dhcp(port.index)?,
            mac,
            vm,
            bridge: bridge.to_string(),
            stderr: None,
        }))
    }

    /// Listens on a TAP of this name.
    pub fn on_tap(netlink: &mut Netlink, tap: &IfName, bridge: &IfName, mac: Mac, vm: &VmId) -> std::io::Result<Self> {
        let index = netlink.link(tap)?.ok_or(std::io::ErrorKind::NotFound)?.index;
        let (vm, bridge) = (vm.display().to_owned(), bridge.to_string());
        Ok(Self { packets: Packets::open_for_dhcp(index)?, mac, vm, bridge, stderr: None })
    }

    /// Reads what has come; `true` when there is nothing to listen for any more: it has told, or the TAP is gone.
    pub fn hear(&self) -> bool {
        let mut buffer = [0; BUFFER];
        for _ in 0..AT_ONCE {
            match self.packets.receive(&mut buffer) {
                Ok(None) => return false,
                Err(_) => return true,
                Ok(Some(length)) => {
                    let Some(Told::Dhcp(message)) = buffer.get(..length).and_then(frame::read) else { continue };
                    if (message.kind, message.client) == (Kind::Ack, self.mac) && message.address.is_some() {
                        self.tell(&message);
                        return true;
                    }
                }
            }
        }
        false
    }

    fn tell(&self, message: &Message) {
        let Some(address) = message.address else { return };
        let prefix = message.prefix.map(|prefix| format!("/{prefix}")).unwrap_or_default();
        let server = message.server.map(|server| format!(", from {server}")).unwrap_or_default();
        let lease = match message.lease {
            None => String::new(),
            Some(u32::MAX) => " for ever".to_owned(),
            Some(lease) => format!(" for {}", duration(lease.into())),
        };
        let own = std::io::stderr();
        let stderr = self.stderr.as_ref().map_or(own.as_fd(), AsFd::as_fd);
        let (vm, bridge) = (text::one_line(&self.vm), &self.bridge);
        write_at_once(stderr, &format!("qemu-kvm: {vm} has {address}{prefix} on {bridge}{server}{lease}\n"));
    }

    /// Whether it needs the stderr of its own process.
    pub fn tells_on_own_stderr(&self) -> bool {
        self.stderr.is_none()
    }

    /// Leaves this announcer behind as a process of its own.
    pub fn leave_behind(&self) -> Result<()> {
        let words = [NAME, &self.bridge, &self.vm, &self.mac.to_string()];
        let words = words.map(|word| CString::new(word).unwrap_or_default());
        process::leave_behind(&words.each_ref().map(|word| word.as_c_str()), &self.packets, process::Stderr::Callers)
    }
}

/// Writes as far as there is room. Nobody may be reading, and whoever listens has more to do than to wait for that; if
/// nobody can be told, nobody is.
fn write_at_once(stderr: BorrowedFd, text: &str) {
    let mut place = [PollFd::new(stderr, PollFlags::POLLOUT)];
    let has_room = poll(&mut place, PollTimeout::ZERO).is_ok()
        && place[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
    if !has_room {
        return;
    }
    // A terminal that has some room may have less than is needed, and keeps who writes more. It is opened anew for this: not
    // to wait is a property of what was opened, and the caller has that, too.
    let stat = nix::sys::stat::fstat(stderr);
    let may_wait = stat.is_ok_and(|stat| matches!(stat.st_mode & SFlag::S_IFMT.bits(), libc::S_IFCHR | libc::S_IFIFO));
    if may_wait {
        let path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        if let Ok(mut file) = std::fs::File::options().write(true).custom_flags(flags).open(path) {
            let _ = file.write_all(text.as_bytes());
        }
    } else {
        let _ = nix::unistd::write(stderr, text.as_bytes());
    }
}

impl AsFd for Announcer {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.packets.as_fd()
    }
}

/// Runs as the process of its own; `words` are those of `leave_behind`.
pub fn main(words: &[OsString]) -> i32 {
    let word = |at: usize| words.get(at).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let Ok(mac) = word(3).parse() else { return 1 };
    let _ = nix::sys::prctl::set_name(c"kvm-bridge-anno");
    let packets = Packets::from(std::os::fd::OwnedFd::from(process::inherited()));
    let announcer = Announcer { packets, mac, vm: word(2), bridge: word(1), stderr: None };
    while !announcer.hear() {
        let waited = poll(&mut [PollFd::new(announcer.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
        if waited.is_err_and(|error| error != nix::errno::Errno::EINTR) {
            return 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// A terminal: who reads, who writes, and who writes without waiting.
    fn terminal() -> (File, OwnedFd, File) {
        let pty = nix::pty::openpty(None, None).unwrap();
        let path = format!("/proc/self/fd/{}", pty.slave.as_raw_fd());
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let filler = File::options().write(true).custom_flags(flags).open(path).unwrap();
        (File::from(pty.master), pty.slave, filler)
    }

    fn fill(filler: &mut File, most: usize) -> usize {
        (0..most).take_while(|_| filler.write(b"x").is_ok()).count()
    }

    #[test]
    fn a_terminal_without_room_keeps_nobody() {
        let (_reader, _writer, mut filler) = terminal();
        let room = fill(&mut filler, 1 << 20);
        let (_reader, writer, mut filler) = terminal();
        assert_eq!(fill(&mut filler, room - 20), room - 20);
        let (done, is_done) = channel();
        std::thread::spawn(move || {
            write_at_once(writer.as_fd(), &"y".repeat(100));
            let _ = done.send(());
        });
        assert!(is_done.recv_timeout(Duration::from_secs(5)).is_ok(), "it waits for a reader");
    }

    #[test]
    fn a_guest_that_sends_without_end_keeps_nobody() {
        use std::net::UdpSocket;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let sent = (0..2 * AT_ONCE).filter(|_| socket.send_to(b"noise", socket.local_addr().unwrap()).is_ok()).count();
        let left = socket.try_clone().unwrap();
        let (mac, vm, bridge) = (Mac([2; 6]), "alice".to_owned(), "br0".to_owned());
        let announcer = Announcer { packets: OwnedFd::from(socket).into(), mac, vm, bridge, stderr: None };
        assert!(!announcer.hear());
        assert_eq!((0..sent).filter(|_| left.recv(&mut [0; 9]).is_ok()).count(), sent - AT_ONCE);
    }

    #[test]
    fn whoever_reads_is_told() {
        let (mut reader, writer, _filler) = terminal();
        write_at_once(writer.as_fd(), "told");
        let mut text = [0; 4];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"told");
        let (mut reader, writer) = crate::sys::files::pipe().unwrap();
        write_at_once(writer.as_fd(), "told");
        reader.read_exact(&mut text).unwrap();
        drop(reader);
        write_at_once(writer.as_fd(), "nobody");
        // What is written next stands behind it, as in the caller's own file.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first ").unwrap();
        write_at_once(file.as_fd(), "told");
        file.write_all(b" last").unwrap();
        let mut all = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_string(&mut all).unwrap();
        assert_eq!((&text, all.as_str()), (b"told", "first told last"));
    }
}
