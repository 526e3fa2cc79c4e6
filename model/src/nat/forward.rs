//! `forward=tcp:2222:22`: a port of the host that leads to one of a guest.
//!
//! `PROTOCOL:[ADDRESS:]PORT:GUEST_PORT`. Without an address it is the host's own loopback, 127.0.0.1; all addresses only when
//! written (0.0.0.0, or `[::]` for IPv6). One port each: a range would hide which of its ports somebody else has.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As rules have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of the host that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address; the unspecified one for all of its family.
    pub on: IpAddr,
    /// The host's port.
    pub port: u16,
    /// The guest's.
    pub to: u16,
}

impl Forward {
    /// Whether both want a port of the host for themselves.
    pub fn collides(&self, other: &Self) -> bool {
        let is_same = (self.protocol, self.port) == (other.protocol, other.port);
        let has_all = |one: &Self, other: &Self| one.on.is_unspecified() && one.on.is_ipv4() == other.on.is_ipv4();
        is_same && (self.on == other.on || has_all(self, other) || has_all(other, self))
    }
}

const FORM: &str = "Write PROTOCOL:[ADDRESS:]PORT:GUEST_PORT, such as forward=tcp:2222:22 (on 127.0.0.1 alone) or \
                    forward=tcp:0.0.0.0:8080:80 (on all addresses).";

impl FromStr for Forward {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(format!("'{text}' forwards no port: {why}"), FORM);
        let (protocol, rest) = text.split_once(':').ok_or_else(|| wrong("it has no ':'"))?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(wrong(&format!("'{other}' is neither tcp nor udp"))),
        };
        let (rest, to) = rest.rsplit_once(':').ok_or_else(|| wrong("it names one port only"))?;
        let (on, port) = match rest.rsplit_once(':') {
            Some((address, port)) => (address_of(address).map_err(|why| wrong(&why))?, port),
            None => (Ipv4Addr::LOCALHOST.into(), rest),
        };
        if on == IpAddr::from(Ipv6Addr::LOCALHOST) {
            let what = format!("'{text}' can't be forwarded: the kernel lets nothing leave IPv6's loopback");
            return Err(Error::new(what, "Take 127.0.0.1, which programs that are told 'localhost' try too."));
        }
        let number = |text: &str| number(text).map_err(|why| wrong(&why));
        Ok(Self { protocol, on, port: number(port)?, to: number(to)? })
    }
}

fn address_of(text: &str) -> std::result::Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let parsed = match bare {
        Some(text) => text.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        None => text.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
    };
    match parsed {
        None if bare.is_none() && text.parse::<Ipv6Addr>().is_ok() => {
            Err(format!("an IPv6 address stands between brackets: [{text}]"))
        }
        None => Err(format!("'{text}' is no address of the host")),
        Some(address) if address.is_multicast() || address == IpAddr::from(Ipv4Addr::BROADCAST) => {
            Err(format!("{address} is the address of many"))
        }
        Some(address) => Ok(address),
    }
}

fn number(text: &str) -> std::result::Result<u16, String> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    match text.parse() {
        Ok(port @ 1..) if is_number => Ok(port),
        _ if text.contains('-') && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) => {
            Err(format!("'{text}' is a range, and each port has a forward= of its own"))
        }
        _ => Err(format!("'{text}' is no port from 1 to 65535")),
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, on, port, to } = self;
        let protocol = protocol.as_str();
        match on {
            IpAddr::V4(on) => write!(out, "{protocol}:{on}:{port}:{to}"),
            IpAddr::V6(on) => write!(out, "{protocol}:[{on}]:{port}:{to}"),
        }
    }
}

impl TryFrom<String> for Forward {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hosts_own_unless_all_addresses_are_written() {
        for (text, whole) in [
            ("tcp:2222:22", "tcp:127.0.0.1:2222:22"),
            ("udp:127.0.0.1:5353:53", "udp:127.0.0.1:5353:53"),
            ("tcp:0.0.0.0:8080:80", "tcp:0.0.0.0:8080:80"),
            ("tcp:[::]:8080:80", "tcp:[::]:8080:80"),
            ("udp:[fd00::1]:1:65535", "udp:[fd00::1]:1:65535"),
        ] {
            assert_eq!(text.parse::<Forward>().unwrap().to_string(), whole);
            assert_eq!(text.parse::<Forward>(), whole.parse());
        }
    }

    #[test]
    fn what_can_not_be_forwarded_says_why() {
        for (bad, why) in [
            ("", "no ':'"),
            ("2222:22", "neither tcp nor udp"),
            ("TCP:2222:22", "neither tcp nor udp"),
            ("tcp:22", "one port only"),
            ("tcp:2222:", "no port"),
            ("tcp:0:22", "no port"),
            ("tcp:2222:65536", "no port"),
            ("tcp:+2222:22", "no port"),
            ("tcp:8000-8010:80", "a range"),
            ("tcp:localhost:2222:22", "no address"),
            ("tcp::2222:22", "no address"),
            ("tcp:fd00::1:2222:22", "between brackets"),
            ("tcp:[127.0.0.1]:2222:22", "no address"),
            ("tcp:[::1]:2222:22", "IPv6's loopback"),
            ("udp:224.0.0.1:5353:5353", "of many"),
        ] {
            let error = bad.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_port_is_one_guests() {
        let [own, all, all6, other, udp] =
            ["tcp:2222:22", "tcp:0.0.0.0:2222:1", "tcp:[::]:2222:22", "tcp:10.0.0.1:2222:22", "udp:2222:22"]
                .map(|text| text.parse::<Forward>().unwrap());
        assert!(own.collides(&all) && all.collides(&other) && own.collides(&own));
        assert!(!own.collides(&other) && !own.collides(&all6) && !own.collides(&udp));
    }
}
