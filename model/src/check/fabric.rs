//! A network of many hosts: whether FRR tells who is where, and whether packets get to the others.

use crate::check::{Check, Topic};
use crate::fabric::frr::Vni;
use crate::mac::Mac;
use crate::text::shell::quote;
use crate::uplink::Vtep;
use crate::uplink::vxlan::PORT;
use std::net::IpAddr;

/// So many frames may go out before one comes: who is asked for may not be there.
const FEW: u64 = 5;

/// All of it but what has reasons of its own.
pub const FABRIC: Topic = Topic("fabric", "By BGP EVPN, FRR tells each host which guests are on which other host.");

/// The sessions with other hosts, each with its state.
pub fn of_sessions(sessions: &[(String, String)]) -> Check {
    let fix = |of: &str| format!("vtysh -c 'show bgp l2vpn evpn summary'{of}");
    if sessions.is_empty() {
        return FABRIC
            .failure("bgpd of FRR knows no other host", "kvm-bridge fabric init --as 65000 --peers HOST,HOST");
    }
    let open: Vec<String> = (sessions.iter().filter(|(_, state)| state != "Established"))
        .map(|(host, state)| format!("{host} ({state})"))
        .collect();
    match (open.len(), sessions.len()) {
        (0, all) => FABRIC.ok(format!("bgpd of FRR speaks with {all} other host{}", if all == 1 { "" } else { "s" })),
        (lacking, all) => {
            let observed = format!("no session with {}", open.join(", "));
            let fix = fix("   # TCP port 179 has to be open between the hosts");
            if lacking == all { FABRIC.failure(observed, fix) } else { FABRIC.warning(observed, fix) }
        }
    }
}

/// What zebra knows of the VNI of a bridge.
pub fn of_vni(vtep: &Vtep, known: Option<&Vni>) -> Check {
    let vni = vtep.asked.vni;
    match known {
        None => FABRIC.failure(
            format!("zebra of FRR does not tell others of the VNI {vni}"),
            "vtysh -c 'show running-config' | grep advertise-all-vni   # kvm-bridge fabric init prints what FRR needs",
        ),
        Some(Vni { local: Some(told), .. }) if *told != vtep.local => FABRIC.failure(
            format!("zebra of FRR has {told} for this host's address in the VNI {vni}, which is {}", vtep.local),
            format!(
                "kvm-bridge up BRIDGE --uplink vxlan:{vni}:local=ADDRESS   # one of IPv4: FRR 8.4 tells of no other"
            ),
        ),
        Some(Vni { hosts, .. }) if hosts.is_empty() => FABRIC.warning(
            format!("no other host has the VNI {vni}"),
            format!("kvm-bridge up BRIDGE --uplink vxlan:{vni}   # on the others"),
        ),
        Some(Vni { hosts, macs, .. }) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            FABRIC.ok(format!("the VNI {vni} is on {} too; {macs} MAC addresses are known", hosts.join(", ")))
        }
    }
}

/// Addresses that move from host to host all the time.
pub fn of_duplicates(vni: u32, macs: &[Mac]) -> Option<Check> {
    const DUPLICATE: Topic =
        Topic("fabric", "An address that two guests have is now at one host, now at the other, and neither gets all.");
    let first = macs.first()?;
    let all: Vec<String> = macs.iter().map(ToString::to_string).collect();
    Some(DUPLICATE.failure(
        format!("a duplicate MAC address moves between hosts: {}", all.join(", ")),
        format!("vtysh -c 'show evpn mac vni {vni} mac {first}'   # then give one of the guests another: mac="),
    ))
}

/// What became of packets to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// One of full size came back.
    Whole,
    /// A small one came back, one of full size did not.
    Small,
    /// None did.
    Nothing,
}

/// What the headers take of a ping's packet, in bytes: IP's and ICMP's.
pub fn ping_headers(remote: IpAddr) -> u32 {
    8 + if remote.is_ipv4() { 20 } else { 40 }
}

/// Whether packets of full size get to another host.
pub fn of_probe(vtep: &Vtep, remote: IpAddr, size: u32, probe: Probe) -> Check {
    const MTU: Topic =
        Topic("fabric", "A frame of full size is lost on the way: connections hang, and small packets pass.");
    let headers = ping_headers(remote);
    match probe {
        Probe::Whole => FABRIC.ok(format!("packets of {size} bytes reach {remote}")),
        Probe::Small => MTU.failure(
            format!("packets of {size} bytes do not reach {remote}, and small ones do: the MTU on the way is less"),
            format!(
                "ping -M do -s {} {remote}   # what passes is the MTU less {headers}; or make the bridge with a smaller mtu=",
                size - headers
            ),
        ),
        Probe::Nothing => FABRIC.warning(
            format!("{remote} is not reached by ping from {}", vtep.local),
            format!("ping -I {} {remote}", quote(&vtep.underlay)),
        ),
    }
}

/// What became of a packet to the port of VXLAN on another host. That none is answered is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The host's own firewall lets none out (EPERM).
    Own,
    /// The other host, or something on the way, answered that it takes none.
    Others,
}

/// That packets of VXLAN are refused on the way to another host.
pub fn of_refusal(remote: IpAddr, refusal: Refusal) -> Check {
    match refusal {
        Refusal::Own => FABRIC.failure(
            format!("the host's own firewall lets no packets out to UDP port {PORT} of {remote}"),
            format!("nft list ruleset   # let UDP port {PORT} out to the other hosts"),
        ),
        Refusal::Others => FABRIC.failure(
            format!("{remote} refuses packets to UDP port {PORT}: nobody there has a network of VXLAN, or a firewall refuses"),
            format!("kvm-bridge status   # on {remote}; its firewall has to let UDP port {PORT} in from the other hosts"),
        ),
    }
}

/// That frames went to other hosts and none ever came from there.
pub fn of_silence(received: u64, sent: u64, others: usize) -> Option<Check> {
    (received == 0 && sent >= FEW && others > 0).then(|| {
        FABRIC.warning(
            format!("{sent} frames were sent to other hosts, and none came from them"),
            format!("nft list ruleset   # here and there UDP port {PORT} has to be let in from the other hosts"),
        )
    })
}

/// That the host has lost the address that its packets go out with.
pub fn of_local(vtep: &Vtep, addresses: &[IpAddr]) -> Option<Check> {
    const LOCAL: Topic = Topic("fabric", "The other hosts answer to an address that nobody has.");
    let local = vtep.local;
    (!addresses.contains(&local)).then(|| {
        LOCAL.failure(
            format!("the host has no address {local} any more, and packets of VXLAN go out with it"),
            "ip address   # give the host that address again, or make the bridge again: kvm-bridge down, then up",
        )
    })
}

/// Whether the interface below still carries what the bridge was made for.
pub fn of_underlay(vtep: &Vtep, size: u32, mtu: u32) -> Option<Check> {
    const MTU: Topic = Topic("fabric", "The kernel drops what is larger than the interface below takes.");
    let link = quote(&vtep.underlay);
    (mtu < size).then(|| {
        MTU.failure(
            format!("{} has an MTU of {mtu} bytes, and packets of VXLAN have up to {size}", vtep.underlay),
            format!("ip link set dev {link} mtu {size}   # or make the bridge again, which takes what is left"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;
    use crate::ifname::IfName;
    use crate::uplink::vxlan::device;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn vtep(local: &str) -> Vtep {
        Vtep {
            asked: "vxlan:7".parse().unwrap(),
            device: device(&IfName::new("lab").unwrap()),
            underlay: IfName::new("eth0").unwrap(),
            underlay_index: 2,
            local: ip(local),
            remotes: Vec::new(),
            mtu: 1430,
        }
    }

    #[test]
    fn an_address_that_frr_does_not_tell_others_is_a_failure() {
        let known = |local: Option<&str>| Vni { local: local.map(ip), hosts: vec![ip("10.0.0.2")], macs: 1 };
        let judged = |local: &str, told| of_vni(&vtep(local), Some(&known(told))).verdict;
        assert_eq!(judged("fd00::1", Some("0.0.0.0")), Verdict::Failure);
        assert_eq!(judged("10.0.0.1", Some("10.0.0.1")), Verdict::Ok);
        assert_eq!(judged("10.0.0.1", None), Verdict::Ok);
    }

    #[test]
    fn an_address_that_the_host_has_lost_is_named() {
        let found = of_local(&vtep("10.0.0.1"), &[ip("10.0.0.9")]).unwrap();
        assert!(found.observed.contains("10.0.0.1 any more"), "{}", found.observed);
        assert!(of_local(&vtep("10.0.0.1"), &[ip("127.0.0.1"), ip("10.0.0.1")]).is_none());
    }

    #[test]
    fn the_ping_to_try_is_of_the_size_that_was_lost() {
        for (local, remote, size) in [("10.0.0.1", "10.0.0.2", 1472), ("fd00::1", "fd00::2", 1452)] {
            let fix = of_probe(&vtep(local), ip(remote), 1500, Probe::Small).fix.unwrap();
            assert!(fix.starts_with(&format!("ping -M do -s {size} {remote} ")), "{fix}");
        }
    }
}
