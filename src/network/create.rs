//! Makes a bridge with its way to the network.

use crate::netlink::Netlink;
use crate::network::apply::{Change, NO_IPV6, set, set_ipv6};
use crate::network::uplink;
use model::error::Result;
use model::journal::Journal;
use model::step::Ipv6;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::BridgeStpState;
use rtnetlink::{LinkBridge, LinkUnspec};

/// So many addresses a bridge learns at the most (IFLA_BR_FDB_MAX_LEARNED, since Linux 6.7; older kernels pass it over): a
/// guest can pretend to have any number.
const MOST_LEARNT: u32 = 16_384;

/// Makes the bridge of a journal: first the links, then their IPv6, then all else in one send, of which the
/// uplink is the last.
///
/// After an error anything may be done: undo it.
pub fn make(netlink: &mut Netlink, journal: &Journal) -> Result<()> {
    let (bridge, attachment) = (&journal.bridge, journal.attachment.as_ref());
    let links = attachment.and_then(|its| uplink::links(journal, its));
    Change::all(netlink, bridge, std::iter::once(create(journal)).chain(links).collect())?;
    match journal.create.ipv6 {
        Ipv6::Usual => {}
        Ipv6::NoRouters => set_ipv6(journal, bridge, "ipv6/accept_ra", "0")?,
        Ipv6::Off => set_ipv6(journal, bridge, NO_IPV6, "1")?,
    }
    attachment.map_or(Ok(()), |its| uplink::prepare(journal, its))?;
    // The kernel drops an alias and forgets an MTU that come with the creating request.
    let mut dress = LinkUnspec::new_with_index(journal.index).alias(journal.alias());
    if let Some(mtu) = journal.create.mtu {
        dress = dress.mtu(mtu);
    }
    let up = LinkUnspec::new_with_index(journal.index).up();
    let mut changes = vec![
        Change::new(set(dress.build()), format!("cannot give {bridge} its alias and MTU")),
        Change::new(set(up.build()), format!("cannot set {bridge} up")),
    ];
    changes.extend(attachment.map_or(Ok(Vec::new()), |its| uplink::attach(journal, its))?);
    Change::all(netlink, bridge, changes)
}

/// The change that makes a bridge.
fn create(journal: &Journal) -> Change {
    let bridge = &journal.bridge;
    let add = LinkBridge::new(bridge.as_str())
        .index(journal.index)
        .address(journal.create.mac.0.to_vec())
        .arp(!journal.create.no_arp)
        .stp_state(BridgeStpState::Disabled)
        .forward_delay(0)
        .fdb_max_learned(MOST_LEARNT);
    let add = if journal.create.filters_vlans { add.vlan_filtering(true) } else { add }.build();
    let request = (Message::NewLink(add).into(), NLM_F_CREATE | NLM_F_EXCL, &[][..]);
    Change::new(request, format!("cannot make {bridge}")).needing("bridge", "CONFIG_BRIDGE")
}
