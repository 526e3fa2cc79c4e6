//! What only people ask of a link: its counters, and a bridge's settings.

use crate::host::{BridgeDetail, Link};
use crate::rtnl::link::{self, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO};
use crate::rtnl::{HEADER, attribute, number, text, u16_at, u32_at, u64_at};

/// A link, as people want to see it.
#[derive(Debug, Clone)]
pub struct Detail {
    /// What a plan needs of it too.
    pub link: Link,
    /// Whether there is somebody at the other end (IFF_LOWER_UP).
    pub has_carrier: bool,
    /// What went through it.
    pub stats: Stats,
    /// The user that may attach to it, of a TAP.
    pub owner: Option<u32>,
    /// The group whose members may.
    pub group: Option<u32>,
    /// The settings of a bridge.
    pub bridge: Option<BridgeDetail>,
    /// Whether a port lets frames through (BR_STATE_FORWARDING); `None` for what is no port of a bridge.
    pub is_forwarding: Option<bool>,
    /// Whether it is an isolated port (IFLA_BRPORT_ISOLATED).
    pub is_isolated: bool,
    /// The kind of a virtual link, as the kernel calls it.
    pub kind: Option<String>,
}

/// What went through a link, as the host sees it: what a guest sends is received (struct rtnl_link_stats64).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
}

/// A struct ifinfomsg and its attributes (linux/if_link.h).
pub fn parse(body: &[u8]) -> Option<Detail> {
    const IFF_LOWER_UP: u32 = 1 << 16;
    const IFLA_STATS64: u16 = 23;
    const IFLA_INFO_SLAVE_KIND: u16 = 4;
    const IFLA_INFO_SLAVE_DATA: u16 = 5;
    const IFLA_TUN_OWNER: u16 = 1;
    const IFLA_TUN_GROUP: u16 = 2;
    const IFLA_BRPORT_STATE: u16 = 1;
    const IFLA_BRPORT_ISOLATED: u16 = 33;
    const BR_STATE_FORWARDING: u8 = 3;
    let link = link::parse(body)?;
    let attributes = body.get(HEADER..)?;
    let info = attribute(attributes, IFLA_LINKINFO).unwrap_or_default();
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).map(text);
    let is_port = attribute(info, IFLA_INFO_SLAVE_KIND).map(text).as_deref() == Some("bridge");
    let port = attribute(info, IFLA_INFO_SLAVE_DATA).filter(|_| is_port);
    let stats = attribute(attributes, IFLA_STATS64).unwrap_or_default();
    let stat = |at: usize| u64_at(stats, 8 * at).unwrap_or_default();
    let of_tap = |what| number(data, what).filter(|_| kind.as_deref() == Some("tun"));
    Some(Detail {
        has_carrier: u32_at(body, 8)? & IFF_LOWER_UP != 0,
        stats: Stats {
            rx_packets: stat(0),
            tx_packets: stat(1),
            rx_bytes: stat(2),
            tx_bytes: stat(3),
            tx_dropped: stat(7),
        },
        owner: of_tap(IFLA_TUN_OWNER),
        group: of_tap(IFLA_TUN_GROUP),
        bridge: (kind.as_deref() == Some("bridge")).then(|| bridge_detail(data, &link)),
        is_isolated: port
            .and_then(|port| attribute(port, IFLA_BRPORT_ISOLATED))
            .is_some_and(|value| value.first() == Some(&1)),
        is_forwarding: port.map(|port| {
            attribute(port, IFLA_BRPORT_STATE).and_then(|state| state.first().copied()) == Some(BR_STATE_FORWARDING)
        }),
        kind,
        link,
    })
}

fn bridge_detail(data: &[u8], link: &Link) -> BridgeDetail {
    const IFLA_BR_FORWARD_DELAY: u16 = 1;
    const IFLA_BR_STP_STATE: u16 = 5;
    const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
    BridgeDetail {
        stp: number(data, IFLA_BR_STP_STATE).is_some_and(|state| state != 0),
        forward_delay: number(data, IFLA_BR_FORWARD_DELAY).unwrap_or_default(),
        vlan_filtering: link.filters_vlans,
        has_service_tags: link.has_service_tags,
        default_vlan: attribute(data, IFLA_BR_VLAN_DEFAULT_PVID)
            .and_then(|value| u16_at(value, 0))
            .filter(|vlan| *vlan != 0),
    }
}
