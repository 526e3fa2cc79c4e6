//! Who looks after an interface of the host, and how it is lived with: a network manager or DHCP client that would not
//! know where its addresses went, and at the next renewal would put them back.
//!
//! One way serves all. Before the move it is told to leave the uplink alone (`silence`), at run time only; after it the
//! lease is renewed on the bridge with the same client identity (`renew`); and both are taken back when the uplink is
//! (`release`, `wake`). All four look first at what is so already, so that after a kill they can be done again. What they
//! need is in the journal before the first of them.
//!
//! Recognised is who says so itself, in its run-time files or by running, and not who might be it.
#![forbid(unsafe_code)]

pub mod clients;
pub mod connman;
pub mod dhclient;
pub mod dhcpcd;
pub mod for_good;
mod hold;
pub mod network_manager;
pub mod networkd;
pub mod renewal;
pub mod sockets;
pub mod udhcpc;

use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::journal::{Files, Journal};
use crate::name::IfName;
use crate::net::rtnl::Netlink;
use crate::step::Step;
use networkd::taps;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// Who looks after an interface, with what is needed to tell it and to take that back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Keeper {
    /// NetworkManager, by one of its connections.
    NetworkManager(network_manager::Device),
    /// systemd-networkd, netplan above it or not.
    Networkd(networkd::Network),
    /// ISC dhclient, started by ifupdown or by hand.
    Dhclient(dhclient::Client),
    /// dhcpcd, for all interfaces or for this one.
    Dhcpcd(dhcpcd::Client),
    /// BusyBox udhcpc.
    Udhcpc(udhcpc::Client),
    /// ifupdown with a static address: nothing runs that would have to be told.
    Ifupdown,
    /// One that can't be worked with.
    Stranger(Stranger),
}

/// A keeper that can't be worked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stranger {
    /// What it is, for people.
    pub name: String,
    /// Why it can't be.
    pub why: String,
}

/// Where the four things are done.
#[derive(Debug)]
pub struct Place<'a> {
    /// The bridge.
    pub bridge: &'a IfName,
    /// The uplink as it is called now; `None` if it has gone.
    pub uplink: Option<IfName>,
    /// The uplink as it was called when it was taken.
    pub called: &'a IfName,
    /// Its index.
    pub index: u32,
    /// Whether the host had anything on it: else nothing is renewed on the bridge.
    pub takes_part: bool,
    /// The bridge's own run-time files.
    pub files: &'a Files,
}

impl Keeper {
    /// One that can't be worked with.
    pub fn stranger(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Stranger(Stranger { name: name.into(), why: why.into() })
    }

    /// What it is, for people.
    pub fn name(&self) -> &str {
        match self {
            Self::NetworkManager(_) => "NetworkManager",
            Self::Networkd(_) => "systemd-networkd",
            Self::Dhclient(client) if client.is_of_ifupdown => "ifupdown with dhclient",
            Self::Dhclient(_) => "dhclient",
            Self::Dhcpcd(_) => "dhcpcd",
            Self::Udhcpc(_) => "udhcpc",
            Self::Ifupdown => "ifupdown",
            Self::Stranger(stranger) => &stranger.name,
        }
    }

    /// By what it looks after the interface, as it says itself.
    pub fn by(&self) -> Option<String> {
        match self {
            Self::NetworkManager(device) => Some(format!("its connection {}", device.connection)),
            Self::Networkd(network) => Some(network.file.display().to_string()),
            Self::Dhclient(client) => Some(format!("process {}", client.process.pid)),
            Self::Dhcpcd(client) => Some(format!("process {}", client.process.pid)),
            Self::Udhcpc(client) => Some(format!("process {}", client.process.pid)),
            Self::Ifupdown => Some("/run/network/ifstate".to_owned()),
            Self::Stranger(_) => None,
        }
    }

    /// Its name, and by what it looks after the interface.
    pub fn named(&self) -> String {
        let by = self.by().map(|by| format!(" (by {by})")).unwrap_or_default();
        format!("{}{by}", self.name())
    }

    /// Why it can't be worked with; `None` for one that can.
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Stranger(stranger) => Some(&stranger.why),
            _ => None,
        }
    }

    /// Whether there is anything to be told.
    pub fn is_to_be_told(&self) -> bool {
        !matches!(self, Self::Ifupdown | Self::Stranger(_))
    }

    /// Whether nothing of it runs between its commands.
    pub fn is_idle(&self) -> bool {
        matches!(self, Self::Ifupdown)
    }

    /// Whether it takes a port that leaves its bridge (RTM_DELLINK of the bridge's family) for a link that is gone, and
    /// forgets what it knew to be on it: then that has to come later.
    pub fn forgets_freed_ports(&self) -> bool {
        matches!(self, Self::Networkd(_))
    }

    /// What is done for it that no command does: a sentence.
    pub fn note(&self, bridge: &IfName) -> Option<String> {
        match self {
            Self::NetworkManager(device) => device.note(bridge),
            _ => None,
        }
    }

    /// What is told before the move and what after it, as lines for a shell.
    pub fn commands(&self, bridge: &IfName, uplink: &IfName) -> [Vec<String>; 2] {
        match self {
            Self::NetworkManager(device) => device.commands(bridge, uplink),
            Self::Networkd(network) => network.commands(bridge),
            Self::Dhclient(client) => client.commands(bridge),
            Self::Dhcpcd(client) => client.commands(bridge, uplink),
            Self::Udhcpc(client) => client.commands(bridge),
            Self::Ifupdown | Self::Stranger(_) => [Vec::new(), Vec::new()],
        }
    }

    fn silence(&self, place: &Place) -> Result<()> {
        match self {
            Self::NetworkManager(device) => device.silence(place),
            Self::Networkd(network) => network.silence(place),
            Self::Dhclient(client) => client.silence(),
            Self::Dhcpcd(client) => client.silence(place),
            Self::Udhcpc(client) => client.silence(),
            Self::Ifupdown | Self::Stranger(_) => Ok(()),
        }
    }

    fn renew(&self, place: &Place) -> Result<()> {
        match self {
            Self::Networkd(network) => network.renew(place),
            Self::Dhclient(client) if place.takes_part => client.renew(place),
            Self::Dhcpcd(client) if place.takes_part => client.renew(place),
            Self::Udhcpc(client) if place.takes_part => client.renew(place),
            // The reaper renews for it.
            _ => Ok(()),
        }
    }

    fn release(&self, place: &Place) -> Result<()> {
        match self {
            Self::Dhclient(client) => client.release(place),
            Self::Dhcpcd(client) => client.release(place),
            Self::Udhcpc(client) => client.release(place),
            _ => Ok(()),
        }
    }

    fn wake(&self, place: &Place, netlink: &mut Netlink) -> Result<()> {
        match self {
            Self::NetworkManager(device) => device.wake(place, netlink),
            Self::Networkd(network) => network.wake(place, netlink),
            Self::Dhclient(client) => client.wake(place),
            Self::Dhcpcd(client) => client.wake(place),
            Self::Udhcpc(client) => client.wake(),
            Self::Ifupdown | Self::Stranger(_) => Ok(()),
        }
    }
}

/// The one that looks after this interface.
pub fn keeper(link: &Link) -> Option<Keeper> {
    let of_manager = network_manager::recognise(link).or_else(|| networkd::recognise(link));
    let of_client = || clients::recognise(link).or_else(|| sockets::recognise(link));
    of_manager.or_else(of_client).or_else(|| {
        let why = "its address has an end, and nothing that runs here says that it renews it: cloud-init or an initramfs \
                   may have left it so";
        match link.layer3.has_leases() {
            true => Some(Keeper::stranger("a DHCP client", why)),
            false => is_of_ifupdown(&link.name).then_some(Keeper::Ifupdown),
        }
    })
}

/// Whether ifupdown's own list of what is up (interfaces(5)) has this interface.
pub fn is_of_ifupdown(name: &IfName) -> bool {
    let state = fs::read_to_string("/run/network/ifstate").unwrap_or_default();
    state.lines().any(|line| line.split('=').next() == Some(name.as_str()))
}

/// Tells it to leave the uplink alone: before the move.
pub fn silence(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    // One that is too old, or fails, may be made a bridge of its own all the same.
    each(netlink, journal, |keeper, place, _| keeper.silence(place)).map_err(|error| {
        let for_good = format!("'kvm-bridge doctor {}' shows how it makes the bridge for good.", journal.bridge);
        Error::new(error.what(), format!("{} {for_good}", error.remedy()))
    })?;
    // Where it can't be told, the guest's start warns of what it does.
    if is_to_be_spared(journal) && taps::spare(&journal.bridge).is_err() {
        let _ = taps::spare_no_more(&journal.bridge);
    }
    Ok(())
}

fn is_to_be_spared(journal: &Journal) -> bool {
    journal.steps.iter().any(|step| matches!(step, Step::Spare { .. }))
}

/// Has the lease renewed on the bridge: after the move.
pub fn renew(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    each(netlink, journal, |keeper, place, _| keeper.renew(place))
}

/// Ends what renews on the bridge: before the uplink is given back.
pub fn release(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    each(netlink, journal, |keeper, place, _| keeper.release(place))
}

/// Lets it have the uplink again: after that, when the bridge has gone.
pub fn wake(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    each(netlink, journal, |keeper, place, netlink| keeper.wake(place, netlink))?;
    if is_to_be_spared(journal) { taps::spare_no_more(&journal.bridge) } else { Ok(()) }
}

fn each(
    netlink: &mut Netlink,
    journal: &Journal,
    mut tell: impl FnMut(&Keeper, &Place, &mut Netlink) -> Result<()>,
) -> Result<()> {
    for step in &journal.steps {
        let Step::Tell { uplink, index, keeper, takes_part } = step else { continue };
        let now = netlink.link_at(*index).map_err(crate::net::observe::unreadable)?;
        let place = Place {
            bridge: &journal.bridge,
            uplink: now.map(|link| link.name),
            called: uplink,
            index: *index,
            takes_part: *takes_part,
            files: &Files::of(&journal.bridge)?,
        };
        let told = tell(keeper, &place, netlink);
        told.map_err(|error| error.of(format_args!("{}, which looks after {uplink}", keeper.name())))?;
    }
    Ok(())
}

/// An interface's name as a pattern that is safe in the lists of managers' files: what divides or means something there is
/// any byte.
fn pattern(name: &IfName) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-+@".contains(byte);
    name.as_str().bytes().map(|byte| if is_plain(&byte) { char::from(byte) } else { '?' }).collect()
}

/// A run-time file as a line for a shell, with the folder that it needs.
fn in_shell(path: &Path, text: &str) -> String {
    let words: Vec<_> = text.lines().map(shell_words::quote).collect();
    let folder = path.parent().unwrap_or(Path::new("/")).display();
    let path = path.to_string_lossy();
    format!("mkdir -p {folder}; printf '%s\\n' {} >{}", words.join(" "), shell_words::quote(&path))
}

/// Writes a run-time file whole, and its folder where that is missing.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || {
        crate::sys::files::create_folder_of(path)?;
        crate::sys::files::replace(path, Path::new(&new), text.as_bytes(), false)
    };
    write().map_err(|error: std::io::Error| {
        let what = format!("cannot write {}: {}", path.display(), reason(&error));
        Error::new(what, "A writable /run is needed: run it as root.")
    })
}

/// Removes a run-time file, if it is there. Whether it was.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let what = format!("cannot remove {}: {}", path.display(), reason(&error));
            Err(Error::new(what, "Remove it by hand."))
        }
    }
}
