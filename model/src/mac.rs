//! Ethernet addresses.
//! It may not know who has one.
#![forbid(unsafe_code)]

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A 48-bit Ethernet (MAC) address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A new locally administered unicast address of random bytes: the low nibble of the first is 2, which is the quadrant
    /// that IEEE 802c leaves to the administrator (AAI), and the other 44 bits are the randomness.
    pub fn random(mut bytes: [u8; 6]) -> Self {
        bytes[0] = bytes[0] & 0xf0 | 0x02;
        Self(bytes)
    }

    /// Checks that a network card can have this address: not of a group (IEEE 802: the first byte is odd), not zero.
    pub fn check_unicast(self) -> Result<Self, Error> {
        let fault = match self {
            Self([0, 0, 0, 0, 0, 0]) => "is no address of a network card",
            Self([first, ..]) if first & 1 == 1 => "is a group address",
            _ => return Ok(self),
        };
        Err(Error::new(format!("the MAC {self} {fault}"), "Its first byte must be even, as in 52:54:00:12:34:56."))
    }

    /// The address of the TAP, the host's end of the cable, for a guest's: the same with 0xfe in front, so that it is
    /// never the lowest on the bridge, whose own address would follow it (as libvirt and qemu-bridge-helper do).
    pub fn of_tap(self) -> Self {
        let Self([first, rest @ ..]) = self;
        let first = if first == 0xfe { 0xfa } else { 0xfe };
        let [b, c, d, e, f] = rest;
        Self([first, b, c, d, e, f])
    }

    /// The lower half of the IPv6 addresses that are made of it: modified EUI-64 (RFC 4291, appendix A).
    pub fn interface_id(self) -> [u8; 8] {
        let Self([a, b, c, d, e, f]) = self;
        [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
    }

    /// The link-local address that a kernel makes of it, unless it is told to make another (RFC 4291, 2.5.6).
    pub fn link_local(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&self.interface_id());
        octets.into()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    /// Six bytes in hexadecimal between colons or dashes, as QEMU's `mac=` takes them.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes: Option<Vec<u8>> = text
            .split([':', '-'])
            .map(|byte| match byte.len() {
                1 | 2 if byte.bytes().all(|digit| digit.is_ascii_hexdigit()) => u8::from_str_radix(byte, 16).ok(),
                _ => None,
            })
            .collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| {
            Error::new(format!("'{text}' is no MAC address"), "Write it as six bytes, such as 52:54:00:12:34:56.")
        })
    }
}

impl TryFrom<String> for Mac {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_one_is_local_unicast_of_the_right_quadrant() {
        for byte in 0..=255 {
            let mac = Mac::random([byte; 6]);
            assert_eq!(mac.0[0] & 0x0f, 2, "{mac}");
            assert_eq!(mac.check_unicast(), Ok(mac));
        }
    }

    #[test]
    fn it_reads_what_it_writes() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(mac.to_string(), "52:54:00:12:34:56");
        assert_eq!("52:54:0:12:34:56".parse(), Ok(mac));
        assert_eq!("52-54-00-12-34-56".parse(), Ok(mac));
        for bad in ["", "52", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:5g", "52:54:00:12:34:+5"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_tap_never_has_the_guests_own() {
        for first in [0x52, 0xfe, 0xfa] {
            let guest = Mac([first, 1, 2, 3, 4, 5]);
            assert!(guest.of_tap() != guest && guest.of_tap().0[0] >= 0xfa);
            assert_eq!(guest.of_tap().check_unicast(), Ok(guest.of_tap()));
        }
    }
}
