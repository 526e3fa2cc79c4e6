//! Subnets, and the choice of a free one.
//!
//! `choose(taken, kept, random)` gives a private /24 that no network in `taken` overlaps: `kept`, if it is still free, else one
//! that the random bytes decide. `taken` is every route and address of the host; routes to nearly everything are left out here.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 network: an address whose bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Net {
    /// The network that an address is in.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { address: Ipv4Addr::from(u32::from(address) & mask(prefix)), prefix }
    }

    /// Its first address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The length of its prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// As an address.
    pub fn netmask(self) -> Ipv4Addr {
        mask(self.prefix).into()
    }

    /// So many addresses it has; of the one that has all, one less.
    pub fn size(self) -> u32 {
        1_u32.checked_shl(u32::from(32 - self.prefix)).unwrap_or(u32::MAX)
    }

    /// Its address of this number.
    pub fn nth(self, number: u32) -> Ipv4Addr {
        u32::from(self.address).wrapping_add(number).into()
    }

    /// Whether an address is in it.
    pub fn has(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.address)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.has(other.address) || other.has(self.address)
    }

    /// Its zone of names for addresses, where its prefix ends with a byte (RFC 1035).
    pub fn reverse_zones(self) -> Vec<String> {
        let bytes = usize::from(self.prefix.div_ceil(8));
        let zone = |net: Ipv4Addr| {
            let labels: Vec<String> = net.octets()[..bytes].iter().rev().map(u8::to_string).collect();
            format!("{}.in-addr.arpa", labels.join("."))
        };
        let count = 1_u32 << (bytes * 8 - usize::from(self.prefix));
        (0..count).map(|number| zone(self.nth(number << (32 - bytes * 8)))).collect()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = Error;

    /// The value of `net=`: a private network (RFC 1918) of 8 to 65,536 addresses.
    fn from_str(text: &str) -> Result<Self> {
        const SUCH: &str = "Write a free private network, such as net=10.77.5.0/24.";
        let parts = text.split_once('/').and_then(|(address, prefix)| {
            let is_number = prefix.bytes().all(|digit| digit.is_ascii_digit());
            Some((address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u8>().ok().filter(|n| is_number && *n <= 32)?))
        });
        let Some((address, prefix)) = parts else {
            return Err(Error::new(format!("'{text}' is no IPv4 network"), SUCH));
        };
        let net = Self::of(address, prefix);
        if net.address != address {
            let what = format!("{text} has bits of an address behind its prefix");
            return Err(Error::new(what, format!("The network that it is in is {net}.")));
        }
        if !(16..=29).contains(&prefix) {
            return Err(Error::new(format!("{text} has a prefix that is not from /16 to /29"), SUCH));
        }
        if !PRIVATE.iter().any(|private| private.has(address)) {
            let what = format!("{text} is not private: addresses on the Internet would be out of reach");
            return Err(Error::new(what, "Choose from 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16 (RFC 1918)."));
        }
        Ok(net)
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}

const fn net(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net { address: Ipv4Addr::new(a, b, c, 0), prefix }
}

/// RFC 1918; the larger the network, the rarer what is chosen from it.
const PRIVATE: [Ipv4Net; 3] = [net(10, 0, 0, 8), net(172, 16, 0, 12), net(192, 168, 0, 16)];

/// Free now, and likely to be taken later: by home routers, and by what is installed next.
const POPULAR: [Ipv4Net; 11] = [
    // Routers and clouds; QEMU's user network (10.0.2), lxc (10.0.3), VirtualBox (10.0.2).
    net(10, 0, 0, 16),
    net(10, 1, 0, 16),
    // OpenVPN, WireGuard as most manuals have them.
    net(10, 8, 0, 16),
    // k3s, podman, Kubernetes' service and pod networks.
    net(10, 42, 0, 15),
    net(10, 88, 0, 15),
    net(10, 96, 0, 12),
    net(10, 244, 0, 16),
    // Docker's pool.
    net(172, 17, 0, 16),
    net(172, 18, 0, 15),
    // Routers; libvirt (192.168.122).
    net(192, 168, 0, 23),
    net(192, 168, 122, 24),
];

/// A route with a prefix shorter than this leads to nearly everything: the default route, and the halves or eighths of all
/// addresses that a VPN has in its place. It takes nothing from us, as a route to our bridge is longer.
const SHORTEST: u8 = 8;

/// A free /24: the one that is kept, if nobody else has it by now, else another.
pub fn choose(taken: &[Ipv4Net], kept: Option<Ipv4Net>, random: [u8; 4]) -> Result<Ipv4Net> {
    let free = |net: &Ipv4Net| is_free(*net, taken).is_ok();
    let start = u32::from_ne_bytes(random);
    // An odd step visits all of a power of two.
    let all = |private: Ipv4Net| {
        let count = private.size() >> 8;
        (0..count).map(move |number| Ipv4Net::of(private.nth((start.wrapping_add(number * 0x9e37) % count) << 8), 24))
    };
    let unpopular = |net: &Ipv4Net| !POPULAR.iter().any(|popular| popular.overlaps(*net));
    let of_all = || PRIVATE.into_iter().flat_map(all);
    kept.filter(free).or_else(|| of_all().filter(unpopular).find(free)).or_else(|| of_all().find(free)).ok_or_else(
        || {
            let what = "the host has routes to all private IPv4 networks, so that none is free for the bridge";
            Error::new(
                what,
                "Say which one its guests may have, such as net=10.77.5.0/24: its own will be out of reach.",
            )
        },
    )
}

/// Whether nobody of `taken` has a part of a network; else who.
pub fn is_free(net: Ipv4Net, taken: &[Ipv4Net]) -> std::result::Result<(), Ipv4Net> {
    match taken.iter().find(|other| other.prefix >= SHORTEST && other.overlaps(net)) {
        Some(other) => Err(*other),
        None => Ok(()),
    }
}

/// A local IPv6 prefix of 64 bits (RFC 4193): fd, 40 random bits, 16 bits of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ula([u8; 8]);

impl Ula {
    /// One of seven random bytes.
    pub fn new(random: [u8; 7]) -> Self {
        let [a, b, c, d, e, f, g] = random;
        Self([0xfd, a, b, c, d, e, f, g])
    }

    /// Its address with these last 64 bits.
    pub fn with(self, end: [u8; 8]) -> Ipv6Addr {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0);
        bytes[8..].copy_from_slice(&end);
        bytes.into()
    }

    /// Its address of this number.
    pub fn nth(self, number: u64) -> Ipv6Addr {
        self.with(number.to_be_bytes())
    }

    /// Its zone of names for addresses (RFC 3596).
    pub fn reverse_zone(self) -> String {
        let nibbles = self.0.iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
        nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
    }
}

impl fmt::Display for Ula {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/64", self.nth(0))
    }
}

impl TryFrom<String> for Ula {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let address = text.strip_suffix("/64").and_then(|address| address.parse::<Ipv6Addr>().ok());
        match address.map(|address| address.octets()) {
            Some([0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0]) => Ok(Self::new([a, b, c, d, e, f, g])),
            _ => Err(Error::new(
                format!("'{text}' is no local IPv6 prefix (RFC 4193)"),
                "Write one such as fd12:3456:789a:1::/64.",
            )),
        }
    }
}

impl From<Ula> for String {
    fn from(ula: Ula) -> Self {
        ula.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        let net = |text: &&str| {
            let (address, prefix) = text.split_once('/').unwrap();
            Ipv4Net::of(address.parse().unwrap(), prefix.parse().unwrap())
        };
        texts.iter().map(net).collect()
    }

    #[test]
    fn a_network_is_read_or_refused_with_a_way_out() {
        for good in ["10.77.5.0/24", "172.16.0.0/16", "192.168.9.8/29", "10.255.255.0/24"] {
            assert_eq!(good.parse::<Ipv4Net>().unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("", "no IPv4 network"),
            ("10.77.5.0", "no IPv4 network"),
            ("10.77.5.0/+24", "no IPv4 network"),
            ("10.77.5.0/33", "no IPv4 network"),
            ("fd00::/64", "no IPv4 network"),
            ("10.77.5.1/24", "behind its prefix"),
            ("10.0.0.0/8", "not from /16 to /29"),
            ("10.77.5.0/30", "not from /16 to /29"),
            ("8.8.8.0/24", "not private"),
            ("172.32.0.0/16", "not private"),
            ("127.0.0.0/24", "not private"),
        ] {
            let error = bad.parse::<Ipv4Net>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_chosen_is_clear_of_all_that_the_host_has() {
        let ten = nets(&["10.0.0.0/8"]);
        for seed in 0..30_u32 {
            let random = (seed * 76_543_219).to_ne_bytes();
            let net = choose(&[], None, random).unwrap();
            assert!(net.address().octets()[0] == 10 && net.prefix() == 24);
            assert!(!POPULAR.iter().any(|popular| popular.overlaps(net)), "{net}");
            let next = choose(&[net], None, random).unwrap();
            assert!(!next.overlaps(net));
            let other = choose(&ten, None, random).unwrap();
            assert!(PRIVATE[1].has(other.address()) && other.address().octets()[1] != 17, "{other}");
        }
        let most = nets(&["10.0.0.0/8", "172.16.0.0/12"]);
        assert!(PRIVATE[2].has(choose(&most, None, [1; 4]).unwrap().address()));
        let nearly_all = [most.clone(), nets(&["192.168.0.0/17", "192.168.128.0/18", "192.168.192.0/19"])].concat();
        assert!(choose(&nearly_all, None, [9; 4]).unwrap().address().octets()[2] >= 224);
        assert!(choose(&[most, nets(&["192.168.0.0/16"])].concat(), None, [0; 4]).is_err());
    }

    #[test]
    fn the_one_that_is_kept_stays_while_it_is_free() {
        let kept = nets(&["10.77.5.0/24"])[0];
        let ways_to_everything = nets(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/5", "172.0.0.0/7"]);
        assert_eq!(choose(&ways_to_everything, Some(kept), [1; 4]).unwrap(), kept);
        for taken in ["10.77.5.9/32", "10.77.0.0/16", "10.0.0.0/8", "10.77.5.128/25"] {
            let taken = nets(&[taken]);
            assert_eq!(is_free(kept, &taken), Err(taken[0]));
            assert!(!choose(&taken, Some(kept), [1; 4]).unwrap().overlaps(taken[0]));
        }
    }

    #[test]
    fn zones_of_addresses_are_whole() {
        let zones = |text: &str| text.parse::<Ipv4Net>().unwrap().reverse_zones();
        assert_eq!(zones("10.77.5.0/24"), ["5.77.10.in-addr.arpa"]);
        assert_eq!(zones("10.77.4.0/23"), ["4.77.10.in-addr.arpa", "5.77.10.in-addr.arpa"]);
        assert_eq!(zones("172.16.0.0/16"), ["16.172.in-addr.arpa"]);
        assert_eq!(zones("10.77.5.8/29").len(), 8);
        assert_eq!(Ula::new([1, 2, 3, 4, 5, 0, 7]).reverse_zone(), "7.0.0.0.5.0.4.0.3.0.2.0.1.0.d.f.ip6.arpa");
    }

    #[test]
    fn a_prefix_of_ipv6_is_local() {
        let ula = Ula::new([0xab, 2, 3, 4, 5, 6, 7]);
        assert_eq!(ula.to_string(), "fdab:203:405:607::/64");
        assert_eq!(Ula::try_from(ula.to_string()), Ok(ula));
        for bad in ["fe80::/64", "fdab::1/64", "fdab::/48", "2001:db8::/64", "x"] {
            assert!(Ula::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
