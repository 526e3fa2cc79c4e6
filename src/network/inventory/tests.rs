//! What is wrong with a bridge: decided by what was seen.

use super::*;
use crate::netlink::Stats;
use crate::network::uplink::port::tests::{journal, name};
use model::host::Link;
use model::journal::Life;
use model::step::{Create, Ipv6};
use model::uplink::{Attachment, Awaited, Uplink};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
fn detail(link: Link, has_carrier: bool) -> Detail {
    let (stats, bridge, is_forwarding) = (Stats::default(), None, None);
    Detail { link, has_carrier, stats, owner: None, group: None, bridge, is_forwarding, kind: None }
}

#[test]
fn the_faults_of_a_bridge_of_ours_are_named_with_what_to_do() {
    let br0 = name("br0");
    let link = |is_up| Link { kind: Kind::Bridge, is_up, ..Link::bare(9, br0.clone()) };
    let bridge = |is_up, journal, lacks_reaper| Bridge {
        detail: detail(link(is_up), true),
        journal,
        last_failure: None,
        lacks_reaper,
        addresses: Vec::new(),
        shared: None,
        nat: None,
        fdb: Vec::new(),
        ports: Vec::new(),
    };
    assert!(bridge(false, None, true).faults().is_empty(), "kvm-bridge did not create it");
    assert_eq!(
        bridge(false, Some(journal(false)), true).faults(),
        [
            "it is down: ip link set dev br0 up",
            "its uplink eth0 is no port of it: kvm-bridge recover",
            "its reaper does not run: kvm-bridge recover"
        ]
    );
    let awaits = |uplink| {
        let awaited = Awaited { uplink, attach: None, was_port: false, follow: false };
        let create = Create { mac: MAC, mtu: None, ipv6: Ipv6::Usual, no_arp: true };
        let life = Life { boot: String::new(), namespace: None };
        Journal::new(br0.clone(), true, create, Some(Attachment::Awaited(awaited)), life, [1; 8])
    };
    for (uplink, fault) in [
        (Uplink::Auto, "it waits for a default route, whose interface is to be its uplink"),
        (Uplink::Link(name("usb0")), "it waits for usb0, which is not there"),
    ] {
        assert_eq!(bridge(true, Some(awaits(uplink)), false).faults(), [fault]);
    }
}
