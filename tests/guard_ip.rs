//! A guest that may send from its own IP addresses only, and as no server and no router: honest traffic and attacks, by hand and by
//! real programs.

use crate::support::Lab;
use crate::support::guest::Guest;
use crate::support::programs;
use crate::support::user::{Right, our_helper};
use crate::support::wait_for;
use crate::support::wire::{Wire, bytes, tagged};

const ALL: &str = "ff:ff:ff:ff:ff:ff";
const GATEWAY: [u8; 4] = [10, 77, 0, 1];
const TO_ALL: [u8; 4] = [255; 4];

/// A guest that was given an address, and what it sends.
struct Sender {
    mac: [u8; 6],
    ip: [u8; 4],
    /// Its link-local address, of its MAC address (RFC 4291, appendix A).
    ip6: [u8; 16],
}

impl Sender {
    fn new(mac: &str, ip: &str) -> Self {
        let mac = bytes(mac);
        let [a, b, c, d, e, f] = mac;
        let ip: std::net::Ipv4Addr = ip.parse().expect("an address");
        let ip6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        Self { mac, ip: ip.octets(), ip6 }
    }

    /// A frame to all, filled up to the least length.
    fn ether(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [&bytes(ALL), self.mac.as_slice(), &kind.to_be_bytes(), payload].concat();
        frame.resize(60.max(frame.len()), 0);
        frame
    }

    fn arp(&self, operation: u8, mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
        self.arp_for(operation, mac, ip, GATEWAY)
    }

    fn arp_for(&self, operation: u8, mac: [u8; 6], ip: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        self.ether(0x0806, &[&head, mac.as_slice(), &ip, &bytes(ALL), &target].concat())
    }

    /// `fragment` is the field of flags and offset (RFC 791).
    fn ipv4(&self, from: [u8; 4], fragment: u16, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let words = 5 + options.len() as u8 / 4;
        let length = (u16::from(words) * 4 + payload.len() as u16).to_be_bytes();
        let [high, low] = fragment.to_be_bytes();
        let head = [0x40 | words, 0, length[0], length[1], 0, 7, high, low, 64, protocol, 0, 0];
        let mut header = [head.as_slice(), &from, &TO_ALL, options].concat();
        // The bridge drops what has another checksum (ip_mc_check_iphdr).
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        header[10..12].copy_from_slice(&(!(folded as u16 + (folded >> 16) as u16)).to_be_bytes());
        self.ether(0x0800, &[header.as_slice(), payload].concat())
    }

    /// DHCP (RFC 2131).
    fn release(&self) -> Vec<u8> {
        let mut message = vec![0; 240];
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[12..16].copy_from_slice(&self.ip);
        message[28..34].copy_from_slice(&self.mac);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend([53, 1, 7, 255]);
        let length = (message.len() as u16 + 8).to_be_bytes();
        self.ipv4(self.ip, 0, 17, &[], &[&[0, 68, 0, 67], length.as_slice(), &[0, 0], &message].concat())
    }

    fn ipv6(&self, from: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
        let [high, low] = (payload.len() as u16).to_be_bytes();
        let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let head = [0x60, 0, 0, 0, high, low, next, 255];
        self.ether(0x86dd, &[head.as_slice(), &from, &all_nodes, payload].concat())
    }

    /// ICMPv6 about an address (RFC 4861).
    fn neighbour(&self, from: [u8; 16], kind: u8, target: [u8; 16]) -> Vec<u8> {
        self.ipv6(from, 58, &[&[kind, 0, 0, 0, 0x20, 0, 0, 0], target.as_slice()].concat())
    }
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    let mut datagram = [from.to_be_bytes(), to.to_be_bytes(), 32_u16.to_be_bytes(), [0, 0]].concat();
    datagram.resize(32, 0);
    datagram
}

/// IGMP (RFC 3376), with the checksum without which the bridge drops it.
fn asking_for_group() -> Vec<u8> {
    [&[0x11, 0, 0xee, 0xff, 0xe0, 0, 0x1f, 0xff], [0; 24].as_slice()].concat()
}

fn global(last: u8) -> [u8; 16] {
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// What it is, and its bytes, by which it is told apart.
type Frame = (&'static str, Vec<u8>);

/// What passes each guard, what does not pass guard=ip, and what does not pass guard=on either.
fn frames(own: &Sender) -> [Vec<Frame>; 3] {
    const ROUTER: u8 = 134;
    let nobody = [0; 4];
    let advertised = [&[ROUTER, 0, 0, 0, 64, 0, 7, 8], [0; 8].as_slice()].concat();
    let behind = |header: &[u8]| [header, &advertised].concat();
    let with_mac = |mac: &str| {
        let mut frame = own.arp(1, bytes(mac), own.ip);
        frame[6..12].copy_from_slice(&bytes(mac));
        frame
    };
    let to = |mac: &str| {
        let mut frame = own.ether(0x0027, &[0x42, 0x42, 3]);
        frame[..6].copy_from_slice(&bytes(mac));
        frame
    };
    let within = |tags: &[u8]| {
        let mut frame = own.arp(2, own.mac, own.ip);
        frame.splice(12..12, tags.iter().copied());
        frame
    };
    let fragment6 = |offset: u16, ports: Vec<u8>| {
        let head = [[17, 0], offset.to_be_bytes(), [0, 0], [0, 9]].concat();
        own.ipv6(own.ip6, 44, &[head, ports].concat())
    };
    // What each router is to look at (RFC 2113).
    let alert = &[0x94, 4, 0, 0];
    let honest = vec![
        ("ARP", own.arp(1, own.mac, own.ip)),
        ("ARP to all of its own address", own.arp(2, own.mac, own.ip)),
        ("whether its address is free", own.arp_for(1, own.mac, nobody, own.ip)),
        ("DHCP", own.ipv4(nobody, 0, 17, &[], &udp(68, 67))),
        ("DHCP, renewed", own.ipv4(own.ip, 0, 17, &[], &udp(68, 67))),
        ("UDP", own.ipv4(own.ip, 0, 17, &[], &udp(1053, 53))),
        ("ping", own.ipv4(own.ip, 0, 1, &[], &[8; 32])),
        ("a first fragment", own.ipv4(own.ip, 0x2000, 17, &[], &udp(1053, 54))),
        ("a later fragment", own.ipv4(own.ip, 0x2001, 17, &[], &udp(67, 68))),
        ("asking for routers", own.neighbour(own.ip6, 133, [0; 16])),
        ("asking for a neighbour", own.neighbour(own.ip6, 135, global(1))),
        ("whether its address is free, IPv6", own.neighbour([0; 16], 135, own.ip6)),
        ("a neighbour advertisement", own.neighbour(own.ip6, 136, own.ip6)),
        ("groups", own.ipv6(own.ip6, 0, &[&[58, 0, 5, 2, 0, 0, 1, 0, 143], [0; 7].as_slice()].concat())),
        ("DHCPv6", own.ipv6(own.ip6, 17, &udp(546, 547))),
        ("a fragment, IPv6", fragment6(1, udp(1053, 53))),
        ("QEMU's announcement", own.ether(0x8035, &[0, 1, 8, 0, 6, 4, 0, 3])),
    ];
    let options = &[1, 1, 1, 0];
    let mut short = own.arp(2, own.mac, [10, 77, 1, 0]);
    short.truncate(31);
    let attacks = vec![
        ("ARP for the gateway", own.arp(2, own.mac, GATEWAY)),
        ("ARP for the gateway, as a question", own.arp(1, own.mac, GATEWAY)),
        ("ARP with another's MAC address within", own.arp(2, [0x52, 0x54, 0, 9, 9, 9], own.ip)),
        ("ARP that a card fills up", short),
        ("whether another's address is free", own.arp(1, own.mac, nobody)),
        ("whether another's address is free, IPv6", own.neighbour([0; 16], 135, global(9))),
        ("router, IPv4", own.ipv4(own.ip, 0, 1, &[], &[9; 32])),
        ("redirect, IPv4", own.ipv4(own.ip, 0, 1, &[], &[5; 32])),
        ("redirect, IPv4, in fragments", own.ipv4(own.ip, 0x2000, 1, options, &[5; 32])),
        ("who asks for groups, IPv4", own.ipv4(own.ip, 0, 2, alert, &asking_for_group())),
        ("VRRP", own.ipv4(own.ip, 0, 112, &[], &[0x31; 32])),
        ("OSPF", own.ipv4(own.ip, 0, 89, &[], &[2; 44])),
        ("IPv4 from the gateway", own.ipv4(GATEWAY, 0, 17, &[], &udp(1053, 53))),
        ("IPv4 from the gateway, a later fragment", own.ipv4(GATEWAY, 0x2001, 17, &[], &udp(1, 2))),
        ("IPv4 from nobody", own.ipv4(nobody, 0, 17, &[], &udp(1053, 53))),
        ("DHCP server", own.ipv4(own.ip, 0, 17, &[], &udp(67, 68))),
        ("DHCP server in the gateway's name", own.ipv4(GATEWAY, 0, 17, &[], &udp(67, 68))),
        ("DHCP server from another port", own.ipv4(own.ip, 0, 17, &[], &udp(1067, 68))),
        ("DHCP server behind an option", own.ipv4(own.ip, 0, 17, options, &udp(67, 68))),
        ("DHCP server in fragments", own.ipv4(own.ip, 0x2000, 17, &[], &udp(67, 68))),
        ("router", own.ipv6(own.ip6, 58, &advertised)),
        ("router from another address", own.ipv6(global(1), 58, &advertised)),
        ("router behind options for the destination", own.ipv6(own.ip6, 60, &behind(&[58, 0, 1, 4, 0, 0, 0, 0]))),
        ("router behind options for each hop", own.ipv6(own.ip6, 0, &behind(&[58, 0, 5, 2, 0, 0, 1, 0]))),
        ("router in a fragment", own.ipv6(own.ip6, 44, &behind(&[58, 0, 0, 1, 0, 0, 0, 8]))),
        ("redirect", own.neighbour(own.ip6, 137, global(1))),
        ("a neighbour advertisement for the gateway", own.neighbour(own.ip6, 136, global(1))),
        ("the same in its name", own.neighbour(global(1), 136, global(1))),
        ("IPv6 from another", own.ipv6(global(1), 17, &udp(1053, 53))),
        ("IPv6 from nobody", own.ipv6([0; 16], 17, &udp(1053, 53))),
        ("DHCPv6 server", own.ipv6(own.ip6, 17, &udp(547, 546))),
        ("DHCPv6 server from another port", own.ipv6(own.ip6, 17, &udp(1547, 546))),
        ("DHCPv6 server in fragments", fragment6(1, udp(547, 546))),
        ("an EtherType of nobody's", own.ether(0x88b6, &[1])),
    ];
    let of_frames = vec![
        ("another's MAC address", with_mac("52:54:00:09:09:09")),
        ("STP", to("01:80:c2:00:00:00")),
        ("PVST+", to("01:00:0c:cc:cc:cd")),
        ("a tag", within(&[0x81, 0, 0, 10])),
        ("a service tag", within(&[0x88, 0xa8, 0, 10])),
        ("two tags", within(&[0x81, 0, 0, 10, 0x81, 0, 0, 20])),
        ("a priority, and a tag", within(&[0x81, 0, 0, 0, 0x81, 0, 0, 20])),
        ("something else", tagged(ALL, "52:54:00:09:09:09", 0, "else")),
    ];
    [honest, attacks, of_frames]
}

/// Of each frame whether it comes to the LAN and to a guest beside it, and that without a guard all would.
#[test]
fn no_attack_passes_and_all_that_is_honest_does() {
    for guard in ["off", "on", "ip"] {
        let Some(lab) = Lab::new() else { return };
        if !lab.lan.serve_short_leases() {
            return;
        }
        let guest = Guest::boot_silent(&lab, "alice", &format!("--bridge br0,uplink=eth0,guard={guard}"));
        let beside = Guest::boot_with(&lab, 12, "--bridge br0");
        // Nothing of its own stack's comes between.
        guest.run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1");
        guest.run("ip link set eth0 up");
        let own = Sender::new(&guest.mac, &lease(&lab, &guest));
        let is_let_in = |given: &str| guest.stack.pings(&format!("-w 2 -I {given} 10.77.0.1"));
        let given = std::net::Ipv4Addr::from(own.ip).to_string();
        guest.run(&format!("ip addr add {given}/24 dev eth0"));
        assert!(is_let_in(&given) || is_let_in(&given), "from {given}");
        let [honest, attacks, of_frames] = frames(&own);
        let wire = Wire::in_namespace(&guest.stack.name, "eth0");
        let heard = [Wire::in_namespace("lan", "lan0"), Wire::in_namespace(&beside.stack.name, "eth0")];
        for (_, frame) in of_frames.iter().chain(&attacks).chain(&honest) {
            wire.send(frame);
        }
        let last = &honest.last().expect("a frame").1;
        for (at, wire) in heard.iter().enumerate() {
            let came = || wire.has(last).then_some(());
            wait_for("the last frame", 10, came);
            for (what, frame) in &honest {
                assert!(wire.has(frame), "{what}, guard={guard}, {at}");
            }
            for (what, frame) in &attacks {
                assert_eq!(wire.has(frame), guard != "ip", "{what}, guard={guard}, {at}");
            }
            for (what, frame) in &of_frames {
                assert_eq!(wire.has(frame), guard == "off", "{what}, guard={guard}, {at}");
            }
        }
        guest.terminate();
        beside.terminate();
        lab.becomes_as_before();
    }
}

/// Its addresses are those that the LAN's DHCP server gives it; nobody else's pass, nor what a server or a router would send.
#[test]
fn a_guest_sends_only_from_what_dhcp_gave_it() {
    for words in ["br0,uplink=eth0", "br0,uplink=eth0,attach=share"] {
        let Some(lab) = Lab::new() else { return };
        if !lab.lan.serve_short_leases() {
            return;
        }
        let guest = Guest::boot_silent(&lab, "alice", &format!("--bridge {words},guard=ip"));
        guest.run("ip link set eth0 up");
        guest.run("ip addr add 10.77.0.66/24 dev eth0");
        // Nothing was given yet. By IPv6 it has its own.
        assert!(!guest.stack.pings("-w 2 10.77.0.1"));
        assert!(guest.stack.pings(&format!("-w 8 {}%eth0", link_local(&lab))));
        let given = lease(&lab, &guest);
        guest.run(&format!("ip addr add {given}/24 dev eth0"));
        let is_let_in = || guest.stack.pings(&format!("-w 2 -I {given} 10.77.0.1"));
        assert!(is_let_in() || is_let_in(), "from {given}");
        assert!(!guest.stack.pings("-w 2 -I 10.77.0.66 10.77.0.1"), "from what was not given");
        // A reaper that begins anew knows what was given.
        lab.reaper_of("br0").kill();
        lab.kvm_bridge("recover").run().succeeds();
        assert!(is_let_in() && !guest.stack.pings("-w 2 -I 10.77.0.66 10.77.0.1"));
        let shown = lab.kvm_bridge("status br0").run().out;
        assert!(shown.contains("guarded by IP address (dropped "), "{shown}");
        // What it sends over and over doctor names.
        let mut spoof = guest.stack.command("ping -I 10.77.0.66 -i 0.3 10.77.0.1").spawn().expect("run ping");
        let told = lab.kvm_bridge("doctor br0 --verbose --watch 1").run().out;
        let _ = spoof.kill();
        let _ = spoof.wait();
        assert!(told.contains("that is not from an address of its own"), "{told}");
        guest.terminate();
        lab.becomes_as_before();
    }
}

/// The LAN's link-local address.
fn link_local(lab: &Lab) -> String {
    let shown = lab.lan.run("ip -6 -o addr show dev lan0 scope link");
    let words: Vec<&str> = shown.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "inet6").expect("an address");
    words[at + 1].split('/').next().expect("an address").to_owned()
}

/// The address that a DHCP client in the guest is given.
fn lease(lab: &Lab, guest: &Guest) -> String {
    lease_with(lab, guest, "")
}

fn lease_with(lab: &Lab, guest: &Guest, words: &str) -> String {
    let script = lab.new_file("udhcpc");
    programs::script(&script, "env\n");
    let client = format!("busybox udhcpc -i eth0 -n -q -f -t 10 -T 1 -s {} {words}", script.display());
    let out = guest.run(&client);
    let line = out.lines().rev().find_map(|line| line.strip_prefix("ip=")).expect("an address");
    line.to_owned()
}

#[test]
fn a_bridge_without_a_reaper_guards_no_ip_addresses() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let said = lab.shim("--bridge br0,guard=ip").run().exits_with(125).err;
    assert!(said.contains("has none") && said.contains("guard=on"), "{said}");
    lab.becomes_as_before();
}

/// A user's guest on it starts, and doctor tells why it has no address.
#[test]
fn a_guest_whose_address_nobody_hears_is_told_of() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
    let helper = lab.install_helper(&our_helper(), true, Right::Capability);
    lab.allow_more("allow br0 guard ip\n");
    let _tap = lab.call(&helper, "--br=br0 --fd=0 --mac=52:54:00:11:22:33").gives_a_tap();
    let told = lab.kvm_bridge("doctor br0 --quick").run().out;
    assert!(told.contains("nobody hears what that is: br0 has no reaper"), "{told}");
}

/// Servers know clients by what these say they are (option 61), which whoever is on the network hears. What a guest gives back it has
/// no more.
#[test]
fn an_address_is_one_guests_until_it_gives_it_back() {
    let Some(lab) = Lab::new() else { return };
    if !lab.lan.serve_short_leases() {
        return;
    }
    let boot = |name: &str| Guest::boot_silent(&lab, name, "--bridge br0,uplink=eth0,guard=ip");
    let (victim, thief) = (boot("victim"), boot("thief"));
    for guest in [&victim, &thief] {
        guest.run("ip link set eth0 up");
    }
    let its = lease(&lab, &victim);
    for guest in [&victim, &thief] {
        guest.run(&format!("ip addr add {its}/24 dev eth0"));
    }
    let is_let_in = |guest: &Guest| guest.stack.pings(&format!("-w 2 -I {its} 10.77.0.1"));
    assert!(is_let_in(&victim) || is_let_in(&victim), "from {its}");
    // busybox's identifier is its MAC address.
    let identifier = victim.mac.replace(':', "");
    assert_eq!(
        lease_with(&lab, &thief, &format!("-C -x 0x3d:01{identifier} -r {its}")),
        its,
        "the server knows who it is"
    );
    let is_heard = || lab.kvm_bridge("ip thief").run().out.contains(&its).then_some(());
    wait_for("the reaper to hear of it", 10, is_heard);
    assert!(!is_let_in(&thief) && !is_let_in(&thief));
    // A reaper that begins anew knows whose it is.
    lab.reaper_of("br0").kill();
    lab.kvm_bridge("recover").run().succeeds();
    // The server has noted the thief's MAC address for it, and asks when nobody answers there.
    wait_for("the one whose it is to be let in", 30, || is_let_in(&victim).then_some(()));
    assert!(!is_let_in(&thief));
    let own = Sender::new(&victim.mac, &its);
    Wire::in_namespace(&victim.stack.name, "eth0").send(&own.release());
    wait_for("nothing to be let in from it", 10, || (!is_let_in(&victim)).then_some(()));
    victim.terminate();
    thief.terminate();
    lab.becomes_as_before();
}
