//! What became of a bridge that was to be taken back.

use crate::ifname::IfName;
use serde_json::{Value, json};
use std::fmt::Write;

/// What `down` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Down {
    /// Whether the bridge was ours, and is gone; or its journal was left over, and was undone.
    pub is_taken_back: bool,
    /// Whether the bridge is there still: it is somebody else's.
    pub is_there: bool,
    /// Its uplink, which is free again.
    pub uplink: Option<IfName>,
    /// Whether that is there.
    pub has_uplink: bool,
    /// The TAPs of users that were deleted.
    pub taps: Vec<IfName>,
    /// The TAPs of guests that lost their bridge.
    pub cut_off: Vec<IfName>,
    /// The TAPs of the guests that it had.
    pub guests: Vec<IfName>,
}

impl Down {
    /// For people: lines.
    pub fn tell(&self, bridge: &IfName) -> String {
        let mut text = String::new();
        for name in &self.cut_off {
            let _ = writeln!(text, "{name} is off {bridge}: its guest has no network any more");
        }
        for name in &self.taps {
            let _ = writeln!(text, "{name} is deleted");
        }
        let _ = match (self.is_taken_back, &self.uplink) {
            (true, Some(uplink)) if self.has_uplink => {
                writeln!(text, "{bridge} is removed, and {uplink} is as it was before")
            }
            (true, Some(uplink)) => writeln!(text, "{bridge} is removed; its uplink {uplink} is not there"),
            (true, None) => writeln!(text, "{bridge} is removed"),
            (false, _) if self.is_there => {
                let guests = self.guests.iter().filter(|guest| !self.taps.contains(guest));
                let guests: Vec<&str> = guests.map(IfName::as_str).collect();
                let with = if guests.is_empty() {
                    String::new()
                } else {
                    format!(", with the guests on {}", guests.join(", "))
                };
                writeln!(text, "{bridge} was not created by kvm-bridge, and stays{with}")
            }
            (false, _) => writeln!(text, "There is no {bridge}."),
        };
        text
    }

    /// For programs.
    pub fn to_json(&self, bridge: &IfName) -> Value {
        let names = |names: &[IfName]| names.iter().map(IfName::to_string).collect::<Vec<_>>();
        json!({
            "bridge": bridge.as_str(),
            "removed": self.is_taken_back,
            "exists": self.is_there,
            "uplink": self.uplink.as_ref().map(IfName::as_str),
            "taps": names(&self.taps),
            "disconnected": names(&self.cut_off),
            "guests": names(&self.guests),
        })
    }
}
