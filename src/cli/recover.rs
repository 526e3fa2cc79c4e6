//! `kvm-bridge recover`.

use crate::error::{Error, Result};
use crate::journal::Files;
use crate::net::observe::unreadable;
use crate::net::rtnl::Netlink;
use crate::reaper::{self, Found};
use crate::sys::process;
use clap::Args;

/// The arguments of `kvm-bridge recover`.
#[derive(Debug, Args)]
pub(super) struct Recover {}

impl Recover {
    /// Looks after every bridge that has a journal, whatever became of the one before.
    pub(super) fn run(self) -> Result<String> {
        if !process::can_change_network() {
            let what = "recover: this needs the right to change the network, CAP_NET_ADMIN";
            return Err(Error::new(what, "Run it as root: sudo kvm-bridge recover"));
        }
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let (mut text, mut faults) = (String::new(), Vec::new());
        for files in Files::all()? {
            let bridge = files.bridge();
            match reaper::look_after(&mut netlink, &files) {
                Ok(Found::InUse(guests)) => text += &format!("{bridge} is in use: by {guests} other links\n"),
                Ok(Found::Kept) => text += &format!("{bridge} is kept, as was asked for\n"),
                Ok(Found::Undone) => text += &format!("{bridge} was left behind, and is taken back\n"),
                Ok(Found::Nothing) => {}
                Err(error) => faults.push(error.of(bridge).to_string()),
            }
        }
        match faults.is_empty() {
            true if text.is_empty() => Ok("There is nothing to recover.\n".to_owned()),
            true => Ok(text),
            false => Err(Error::new(format!("{text}{}", faults.join("\n")), "Look at 'ip addr', and try again.")),
        }
    }
}
