//! Texts for strangers: names, addresses and paths in them replaced, each by the same one everywhere.
//! It may not know what a text is about.
//!
//! What tells something about a fault stays: whether two things are the same, whether an Ethernet address is a factory's,
//! whether two IP addresses are in one network, and addresses that are nobody's (loopback, multicast, all ones).

use crate::mac::Mac;
use serde_json::Value;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Folders whose files tell nothing about their owner.
const KNOWN: [&str; 18] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/libexec",
    "/usr/share",
    "/usr/local",
    "/bin",
    "/sbin",
    "/lib",
    "/dev",
    "/proc",
    "/sys",
    "/etc/kvm-bridge",
    "/etc/qemu",
    "/etc/systemd",
    "/run/kvm-bridge",
    "/run/systemd",
    "/var/lib/kvm-bridge",
];

/// No address and no path is longer, in characters.
const ADDRESS: usize = 64;
const PATH: usize = 4096;
/// Fields with a word of ours, whoever has a name like it.
const OURS: [&str; 5] = ["verdict", "role", "kind", "guard", "link_type"];
/// Fields with texts of people or addresses of hardware in other forms.
const UNREADABLE: [&str; 5] = ["ifalias", "phys_port_id", "phys_switch_id", "phys_port_name", "sci"];

/// What was replaced, and by what.
#[derive(Debug, Default)]
pub struct Anonymizer {
    /// Names in small letters, with what is in their place, and how long the longest is.
    names: HashMap<String, String>,
    longest: usize,
    /// How many of each kind there are.
    counts: HashMap<&'static str, u32>,
    /// All else that was met.
    others: HashMap<String, String>,
    /// The octets behind each beginning of an IPv4 address, in the order in which they were met.
    octets: HashMap<Vec<u8>, Vec<u8>>,
    /// The networks of 64 bits, and the interfaces in each.
    networks: Vec<u64>,
    interfaces: Vec<u64>,
}

impl Anonymizer {
    /// Has a name replaced by one of this kind: `vm`, `user`. The first that names it counts; a name is the same in capitals.
    pub fn name(&mut self, kind: &'static str, name: &str) {
        let name = name.to_ascii_lowercase();
        // A letter tells nobody anything, and is in every text.
        if name.chars().count() > 1 && !self.names.contains_key(&name) {
            let new = self.next(kind);
            self.longest = self.longest.max(name.len());
            self.names.insert(name, new);
        }
    }

    /// What is in the place of a value of which nothing may be seen.
    pub fn value(&mut self, value: &str) -> String {
        self.other("value", value)
    }

    /// A document with all its texts replaced. The names of fields are ours, and so are the values of some of them.
    pub fn document(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.document(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| {
                    let new = match (name.as_str(), value) {
                        (field, value) if OURS.contains(&field) => value,
                        (field, Value::String(text)) if UNREADABLE.contains(&field) => Value::String(self.value(&text)),
                        (_, value) => self.document(value),
                    };
                    (name, new)
                });
                fields.collect::<serde_json::Map<_, _>>().into()
            }
            value => value,
        }
    }

    /// A text, replaced.
    pub fn text(&mut self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        let mut before = None;
        while let Some(first) = rest.chars().next() {
            let is_start = before.is_none_or(|c: char| !c.is_alphanumeric() && c != '_');
            let taken = if is_start { self.take(rest, before) } else { None };
            let length = match taken {
                Some((length, new)) => {
                    result += &new;
                    length
                }
                None => {
                    result.push(first);
                    first.len_utf8()
                }
            };
            before = rest[..length].chars().next_back();
            rest = &rest[length..];
        }
        result
    }

    /// What a text begins with, if it is to be replaced: how long it is, and by what. Addresses come first: a name that is a part of
    /// one is anybody's to choose.
    fn take(&mut self, text: &str, before: Option<char>) -> Option<(usize, String)> {
        let run = |most: usize, is_part: fn(char) -> bool| {
            let end = text.char_indices().take(most).find(|(_, c)| !is_part(*c)).map(|(at, _)| at);
            &text[..end.unwrap_or_else(|| text.char_indices().nth(most).map_or(text.len(), |(at, _)| at))]
        };
        let hex = run(ADDRESS, |c| c.is_ascii_hexdigit() || c == ':' || c == '.').trim_end_matches('.');
        for hex in [hex, hex.trim_end_matches(':')] {
            match hex.matches(':').count() {
                5 => {
                    if let Some(mac) = mac(hex) {
                        return Some((hex.len(), self.mac(mac)));
                    }
                }
                0 | 1 => continue,
                _ => {}
            }
            if let Ok(address) = hex.parse() {
                return Some((hex.len(), self.ipv6(address)));
            }
        }
        let digits = run(ADDRESS, |c| c.is_ascii_digit() || c == '.').trim_end_matches('.');
        if let Ok(address) = digits.parse() {
            return Some((digits.len(), self.ipv4(address)));
        }
        if let Some((length, name)) = self.longest_name(text) {
            return Some((length, name));
        }
        if !text.starts_with('/') || matches!(before, Some('.' | '/' | ':')) {
            return None;
        }
        let path = run(PATH, |c| !c.is_whitespace() && !"\"'`,;:()<>|".contains(c)).trim_end_matches('.');
        // A prefix length is none.
        let is_path = path.bytes().any(|byte| !matches!(byte, b'/' | b'0'..=b'9'));
        (is_path && !is_known(path)).then(|| {
            let end = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, end)| end);
            let end = end.filter(|end| end.len() <= 5 && end.chars().all(char::is_alphanumeric));
            let new = format!("/{}", self.other("path", path));
            (path.len(), end.map_or(new.clone(), |end| format!("{new}.{end}")))
        })
    }

    /// The longest name that a text begins with, as a word of its own: its length, and what is in its place.
    fn longest_name(&self, text: &str) -> Option<(usize, String)> {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= self.longest);
        let is_end = |end: &usize| !text[*end..].starts_with(is_part);
        let known =
            ends.filter(is_end).filter_map(|end| Some((end, self.names.get(&text[..end].to_ascii_lowercase())?)));
        known.last().map(|(end, name)| (end, name.clone()))
    }

    fn next(&mut self, kind: &'static str) -> String {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        format!("{kind}-{count}")
    }

    fn other(&mut self, kind: &'static str, text: &str) -> String {
        if let Some(known) = self.others.get(text) {
            return known.clone();
        }
        let new = self.next(kind);
        self.others.insert(text.to_owned(), new.clone());
        new
    }

    /// A locally administered one becomes another such, a factory's one of those for documentation (RFC 7042, 2.1.2).
    fn mac(&mut self, mac: Mac) -> String {
        if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
            return mac.to_string();
        }
        let known = self.other("mac", &mac.to_string());
        let number: u16 = known.trim_start_matches("mac-").parse().unwrap_or(u16::MAX);
        let [high, low] = number.to_be_bytes();
        let new = if mac.0[0] & 2 == 2 { [2, 0, 0, 0, high, low] } else { [0, 0, 0x5e, high, 0x53, low] };
        Mac(new).to_string()
    }

    /// Octet by octet, so that what was in one network is so still; `.0` and `.255` stay. Of private networks (RFC 1918, 3927,
    /// 6598) what says so stays too; a public one becomes one of 198.18.0.0/15 (RFC 2544).
    fn ipv4(&mut self, address: Ipv4Addr) -> String {
        let octets = address.octets();
        let kept = match octets {
            [0 | 127 | 224.., ..] => return address.to_string(),
            [10, ..] => 1,
            [172, 16..32, ..] | [192, 168, ..] | [169, 254, ..] | [100, 64..128, ..] => 2,
            _ => 0,
        };
        let mut new = octets;
        for at in kept..4 {
            if matches!(octets[at], 1..=254) {
                let met = self.octets.entry(octets[..at].to_vec()).or_default();
                let place = met.iter().position(|known| *known == octets[at]).unwrap_or_else(|| {
                    met.push(octets[at]);
                    met.len() - 1
                });
                new[at] = u8::try_from(place + 1).unwrap_or(254);
            }
        }
        if kept == 0 {
            // Two octets of it are told apart by one.
            new = [
                198,
                18 + (new[0] & 1),
                new[0].wrapping_mul(16).wrapping_add(new[1]),
                new[2].wrapping_mul(16).wrapping_add(new[3]),
            ];
        }
        Ipv4Addr::from(new).to_string()
    }

    /// Network and interface each for itself: 2001:db8::/32 (RFC 3849), fd00::/8 for what is unique and local, fe80::/64.
    fn ipv6(&mut self, address: Ipv6Addr) -> String {
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return address.to_string();
        }
        let (network, interface) = ((address.to_bits() >> 64) as u64, address.to_bits() as u64);
        let nth = |list: &mut Vec<u64>, wanted: u64| {
            let known = list.iter().position(|known| *known == wanted);
            let place = known.unwrap_or_else(|| {
                list.push(wanted);
                list.len() - 1
            });
            u16::try_from(place + 1).unwrap_or(u16::MAX)
        };
        let interface = if interface == 0 { 0 } else { nth(&mut self.interfaces, interface) };
        let mut new = match address.segments()[0] {
            0xfe80..=0xfebf => return Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, interface).to_string(),
            0xfc00..=0xfdff => [0xfd00, 0, 0, 0, 0, 0, 0, interface],
            _ => [0x2001, 0xdb8, 0, 0, 0, 0, 0, interface],
        };
        new[3] = nth(&mut self.networks, network);
        Ipv6Addr::from(new).to_string()
    }
}

/// An Ethernet address, also as iproute2 writes those of bridges, without zeros in front.
fn mac(text: &str) -> Option<Mac> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok().filter(|_| octet.len() <= 2));
    octets.collect::<Option<Vec<u8>>>()?.try_into().ok().map(Mac)
}

fn is_known(path: &str) -> bool {
    KNOWN.iter().any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known() -> Anonymizer {
        let mut anonymizer = Anonymizer::default();
        anonymizer.name("vm", "customer");
        anonymizer.name("vm", "customer-db");
        anonymizer.name("user", "alice");
        anonymizer
    }

    #[test]
    fn names_are_words() {
        let mut known = known();
        assert_eq!(known.text("customer, customer-db: alice's"), "vm-1, vm-2: user-1's");
        assert_eq!(known.text("customers malice alice_2"), "customers malice alice_2");
        assert_eq!(known.text("Customer-DB and ALICE"), "vm-2 and user-1");
        assert_eq!(known.text("/home/alice/x.qcow2 /home/alice/x.qcow2"), "/path-1.qcow2 /path-1.qcow2");
        assert_eq!(
            known.text("/usr/bin/qemu-system-x86_64 and/or a/b ../x"),
            "/usr/bin/qemu-system-x86_64 and/or a/b ../x"
        );
    }

    #[test]
    fn a_name_hides_no_address_and_no_verdict() {
        let mut known = Anonymizer::default();
        for name in ["203", "00", "2a01", "ok", "1"] {
            known.name("vm", name);
        }
        assert_eq!(
            known.text("203.0.113.77 00:25:90:aa:bb:cc 2a01:4f8::7 ok"),
            "198.19.16.17 00:00:5e:00:53:01 2001:db8:0:1::1 vm-4"
        );
        let document = serde_json::json!({ "verdict": "ok", "ifalias": "rack 7", "id": "8000.52:54:0:c:34:56", "to": "fe80::/64" });
        let wanted = serde_json::json!({ "verdict": "ok", "ifalias": "value-1", "id": "8000.02:00:00:00:00:02", "to": "fe80::/64" });
        assert_eq!(known.document(document), wanted);
    }

    #[test]
    fn a_long_text_takes_no_time() {
        let text = "a.".repeat(100_000) + &"/".repeat(100_000) + &"1:x".repeat(100_000);
        assert!(known().text(&text) == text);
    }

    #[test]
    fn addresses_stay_in_their_networks() {
        let mut known = known();
        assert_eq!(
            known.text("10.77.3.4/24 10.77.3.9 10.77.4.4 10.77.3.0/24 10.77.3.4"),
            "10.1.1.1/24 10.1.1.2 10.1.2.1 10.1.1.0/24 10.1.1.1"
        );
        assert_eq!(
            known.text("tcp:127.0.0.1:2222:22 0.0.0.0 255.255.255.255 224.0.0.1"),
            "tcp:127.0.0.1:2222:22 0.0.0.0 255.255.255.255 224.0.0.1"
        );
        assert_eq!(known.text("Linux 6.12.117, 1.2.3"), "Linux 6.12.117, 1.2.3");
        assert!(known.text("8.8.8.8").starts_with("198.1"));
        assert_eq!(
            known.text("fe80::5054:ff:fe12:3456%eth0 fd12:3456:789a:1::7/64 2a01:4f8::7, at 12:30:45"),
            "fe80::1%eth0 fd00:0:0:1::2/64 2001:db8:0:2::2, at 12:30:45"
        );
        assert_eq!(known.text("::1 :: ff02::1: std::io fe80::9: "), "::1 :: ff02::1: std::io fe80::3: ");
        assert_eq!(
            known.text("52:54:00:12:34:56, 00:25:90:aa:bb:cc at 52:54:00:12:34:56. 01:80:c2:00:00:00"),
            "02:00:00:00:00:01, 00:00:5e:00:53:02 at 02:00:00:00:00:01. 01:80:c2:00:00:00"
        );
    }

    proptest! {
        #[test]
        fn any_text_can_be_replaced(text in "\\PC{0,60}") {
            let mut known = known();
            prop_assert_eq!(known.text(&text), known.text(&text));
        }

        #[test]
        fn addresses_are_gone(a in any::<[u8; 4]>(), b in any::<[u8; 16]>(), mac in any::<[u8; 6]>()) {
            let (v4, v6, mac) = (Ipv4Addr::from(a), Ipv6Addr::from(b), Mac([mac[0] & !1, mac[1], mac[2], mac[3], mac[4], mac[5]]));
            prop_assume!(matches!(a[0], 1..=9 | 11..=99 | 101..=126 | 128..=168 | 200..=223) && a[0] != 198);
            prop_assume!(!v6.is_multicast() && b[0] != 0 && b[..4] != [0x20, 1, 0xd, 0xb8] && !mac.to_string().starts_with("0"));
            let text = Anonymizer::default().text(&format!("{v4} {v6} {mac}"));
            for gone in [v4.to_string(), v6.to_string(), mac.to_string()] {
                prop_assert!(!text.split(' ').any(|word| word == gone), "{} in {}", gone, text);
            }
        }
    }
}
