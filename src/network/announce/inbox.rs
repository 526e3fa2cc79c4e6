//! Where the reaper of a bridge takes over from guests that come later: a socket beside the bridge's journal.
//!
//! A guest's start hands over what it listens with and its own stderr, and the reaper holds both until it has told or the
//! TAP goes. Only root can reach the socket, as only root can read the journal's lock: who could write to it could have root
//! write into a file of theirs, which they can do themselves. Where nobody takes it, who asks has a process of its own.
#![forbid(unsafe_code)]

use crate::network::announce::Announcer;
use crate::sys::descriptors::{self, received, shortened};
use crate::sys::files::if_there;
use crate::sys::packet::Packets;
use nix::sys::stat::{Mode, umask};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Longer than a VM's name in an alias, with all that goes with it.
const LONGEST: usize = 1024;

/// The reaper's end.
#[derive(Debug)]
pub struct Inbox(UnixDatagram);

impl Inbox {
    /// Opens it; a reaper that was killed may have left one.
    pub fn open(path: &Path) -> io::Result<Self> {
        if_there(fs::remove_file(path))?;
        let before = umask(Mode::from_bits_truncate(0o177));
        let socket = shortened(path).and_then(|(short, _folder)| UnixDatagram::bind(short));
        umask(before);
        let socket = socket?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The next one that was handed over.
    pub fn take(&self) -> Option<Announcer> {
        let mut text = [0; LONGEST];
        let (length, files) = received(&self.0, &mut text)?;
        let [packets, stderr] = <[OwnedFd; 2]>::try_from(files).ok()?;
        let text = String::from_utf8_lossy(text.get(..length)?).into_owned();
        let [mac, bridge, vm] = <[&str; 3]>::try_from(text.splitn(3, '\0').collect::<Vec<_>>()).ok()?;
        let (mac, bridge, vm) = (mac.parse().ok()?, bridge.to_owned(), vm.to_owned());
        Some(Announcer { packets: Packets::from(packets), mac, vm, bridge, stderr: Some(stderr) })
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Hands an announcer over to the reaper, with this process's stderr. Not waited for: one that does not read now is no help.
pub fn hand_over(path: &Path, announcer: &Announcer) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let (short, _folder) = shortened(path)?;
    socket.connect(short)?;
    let text = format!("{}\0{}\0{}", announcer.mac, announcer.bridge, announcer.vm);
    let stderr = io::stderr();
    let files = [announcer.packets.as_fd(), stderr.as_fd()];
    if text.len() > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    descriptors::send_now(&socket, text.as_bytes(), &files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::mac::Mac;

    fn announcer() -> Announcer {
        // Any descriptor does: nothing is heard here.
        let socket = OwnedFd::from(UnixDatagram::unbound().unwrap());
        let vm = "a\0b".to_owned();
        Announcer { packets: socket.into(), mac: Mac([2; 6]), vm, bridge: "br0".to_owned(), stderr: None }
    }

    #[test]
    fn what_is_handed_over_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than an address.
        let path = folder.path().join("x".repeat(200)).join("br0.inbox");
        fs::create_dir(path.parent().unwrap()).unwrap();
        assert!(hand_over(&path, &announcer()).is_err(), "nobody is there");
        let inbox = Inbox::open(&path).unwrap();
        assert!(inbox.take().is_none());
        hand_over(&path, &announcer()).unwrap();
        let taken = inbox.take().unwrap();
        assert_eq!((taken.mac, taken.vm.as_str(), taken.bridge.as_str()), (Mac([2; 6]), "a\0b", "br0"));
        assert!(taken.stderr.is_some() && inbox.take().is_none());
        drop(inbox);
        assert!(hand_over(&path, &announcer()).is_err(), "nobody is there any more");
        Inbox::open(&path).unwrap();
    }

    #[test]
    fn only_its_owner_can_reach_it_and_nonsense_is_dropped() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("br0.inbox");
        let inbox = Inbox::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixDatagram::unbound().unwrap().send_to(b"02:02:02:02:02:02\0br0\0vm", &path).unwrap();
        assert!(inbox.take().is_none());
    }
}
