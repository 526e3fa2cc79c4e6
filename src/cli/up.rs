//! `kvm-bridge up`.

use crate::network::up;
use crate::output;
use crate::state::config;
use crate::state::config::save::File;
use clap::Args;
use model::config::save::Saved;
use model::error::{Error, Result, Voice};
use model::ifname::IfName;
use model::optstr::escape;
use model::report::json;
use model::report::up::{Became, Up, named};
use model::request::taps::taps;
use model::request::{MTU, Nic};
use model::uplink::Attach;
use std::path::PathBuf;
use std::time::Duration;

/// The arguments of `kvm-bridge up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bring {
    /// The bridge
    bridge: String,
    /// The uplink of a new bridge: an interface, auto (that of the default route), nat, none or vxlan:VNI
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
    /// A new bridge filters VLANs, and its uplink carries all of them
    #[arg(long)]
    vlan_filtering: bool,
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
        let taps = taps(&bridge, &self.taps, &self.users, configured)?;
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
            true => json(&done.to_json(&bridge, saved.as_deref())),
            false => done.tell(&bridge, saved.as_deref(), self.save),
        })
    }

    /// The same as what a guest would ask for.
    fn nic(&self) -> Result<Nic> {
        let on = |is_on: bool| is_on.then(|| "on".to_owned());
        let (mtu, follow) = (self.mtu.map(|mtu| mtu.to_string()), on(self.follow));
        let vlan_filtering = on(self.vlan_filtering);
        let keys = [
            ("uplink", &self.uplink),
            ("net", &self.net),
            ("mtu", &mtu),
            ("attach", &self.attach),
            ("follow", &follow),
            ("vlan_filtering", &vlan_filtering),
        ];
        let given = keys.iter().filter_map(|(key, value)| Some(format!(",{key}={}", escape(value.as_ref()?))));
        let value = format!("{},keep=on{}", self.bridge, given.collect::<String>());
        Nic::read(value.as_bytes())
    }

    /// Keeps it for the next time.
    fn save(&self, file: File, bridge: &IfName, done: &Up) -> Result<Option<PathBuf>> {
        let is_ours = done.bridge != Became::Foreign;
        let uplink = match (&done.uplink, &done.awaits) {
            _ if done.network.is_some() => "nat".to_owned(),
            _ if done.vtep.is_some() => done.vtep.as_ref().map(|vtep| vtep.asked.to_string()).unwrap_or_default(),
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
            vlan_filtering: self.vlan_filtering && is_ours,
            net: self.net.clone().filter(|_| is_ours),
            mtu: done.mtu.filter(|_| is_ours),
            taps: done.taps.iter().map(|(tap, _)| (tap.name.clone(), tap.user.clone())).collect(),
        };
        if !is_ours && saved.taps.is_empty() {
            return Ok(None);
        }
        file.save(bridge, &saved).map(Some)
    }
}
