//! A guest on such a network: its address, its name, and what is forwarded to it.
//!
//! Its IPv4 address is computed from its MAC address, and probed from there on where another has it: a VM has the same one at
//! each start as long as `taken` has the same others, so who keeps addresses gives all kept ones as `taken`. Its IPv6 address is
//! the one that a guest makes of its MAC address by itself (EUI-64), and the DHCP server has the same for those that ask.

use crate::mac::Mac;
use crate::nat::Nat;
use crate::nat::forward::Forward;
use crate::nat::subnet::Ula;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A VM's card on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its address of Ethernet.
    pub mac: Mac,
    /// Its name in DNS, without the domain.
    pub name: Option<String>,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// What of the host leads to it.
    pub forwards: Vec<Forward>,
}

impl Guest {
    /// What people know it by: its name, or its address.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }

    /// Its IPv6 address.
    pub fn address6(&self, ula: Ula) -> Ipv6Addr {
        ula.with(self.mac.interface_id())
    }

    /// What a file of `--dhcp-hostsdir` has of it. The folder has one file for each guest, which dnsmasq reads as soon as it is
    /// there: whoever starts a guest writes it and needs to know no process.
    ///
    /// The name has its domain: alone it could be a word of dnsmasq's, such as `ignore` or a time.
    pub fn host_line(&self, domain: &str) -> String {
        let Self { mac, name, address, .. } = self;
        let [a, b, c, d] = {
            let id = mac.interface_id();
            [0, 2, 4, 6].map(|at| u16::from_be_bytes([id[at], id[at + 1]]))
        };
        let name = name.as_ref().map(|name| format!("{name}.{domain},")).unwrap_or_default();
        format!("{mac},{name}{address},[::{a:x}:{b:x}:{c:x}:{d:x}]\n")
    }
}

/// The address for a card, clear of those that others have; `None` where all are taken.
pub fn address_of(nat: &Nat, mac: Mac, taken: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let (first, last) = nat.range();
    let count = u32::from(last) - u32::from(first) + 1;
    // FNV-1a, with its high bits mixed in.
    let hash = mac.0.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let start = hash ^ (hash >> 16);
    let nth = |number: u32| Ipv4Addr::from(u32::from(first) + start.wrapping_add(number) % count);
    (0..count).map(nth).find(|address| !taken.contains(address))
}

/// A VM's name as a label of DNS (RFC 1123); `None` where nothing of it is left.
pub fn label(name: &str) -> Option<String> {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let fitted: String = name.chars().take(63).map(fit).collect();
    let label = fitted.trim_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tests::{alice, nat};

    #[test]
    fn it_is_known_to_the_server_by_its_mac() {
        let alice = alice(&[]);
        assert_eq!(
            alice.host_line("br0.internal"),
            "52:54:00:12:34:56,alice.br0.internal,10.77.5.50,[::5054:ff:fe12:3456]\n"
        );
        assert_eq!(alice.address6(nat().ula.unwrap()).to_string(), "fd01:203:405:7:5054:ff:fe12:3456");
        let bare = Guest { name: None, ..alice };
        assert_eq!(bare.host_line("br0.internal"), "52:54:00:12:34:56,10.77.5.50,[::5054:ff:fe12:3456]\n");
    }

    #[test]
    fn each_has_an_address_of_its_own_and_the_same_at_each_start() {
        let mut taken = Vec::new();
        for number in 0..190_u8 {
            let mac = Mac([0x52, 0x54, 0, 1, 2, number]);
            let address = address_of(&nat(), mac, &taken).unwrap();
            assert_eq!(address_of(&nat(), mac, &taken), Some(address));
            assert!(nat().subnet.has(address) && !taken.contains(&address));
            assert!(!matches!(address.octets()[3], 0 | 1 | 255), "{address}");
            taken.push(address);
        }
        assert_eq!(address_of(&nat(), Mac([2; 6]), &taken), None);
        let alone: std::collections::HashSet<_> =
            (0..20).map(|number| address_of(&nat(), Mac([0x52, 0x54, 0, number, 2, 3]), &[])).collect();
        assert!(alone.len() > 15, "they are spread");
    }

    #[test]
    fn any_name_becomes_one_of_dns() {
        for (name, wanted) in [
            ("alice", Some("alice")),
            ("Web_Server 2", Some("web-server-2")),
            ("-x-", Some("x")),
            ("ä", None),
            ("", None),
            ("a,b=c", Some("a-b-c")),
        ] {
            assert_eq!(label(name).as_deref(), wanted, "{name}");
        }
        assert_eq!(label(&"a".repeat(100)).unwrap().len(), 63);
    }
}
