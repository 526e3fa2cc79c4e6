//! FRR on this host: whether it is there and speaks.

use crate::output::errno::reason;
use crate::sys::program::is_installed;
use model::error::Error;
use std::io;
use std::os::unix::net::UnixStream;

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
    let error = UnixStream::connect(BGPD).err()?;
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
