//! An interface that the host uses, shared with the bridge: see `share` for what the filters do.

use crate::ifname::IfName;
use crate::share;
use crate::share::{MarkBy, Share};
use crate::step::no_ipv6;
use crate::text::shell::quote;
use std::collections::BTreeSet;

pub(super) fn commands(bridge: &IfName, share: &Share) -> Vec<String> {
    let [host_end, port] = share::ends(bridge);
    let uplink = quote(&share.uplink);
    let (host, end) = (quote(&host_end), quote(&port));
    let mut commands = vec![
        format!(
            "ip link add name {host} address {} mtu {} type veth peer name {end} mtu {}",
            share.mac, share.mtu, share.mtu
        ),
        no_ipv6(&host_end),
        no_ipv6(&port),
        format!("ip link set dev {host} arp off up"),
        format!("ip link set dev {end} master {} up", quote(bridge)),
        format!("bridge fdb replace {} dev {end} master static sticky", share.mac),
    ];
    if share.mark == MarkBy::Program {
        let ruleset = quote(share::ruleset(bridge, &share.uplink));
        commands.push(format!("nft {ruleset}  # kvm-bridge has an eBPF program do this, which can't be typed"));
    }
    if share.changes.clears_lro {
        commands.push(format!("ethtool -K {uplink} lro off"));
    }
    if share.changes.sets_promiscuous {
        commands.push(format!("ip link set dev {uplink} promisc on"));
    }
    commands.push(format!("tc qdisc add dev {} clsact", quote(bridge)));
    commands.push(format!("tc qdisc add dev {host} clsact"));
    if share.changes.adds_clsact {
        commands.push(format!("tc qdisc add dev {uplink} clsact"));
    }
    commands.extend(share.filters(&BTreeSet::new()).iter().filter_map(|filter| filter.command(bridge, &share.uplink)));
    commands
}
