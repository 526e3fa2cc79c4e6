//! `kvm-bridge up`.

use crate::cli::json;
use crate::network::up;
use crate::network::up::{Became, PersistentTap, Up};
use crate::output;
use crate::state::config;
use crate::state::config::save::File;
use clap::Args;
use model::config::save::Saved;
use model::error::{Error, Result, Voice};
use model::ifname::IfName;
use model::request::{MTU, Nic};
use model::slips;
use model::uplink::{Attach, Masquerade};
use serde_json::json;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// The arguments of `kvm-bridge up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bring {
    /// The bridge
    bridge: String,
    /// The uplink of a new bridge: an interface, auto (that of the default route), nat or none
    #[arg(long, value_name = "IF")]
    uplink: Option<String>,
    /// With --uplink nat: the IPv4 network of the guests, such as 10.77.5.0/24 (default: a free one)
    #[arg(long, value_name = "NET")]
    net: Option<String>,
    /// The MTU of a new bridge, in bytes
    #[arg(long, value_name = "BYTES", value_parser = mtu, allow_negative_numbers = true)]
    mtu: Option<u32>,
    /// A persistent TAP device on the bridge; can be given several times
    #[arg(long = "tap", value_name = "NAME", requires = "users")]
    taps: Vec<String>,
    /// The owner of the TAP device: one user for all, or one for each --tap, in order
    #[arg(long = "user", value_name = "USER", requires = "taps")]
    users: Vec<String>,
    /// How the uplink is attached: share (the host keeps its configuration on it) or port
    #[arg(long, value_name = "HOW", value_parser = ["share", "port"])]
    attach: Option<String>,
    /// With --uplink auto: follow the default route to another interface
    #[arg(long)]
    follow: bool,
    /// The uplink need not exist yet: it joins when it appears
    #[arg(long)]
    late: bool,
    /// Like --late, but wait at most so long for the uplink; exit status 1 if it does not appear
    #[arg(long, value_name = "SECONDS", value_parser = crate::cli::seconds, allow_negative_numbers = true)]
    wait: Option<u32>,
    /// Save the bridge to /etc/kvm-bridge/config.toml, for 'qemu-kvm --bridge BRIDGE' and kvm-bridge@BRIDGE.service
    #[arg(long)]
    save: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge up br0                              on the interface of the default route
  kvm-bridge up br0 --uplink eth1 --save         with this, the same at each boot:
  systemctl enable kvm-bridge@br0.service
  kvm-bridge up br0 --uplink usb0 --late         usb0 joins when you plug it in
  kvm-bridge up br0 --uplink nat                 a network of the host's own, also on Wi-Fi
  kvm-bridge up br0 --tap tap0 --user alice      then, as alice:
  qemu-kvm -netdev tap,id=n,ifname=tap0,script=no,downscript=no -device e1000,netdev=n ...
  kvm-bridge up lab --uplink none --tap tap0 --tap tap1 --user alice
You can run the command again: what exists is not changed. Exit status: 0 the bridge is up,
1 the uplink did not appear in time, 125 the command failed.";

fn mtu(text: &str) -> Result<u32> {
    crate::cli::usage::number(text, *MTU.start(), *MTU.end())
}

impl Bring {
    pub(super) fn run(self) -> Result<String> {
        let bridge = IfName::new(&self.bridge)?;
        let config = config::load()?;
        let (configured, faults) = up::configured_with_users(&bridge, &config);
        for fault in faults {
            output::say("kvm-bridge", fault);
        }
        let taps = self.taps(configured)?;
        let file = if self.save { Some(File::open()?) } else { None };
        let mut nic = self.nic().map_err(|error| error.of_request(&bridge).in_voice(Voice::Up))?;
        nic.is_late = self.late || self.wait.is_some();
        let mut done = up::up(&nic, &taps, &config).map_err(|error| error.in_voice(Voice::Up))?;
        for notice in &done.notices {
            output::say("kvm-bridge", notice);
        }
        if let (Some(awaited), Some(seconds)) = (done.awaits.clone(), self.wait) {
            if !up::wait_for_uplink(&bridge, Duration::from_secs(seconds.into()))? {
                let what = format!("up {bridge}: {} did not come within {seconds} s", named(&awaited));
                let remedy =
                    format!("{bridge} is up; the uplink joins it when it appears. 'ip link' lists the interfaces.");
                return Err(Error::new(what, remedy).with_status(1));
            }
            // As it is now.
            done = Up { bridge: done.bridge, taps: done.taps, notices: Vec::new(), ..up::up(&nic, &[], &config)? };
        }
        let saved = match file {
            Some(file) => self.save(file, &bridge, &done)?,
            None => None,
        };
        Ok(match self.json {
            true => json(&to_json(&bridge, &done, saved.as_ref())),
            false => tell(&bridge, &done, saved.as_ref(), self.save),
        })
    }

    /// The same as what a guest would ask for.
    fn nic(&self) -> Result<Nic> {
        let mut value = format!("{},keep=on", self.bridge);
        if let Some(uplink) = &self.uplink {
            let _ = write!(value, ",uplink={}", uplink.replace(',', ",,"));
        }
        if let Some(net) = &self.net {
            let _ = write!(value, ",net={}", net.replace(',', ",,"));
        }
        if let Some(mtu) = self.mtu {
            let _ = write!(value, ",mtu={mtu}");
        }
        if let Some(attach) = &self.attach {
            let _ = write!(value, ",attach={}", attach.replace(',', ",,"));
        }
        if self.follow {
            value += ",follow=on";
        }
        Nic::read(value.as_bytes())
    }

    /// Keeps it for the next time.
    fn save(&self, file: File, bridge: &IfName, done: &Up) -> Result<Option<PathBuf>> {
        let is_ours = done.bridge != Became::Foreign;
        let uplink = match (&done.uplink, &done.awaits) {
            _ if done.network.is_some() => "nat".to_owned(),
            (Some(_), _) if self.follow => "auto".to_owned(),
            (Some(uplink), _) => uplink.to_string(),
            (None, Some(awaited)) => awaited.clone(),
            (None, None) => "none".to_owned(),
        };
        // At boot nobody uses an interface yet that somebody will: what was found out now is written down.
        let attach = if done.attach == Some(Attach::Port) { Some("port".to_owned()) } else { self.attach.clone() };
        let saved = Saved {
            uplink: is_ours.then_some(uplink),
            attach: attach.filter(|_| is_ours),
            follow: self.follow && is_ours,
            net: self.net.clone().filter(|_| is_ours),
            mtu: done.mtu.filter(|_| is_ours),
            taps: done.taps.iter().map(|(tap, _)| (tap.name.clone(), tap.user.clone())).collect(),
        };
        if !is_ours && saved.taps.is_empty() {
            return Ok(None);
        }
        file.save(bridge, &saved).map(Some)
    }

    fn taps(&self, configured: Vec<PersistentTap>) -> Result<Vec<PersistentTap>> {
        if self.users.len() > 1 && self.users.len() != self.taps.len() {
            let what = format!("{} TAPs have {} users", self.taps.len(), self.users.len());
            return Err(Error::new(what, "Give --user once for all, or once for each --tap, in order."));
        }
        let users = self.users.iter().chain(self.users.last().into_iter().cycle());
        let mut taps: Vec<PersistentTap> = Vec::new();
        for (name, user) in self.taps.iter().zip(users) {
            slips::check_value("--tap", name)?;
            let name = IfName::new(name)?;
            if name.as_str() == self.bridge || taps.iter().any(|tap| tap.name == name) {
                return Err(Error::new(format!("{name} is asked for twice"), "Give each TAP a name of its own."));
            }
            taps.push(PersistentTap { name, user: user.clone() });
        }
        let more: Vec<PersistentTap> =
            configured.into_iter().filter(|tap| taps.iter().all(|known| known.name != tap.name)).collect();
        taps.extend(more);
        Ok(taps)
    }
}

/// What people call an uplink that is waited for.
fn named(awaited: &str) -> &str {
    if awaited == "auto" { "the default route's interface" } else { awaited }
}

fn tell(bridge: &IfName, done: &Up, saved: Option<&PathBuf>, is_to_be_saved: bool) -> String {
    let uplink = match (&done.uplink, &done.awaits) {
        _ if done.network.is_some() => {
            format!("with {}", done.network.as_ref().map(Masquerade::in_words).unwrap_or_default())
        }
        (Some(uplink), _) => format!("with the uplink {uplink}"),
        (None, Some(awaited)) => format!("and waits for {}, which is not there yet", named(awaited)),
        (None, None) => "without an uplink".to_owned(),
    };
    let mut text = match done.bridge {
        Became::Created => format!("{bridge} is created, {uplink}\n"),
        Became::MadePersistent => {
            format!("{bridge} was created for a guest, {uplink}, and is persistent from now on\n")
        }
        Became::Unchanged => format!("{bridge} exists already, {uplink}\n"),
        Became::Foreign => format!("{bridge} exists already; it was not created by kvm-bridge, and is not changed\n"),
    };
    for (PersistentTap { name, user }, is_new) in &done.taps {
        let _ = writeln!(text, "{name} is {} on {bridge}, for {user}", if *is_new { "made" } else { "there already" });
    }
    if let (Became::Foreign, None, true) = (done.bridge, saved, is_to_be_saved) {
        let _ = writeln!(text, "Nothing is saved: who makes {bridge} has it in a configuration of their own");
    }
    if let Some(path) = saved {
        let _ = writeln!(text, "saved to {}", path.display());
    }
    text
}

fn to_json(bridge: &IfName, done: &Up, saved: Option<&PathBuf>) -> serde_json::Value {
    // The second is the value of the old key.
    let (result, became) = match done.bridge {
        Became::Created => ("created", "made"),
        Became::MadePersistent => ("made-persistent", "kept"),
        Became::Unchanged => ("unchanged", "as-it-was"),
        Became::Foreign => ("foreign", "found"),
    };
    let taps: Vec<_> = (done.taps.iter())
        .map(|(tap, is_new)| json!({ "name": tap.name.as_str(), "user": tap.user, "made": is_new }))
        .collect();
    let uplink = done.uplink.as_ref().map(IfName::as_str);
    let network = done.network.as_ref().map(|masquerade| masquerade.network.subnet);
    json!({
        "bridge": bridge.as_str(),
        "result": result,
        "became": became,
        "uplink": uplink,
        "network": network,
        "waits_for": done.awaits,
        "taps": taps,
        "saved": saved,
    })
}
