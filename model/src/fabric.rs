//! BGP EVPN between hosts, by FRR: the lines of its configuration.
//! It may not know whether FRR is there.
#![forbid(unsafe_code)]

pub mod frr;

use std::fmt::Write;
use std::net::IpAddr;

/// Who this host speaks BGP with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    /// The number of the autonomous system, of all hosts (RFC 6793).
    pub number: u32,
    /// This host's address.
    pub local: IpAddr,
    /// The other hosts that it speaks with: all of them, or the route reflectors.
    pub peers: Vec<IpAddr>,
    /// Of a route reflector, the network that all others are in, and speak with it from.
    pub clients: Option<(IpAddr, u8)>,
}

impl Fabric {
    /// The lines for FRR's configuration.
    pub fn lines(&self) -> String {
        let Self { number, local, peers, clients } = self;
        let mut text = format!("router bgp {number}\n");
        if local.is_ipv4() {
            let _ = writeln!(text, " bgp router-id {local}");
        }
        // So long a host that is cut off is waited for, in seconds; FRR itself has three minutes.
        text += " timers bgp 10 30\n no bgp default ipv4-unicast\n";
        if let Some((network, prefix)) = clients {
            text += " neighbor clients peer-group\n";
            let _ = writeln!(text, " neighbor clients remote-as {number}");
            let _ = writeln!(text, " bgp listen limit 5000\n bgp listen range {network}/{prefix} peer-group clients");
        }
        for peer in peers {
            let _ = writeln!(text, " neighbor {peer} remote-as {number}");
        }
        text += " address-family l2vpn evpn\n";
        if clients.is_some() {
            text += "  neighbor clients activate\n  neighbor clients route-reflector-client\n";
        }
        for peer in peers {
            let _ = writeln!(text, "  neighbor {peer} activate");
        }
        text + "  advertise-all-vni\n exit-address-family\nexit\n"
    }
}

/// The network that an address is in.
pub fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or_default();
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or_default();
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_host_speaks_with_all_others_or_with_a_reflector() {
        let peers = vec![ip("10.0.0.2"), ip("10.0.0.3")];
        let lines = Fabric { number: 65000, local: ip("10.0.0.1"), peers, clients: None }.lines();
        assert_eq!(
            lines,
            "router bgp 65000\n bgp router-id 10.0.0.1\n timers bgp 10 30\n no bgp default ipv4-unicast\n neighbor 10.0.0.2 remote-as 65000\n \
             neighbor 10.0.0.3 remote-as 65000\n address-family l2vpn evpn\n  neighbor 10.0.0.2 activate\n  \
             neighbor 10.0.0.3 activate\n  advertise-all-vni\n exit-address-family\nexit\n"
        );
        let clients = Some((ip("10.0.0.0"), 24));
        let lines = Fabric { number: 65000, local: ip("10.0.0.1"), peers: vec![ip("10.0.0.2")], clients }.lines();
        for line in [
            " bgp listen range 10.0.0.0/24 peer-group clients\n",
            "  neighbor clients route-reflector-client\n",
            "  neighbor 10.0.0.2 activate\n",
        ] {
            assert!(lines.contains(line), "{lines}");
        }
    }

    #[test]
    fn an_address_is_in_its_network() {
        for (address, prefix, network) in [
            ("10.1.2.3", 24, "10.1.2.0"),
            ("10.1.2.3", 32, "10.1.2.3"),
            ("10.1.2.3", 0, "0.0.0.0"),
            ("fd00::1:2", 64, "fd00::"),
            ("fd00::1:2", 0, "::"),
        ] {
            assert_eq!(network_of(ip(address), prefix), ip(network), "{address}/{prefix}");
        }
    }
}
