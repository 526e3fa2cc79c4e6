//! What the kernel has now, as far as a plan needs it.
//! It may not know what is asked for.
//!
//! Filled in by `network::observe`; plain data here.
#![forbid(unsafe_code)]

use crate::error;
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::manager::{Manager, Taker};
use crate::nat::Nat;
use crate::nat::firewall::Blocked;
use crate::nat::subnet::{Ipv4Net, Ula};
use crate::share::{Changes, MarkBy, Share};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

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
    /// For each bridge of ours that shares an uplink, how; with the uplink's name now.
    pub shared: BTreeMap<IfName, Share>,
    /// For each bridge that is there and is to have no uplink, the port by which it has one. Looked up for these only.
    pub ways_out: BTreeMap<IfName, IfName>,
    /// For each bridge of ours that has a network of the host's own, that network.
    pub networks: BTreeMap<IfName, Nat>,
    /// For each bridge that is to have one, what its choice depends on. Looked up for these only.
    pub for_nat: BTreeMap<IfName, ForNat>,
    /// For each bridge of ours that has a VXLAN, what was asked for.
    pub vxlans: BTreeMap<IfName, String>,
    /// For each bridge that is to have one, what it goes by; else why it can't. Looked up for these only.
    pub for_vxlan: BTreeMap<IfName, error::Result<Underlay>>,
    /// Whether the kernel has IPv6.
    pub has_ipv6: bool,
    /// A network manager that would take our links. Looked up where an uplink is going to be shared.
    pub taker: Option<Taker>,
    /// By what frames of a shared uplink can be marked. Looked up where an uplink is going to be shared.
    pub mark: Option<MarkBy>,
    /// Who has TAPs open, as `NAME (PID)`. Looked up for TAPs that are asked for by name and are in use.
    pub holders: BTreeMap<IfName, String>,
}

impl Host {
    /// The link of this name, if there is one.
    pub fn link(&self, name: &IfName) -> Option<&Link> {
        self.links.get(name)?.as_ref()
    }
}

/// What the choice of a network of the host's own depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForNat {
    /// The networks that others have.
    pub taken: Vec<Ipv4Net>,
    /// What the bridge had the last time.
    pub kept: Option<(Ipv4Net, Ula)>,
    /// Whether the host has a way out by IPv6.
    pub has_ipv6: bool,
    /// Of which a choice is made.
    pub random: [u8; 11],
    /// The firewalls of others that would drop what its guests send.
    pub blocked: Vec<Blocked>,
}

/// What a VXLAN goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// The interface.
    pub link: IfName,
    /// Its index.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The host's address there.
    pub local: IpAddr,
    /// The addresses of the other hosts that were named; one of this host's own is left out.
    pub remotes: Vec<IpAddr>,
    /// The VXLAN devices that there are, each with its VNI.
    pub others: Vec<(IfName, u32)>,
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
    /// The index of the link that it stands on, as a VLAN does; of a veth, its peer's. `None` for one in another namespace.
    pub lower: Option<u32>,
    /// Its ifalias; bytes that are not UTF-8 are replaced.
    pub alias: Option<String>,
    /// Whether its controller is a VRF, which routes and does not switch. Looked up for an uplink only.
    pub is_in_vrf: bool,
    /// Whether an admin set it promiscuous (IFF_PROMISC of `ip link`; a port of a bridge is so without this).
    pub is_promiscuous: bool,
    /// The host's addresses on it. Looked up for an uplink only.
    pub addresses: Vec<Address>,
    /// The IPv4 gateway of its default route. Looked up where an uplink is refused as a port only.
    pub gateway: Option<IpAddr>,
    /// What is known of it as an uplink. Looked up for an uplink only.
    pub uplink: Uplink,
    /// Whether it has a carrier, also while it is down: of a TAP, whether somebody has it open.
    pub has_carrier: bool,
    /// Of a bridge, whether its ports are members of VLANs (IFLA_BR_VLAN_FILTERING).
    pub filters_vlans: bool,
    /// Of a bridge, whether its VLANs are those of 802.1ad (IFLA_BR_VLAN_PROTOCOL): service tags, in which customers have tags of
    /// their own.
    pub has_service_tags: bool,
}

/// What only matters of an interface that a bridge is to have as its uplink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uplink {
    /// Who manages it.
    pub manager: Option<Manager>,
    /// The links that are stacked on it, as VLANs and macvlans are.
    pub upper: Vec<IfName>,
    /// One of these that gets its frames before a bridge could (a macvlan, ipvlan): the kernel gives them to one only.
    pub rx_handler: Option<IfName>,
    /// Whether a program has a packet socket bound to it, as DHCP clients do; also where that, or who manages it, could not be
    /// found out.
    pub may_have_programs: bool,
    /// Whether it is Wi-Fi.
    pub is_wifi: bool,
    /// Whether IPv6 is on.
    pub has_ipv6: bool,
    /// Why it can't be shared; else what sharing changes on it.
    pub sharing: Option<Result<Changes, NotShareable>>,
}

/// Why an interface can't be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotShareable {
    /// It has a qdisc for what comes in that leaves no room for one for what goes out.
    IngressQdisc,
    /// It is shared with another bridge, through this link.
    IsShared(IfName),
    /// So many others have filters on it that no place is left.
    NoPlace,
}

/// An address of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// Whether it has a lifetime (IFA_F_PERMANENT is not set), as of DHCP.
    pub expires: bool,
    /// Whether it is good on this link only, as the one that the kernel gives every interface (RT_SCOPE_LINK).
    pub is_link_local: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.ip, self.prefix)
    }
}

/// The settings of a bridge that keep guests off the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeDetail {
    /// Whether it takes part in the spanning tree.
    pub stp: bool,
    /// How long a new port listens, and as long again learns, before it forwards: in hundredths of a second.
    pub forward_delay: u32,
    /// Whether ports are members of VLANs.
    pub vlan_filtering: bool,
    /// Whether its VLANs are those of 802.1ad (IFLA_BR_VLAN_PROTOCOL): service tags, in which customers have tags of their own.
    pub has_service_tags: bool,
    /// The VLAN of what a new port sends without a tag; with none, that is dropped.
    pub default_vlan: Option<u16>,
}

impl Link {
    /// Whether the host has an address on it that it was given.
    pub fn has_addresses(&self) -> bool {
        self.addresses.iter().any(|address| !address.is_link_local)
    }

    /// The VM that its alias names, if it is the TAP of a guest of ours: only who may change the network sets an alias.
    pub fn vm(&self) -> Option<&str> {
        self.alias.as_deref()?.strip_prefix("kvm-bridge ")
    }

    /// The address that the guest of a user has to itself, if the helper was told of it: the end of its mark.
    pub fn address_of_users_guest(&self) -> Option<Mac> {
        let mark = self.alias.as_deref()?.strip_prefix("kvm-bridge-helper uid ")?;
        mark.rsplit_once(" mac ")?.1.parse().ok()
    }

    /// Whether it is a TAP that kvm-bridge or its helper made, and has an address that neither gave it: who holds a TAP may
    /// change that.
    pub fn has_foreign_address(&self) -> bool {
        let is_ours = self.alias.as_deref().is_some_and(|alias| alias.starts_with("kvm-bridge"));
        let is_usual = |mac: Mac| matches!(mac.0[0], 0xfe | 0xfa);
        matches!(self.kind, Kind::Tap { .. }) && is_ours && !self.mac.is_some_and(is_usual)
    }

    /// Whether somebody uses it: then it is shared and not made a port. What is not known counts as use.
    pub fn is_used(&self) -> bool {
        let Uplink { manager, upper, may_have_programs, .. } = &self.uplink;
        self.has_addresses()
            || manager.is_some()
            || !upper.is_empty()
            || *may_have_programs
            || self.controller.is_some()
    }
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

impl Kind {
    /// Whether it is an interface to a network, and not to a guest or container.
    pub fn is_card(&self) -> bool {
        const CARDS: [&str; 9] =
            ["vlan", "bond", "team", "macvlan", "macvlan passthru", "bond balance", "vxlan", "gretap", "geneve"];
        match self {
            Self::Card => true,
            Self::Other(kind) => CARDS.contains(&kind.as_str()),
            _ => false,
        }
    }
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
            is_in_vrf: false,
            is_promiscuous: false,
            addresses: Vec::new(),
            gateway: None,
            uplink: Uplink::default(),
            has_carrier: false,
            filters_vlans: false,
            has_service_tags: false,
        }
    }
}
