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
use std::io;
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

/// The one that manages this interface, as far as its run-time files tell. An error says that one could not be read.
pub fn of(link: &Link) -> io::Result<Option<Manager>> {
    let name = &link.name;
    let state = text(format!("/run/NetworkManager/devices/{}", link.index))?;
    if value(&state, "managed") == Some("true") {
        return Ok(Some(Manager::NetworkManager));
    }
    let state = text(format!("/run/systemd/netif/links/{}", link.index))?;
    if let Some(file) = value(&state, "NETWORK_FILE").filter(|file| !file.is_empty())
        && value(&state, "ADMIN_STATE") != Some("unmanaged")
    {
        return Ok(Some(Manager::Networkd(file.into())));
    }
    let up = text("/run/network/ifstate".into())?;
    if up.lines().any(|line| line.split('=').next() == Some(name.as_str())) {
        return Ok(Some(Manager::Ifupdown));
    }
    for file in ["/run/dhcpcd/pid".to_owned(), format!("/run/dhcpcd/{name}.pid"), format!("/run/dhcpcd-{name}.pid")] {
        if Path::new(&file).try_exists()? {
            return Ok(Some(Manager::Dhcpcd));
        }
    }
    if Path::new("/run/connman").try_exists()? {
        let configuration = text("/etc/connman/main.conf".into())?;
        return Ok(Some(Manager::Connman { spares_ours: spares(&configuration) }));
    }
    Ok(None)
}

/// The text of a file; none of one that is not there.
fn text(path: String) -> io::Result<String> {
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The value of a key in a file of lines `KEY=VALUE`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
}

/// Whether a connman.conf(5) has connman leave links alone whose names begin as ours do.
fn spares(configuration: &str) -> bool {
    let lists = configuration.lines().filter_map(|line| line.trim().strip_prefix("NetworkInterfaceBlacklist"));
    let mut lists = lists.filter_map(|rest| rest.trim_start().strip_prefix('='));
    lists
        .next_back()
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
