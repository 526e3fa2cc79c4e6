//! What became of a bridge that is to stay, and of the TAPs on it.

use crate::ifname::IfName;
use crate::request::taps::PersistentTap;
use crate::uplink::{Attach, Masquerade, Vtep};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// What became of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// It was made.
    Created,
    /// It was made for a guest, and stays from now on.
    MadePersistent,
    /// It was made to stay before.
    Unchanged,
    /// kvm-bridge did not make it: it was not changed.
    Foreign,
}

/// What `up` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// What became of the bridge.
    pub bridge: Became,
    /// Its uplink, if it is ours and has one.
    pub uplink: Option<IfName>,
    /// How that is attached.
    pub attach: Option<Attach>,
    /// Its network of the host's own, if it has one.
    pub network: Option<Masquerade>,
    /// Its end of a VXLAN, if it has one.
    pub vtep: Option<Vtep>,
    /// The uplink that it waits for, if it does.
    pub awaits: Option<String>,
    /// Its MTU, if it was asked for.
    pub mtu: Option<u32>,
    /// The TAPs that were asked for, and whether each was made now.
    pub taps: Vec<(PersistentTap, bool)>,
    /// What people should know of.
    pub notices: Vec<String>,
}

impl Up {
    /// For people: lines. `saved` is the file that it was saved to, if that was asked for.
    pub fn tell(&self, bridge: &IfName, saved: Option<&Path>, is_to_be_saved: bool) -> String {
        let of_vtep = |vtep: &Vtep| format!("with {}, MTU {}", vtep.in_words(), vtep.mtu);
        let uplink = match (&self.uplink, &self.awaits) {
            _ if self.vtep.is_some() => self.vtep.as_ref().map(of_vtep).unwrap_or_default(),
            _ if self.network.is_some() => {
                format!("with {}", self.network.as_ref().map(Masquerade::in_words).unwrap_or_default())
            }
            (Some(uplink), _) => format!("with the uplink {uplink}"),
            (None, Some(awaited)) => format!("and waits for {}, which is not there yet", named(awaited)),
            (None, None) => "without an uplink".to_owned(),
        };
        let mut text = match self.bridge {
            Became::Created => format!("{bridge} is created, {uplink}\n"),
            Became::MadePersistent => {
                format!("{bridge} was created for a guest, {uplink}, and is persistent from now on\n")
            }
            Became::Unchanged => format!("{bridge} exists already, {uplink}\n"),
            Became::Foreign => {
                format!("{bridge} exists already; it was not created by kvm-bridge, and is not changed\n")
            }
        };
        for (PersistentTap { name, user }, is_new) in &self.taps {
            let _ =
                writeln!(text, "{name} is {} on {bridge}, for {user}", if *is_new { "made" } else { "there already" });
        }
        if let (Became::Foreign, None, true) = (self.bridge, saved, is_to_be_saved) {
            let _ = writeln!(text, "Nothing is saved: who makes {bridge} has it in a configuration of their own");
        }
        if let Some(path) = saved {
            let _ = writeln!(text, "saved to {}", path.display());
        }
        text
    }

    /// For programs.
    pub fn to_json(&self, bridge: &IfName, saved: Option<&Path>) -> Value {
        let result = match self.bridge {
            Became::Created => "created",
            Became::MadePersistent => "made-persistent",
            Became::Unchanged => "unchanged",
            Became::Foreign => "foreign",
        };
        let taps: Vec<_> = (self.taps.iter())
            .map(|(tap, is_new)| json!({ "name": tap.name.as_str(), "user": tap.user, "made": is_new }))
            .collect();
        let uplink = self.uplink.as_ref().map(IfName::as_str);
        let network = self.network.as_ref().map(|masquerade| masquerade.network.subnet);
        json!({
            "bridge": bridge.as_str(),
            "result": result,
            "uplink": uplink,
            "network": network,
            "vxlan": self.vtep.as_ref().map(Vtep::to_json),
            "waits_for": self.awaits,
            "taps": taps,
            "saved": saved,
        })
    }
}

/// What people call an uplink that is waited for.
pub fn named(awaited: &str) -> &str {
    if awaited == "auto" { "the default route's interface" } else { awaited }
}
