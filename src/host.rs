//! What the kernel has now, as far as a plan needs it. Filled in by `net::observe`; pure data here.
#![forbid(unsafe_code)]

use crate::mac::Mac;
use crate::name::IfName;
use std::collections::BTreeMap;

/// The links that a request names, each under the name that it was looked up by.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Links that were looked up; `None` where there is none of that name.
    pub links: BTreeMap<IfName, Option<Link>>,
    /// For each bridge that is missing, an address that it can be pinned to.
    pub fresh_macs: BTreeMap<IfName, Mac>,
    /// Interfaces that could be an uplink, to be named in an error.
    pub candidates: Vec<IfName>,
}

impl Host {
    /// The link of this name, if there is one.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        self.links.get(name)?.as_ref()
    }
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index (IFLA_NEWLINK's `ifi_index`), which names it for as long as it lives.
    pub index: u32,
    /// Its name now.
    pub name: IfName,
    /// What made it.
    pub kind: Kind,
    /// Whether its frames are Ethernet's (ARPHRD_ETHER).
    pub is_ethernet: bool,
    /// Whether an admin set it up (IFF_UP).
    pub is_up: bool,
    /// Its address, if it has an Ethernet one.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The index of the link that it is a port of.
    pub controller: Option<u32>,
    /// Its ifalias; bytes that are not UTF-8 are replaced.
    pub alias: Option<String>,
    /// Global addresses on it, with their prefix lengths. Looked up for an uplink only.
    pub addresses: Vec<String>,
    /// Whether it is Wi-Fi. Looked up for an uplink only.
    pub is_wifi: bool,
    /// Who has it open, as `NAME (PID)`. Looked up for a TAP that is asked for by name only.
    pub holder: Option<String>,
}

/// What a link is (IFLA_INFO_KIND).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A bridge of the kernel.
    Bridge,
    /// A TAP, made through /dev/net/tun.
    Tap {
        /// It outlives the descriptor that made it.
        is_persistent: bool,
        /// It was made with IFF_MULTI_QUEUE, and has to be opened with it.
        is_multi_queue: bool,
    },
    /// Another kind of virtual link, by the kernel's name for it.
    Other(String),
    /// No kind: a network card.
    Card,
}
