//! What the kernel has now, as far as a plan needs it. Filled in by `net::observe`; pure data here.
#![forbid(unsafe_code)]

use crate::keeper::Keeper;
use crate::layer3::Layer3;
use crate::mac::Mac;
use crate::name::IfName;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The links that a request names, each under the name that it was looked up by.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Links that were looked up; `None` where there is none of that name.
    pub links: BTreeMap<IfName, Option<Link>>,
    /// For each bridge that is missing, an address that it can be pinned to.
    pub fresh_macs: BTreeMap<IfName, Mac>,
    /// The interfaces of the default routes, the preferred one first. Looked up where an uplink has to be chosen.
    pub default_uplinks: Vec<IfName>,
    /// All interfaces. Looked up where no uplink is in sight, for the error that is going to come.
    pub all: Vec<Link>,
    /// For each bridge that is missing, the file by which systemd-networkd would take it or a TAP for its own.
    pub takers: BTreeMap<IfName, PathBuf>,
    /// The settings (`SETTINGS`) that a new link begins with.
    pub default_settings: BTreeMap<String, String>,
}

impl Host {
    /// The link of this name, if there is one.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        self.links.get(name)?.as_ref()
    }
}

/// The settings of an interface that decide on what it lets through and answers, as FAMILY/NAME: see
/// Documentation/networking/ip-sysctl.rst. They follow from an uplink to its bridge.
pub const SETTINGS: [&str; 22] = [
    "ipv4/accept_local",
    "ipv4/accept_redirects",
    "ipv4/arp_announce",
    "ipv4/arp_filter",
    "ipv4/arp_ignore",
    "ipv4/forwarding",
    "ipv4/promote_secondaries",
    "ipv4/proxy_arp",
    "ipv4/route_localnet",
    "ipv4/rp_filter",
    "ipv4/send_redirects",
    "ipv4/src_valid_mark",
    "ipv6/disable_ipv6",
    "ipv6/forwarding",
    "ipv6/accept_ra",
    "ipv6/accept_ra_defrtr",
    "ipv6/accept_ra_pinfo",
    "ipv6/accept_redirects",
    "ipv6/autoconf",
    "ipv6/hop_limit",
    "ipv6/proxy_ndp",
    "ipv6/use_tempaddr",
];

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
    /// The index of the link that it stands on, as a VLAN does; of a veth, its peer's. `None` for one in another namespace.
    pub lower: Option<u32>,
    /// Its ifalias; bytes that are not UTF-8 are replaced.
    pub alias: Option<String>,
    /// What the host has on it. Looked up for an uplink only.
    pub layer3: Layer3,
    /// Its own settings, of `SETTINGS`. Looked up for an uplink only.
    pub settings: BTreeMap<String, String>,
    /// Who looks after its addresses. Looked up for an uplink only.
    pub keeper: Option<Keeper>,
    /// A macvlan or ipvlan on it, which has its frames before a bridge could. Looked up for an uplink only.
    pub occupant: Option<IfName>,
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
    /// Another kind of virtual link, by the kernel's name for it; where its mode decides on what it can be used for, with
    /// that: `macvlan passthru`, `bond balance` (balance-tlb and balance-alb).
    Other(String),
    /// No kind: a network card.
    Card,
}

impl Link {
    /// A link of which nothing is known but its name and index.
    pub fn bare(index: u32, name: IfName) -> Self {
        Self {
            index,
            name,
            kind: Kind::Card,
            is_ethernet: false,
            is_up: false,
            mac: None,
            mtu: 0,
            controller: None,
            lower: None,
            alias: None,
            layer3: Layer3::default(),
            settings: BTreeMap::new(),
            keeper: None,
            occupant: None,
            is_wifi: false,
            holder: None,
        }
    }
}
