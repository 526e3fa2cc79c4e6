//! What only people ask about: a port's counters, a bridge's settings, its forwarding database, the host's neighbours.
//! All of them are dumps, and none is ever on the launch path.

use crate::netlink::read::{attribute, ip_of, parse_link, text, whole, whole_or_some};
use crate::netlink::{HEADER, Netlink, u16_at, u32_at};
use model::host::BridgeDetail;
use model::host::Link;
use model::mac::Mac;
use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

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

/// Who is behind which port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdbEntry {
    /// Who.
    pub mac: Mac,
    /// The port's index.
    pub port: u32,
    /// Whether it is an address of the host's own (NUD_PERMANENT), and was not learnt.
    pub is_own: bool,
}

/// Somebody whom the host knows by an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is, or was.
    pub mac: Mac,
    /// Whether the host holds it to be reachable now (NUD_REACHABLE, NUD_DELAY, NUD_PROBE).
    pub is_fresh: bool,
    /// Whether an admin said so (NUD_PERMANENT).
    pub is_given: bool,
    /// How long ago it last answered.
    pub confirmed: Option<Duration>,
}

impl Netlink {
    /// All links, in detail.
    pub fn details(&mut self) -> io::Result<Vec<Detail>> {
        whole_or_some(|found| {
            self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
                found.extend(parse(answer.body));
            })
        })
    }

    /// The forwarding database of a bridge.
    pub fn fdb(&mut self, bridge: u32) -> io::Result<Vec<FdbEntry>> {
        const NDA_MASTER: u16 = 9;
        const NUD_PERMANENT: u16 = 0x80;
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        whole(|| {
            let mut found: Vec<FdbEntry> = Vec::new();
            self.ask(RouteNetlinkMessage::GetNeighbour(message.clone()), NLM_F_DUMP, |answer| {
                let (body, attributes) = (answer.body, answer.body.get(12..).unwrap_or_default());
                let is_its = attribute(attributes, NDA_MASTER).and_then(|value| u32_at(value, 0)) == Some(bridge);
                if let (true, Some(mac), Some(port), Some(state)) =
                    (is_its, address_of(attributes), u32_at(body, 4), u16_at(body, 8))
                {
                    found.push(FdbEntry { mac, port, is_own: state & NUD_PERMANENT != 0 });
                }
            })?;
            Ok(found)
        })
    }

    /// The neighbours that the host knows on a link, by their Ethernet addresses.
    pub fn neighbours(&mut self, index: u32) -> io::Result<Vec<Neighbour>> {
        const NDA_DST: u16 = 1;
        const NDA_CACHEINFO: u16 = 3;
        /// NUD_REACHABLE, NUD_DELAY and NUD_PROBE.
        const FRESH: u16 = 0x02 | 0x08 | 0x10;
        const NUD_PERMANENT: u16 = 0x80;
        /// NUD_INCOMPLETE, NUD_FAILED and NUD_NOARP: nobody has answered.
        const UNKNOWN: u16 = 0x01 | 0x20 | 0x40;
        whole(|| {
            let mut found = Vec::new();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut message = NeighbourMessage::default();
                message.header.family = family;
                self.ask(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP, |answer| {
                    let (body, attributes) = (answer.body, answer.body.get(12..).unwrap_or_default());
                    let state = u16_at(body, 8).unwrap_or(UNKNOWN);
                    // struct nda_cacheinfo, in clock ticks, which userspace counts a hundred of in a second.
                    let ticks = attribute(attributes, NDA_CACHEINFO).and_then(|info| u32_at(info, 0));
                    let ip = attribute(attributes, NDA_DST).and_then(ip_of);
                    if let (Some(ip), Some(mac), true) = (ip, address_of(attributes), state & UNKNOWN == 0)
                        && u32_at(body, 4) == Some(index)
                    {
                        found.push(Neighbour {
                            ip,
                            mac,
                            is_fresh: state & FRESH != 0,
                            is_given: state & NUD_PERMANENT != 0,
                            confirmed: ticks.map(|ticks| Duration::from_millis(u64::from(ticks) * 10)),
                        });
                    }
                })?;
            }
            Ok(found)
        })
    }
}

/// NDA_LLADDR.
fn address_of(attributes: &[u8]) -> Option<Mac> {
    attribute(attributes, 2)?.try_into().ok().map(Mac)
}

pub(super) fn parse(body: &[u8]) -> Option<Detail> {
    const IFF_LOWER_UP: u32 = 1 << 16;
    const IFLA_STATS64: u16 = 23;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const IFLA_INFO_SLAVE_KIND: u16 = 4;
    const IFLA_INFO_SLAVE_DATA: u16 = 5;
    const IFLA_TUN_OWNER: u16 = 1;
    const IFLA_TUN_GROUP: u16 = 2;
    const IFLA_BRPORT_STATE: u16 = 1;
    const BR_STATE_FORWARDING: u8 = 3;
    let link = parse_link(body)?;
    let attributes = body.get(HEADER..)?;
    let info = attribute(attributes, libc::IFLA_LINKINFO).unwrap_or_default();
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let kind = attribute(info, IFLA_INFO_KIND).map(text);
    let is_port = attribute(info, IFLA_INFO_SLAVE_KIND).map(text).as_deref() == Some("bridge");
    let port = attribute(info, IFLA_INFO_SLAVE_DATA).filter(|_| is_port);
    let stats = attribute(attributes, IFLA_STATS64).unwrap_or_default();
    let stat = |at: usize| {
        let bytes = stats.get(8 * at..8 * at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_ne_bytes).unwrap_or_default()
    };
    let of_tap = |what| attribute(data, what).filter(|_| kind.as_deref() == Some("tun")).and_then(|id| u32_at(id, 0));
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
        bridge: (kind.as_deref() == Some("bridge")).then(|| bridge_detail(data)),
        is_forwarding: port.map(|port| {
            attribute(port, IFLA_BRPORT_STATE).and_then(|state| state.first().copied()) == Some(BR_STATE_FORWARDING)
        }),
        kind,
        link,
    })
}

fn bridge_detail(data: &[u8]) -> BridgeDetail {
    const IFLA_BR_FORWARD_DELAY: u16 = 1;
    const IFLA_BR_STP_STATE: u16 = 5;
    const IFLA_BR_VLAN_FILTERING: u16 = 7;
    const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
    let number = |kind| attribute(data, kind).and_then(|value| u32_at(value, 0)).unwrap_or_default();
    BridgeDetail {
        stp: number(IFLA_BR_STP_STATE) != 0,
        forward_delay: number(IFLA_BR_FORWARD_DELAY),
        vlan_filtering: attribute(data, IFLA_BR_VLAN_FILTERING).is_some_and(|value| value.first() == Some(&1)),
        default_vlan: attribute(data, IFLA_BR_VLAN_DEFAULT_PVID)
            .and_then(|value| value.get(..2)?.try_into().ok().map(u16::from_ne_bytes))
            .filter(|vlan| *vlan != 0),
    }
}
