//! An uplink that the host uses is shared: frames go where they would go if it were a port, and the host keeps all that it has.

pub(crate) use crate::support::filters::entries;
use crate::support::filters::{self, tc, tc_json};
use crate::support::guest::{Guest, Stack};
use crate::support::state::{comparable, ip_json};
use crate::support::wire::{self, Wire};
use crate::support::{Lab, wait_for};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

const EVERYBODY: &str = "ff:ff:ff:ff:ff:ff";
const NOBODY: &str = "02:00:00:00:00:77";

/// A host on the network by both families.
pub(crate) fn host() -> Option<Lab> {
    let lab = Lab::with_address()?;
    lab.ip("addr add fd77::2/64 dev eth0");
    lab.ip("-6 route add default via fd77::1");
    lab.settle();
    Some(lab)
}

#[track_caller]
pub(crate) fn host_reaches(lab: &Lab, address: &str) {
    let answered = || lab.sh(&format!("ping -c 1 -w 3 {address}")).run().status.success().then_some(());
    wait_for(&format!("an answer of {address}"), 10, answered);
}

pub(crate) fn mac_of(lab: &Lab, link: &str) -> String {
    lab.a_link(link)["address"].as_str().expect("a MAC").to_owned()
}

/// Whether a command line of the host's shell says so within ten seconds.
#[track_caller]
pub(crate) fn becomes(what: &str, ask: impl Fn() -> bool) {
    wait_for(what, 10, || ask().then_some(()));
}

/// Who has learnt which MAC on which port of br0.
pub(crate) fn learnt(mac: &str) -> Vec<String> {
    let output = Command::new("bridge").args(["-j", "fdb", "show", "br", "br0"]).output().expect("run bridge");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let its = shown.as_array().expect("a list").iter().filter(|entry| entry["mac"] == mac && entry["master"] == "br0");
    its.filter(|entry| entry["state"] != "permanent")
        .map(|entry| entry["ifname"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn without_a_word_the_default_routes_interface_is_shared() {
    let Some(lab) = host() else { return };
    let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    assert_eq!(lab.ports("br0"), ["kvb0", "kvbp-br0"]);
    assert!(lab.a_link("eth0").get("master").is_none(), "{}", lab.a_link("eth0"));
    assert_eq!(lab.addresses("br0"), [""; 0]);
    let said = guest.err();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("qemu-kvm: made br0"), "{said}");
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn guests_the_host_and_the_lan_reach_each_other() {
    let Some(lab) = host() else { return };
    let one = Guest::boot(&lab, 11);
    let two = Guest::boot(&lab, 12);
    for n in ["1", "2", "12"] {
        assert!(one.reaches(&format!("10.77.0.{n}")), "IPv4 of {n}");
        assert!(one.reaches(&format!("fd77::{n}")), "IPv6 of {n}");
    }
    for n in ["1", "11", "12"] {
        host_reaches(&lab, &format!("10.77.0.{n}"));
        host_reaches(&lab, &format!("fd77::{n}"));
    }
    for n in ["2", "11", "12"] {
        assert!(lab.lan.reaches(&format!("10.77.0.{n}")), "IPv4 of {n}");
        assert!(lab.lan.reaches(&format!("fd77::{n}")), "IPv6 of {n}");
    }
    for guest in [&one, &two] {
        assert_eq!(learnt(&guest.mac), [guest.tap.as_str()], "the bridge knows the guest at its own port");
    }
    assert_eq!(learnt(&lab.lan.mac()), ["kvbp-br0"]);
    assert_eq!(learnt(&mac_of(&lab, "eth0")), ["kvbp-br0"]);
    // Each sees the others' own MACs, and nobody answers for another.
    for stack in [&one.stack, &two.stack] {
        let neighbours = stack.run("ip neigh show 10.77.0.2");
        assert!(neighbours.contains(&mac_of(&lab, "eth0")), "{neighbours}");
    }
    let neighbours = lab.lan.run("ip neigh show 10.77.0.2");
    assert!(neighbours.contains(&mac_of(&lab, "eth0")), "{neighbours}");
    assert!(lab.lan.run("ip neigh show 10.77.0.11").contains(&one.mac));
    assert!(ip_json("neigh show 10.77.0.12")[0]["lladdr"] == two.mac.as_str());
    one.terminate();
    host_reaches(&lab, "10.77.0.12");
    two.terminate();
    lab.becomes_as_before();
    assert!(lab.lan.reaches("10.77.0.2"));
}

#[test]
fn guests_get_their_addresses_from_the_lans_dhcp_server() {
    let Some(lab) = host() else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let mut guest = lab.shim("--bridge br0").then("dhcp,hold").start();
    let lease = guest.qemu().lease("bridge0");
    assert!(lease.is_some_and(|lease| lease.starts_with("10.77.0.1")), "{}", lab.lan.dhcp_log());
}

/// The LAN, the host's wire and its stack, two guests.
struct Parties<'lab> {
    lab: &'lab Lab,
    one: Guest<'lab>,
    two: Guest<'lab>,
    lan: Wire,
    host: Wire,
    host_stack: Wire,
    first: Wire,
    second: Wire,
    bridge: Wire,
    number: std::cell::Cell<u32>,
}

/// How often a frame came to: the LAN, the host's stack, the first guest, the second one.
type Counts = [usize; 4];

impl<'lab> Parties<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let one = Guest::boot(lab, 11);
        let two = Guest::boot(lab, 12);
        let parties = Self {
            lab,
            lan: Wire::in_namespace("lan", "lan0"),
            host: Wire::at("eth0"),
            host_stack: Wire::stack_at("eth0"),
            first: Wire::in_namespace(&one.stack.name, "eth0"),
            second: Wire::in_namespace(&two.stack.name, "eth0"),
            bridge: Wire::stack_at("br0"),
            one,
            two,
            number: std::cell::Cell::default(),
        };
        // All have spoken: the bridge knows where they are.
        for who in ["lan", "host", "first", "second"] {
            parties.fence(who);
        }
        parties
    }

    fn wire(&self, who: &str) -> &Wire {
        match who {
            "lan" => &self.lan,
            "host" => &self.host,
            "first" => &self.first,
            "second" => &self.second,
            other => panic!("nobody is called {other}"),
        }
    }

    fn mac(&self, who: &str) -> String {
        match who {
            "lan" => self.lab.lan.mac(),
            "host" => mac_of(self.lab, "eth0"),
            "first" => self.one.mac.clone(),
            "second" => self.two.mac.clone(),
            mac => mac.to_owned(),
        }
    }

    fn label(&self, start: &str) -> String {
        self.number.set(self.number.get() + 1);
        format!("{start} {}", self.number.get())
    }

    /// A broadcast that all others get: what was sent before has arrived by then, also what should not have.
    #[track_caller]
    fn fence(&self, from: &str) {
        let label = self.label("fence");
        self.wire(from).send(&wire::frame(EVERYBODY, &self.mac(from), &label));
        for (who, wire) in
            [("lan", &self.lan), ("host", &self.host_stack), ("first", &self.first), ("second", &self.second)]
        {
            if who != from {
                wire.waits_for(&label);
            }
        }
    }

    #[track_caller]
    fn sent(&self, from: &str, to: &str) -> Counts {
        let label = self.label("test");
        self.wire(from).send(&wire::frame(&self.mac(to), &self.mac(from), &label));
        self.fence(from);
        self.counts(&label)
    }

    fn counts(&self, label: &str) -> Counts {
        [&self.lan, &self.host_stack, &self.first, &self.second].map(|wire| wire.came(label))
    }
}

#[test]
fn each_frame_comes_once_to_whom_it_is_for_and_never_back() {
    let Some(lab) = host() else { return };
    let parties = Parties::new(&lab);
    for (from, to, wanted) in [
        ("lan", EVERYBODY, [0, 1, 1, 1]),
        ("lan", "01:00:5e:00:00:fb", [0, 1, 1, 1]),
        ("lan", "33:33:00:00:00:fb", [0, 1, 1, 1]),
        ("lan", "host", [0, 1, 0, 0]),
        ("lan", "first", [0, 0, 1, 0]),
        ("lan", "second", [0, 0, 0, 1]),
        ("lan", NOBODY, [0, 0, 1, 1]),
        ("host", EVERYBODY, [1, 0, 1, 1]),
        ("host", "01:00:5e:00:00:fb", [1, 0, 1, 1]),
        ("host", "33:33:00:00:00:fb", [1, 0, 1, 1]),
        ("host", "lan", [1, 0, 0, 0]),
        ("host", "first", [0, 0, 1, 0]),
        ("host", "second", [0, 0, 0, 1]),
        ("host", NOBODY, [1, 0, 0, 0]),
        ("first", EVERYBODY, [1, 1, 0, 1]),
        ("first", "01:00:5e:00:00:fb", [1, 1, 0, 1]),
        ("first", "33:33:00:00:00:fb", [1, 1, 0, 1]),
        ("first", "lan", [1, 0, 0, 0]),
        ("first", "host", [0, 1, 0, 0]),
        ("first", "second", [0, 0, 0, 1]),
        ("first", NOBODY, [1, 0, 0, 1]),
    ] {
        assert_eq!(parties.sent(from, to), wanted, "from {from} to {to}: to the LAN, the host, the guests");
    }
    // The host is on the network by eth0 alone.
    for number in 1..=parties.number.get() {
        for start in ["test", "fence"] {
            let label = format!("{start} {number}");
            assert!(parties.host_stack.came(&label) <= 1, "{label}");
        }
    }
    for who in ["first", "second"] {
        assert_eq!(learnt(&parties.mac(who)).len(), 1, "{:?}", learnt(&parties.mac(who)));
        assert_ne!(learnt(&parties.mac(who)), ["kvbp-br0"]);
    }
}

#[test]
fn a_hundred_broadcasts_are_a_hundred() {
    let Some(lab) = host() else { return };
    let parties = Parties::new(&lab);
    for (from, wanted) in [("lan", [0, 1, 1, 1]), ("host", [1, 0, 1, 1]), ("first", [1, 1, 0, 1])] {
        let labels: Vec<String> = (0..100).map(|_| parties.label("many")).collect();
        for label in &labels {
            parties.wire(from).send(&wire::frame(EVERYBODY, &parties.mac(from), label));
        }
        parties.fence(from);
        for label in &labels {
            assert_eq!(parties.counts(label), wanted, "{label} from {from}");
        }
    }
}

#[test]
fn link_local_control_frames_are_the_hosts_alone() {
    let Some(lab) = host() else { return };
    let parties = Parties::new(&lab);
    for last in 0..16 {
        let to = format!("01:80:c2:00:00:{last:02x}");
        assert_eq!(parties.sent("lan", &to), [0, 1, 0, 0], "from the LAN to {to}");
        assert_eq!(parties.sent("host", &to), [1, 0, 0, 0], "from the host to {to}");
        let [lan, host, ..] = parties.sent("first", &to);
        assert_eq!([lan, host], [0, 0], "from a guest to {to}");
    }
    // The next one is a multicast as any other.
    assert_eq!(parties.sent("lan", "01:80:c2:00:00:10"), [0, 1, 1, 1]);
    assert_eq!(parties.sent("host", "01:80:c2:00:00:10"), [1, 0, 1, 1]);
    assert_eq!(parties.sent("first", "01:80:c2:00:00:10"), [1, 1, 0, 1]);
}

#[test]
fn frames_with_a_vlan_tag_cross_with_it() {
    let Some(lab) = host() else { return };
    let parties = Parties::new(&lab);
    let wires =
        [("lan", &parties.lan), ("host", &parties.host), ("first", &parties.first), ("second", &parties.second)];
    for (from, to) in [
        ("lan", EVERYBODY),
        ("host", EVERYBODY),
        ("first", EVERYBODY),
        ("lan", "first"),
        ("first", "lan"),
        ("host", "first"),
        ("first", "host"),
        ("first", "second"),
    ] {
        let label = parties.label("tagged");
        parties.wire(from).send(&wire::tagged(&parties.mac(to), &parties.mac(from), 5, &label));
        parties.fence(from);
        for (who, wire) in &wires {
            let gets_it = *who == to || to == EVERYBODY && *who != from;
            // The host's card also lets in what is for others. What the host sends to a guest with the tag in the frame
            // itself goes to the LAN as well: the bridge has a copy of it.
            let is_copied = (from, to, *who) == ("host", "first", "lan");
            if (*who != "host" || gets_it) && !is_copied {
                let wanted = if gets_it { vec![Some(5)] } else { Vec::new() };
                assert_eq!(wire.tags(&label), wanted, "from {from} to {to}, at {who}");
            }
        }
    }
}

#[test]
fn what_a_guest_sends_to_the_host_the_host_does_not_see_on_the_bridge_as_well() {
    let Some(lab) = host() else { return };
    let parties = Parties::new(&lab);
    let label = parties.label("once");
    parties.first.send(&wire::frame(&parties.mac("host"), &parties.mac("first"), &label));
    parties.fence("first");
    assert_eq!((parties.host_stack.came(&label), parties.bridge.came(&label)), (1, 0));
}

#[test]
fn the_host_reaches_a_guest_that_never_sent_anything() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot_silent(&lab, "silent", "--bridge br0");
    guest.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
    let card = Wire::in_namespace("silent", "eth0");
    guest.run("ip link set eth0 up");
    assert_eq!(learnt(&guest.mac), [""; 0], "it has sent nothing");
    let (lan, host) = (Wire::in_namespace("lan", "lan0"), Wire::at("eth0"));
    host.send(&wire::frame(&guest.mac, &mac_of(&lab, "eth0"), "first"));
    card.waits_for("first");
    host.send(&wire::frame(EVERYBODY, &mac_of(&lab, "eth0"), "fence"));
    lan.waits_for("fence");
    card.waits_for("fence");
    assert_eq!((card.came("first"), lan.came("first")), (1, 0));
    assert_eq!(entries("eth0"), [guest.mac.as_str()]);
    // It is gone with the guest.
    guest.terminate();
    becomes("the guest's rule to go", || entries("eth0").is_empty());
    lab.becomes_as_before();
}

/// A container: a namespace at the end of a cable that is a port of br0.
pub(crate) fn container(lab: &Lab, number: u8) -> Stack {
    let stack = Stack::new(&format!("box{number}"));
    lab.ip(&format!("link add box{number} type veth peer name eth0 netns box{number}"));
    lab.ip(&format!("link set box{number} master br0 up"));
    stack.run(&format!("ip addr add 10.77.0.{number}/24 dev eth0"));
    stack.run("ip link set eth0 up");
    stack
}

#[test]
fn a_container_on_the_bridge_is_reached_as_long_as_it_is_there() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    let container = container(&lab, 31);
    let mac = container.run("cat /sys/class/net/eth0/address").trim().to_owned();
    assert!(container.reaches("10.77.0.1") && container.reaches("10.77.0.2") && container.reaches("10.77.0.11"));
    assert!(lab.lan.reaches("10.77.0.31"));
    host_reaches(&lab, "10.77.0.31");
    becomes("the container's rule", || entries("eth0").contains(&mac));
    lab.ip("link del box31");
    becomes("its end", || !entries("eth0").contains(&mac));
    assert!(entries("eth0").contains(&guest.mac));
    host_reaches(&lab, "10.77.0.11");
}

#[test]
fn a_guest_within_a_guest_is_reached() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    let nested = Stack::new("nested");
    guest.run("ip link add nested link eth0 type macvlan mode bridge");
    guest.run("ip link set nested netns nested");
    nested.run("ip link set nested name eth0");
    nested.run("ip addr add 10.77.0.41/24 dev eth0");
    nested.run("ip link set eth0 up");
    let mac = nested.run("cat /sys/class/net/eth0/address").trim().to_owned();
    assert!(nested.reaches("10.77.0.1") && nested.reaches("10.77.0.2"));
    becomes("its rule", || entries("eth0").contains(&mac));
    host_reaches(&lab, "10.77.0.41");
    assert!(lab.lan.reaches("10.77.0.41"));
    // The bridge has no port of its own for it: it goes when that of the guest has gone.
    let second = Guest::boot(&lab, 12);
    guest.terminate();
    becomes("its end", || entries("eth0") == [second.mac.clone()]);
}

#[test]
fn an_address_that_moves_to_the_lan_is_reached_there() {
    let Some(lab) = host() else { return };
    let _guest = Guest::boot(&lab, 11);
    let container = container(&lab, 31);
    let mac = container.run("cat /sys/class/net/eth0/address").trim().to_owned();
    assert!(container.reaches("10.77.0.2"));
    becomes("its rule", || entries("eth0").contains(&mac));
    // As a guest that was migrated says where it is.
    container.run("ip link set eth0 down");
    let lan = Wire::in_namespace("lan", "lan0");
    lan.send(&wire::frame(EVERYBODY, &mac, "moved"));
    becomes("its rule to go", || !entries("eth0").contains(&mac));
    let host = Wire::at("eth0");
    host.send(&wire::frame(&mac, &mac_of(&lab, "eth0"), "to the LAN"));
    lan.waits_for("to the LAN");
    // And back again.
    container.run("ip link set eth0 up");
    assert!(container.reaches("10.77.0.1"));
    becomes("its rule to be there again", || entries("eth0").contains(&mac));
    host_reaches(&lab, "10.77.0.31");
    lab.ip("link del box31");
}

/// What the host has and we have not: addresses, routes of all tables, rules, neighbours, groups, settings.
fn belongings() -> Vec<String> {
    let is_ours = |name: &str| name == "br0" || name.starts_with("kvb");
    let mut all = Vec::new();
    for link in ip_json("addr").as_array().expect("a list") {
        if !is_ours(link["ifname"].as_str().expect("a name")) {
            for field in ["ifname", "ifindex", "address", "mtu", "operstate", "addr_info", "master", "qdisc", "txqlen"]
            {
                all.push(format!("{} {field} {}", link["ifname"], comparable(link[field].clone())));
            }
        }
    }
    for view in [
        "-4 route show table all",
        "-6 route show table all",
        "rule",
        "-6 rule",
        "neigh show nud permanent",
        "neigh show proxy",
        "-6 neigh show proxy",
        "maddr",
        "ntable",
    ] {
        for item in comparable(ip_json(view)).as_array().expect("a list") {
            let is_of = |field: &str| item[field].as_str().is_some_and(is_ours);
            if !is_of("dev") && !is_of("ifname") {
                let mut item = item.clone();
                if view == "ntable" {
                    // How many neighbours are known, and a time that the kernel dices for.
                    for field in ["refcnt", "reachable"] {
                        item.as_object_mut().expect("an object").remove(field);
                    }
                }
                all.push(format!("{view} {item}"));
            }
        }
    }
    let settings = Command::new("sysctl").arg("-a").arg("-r").arg("^net\\.").output().expect("run sysctl").stdout;
    for line in String::from_utf8_lossy(&settings).lines() {
        let is_of_ours = [".br0.", ".kvb"].iter().any(|part| line.contains(part));
        if !is_of_ours && !line.contains("conntrack_count") && !line.contains("nf_conntrack_max") {
            all.push(line.to_owned());
        }
    }
    all
}

#[track_caller]
fn are_the_same(before: &[String], now: &[String], when: &str) {
    let of = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).cloned().collect()
    };
    let (lost, come) = (of(before, now), of(now, before));
    assert!(before == now, "{when} the host has lost {lost:#?} and got {come:#?}");
}

#[test]
fn the_host_keeps_all_that_it_has() {
    let Some(lab) = Lab::with_everything() else { return };
    let before = belongings();
    assert!(before.len() > 100, "{before:#?}");
    let guest = Guest::boot(&lab, 11);
    lab.settle();
    are_the_same(&before, &belongings(), "while a guest runs");
    assert!(guest.reaches("10.77.0.2") && guest.reaches("fd77::2") && guest.reaches("10.77.0.1"));
    assert!(lab.lan.reaches("10.77.0.2"));
    // Nothing of the host's is on a link of ours.
    for name in ["br0", "kvbh-br0", "kvbp-br0", &guest.tap] {
        assert_eq!(lab.addresses(name), [""; 0], "{name}");
    }
    for view in ["-4 route show table all", "-6 route show table all"] {
        let routes = ip_json(view).to_string();
        assert!(["\"br0\"", "\"kvbh-br0\"", "\"kvbp-br0\""].iter().all(|name| !routes.contains(name)), "{routes}");
    }
    guest.terminate();
    lab.becomes_as_before();
    are_the_same(&before, &belongings(), "after the guest");
}

#[test]
fn an_open_connection_of_the_host_lives_on() {
    let Some(lab) = host() else { return };
    let listener = lab.lan.thread(|| TcpListener::bind("10.77.0.1:7777").expect("listen")).join().expect("a listener");
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set a limit");
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            stream.write_all(&byte).expect("answer");
        }
    });
    let mut stream = TcpStream::connect("10.77.0.1:7777").expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set a limit");
    let mut ask = |what: u8| {
        let mut answer = [0];
        stream.write_all(&[what]).expect("write");
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [what]);
    };
    ask(1);
    let guest = lab.shim("--bridge br0").boot();
    ask(2);
    guest.terminate();
    ask(3);
    lab.becomes_as_before();
    ask(4);
    drop(stream);
    echo.join().expect("the other end");
}

type Work = Box<dyn FnOnce() + Send>;

/// Some 60 MB from one to the other, of which nothing is changed or lost.
#[track_caller]
fn carries_much(
    to: &str,
    spawn_server: impl FnOnce(Work) -> JoinHandle<()>,
    spawn_client: impl FnOnce(Work) -> JoinHandle<()>,
) {
    /// How often, and how long: no multiple of any segment.
    const TIMES: usize = 60;
    const LENGTH: usize = 999_983;
    let piece = || -> Vec<u8> { (0..LENGTH).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect() };
    let address: SocketAddr = to.parse().expect("an address");
    let (is_ready, ready) = channel();
    let server = spawn_server(Box::new(move || {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("listen at {address}: {error}"));
        is_ready.send(()).expect("say so");
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set a limit");
        let (wanted, mut piece) = (piece(), vec![0; LENGTH]);
        for _ in 0..TIMES {
            stream.read_exact(&mut piece).expect("read");
            assert!(piece == wanted, "what comes is not what was sent");
        }
        assert_eq!(stream.read(&mut piece).expect("the end"), 0);
    }));
    ready.recv_timeout(Duration::from_secs(10)).expect("a server");
    let client = spawn_client(Box::new(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("connect");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("set a limit");
        let piece = piece();
        for _ in 0..TIMES {
            stream.write_all(&piece).expect("write");
        }
    }));
    client.join().expect("the client");
    server.join().expect("the server");
}

#[test]
fn a_big_transfer_arrives_whole_with_all_offloads() {
    let Some(lab) = host() else { return };
    let one = Guest::boot(&lab, 11);
    let two = Guest::boot(&lab, 12);
    let host = |work: Work| std::thread::spawn(work);
    for (family, port) in [("10.77.0.", 8001), ("[fd77::", 8002)] {
        let end = if family.starts_with('[') { "]" } else { "" };
        let at = |number: &str| format!("{family}{number}{end}:{port}");
        carries_much(&at("1"), |work| lab.lan.thread(work), |work| one.stack.thread(work));
        carries_much(&at("11"), |work| one.stack.thread(work), |work| lab.lan.thread(work));
        carries_much(&at("2"), host, |work| one.stack.thread(work));
        carries_much(&at("11"), |work| one.stack.thread(work), host);
        carries_much(&at("12"), |work| two.stack.thread(work), |work| one.stack.thread(work));
        carries_much(&at("2"), host, |work| lab.lan.thread(work));
    }
}

#[test]
fn jumbo_frames_cross_whole() {
    let Some(lab) = host() else { return };
    lab.lan.run("ip link set lan0 mtu 9000");
    lab.ip("link set eth0 mtu 9000");
    lab.settle();
    let one = Guest::boot(&lab, 11);
    assert_eq!(
        [&lab.a_link("br0")["mtu"], &lab.a_link(&one.tap)["mtu"], &lab.a_link("kvbp-br0")["mtu"]],
        [9000, 9000, 9000]
    );
    one.run("ip link set eth0 mtu 9000");
    for address in ["10.77.0.1", "10.77.0.2"] {
        assert!(one.stack.pings(&format!("-w 10 -M do -s 8972 {address}")), "{address}");
    }
    for address in ["fd77::1", "fd77::2"] {
        assert!(one.stack.pings(&format!("-w 10 -M do -s 8952 {address}")), "{address}");
    }
    host_reaches(&lab, "-M do -s 8972 10.77.0.11");
}

#[test]
fn fragments_are_put_together_again() {
    let Some(lab) = host() else { return };
    let one = Guest::boot(&lab, 11);
    for address in ["10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2"] {
        assert!(one.stack.pings(&format!("-w 10 -s 20000 {address}")), "{address}");
    }
    for address in ["10.77.0.11", "fd77::11"] {
        host_reaches(&lab, &format!("-s 20000 {address}"));
    }
}

/// Whether a connection to the host's port is let in.
fn is_let_in(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([10, 77, 0, 2], port)), Duration::from_secs(3)).is_ok()
}

#[test]
fn a_firewall_that_knows_the_interface_by_name_goes_on_working() {
    let Some(lab) = host() else { return };
    let rules = "table inet host { chain in { type filter hook input priority 0; policy drop; \
                 iifname \"lo\" accept; iifname \"eth0\" tcp dport 22 accept; iifname \"eth0\" icmpv6 type \
                 { nd-neighbor-solicit, nd-neighbor-advert } accept; }; }";
    lab.program("nft").arg(rules).run().succeeds();
    let _listeners = [22, 23].map(|port| TcpListener::bind(("10.77.0.2", port)).expect("listen"));
    lab.baseline();
    let from_lan = |port: u16| lab.lan.thread(move || is_let_in(port)).join().expect("the client");
    assert!(from_lan(22) && !from_lan(23), "before");
    let guest = Guest::boot(&lab, 11);
    assert!(from_lan(22) && !from_lan(23), "while a guest runs");
    let from_guest = |port: u16| guest.stack.thread(move || is_let_in(port)).join().expect("the client");
    assert!(from_guest(22) && !from_guest(23), "from the guest, as from any other on the network");
    guest.terminate();
    lab.becomes_as_before();
    assert!(from_lan(22) && !from_lan(23), "afterwards");
}

#[test]
fn no_frame_that_the_host_gets_has_our_mark() {
    let Some(lab) = host() else { return };
    let rules = "add table inet host; add counter inet host marked; add chain inet host in { type filter hook input \
                 priority 0; }; add rule inet host in meta mark and 0x10000000 != 0 counter name marked";
    lab.program("nft").arg(rules).run().succeeds();
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    guest.stack.pings("-b -w 5 10.77.0.255");
    guest.stack.pings("-w 5 ff02::1%eth0");
    assert!(guest.reaches("10.77.0.2"));
    let shown = lab.sh("nft list counter inet host marked").run().succeeds().out;
    // The kernel's own IGMP and MLD reports have something else in the place of a mark.
    assert!(shown.contains("packets 0"), "marks are others' too, and theirs alone: {shown}");
    guest.terminate();
}

// What was there before.

/// A filter that sends copies of all frames of a hook to another place, where they can be counted.
fn watch_hook(lab: &Lab, hook: &str, pref: u16, kind: &str, number: u8) -> Wire {
    let (out, end) = (format!("see{number}"), format!("seen{number}"));
    lab.ip(&format!("link add {out} type veth peer name {end}"));
    for link in [&out, &end] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1").expect("change a setting");
        lab.ip(&format!("link set {link} up"));
    }
    let mut command = Command::new("tc");
    command.args(["filter", "add", "dev", "eth0", hook, "protocol", "all", "pref", &pref.to_string()]);
    match kind {
        "u32" => command.args(["u32", "match", "u32", "0", "0"]),
        _ => command.args(["bpf", "bytecode", "1,6 0 0 4294967295"]),
    };
    command.args(["action", "mirred", "egress", "mirror", "dev", &out, "continue"]);
    assert!(command.status().expect("run tc").success());
    Wire::at(&end)
}

#[test]
fn filters_of_others_see_the_same_frames_and_stay() {
    let Some(lab) = host() else { return };
    tc("qdisc add dev eth0 clsact");
    let wires = [
        ("ingress", watch_hook(&lab, "ingress", 10, "u32", 1)),
        ("ingress", watch_hook(&lab, "ingress", 60_000, "bpf", 2)),
        ("egress", watch_hook(&lab, "egress", 10, "bpf", 3)),
        ("egress", watch_hook(&lab, "egress", 60_000, "u32", 4)),
    ];
    lab.settle();
    lab.baseline();
    let before = filters::all();
    let (lan, host, mac) = (Wire::in_namespace("lan", "lan0"), Wire::at("eth0"), mac_of(&lab, "eth0"));
    let see_all = |when: &str, to_guest: Option<&str>| {
        for to in [EVERYBODY, &mac, NOBODY, "01:80:c2:00:00:0e"] {
            let label = format!("{when} {to}");
            lan.send(&wire::frame(to, "02:00:00:00:00:01", &label));
            for (_, wire) in wires.iter().filter(|(hook, _)| *hook == "ingress") {
                wire.waits_for(&label);
            }
        }
        let macs = [EVERYBODY, NOBODY, "01:80:c2:00:00:0e"];
        for to in macs.iter().chain(to_guest.as_ref()) {
            let label = format!("{when} out {to}");
            host.send(&wire::frame(to, &mac, &label));
            for (at, (_, wire)) in wires.iter().enumerate().filter(|(_, (hook, _))| *hook == "egress") {
                // What is for a guest leaves the egress hook there; a filter behind has not seen it before either.
                if !(at == 3 && to_guest == Some(to)) {
                    wire.waits_for(&label);
                }
            }
        }
        for (at, (hook, wire)) in wires.iter().enumerate() {
            for to in [EVERYBODY, NOBODY, "01:80:c2:00:00:0e"] {
                let label = if *hook == "ingress" { format!("{when} {to}") } else { format!("{when} out {to}") };
                assert_eq!(wire.came(&label), 1, "{label}, filter {at}");
            }
        }
    };
    see_all("before", None);
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"), "it works beside them");
    host_reaches(&lab, "10.77.0.11");
    see_all("during", Some(&guest.mac));
    let during = filters::all();
    let gone: Vec<&String> = before.iter().filter(|line| !during.contains(line)).collect();
    assert!(gone.is_empty(), "{gone:#?}");
    guest.terminate();
    lab.becomes_as_before();
    see_all("after", None);
    lab.ends_here();
}

#[test]
fn a_filter_that_came_meanwhile_keeps_the_qdisc() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    let _wire = watch_hook(&lab, "ingress", 10, "u32", 1);
    let theirs = |hook: &str| filters::text("eth0", hook);
    guest.terminate();
    lab.waits_until_gone("kvbh-br0");
    becomes("our filters to go", || !theirs("ingress").contains("kvbh") && !theirs("ingress").contains("bpf"));
    assert!(theirs("ingress").contains("see1"), "{}", theirs("ingress"));
    assert_eq!(theirs("egress"), "");
    assert!(lab.lan.reaches("10.77.0.2"));
    lab.ip("link del see1");
    tc("qdisc del dev eth0 clsact");
    lab.becomes_as_before();
}

#[test]
fn filters_of_others_where_ours_would_be_stay_and_are_in_nobodys_way() {
    let Some(lab) = host() else { return };
    let bpf = "bpf bytecode '1,6 0 0 0'";
    let u32 = "u32 match u32 0x12345678 0xffffffff at 0 flowid 1:1";
    for theirs in [
        &[("egress pref 27511", u32)][..],
        &[("egress pref 27511", bpf)],
        &[("egress pref 27510", u32), ("ingress pref 27510", bpf)],
        &[("ingress pref 27511", bpf), ("egress pref 27512", bpf)],
        &[
            ("egress pref 99", "handle 6b7: u32 divisor 16"),
            ("egress pref 99", "u32 ht 6b7:3: match u32 1 1 at 0 flowid 1:2"),
        ],
        &[("egress pref 99", u32)],
        &[("egress pref 30000", u32)],
        &[("egress protocol ip pref 27511", u32)],
    ] {
        tc("qdisc add dev eth0 clsact");
        for (place, filter) in theirs {
            let protocol = if place.contains("protocol") { "" } else { "protocol all" };
            lab.sh(&format!("tc filter add dev eth0 {place} {protocol} {filter}")).run().succeeds();
        }
        lab.baseline();
        lab.shim("--bridge-dry-run --bridge br0").run().succeeds();
        lab.is_untouched();
        // A start that fails when all is made takes back no more than its own.
        for nth in [14, 18, 20] {
            lab.shim("--bridge br0").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
            lab.becomes_as_before();
        }
        for _ in 0..2 {
            let guest = Guest::boot(&lab, 11);
            assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"), "{theirs:?}");
            host_reaches(&lab, "10.77.0.11");
            assert_eq!(entries("eth0"), [guest.mac.as_str()]);
            guest.terminate();
            lab.becomes_as_before();
        }
        tc("qdisc del dev eth0 clsact");
        lab.baseline();
    }
}

#[test]
fn a_filter_that_came_beside_ours_stays() {
    let Some(lab) = host() else { return };
    lab.baseline();
    for theirs in ["pref 27511 protocol all", "pref 99 protocol all"] {
        let guest = Guest::boot(&lab, 11);
        tc(&format!("filter add dev eth0 egress {theirs} u32 match u32 0x12345678 0xffffffff at 0 flowid 1:1"));
        guest.terminate();
        lab.waits_until_gone("br0");
        let left = filters::text("eth0", "egress");
        assert!(left.contains("match 12345678/ffffffff at 0") && !left.contains("mirred"), "{left}");
        assert!(!left.contains("6b7:"), "the hash table has gone: {left}");
        // And again beside it.
        let guest = Guest::boot(&lab, 11);
        host_reaches(&lab, "10.77.0.11");
        assert_eq!(entries("eth0"), [guest.mac.as_str()]);
        guest.terminate();
        lab.waits_until_gone("br0");
        assert_eq!(filters::text("eth0", "egress"), left);
        tc("qdisc del dev eth0 clsact");
        lab.becomes_as_before();
    }
}

#[test]
fn a_clsact_qdisc_that_was_there_stays() {
    let Some(lab) = host() else { return };
    tc("qdisc add dev eth0 clsact");
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.2"));
    guest.terminate();
    lab.becomes_as_before();
    assert!(tc_json("qdisc show dev eth0").to_string().contains("clsact"));
}

#[test]
fn an_ingress_qdisc_is_refused_with_the_way_out() {
    let Some(lab) = host() else { return };
    tc("qdisc add dev eth0 ingress");
    lab.baseline();
    for words in ["--bridge br0", "--bridge-dry-run --bridge br0"] {
        let err = lab.shim(words).run().exits_with(125).err;
        assert!(err.contains("eth0 cannot be shared: its ingress qdisc leaves no room"), "{err}");
        assert!(err.contains("tc qdisc del dev eth0 ingress; tc qdisc add dev eth0 clsact"), "{err}");
    }
    let said = lab.kvm_bridge("doctor br0 --quick").run().exits_with(1).out;
    assert!(said.contains("its ingress qdisc leaves no room"), "{said}");
    lab.is_untouched();
    lab.sh("tc qdisc del dev eth0 ingress; tc qdisc add dev eth0 clsact").run().succeeds();
    lab.baseline();
    lab.shim("--bridge br0").run().succeeds();
}

#[test]
fn a_guest_that_pretends_to_be_the_host_gets_nothing_that_is_for_it() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let (thief, other) = (Guest::boot(&lab, 11), Guest::boot(&lab, 12));
    let mut mac = mac_of(&lab, "eth0");
    for new in [None, Some("02:00:00:00:12:34")] {
        if let Some(new) = new {
            lab.ip(&format!("link set eth0 address {new}"));
            becomes("the pair to have the new address", || mac_of(&lab, "kvbh-br0") == new);
            // Nobody else can be held by it: the old one is free again.
            becomes("the bridge to forget the old one", || learnt(&mac).is_empty());
            mac = new.to_owned();
            other.run("ip neigh flush dev eth0");
        }
        assert!(other.reaches("10.77.0.2"));
        let wire = Wire::in_namespace("guest11", "eth0");
        let lan = Wire::in_namespace("lan", "lan0");
        wire.send(&wire::frame(&lab.lan.mac(), &mac, "false"));
        wire.send(&wire::frame(&lab.lan.mac(), &thief.mac, "fence"));
        lan.waits_for("fence");
        assert_eq!(lan.came("false"), 0, "nobody else sends in the host's name");
        Wire::in_namespace("guest12", "eth0").send(&wire::frame(&mac, &other.mac, "secret"));
        assert!(other.reaches("10.77.0.2"));
        assert_eq!(wire.came("secret"), 0, "it is the host's alone");
        assert_eq!(learnt(&mac), ["kvbp-br0"]);
    }
    lab.ip(&format!("link set eth0 address {}", mac_of(&lab, "kvbh-br0")));
    thief.terminate();
    other.terminate();
    lab.waits_until_gone("br0");
    lab.ends_here();
}

#[test]
fn the_host_is_reached_by_its_uplink_alone() {
    let Some(lab) = host() else { return };
    if !crate::support::have("nft") {
        return;
    }
    let rules = "add table inet host; add counter inet host in; add chain inet host in { type filter hook input \
                 priority 0; }; add rule inet host in iifname { \"br0\", \"kvbh-br0\" } counter name in";
    lab.program("nft").arg(rules).run().succeeds();
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.2"));
    // What a bridge would give to the host itself: what is for all, and what is for its own address.
    let bridge = mac_of(&lab, "br0");
    for stack in ["guest11", "lan"] {
        let link = if stack == "lan" { "lan0" } else { "eth0" };
        for command in [
            format!("ip neigh replace 10.77.0.2 lladdr {bridge} dev {link}"),
            "ping -c 3 -i 0.2 -w 2 10.77.0.2".to_owned(),
            format!("ip neigh del 10.77.0.2 dev {link}"),
            "ping -b -c 3 -i 0.2 -w 2 10.77.0.255".to_owned(),
        ] {
            let mut command = Command::new("ip").args(["netns", "exec", stack]).args(command.split(' ')).output();
            assert!(command.as_mut().is_ok(), "run ip");
        }
    }
    // Also while the filters are made anew.
    let before = mac_of(&lab, "eth0");
    let mut noise = guest.stack.command("ping -b -q -i 0.002 -w 6 10.77.0.255").spawn().expect("run ping");
    for number in 0..10 {
        let new = format!("02:00:00:00:13:{number:02x}");
        lab.ip(&format!("link set eth0 address {new}"));
        becomes("the pair to have the new address", || mac_of(&lab, "kvbh-br0") == new);
    }
    lab.ip(&format!("link set eth0 address {before}"));
    noise.kill().expect("end it");
    noise.wait().expect("it ends");
    becomes("the pair to have the old address", || mac_of(&lab, "kvbh-br0") == before);
    guest.run("ip neigh flush dev eth0");
    lab.lan.run("ip neigh flush dev lan0");
    let shown = lab.sh("nft list counter inet host in").run().succeeds().out;
    assert!(shown.contains("packets 0"), "a firewall that looks at eth0 has not seen these: {shown}");
    assert!(guest.reaches("10.77.0.2") && lab.lan.reaches("10.77.0.2"));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_guest_that_pretends_to_be_the_gateway_is_found_out() {
    let Some(lab) = host() else { return };
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.2"));
    host_reaches(&lab, "10.77.0.1");
    let gateway = lab.lan.mac();
    // As any gateway it has something to say to the host, by which the bridge knows where it is.
    let mut others = lab.lan.command("ping -q -i 0.02 10.77.0.2").spawn().expect("run ping");
    let wire = Wire::in_namespace("guest11", "eth0");
    let mut received = 0;
    for _ in 0..4 {
        wire.send(&wire::frame(EVERYBODY, &gateway, "false"));
        let said = lab.sh("ping -q -i 0.02 -c 50 -w 3 10.77.0.1").run().out;
        let number = said.split(" packets transmitted, ").nth(1).and_then(|rest| rest.split(' ').next());
        received += number.and_then(|number| number.parse::<u32>().ok()).unwrap_or_else(|| panic!("{said}"));
    }
    let _ = (others.kill(), others.wait());
    // Each takes the gateway's next packet to the host; with a plain bridge it is the same.
    assert!(received > 120, "{received} of 200");
    becomes("the gateway to be on the network", || learnt(&gateway) == ["kvbp-br0"]);
    assert!(!entries("eth0").contains(&gateway));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn a_promiscuous_flag_that_was_set_stays_set() {
    let Some(lab) = host() else { return };
    let is_promiscuous =
        || lab.a_link("eth0")["flags"].as_array().is_some_and(|flags| flags.contains(&"PROMISC".into()));
    let guest = Guest::boot(&lab, 11);
    assert!(is_promiscuous());
    guest.terminate();
    lab.becomes_as_before();
    assert!(!is_promiscuous());
    lab.ip("link set eth0 promisc on");
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.2"));
    guest.terminate();
    lab.becomes_as_before();
    assert!(is_promiscuous());
}

#[test]
fn a_macvlan_on_the_uplink_lives_on() {
    let Some(lab) = host() else { return };
    let stack = Stack::new("mv");
    lab.ip("link add mv0 link eth0 type macvlan mode bridge");
    lab.ip("link set mv0 netns mv");
    stack.run("ip addr add 10.77.0.51/24 dev mv0");
    stack.run("ip link set mv0 up");
    assert!(stack.reaches("10.77.0.1"));
    lab.baseline();
    let guest = Guest::boot(&lab, 11);
    assert!(stack.reaches("10.77.0.1") && lab.lan.reaches("10.77.0.51"), "while a guest runs");
    assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"));
    guest.terminate();
    lab.becomes_as_before();
    assert!(stack.reaches("10.77.0.1"), "afterwards");
    // With its namespace the macvlan goes, which had the uplink promiscuous.
    lab.ends_here();
}

#[test]
fn the_queueing_discipline_of_the_uplink_stays() {
    let Some(lab) = host() else { return };
    tc("qdisc add dev eth0 root handle 7: tbf rate 1gbit burst 1mb latency 50ms");
    lab.baseline();
    let root =
        || tc_json("qdisc show dev eth0").as_array().expect("a list").iter().find(|q| q["root"] == true).cloned();
    let before = root();
    let guest = Guest::boot(&lab, 11);
    assert_eq!(root(), before);
    assert!(guest.reaches("10.77.0.1"));
    guest.terminate();
    lab.becomes_as_before();
}

#[test]
fn sixteen_guests_at_once() {
    let Some(lab) = host() else { return };
    let starts: Vec<_> = (0..16)
        .map(|n| lab.shim(&format!("--bridge br0 -name vm{n}")).then("arp:10.77.0.1,arp:10.77.0.2,hold").start())
        .collect();
    let mut macs: Vec<String> = Vec::new();
    let mut starts = starts;
    let own = mac_of(&lab, "eth0");
    for guest in &mut starts {
        assert_eq!(guest.qemu().answer("bridge0"), Some(own.clone()), "the host answers");
        macs.push(guest.qemu().mac());
    }
    macs.sort();
    assert_eq!(entries("eth0"), macs);
    assert_eq!(lab.ports("br0").len(), 17);
    assert_eq!(lab.reapers().len(), 1);
    for guest in starts {
        guest.terminate();
    }
    lab.becomes_as_before();
    assert!(lab.lan.reaches("10.77.0.2"));
}

#[test]
fn a_kept_bridge_goes_on_sharing() {
    let Some(lab) = host() else { return };
    lab.baseline();
    lab.shim("--bridge br0,keep=on").run().succeeds();
    assert!(lab.lan.reaches("10.77.0.2"));
    let said = lab.kvm_bridge("recover").run().succeeds().out;
    assert!(said.contains("is persistent, and stays"), "{said}");
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.2") && guest.reaches("10.77.0.1"));
    guest.terminate();
    lab.shim("--bridge br0,keep=off").run().succeeds();
    lab.becomes_as_before();
}

// What is said of it.

/// Filters and links as they are, without indices and numbers that differ each time.
fn made(lab: &Lab) -> Vec<String> {
    let mut all = Vec::new();
    for name in ["br0", "kvbh-br0", "kvbp-br0", "eth0"] {
        let mut link = comparable(lab.a_link(name));
        for field in ["ifindex", "link_index", "ifalias", "linkinfo"] {
            link.as_object_mut().expect("an object").remove(field);
        }
        if ["br0", "kvbp-br0"].contains(&name) {
            link.as_object_mut().expect("an object").remove("address");
        }
        let kind = lab.a_link(name)["linkinfo"]["info_kind"].clone();
        let data = lab.a_link(name)["linkinfo"]["info_data"].clone();
        all.push(format!("{name} {link} {kind} {} {}", data["stp_state"], data["forward_delay"]));
        all.push(std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")).expect("read"));
    }
    for link in ["kvbh-br0", "eth0"] {
        for hook in ["ingress", "egress"] {
            for line in filters::text(link, hook).lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let mut kept = Vec::new();
                let mut skip = false;
                for word in words {
                    // Numbers of actions and of handles; and our cookies.
                    if skip || word == "cookie" {
                        skip = word == "cookie";
                        continue;
                    }
                    skip = word == "index" || word == "key" || word == "bkt";
                    kept.push(word);
                }
                if !kept.is_empty() {
                    all.push(format!("{link} {hook} {}", kept.join(" ")));
                }
            }
        }
    }
    all
}

#[test]
fn the_dry_run_can_be_pasted_and_does_the_same() {
    let Some(lab) = Lab::with_everything() else { return };
    let line = "--bridge br0,ifname=tap-a,mac=02:00:5e:10:20:30 -name alice -m 64";
    let plan = lab.kvm_bridge(&format!("plan -- {line}")).run().succeeds().out;
    lab.is_untouched();
    let guest = lab.shim(line).boot();
    let ours = made(&lab);
    guest.terminate();
    lab.becomes_as_before();
    lab.sh(&format!("set -e\n{plan}")).run().succeeds();
    // An eBPF program can't be typed; nftables does the same.
    let is_by_program = plan.contains("\nnft ");
    // What leads to the hash table has an action that never runs, for our cookie; of one that is typed it would run.
    let leads = "eth0 egress filter protocol all pref 27511 u32 chain 0 fh 800::800";
    let programs = ours.iter().filter(|line| line.contains(" kvmb-")).count();
    assert_eq!(programs, if is_by_program { 2 } else { 0 }, "{ours:#?}");
    let places = ["kvbh-br0 ingress filter protocol all pref 4 bpf", "eth0 ingress filter protocol all pref 27511 bpf"];
    let marking = |line: &str| is_by_program && places.iter().any(|place| line.starts_with(place));
    let mut is_leading = false;
    let typed = ours.into_iter().filter(|line| {
        is_leading = line.starts_with(leads) || is_leading && !line.contains(" filter ");
        let its_action = || ["action", "index"].contains(&line.split(' ').nth(2).unwrap_or_default());
        !(marking(line) || is_leading && its_action())
    });
    let typed: Vec<String> = typed.collect();
    are_the_same(&typed, &made(&lab), "typed by hand");
    // It is nobody's but who typed it; what is there is not shared a second time.
    let second = lab.shim("--bridge br1,uplink=eth0").run();
    assert_eq!(second.status.code(), Some(125), "{}", second.err);
    assert!(second.err.contains("it is shared through kvbh-br0 already"), "{}", second.err);
    are_the_same(&typed, &made(&lab), "after another bridge was refused");
    // A guest of the pasted bridge is on the network, and no broadcast of its own comes back to it.
    let third = Guest::boot(&lab, 12);
    assert!(third.reaches("10.77.0.1"));
    third.stack.pings("-b -w 3 10.77.0.255");
    assert_eq!(learnt(&third.mac), [third.tap.as_str()]);
    third.terminate();
    lab.ends_here();
}

#[test]
fn status_shows_the_shared_uplink_with_the_frames_of_each_way() {
    let Some(lab) = host() else { return };
    let guest = Guest::boot(&lab, 11);
    assert!(guest.reaches("10.77.0.1") && guest.reaches("10.77.0.2"));
    host_reaches(&lab, "10.77.0.11");
    let text = lab.kvm_bridge("status br0").run().succeeds().out;
    assert!(text.contains("shared uplink") && text.contains("eth0"), "{text}");
    let json: Value = serde_json::from_str(&lab.kvm_bridge("status --json").run().succeeds().out).expect("JSON");
    let bridge = &json["bridges"][0];
    assert_eq!(bridge["uplink"], "eth0", "{bridge}");
    let shared = &bridge["shared"];
    for way in ["from_network", "from_host", "from_guests"] {
        for what in ["packets", "bytes"] {
            assert!(shared[format!("{way}_{what}")].as_u64().is_some_and(|n| n > 0), "{way}: {shared}");
        }
    }
}
