//! What a guest's port of a bridge is held to: what the guest may send, whom it sees, its VLANs, and how fast it is.
//!
//! It is a crate of its own since both set ports up: the main program, and the helper, whose dependencies have its right.
//! So it has none itself, and can't act: it says what the kernel is to be asked for (rtnetlink(7)), byte by byte.
//!
//! All of it belongs to the TAP and goes with it: there is nothing to undo, whoever is killed.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

pub mod bpf;
mod request;
mod words;

pub use request::{FILTER_PREF, RATE_PREF, Request};
pub use words::{Rate, Vlans, write_tagged};

/// Whether a port lets in only what an honest guest sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// It lets in everything.
    #[default]
    Off,
    /// Only what has the guest's own address, and is not for switches: see [`bpf::guard`].
    Mac,
    /// Of this only what comes from the IP addresses that DHCP gave the guest: see [`bpf::guard_with_sources`].
    Ip,
}

impl FromStr for Guard {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::Mac),
            "ip" => Ok(Self::Ip),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Off => "off",
            Self::Mac => "on",
            Self::Ip => "ip",
        })
    }
}

/// What a port is held to. By default to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether it lets in only what an honest guest sends.
    pub guard: Guard,
    /// Whether frames pass only between it and ports that are not isolated (IFLA_BRPORT_ISOLATED).
    pub isolated: bool,
    /// Its VLANs, on a bridge that filters them.
    pub vlans: Option<Vlans>,
    /// How fast it is, in each direction.
    pub rate: Option<Rate>,
}

impl fmt::Display for Policy {
    /// A list: `guarded, isolated, VLAN 10, 100mbit`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |is_so: bool, word: &str| is_so.then(|| word.to_owned());
        let vlans = self.vlans.as_ref().map(|vlans| format!("VLAN {vlans}"));
        let rate = self.rate.map(|rate| rate.to_string());
        let guard = match self.guard {
            Guard::Off => None,
            Guard::Mac => Some("guarded".to_owned()),
            Guard::Ip => Some("guarded by IP address".to_owned()),
        };
        let words = [guard, word(self.isolated, "isolated"), vlans, rate];
        out.write_str(&words.into_iter().flatten().collect::<Vec<String>>().join(", "))
    }
}

impl Policy {
    /// Whether the port is held to nothing.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it lets in only what an honest guest sends.
    pub fn is_guarded(&self) -> bool {
        self.guard != Guard::Off
    }

    /// Whether its TAP may have vnet headers (IFF_VNET_HDR). By those a guest has the kernel write a checksum into its frame behind the
    /// guard: 16 bits of its choice, at byte 20 or behind, where IP addresses are (csum_start and csum_offset of struct
    /// virtio_net_hdr; linux/virtio_net.h, skb_checksum_help in net/core/dev.c).
    pub fn has_vnet_headers(&self) -> bool {
        self.guard != Guard::Ip
    }

    /// What is asked for before a TAP becomes a port; `mac` is the guest's address, where that is known.
    pub fn before(&self, tap: u32, mac: Option<[u8; 6]>) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.is_guarded() || self.rate.is_some() {
            requests.push(Request::clsact(tap));
        }
        if self.is_guarded() {
            requests.push(Request::guard(tap, &self.program(mac)));
        }
        if let Some(rate) = self.rate {
            requests.extend([Request::slow_guest(tap, rate), Request::slow_bridge(tap, rate)]);
        }
        requests
    }

    /// What is asked for when it is a port, and not up yet.
    pub fn after(&self, tap: u32) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.vlans.is_some() {
            // The bridge has put it in the default one.
            requests.push(Request::leave_vlans(tap));
        }
        if self.is_guarded() || self.isolated || self.vlans.is_some() {
            requests.push(Request::port(tap, self));
        }
        requests
    }

    /// What is asked for then by whoever is not to have an address that is another's: EEXIST tells that the bridge knows it elsewhere.
    pub fn claim(&self, tap: u32, mac: Option<[u8; 6]>) -> Option<Request> {
        mac.filter(|_| self.is_guarded()).map(|mac| Request::claim(tap, mac))
    }

    /// The program of the guard. One that goes by IP addresses begins with none; it needs the guest's own address, without which
    /// it lets in nothing.
    pub fn program(&self, mac: Option<[u8; 6]>) -> Vec<bpf::Instruction> {
        let tags = self.vlans.as_ref().and_then(Vlans::tags);
        match (self.guard, mac) {
            (Guard::Ip, Some(mac)) => bpf::guard_with_sources(mac, tags, &[]),
            (Guard::Ip, None) => vec![bpf::DROP],
            (Guard::Off | Guard::Mac, mac) => bpf::guard(mac, tags),
        }
    }
}
