//! The managers of a host's network, by their names.
//! It may not know which of them is there.
#![forbid(unsafe_code)]

use crate::ifname::PREFIX;
use std::fmt;
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
    /// ConnMan.
    Connman,
}

impl fmt::Display for Manager {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkManager => out.write_str("NetworkManager"),
            Self::Networkd(file) if is_of_netplan(file) => out.write_str("netplan (systemd-networkd)"),
            Self::Networkd(_) => out.write_str("systemd-networkd"),
            Self::Ifupdown => out.write_str("ifupdown"),
            Self::Dhcpcd => out.write_str("dhcpcd"),
            Self::Connman => out.write_str("connman"),
        }
    }
}

/// One that takes every new link, ours too, gives it an address and the host a route by it or its name servers: its
/// configuration does not tell it otherwise. No file of a package's could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// ConnMan.
    Connman,
    /// dhcpcd for all interfaces.
    Dhcpcd,
}

impl Taker {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connman => "connman",
            Self::Dhcpcd => "dhcpcd",
        }
    }

    /// How it is told to leave our links alone: a sentence.
    pub fn remedy(self) -> String {
        match self {
            Self::Connman => format!(
                "Add {PREFIX} to NetworkInterfaceBlacklist in /etc/connman/main.conf, with the beginnings that are its default \
                 (vmnet,vboxnet,virbr,ifb,ve-,vb-), and: systemctl restart connman"
            ),
            Self::Dhcpcd => format!(
                "Add 'denyinterfaces {PREFIX}*' to /etc/dhcpcd.conf, and have it read that: dhcpcd -n, or systemctl restart dhcpcd"
            ),
        }
    }
}

/// Whether a file of networkd's was written by netplan.
pub(crate) fn is_of_netplan(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("10-netplan-"))
}
