//! A network of the host's own, behind its address (`uplink=nat`): what it is, and the words for those who carry it out.
//! It may not know what is running.
//!
//! [`Nat`] is the network: a subnet, names, and perhaps IPv6. It is chosen once for a bridge ([`subnet::choose`]) and kept.
//! [`guest::Guest`] is a VM on it: address, name and what is forwarded to it. From these two and the bridge's index come the
//! rules of nftables ([`ruleset`]) and the command line of dnsmasq ([`dnsmasq`]). [`lent`] has the rules that keep the host
//! from forwarding for others while it forwards for us, and [`firewall`] finds the firewalls of others that would drop what
//! a guest sends, with what is to be added for each.
#![forbid(unsafe_code)]

pub mod dnsmasq;
pub mod firewall;
pub mod forward;
pub mod guest;
pub mod guests;
pub mod lent;
pub mod ruleset;
pub mod subnet;

use crate::error::{Error, Result};
use crate::ifname::IfName;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use subnet::{Ipv4Net, Ula};

/// The network behind one bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat {
    /// Its IPv4 addresses: the first is the host's, the others are given to guests.
    pub subnet: Ipv4Net,
    /// Its IPv6 prefix, where the host has a way out by IPv6.
    pub ula: Option<Ula>,
    /// The domain that its guests' names are in.
    pub domain: String,
}

impl Nat {
    /// The network of a bridge. Its domain is `BRIDGE.internal`: that top-level domain is reserved for private use (ICANN, July
    /// 2024), so that no name on the Internet is hidden by it. `.test` is for tests of DNS itself (RFC 6761), `.local` is
    /// multicast DNS's (RFC 6762), and `.lan` is nobody's to promise.
    pub fn new(bridge: &IfName, subnet: Ipv4Net, ula: Option<Ula>) -> Result<Self> {
        check_name(bridge)?;
        let label = bridge.as_str().to_ascii_lowercase().replace(['_', '.'], "-");
        let label = label.trim_matches('-');
        let domain = format!("{}.internal", if label.is_empty() { "bridge" } else { label });
        Ok(Self { subnet, ula, domain })
    }

    /// The host's address on the bridge, which is the guests' gateway and their name server.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.nth(1)
    }

    /// The same of IPv6.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.ula.map(|ula| ula.nth(1))
    }

    /// The first and the last address for guests that root starts, of which each keeps its own.
    pub fn range(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.subnet.nth(2), self.subnet.nth(self.pool_start() - 1))
    }

    /// The first and the last address for all others, such as users' own guests: the last quarter.
    pub fn pool(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.subnet.nth(self.pool_start()), self.subnet.nth(self.subnet.size().saturating_sub(2)))
    }

    fn pool_start(&self) -> u32 {
        (self.subnet.size() / 4 * 3).max(3)
    }
}

/// Checks that a bridge can be named in a table's name, in rules and on command lines of others, where `*` and `+` stand for any
/// ending and a dash in front for an option.
pub fn check_name(bridge: &IfName) -> Result<()> {
    let name = bridge.as_str();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain) {
        return Ok(());
    }
    let what = format!("the bridge {name} cannot have uplink=nat: its name has to fit into rules of a firewall");
    Err(Error::new(
        what,
        "Give a name of letters, digits, '.', '_' and '-' that begins with a letter or digit, such as br0.",
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mac::Mac;
    use guest::Guest;

    pub(crate) fn nat() -> Nat {
        let ula = Some(Ula::new([1, 2, 3, 4, 5, 0, 7]));
        Nat::new(&br0(), "10.77.5.0/24".parse().unwrap(), ula).unwrap()
    }

    pub(crate) fn br0() -> IfName {
        IfName::new("br0").unwrap()
    }

    pub(crate) fn alice(forwards: &[&str]) -> Guest {
        let forwards = forwards.iter().map(|text| text.parse().unwrap()).collect();
        let name = guest::label("alice");
        Guest { mac: Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]), name, address: Ipv4Addr::new(10, 77, 5, 50), forwards }
    }

    #[test]
    fn a_journal_can_keep_it() {
        let text = serde_json::to_string(&(nat(), alice(&["tcp:2222:22"]))).unwrap();
        assert_eq!(
            text,
            r#"[{"subnet":"10.77.5.0/24","ula":"fd01:203:405:7::/64","domain":"br0.internal"},{"mac":"52:54:00:12:34:56","name":"alice","address":"10.77.5.50","forwards":["tcp:127.0.0.1:2222:22"]}]"#
        );
        assert_eq!(serde_json::from_str::<(Nat, Guest)>(&text).unwrap(), (nat(), alice(&["tcp:2222:22"])));
    }

    #[test]
    fn names_that_mean_more_to_a_firewall_are_refused() {
        for name in ["br0", "br-lan", "br0.5", "lab_1", "0"] {
            assert!(check_name(&IfName::new(name).unwrap()).is_ok(), "{name}");
        }
        for name in ["br*", "br+", "-br0", "!br0", "ä", "br\"", "@set", "$x", ".x"] {
            assert!(check_name(&IfName::new(name).unwrap()).is_err(), "{name}");
        }
        let domain = |name: &str| Nat::new(&IfName::new(name).unwrap(), nat().subnet, None).unwrap().domain;
        assert_eq!(["Lab_1", "br0.5", "br-"].map(domain), ["lab-1.internal", "br0-5.internal", "br.internal"]);
    }
}
