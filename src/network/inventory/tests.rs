//! What a port is for, whose address it has, and what is wrong with a bridge: decided by what was seen.

use super::*;
use crate::netlink::Stats;
use crate::network::up::alias;
use crate::network::uplink::port::tests::{journal, name};
use model::host::Link;
use model::journal::Life;
use model::step::{Create, Ipv6};
use model::uplink::{Attachment, Awaited, Uplink};
use std::collections::BTreeMap;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const TAP: Kind = Kind::Tap { is_persistent: false, is_multi_queue: false };
const PERSISTENT: Kind = Kind::Tap { is_persistent: true, is_multi_queue: false };

fn detail(link: Link, has_carrier: bool) -> Detail {
    let (stats, bridge, is_forwarding) = (Stats::default(), None, None);
    Detail { link, has_carrier, stats, owner: None, group: None, bridge, is_forwarding, kind: None }
}

const NOBODY: &TapUsers = &TapUsers { processes: Vec::new(), is_whole: true };

fn seen<'a>(bridge: &'a IfName, journal: Option<&'a Journal>, fdb: &'a [FdbEntry]) -> Seen<'a> {
    Seen { bridge, journal, fdb, neighbours: &[], leases: &[], tap_users: NOBODY, records: &[] }
}

fn process(program: &str) -> Process {
    let (words, taps) = (Vec::new(), BTreeMap::new());
    Process { pid: 1, program: program.to_owned(), uid: 0, since: None, words, taps }
}

#[test]
fn what_a_port_is_for_is_decided_by_who_made_and_holds_it() {
    let br0 = name("br0");
    let journal = journal(false);
    let (qemu, other) = (process("qemu-system-x86"), process("openvpn"));
    let persistent = alias(&br0);
    for (ours, index, kind, alias, holder, has_carrier, role) in [
        (true, 2, Kind::Card, "", None, true, Role::Uplink),
        (true, 3, Kind::Card, "", None, true, Role::Foreign),
        (false, 3, Kind::Card, "", None, true, Role::Uplink),
        (false, 3, Kind::Other("veth".to_owned()), "", None, true, Role::Foreign),
        (false, 3, PERSISTENT, persistent.as_str(), None, false, Role::Persistent),
        // Of another bridge's name.
        (false, 3, PERSISTENT, "kvm-bridge-tap br1", None, false, Role::Foreign),
        (true, 3, TAP, "kvm-bridge alice", None, false, Role::Guest),
        (true, 3, TAP, "", Some(&qemu), false, Role::Guest),
        (true, 3, TAP, "", Some(&other), true, Role::Foreign),
        // Whose process can't be seen: in use, and it goes with that.
        (true, 3, TAP, "", None, true, Role::Guest),
        (true, 3, TAP, "", None, false, Role::Foreign),
        (true, 3, PERSISTENT, "", None, true, Role::Foreign),
    ] {
        let alias = Some(alias.to_owned()).filter(|alias| !alias.is_empty());
        let detail = detail(Link { kind, alias, ..Link::bare(index, name("port")) }, has_carrier);
        let found = seen(&br0, ours.then_some(&journal), &[]).role(&detail, holder);
        assert_eq!(found, role, "{ours} {:?} {has_carrier}", detail.link);
    }
}

#[test]
fn the_address_of_a_guest_is_the_one_that_fits_its_tap_else_the_only_one_heard() {
    let (br0, guest) = (name("br0"), Mac([2, 0, 0, 0, 0, 7]));
    let tap = |mac: Mac| detail(Link { kind: TAP, mac: Some(mac), ..Link::bare(5, name("kvb0")) }, true);
    let entry = |mac, port, is_own| FdbEntry { mac, port, is_own };
    let nested = Mac([2, 0, 0, 0, 1, 1]);
    for (fdb, tap, mac) in [
        (vec![], tap(guest.of_tap()), None),
        (vec![entry(nested, 5, false), entry(guest, 5, false)], tap(guest.of_tap()), Some(guest)),
        (vec![entry(nested, 5, false)], tap(guest.of_tap()), Some(nested)),
        (vec![entry(guest, 6, false)], tap(guest.of_tap()), None),
        (vec![entry(guest.of_tap(), 5, true)], tap(guest.of_tap()), None),
        (vec![entry(nested, 5, false), entry(guest, 5, false)], tap(MAC.of_tap()), None),
    ] {
        assert_eq!(seen(&br0, None, &fdb).mac(&tap, None, None), mac, "{fdb:?}");
    }
}

#[test]
fn what_an_earlier_run_had_is_no_address_of_this_one() {
    let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
    for (is_given, is_fresh, confirmed, age, expected) in [
        (true, false, None, None, true),
        (false, false, Some(10), Some(60), true),
        (false, true, Some(70), Some(60), false),
        (false, true, Some(59), Some(60), false),
        (false, true, Some(10), None, true),
        (false, false, Some(10), None, false),
        (false, true, None, Some(60), true),
    ] {
        let ip = IpAddr::from([10, 0, 0, 1]);
        let known = Neighbour { ip, mac: MAC, is_fresh, is_given, confirmed: seconds(confirmed) };
        assert_eq!(is_of_this_run(&known, seconds(age)), expected, "{known:?} {age:?}");
    }
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
