//! An interface that the host uses, shared with the bridge: see `share` for what the filters do.

use crate::error::{Error, Phrase, Result};
use crate::host::{Host, Link, NotShareable};
use crate::ifname::IfName;
use crate::share;
use crate::share::{MarkBy, Share};
use crate::step::no_ipv6;
use crate::text::shell::quote;
use crate::uplink::{BridgeSpec, Uplink};
use std::collections::BTreeSet;

/// Says why an interface can't be shared, and what to do.
pub fn not_shareable(name: &IfName, why: &NotShareable) -> Error {
    let (why, remedy) = match why {
        NotShareable::IngressQdisc => (
            "its ingress qdisc leaves no room for filters on what goes out".to_owned(),
            Phrase::from("Create its filters on a clsact qdisc instead, which has the same hook")
                .run_as_root(format!("tc qdisc del dev {name} ingress; tc qdisc add dev {name} clsact")),
        ),
        NotShareable::IsShared(through) => {
            let bridge = through.as_str().strip_prefix("kvbh-").unwrap_or(through.as_str());
            (
                format!("it is shared through {through} already"),
                Phrase::from("To join that bridge: ").request(bridge, &[]),
            )
        }
        NotShareable::NoPlace => {
            let see = Phrase::from("To see them").run(format!("tc filter show dev {name} egress"));
            ("others have too many filters on it".to_owned(), see)
        }
    };
    Error::new(format!("{name} cannot be shared: {why}"), remedy)
}

/// How the interface is shared, if it can be.
pub(super) fn plan(uplink: &Link, spec: &BridgeSpec, host: &Host) -> Result<Share> {
    let name = &uplink.name;
    let refuse = |why: String, remedy: Phrase| Err(Error::new(format!("{name} cannot be shared: {why}"), remedy));
    let changes = match &uplink.uplink.sharing {
        Some(Ok(changes)) => *changes,
        Some(Err(why)) => return Err(not_shareable(name, why)),
        None => return refuse("its qdiscs could not be read".into(), Phrase::from("See whether 'tc qdisc' works.")),
    };
    if let Some(taker) = host.taker {
        let why = format!("{} takes every new link, also those that this needs", taker.name());
        return refuse(why, taker.remedy().into());
    }
    let [host_end, _] = share::ends(spec.bridge);
    if host.link(&host_end).is_some() {
        let why = format!("there is a link {host_end}, which has the name of its end of the veth pair");
        return refuse(why, Phrase::from("If nobody needs it").run_as_root(format!("ip link del {host_end}")));
    }
    let Some(mark) = host.mark else {
        return refuse(
            "the kernel has no action skbedit (CONFIG_NET_ACT_SKBEDIT), and takes no eBPF program in its place".into(),
            "Load the module act_skbedit; in a container, on its host.".into(),
        );
    };
    let Some(mac) = uplink.mac else {
        return refuse("it has no address".into(), Phrase::from("Give ").key("uplink", "").say(" another interface."));
    };
    Ok(Share {
        uplink: name.clone(),
        index: uplink.index,
        mac,
        mtu: uplink.mtu,
        follow: spec.follow && spec.uplink == Uplink::Auto,
        mark,
        changes,
    })
}

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
