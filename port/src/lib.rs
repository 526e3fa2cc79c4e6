//! What a guest's port of a bridge is held to: what the guest may send, whom it sees, its VLANs, and how fast it is.
//!
//! It is a crate of its own since both set ports up: the main program, and the helper, whose dependencies have its right.
//! So it has none itself, and can't act: it says what the kernel is to be asked for (rtnetlink(7)), byte by byte.
//!
//! All of it belongs to the TAP and goes with it: there is nothing to undo, whoever is killed.
#![forbid(unsafe_code)]

use std::fmt;

pub mod bpf;
mod request;
mod words;

pub use request::{FILTER_PREF, RATE_PREF, Request};
pub use words::{Rate, Vlans};

/// What a port is held to. By default to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether it lets in what an honest guest sends and nothing else: see [`bpf::guard`].
    pub guard: bool,
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
        let words = [word(self.guard, "guarded"), word(self.isolated, "isolated"), vlans, rate];
        out.write_str(&words.into_iter().flatten().collect::<Vec<String>>().join(", "))
    }
}

impl Policy {
    /// Whether the port is held to nothing.
    pub fn is_free(&self) -> bool {
        *self == Self::default()
    }

    /// What is asked for before a TAP becomes a port; `mac` is the guest's address, where that is known.
    pub fn before(&self, tap: u32, mac: Option<[u8; 6]>) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.guard || self.rate.is_some() {
            requests.push(Request::clsact(tap));
        }
        if self.guard {
            requests.push(Request::guard(tap, &self.program(mac)));
        }
        if let Some(rate) = self.rate {
            requests.extend([Request::slow_guest(tap, rate), Request::slow_bridge(tap, rate)]);
        }
        requests
    }

    /// What is asked for when it is a port, and not up yet. Whether the guest's address may be one that the bridge knows
    /// elsewhere (`takes`): if not, that is answered with EEXIST.
    pub fn after(&self, tap: u32, mac: Option<[u8; 6]>, takes: bool) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.vlans.is_some() {
            // The bridge has put it in the default one.
            requests.push(Request::leave_vlans(tap));
        }
        if self.guard || self.isolated || self.vlans.is_some() {
            requests.push(Request::port(tap, self));
        }
        if let Some(mac) = mac.filter(|_| self.guard) {
            requests.push(Request::hold(tap, mac, takes));
        }
        requests
    }

    /// The program of the guard.
    pub fn program(&self, mac: Option<[u8; 6]>) -> Vec<bpf::Instruction> {
        bpf::guard(mac, self.vlans.as_ref().is_some_and(|vlans| !vlans.tagged.is_empty()))
    }
}
