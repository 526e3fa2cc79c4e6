//! Who manages an interface of the host: looked at, to tell people and to print how that one makes a bridge permanent.
//! Nothing is run, nothing is changed, and nothing but a text and whether an interface is left alone rests on it.
//!
//! What is read is what managers write for themselves: their run-time files, in folders of root's or their own.
#![forbid(unsafe_code)]

pub mod permanent;

use crate::host::Link;
use crate::share::PREFIX;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Who manages an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manager {
    /// NetworkManager.
    NetworkManager,
    /// systemd-networkd, by this file.
    Networkd(PathBuf),
    /// ifupdown (interfaces(5)), with a DHCP client of its own or static.
    Ifupdown,
    /// dhcpcd.
    Dhcpcd,
    /// ConnMan, which takes every new link but those of which its configuration says otherwise.
    Connman {
        /// Whether it leaves ours alone.
        spares_ours: bool,
    },
}

impl fmt::Display for Manager {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkManager => out.write_str("NetworkManager"),
            Self::Networkd(file) if is_of_netplan(file) => out.write_str("netplan (systemd-networkd)"),
            Self::Networkd(_) => out.write_str("systemd-networkd"),
            Self::Ifupdown => out.write_str("ifupdown"),
            Self::Dhcpcd => out.write_str("dhcpcd"),
            Self::Connman { .. } => out.write_str("connman"),
        }
    }
}

/// The one that manages this interface, as far as its run-time files tell.
pub fn of(link: &Link) -> Option<Manager> {
    let name = &link.name;
    let value = |file: &str, key: &str| {
        let text = fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| Some(line.trim().strip_prefix(key)?.strip_prefix('=')?.to_owned()))
    };
    let of_network_manager = format!("/run/NetworkManager/devices/{}", link.index);
    if value(&of_network_manager, "managed").as_deref() == Some("true") {
        return Some(Manager::NetworkManager);
    }
    let of_networkd = format!("/run/systemd/netif/links/{}", link.index);
    let file = value(&of_networkd, "NETWORK_FILE").filter(|file| !file.is_empty());
    if let Some(file) = file.filter(|_| value(&of_networkd, "ADMIN_STATE").as_deref() != Some("unmanaged")) {
        return Some(Manager::Networkd(file.into()));
    }
    let state = fs::read_to_string("/run/network/ifstate").unwrap_or_default();
    if state.lines().any(|line| line.split('=').next() == Some(name.as_str())) {
        return Some(Manager::Ifupdown);
    }
    let exists = |path: String| Path::new(&path).exists();
    if exists("/run/dhcpcd/pid".into())
        || exists(format!("/run/dhcpcd/{name}.pid"))
        || exists(format!("/run/dhcpcd-{name}.pid"))
    {
        return Some(Manager::Dhcpcd);
    }
    exists("/run/connman".into()).then(|| {
        let configuration = fs::read_to_string("/etc/connman/main.conf").unwrap_or_default();
        Manager::Connman { spares_ours: spares(&configuration) }
    })
}

/// Whether a connman.conf(5) has connman leave links alone whose names begin as ours do.
fn spares(configuration: &str) -> bool {
    let lists = configuration.lines().filter_map(|line| line.trim().strip_prefix("NetworkInterfaceBlacklist"));
    let lists = lists.filter_map(|rest| rest.trim_start().strip_prefix('='));
    lists
        .last()
        .is_some_and(|list| list.split(',').any(|start| !start.trim().is_empty() && PREFIX.starts_with(start.trim())))
}

/// Whether a file of networkd's was written by netplan.
fn is_of_netplan(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10-netplan-"))
}

#[cfg(test)]
mod tests {
    use super::spares;

    #[test]
    fn connmans_list_is_of_beginnings() {
        for (text, expected) in [
            ("[General]\nNetworkInterfaceBlacklist=vmnet,kvb\n", true),
            ("NetworkInterfaceBlacklist = ve-, kv\n", true),
            ("NetworkInterfaceBlacklist=vmnet,vboxnet\n", false),
            ("# NetworkInterfaceBlacklist=kvb\n", false),
            ("NetworkInterfaceBlacklist=kvbx,\n", false),
            ("", false),
        ] {
            assert_eq!(spares(text), expected, "{text}");
        }
    }
}
