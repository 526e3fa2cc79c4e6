//! FRR on this host: whether it is there and speaks.

use crate::output::errno::reason;
use crate::sys::program::is_installed;
use model::error::Error;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Where its daemons are spoken with.
const BGPD: &str = "/run/frr/bgpd.vty";

/// What is missing of it, each with what to do about it.
pub fn lacks() -> Vec<Error> {
    if !is_installed("vtysh") {
        let remedy = "Install it: apt install frr, dnf install frr, zypper install frr, pacman -S frr, apk add frr.";
        return vec![Error::new("FRR is missing, which tells the other hosts who is on this one", remedy)];
    }
    bgpd().into_iter().collect()
}

/// Why its bgpd can't be spoken with.
pub(super) fn bgpd() -> Option<Error> {
    let error = reach(Path::new(BGPD)).err()?;
    Some(match error.kind() {
        io::ErrorKind::PermissionDenied => Error::new(
            "whether bgpd of FRR runs could not be read: permission denied",
            "Ask as root, or as a member of the group frrvty.",
        ),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::new("bgpd of FRR does not run", "Set bgpd=yes in /etc/frr/daemons, then: systemctl restart frr")
        }
        _ => Error::new(format!("bgpd of FRR does not answer: {}", reason(&error)), "systemctl status frr"),
    })
}

/// Whether somebody listens there. One that is stopped, with a full queue, is not waited for.
fn reach(path: &Path) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    Ok(connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    #[test]
    fn one_that_does_not_accept_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bgpd.vty");
        assert_eq!(reach(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let stopped = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(stopped.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert_eq!(reach(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        listen(&stopped, Backlog::new(1).unwrap()).unwrap();
        let full = (0..5).find_map(|_| reach(&path).err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
