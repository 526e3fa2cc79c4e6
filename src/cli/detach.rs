//! `kvm-bridge detach`.

use crate::cli::attach::{Device, NO_HOT_PLUG, Talk};
use crate::cli::guest::{Guest, Search};
use crate::monitor::{Failure, Monitor};
use clap::Args;
use model::error::{Error, Result};
use model::mac::Mac;
use model::report;
use model::text;
use model::text::shell::quote;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The arguments of `kvm-bridge detach`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Detach {
    /// The VM, as for 'kvm-bridge ip'
    #[arg(id = "guest", value_name = "VM")]
    vm: String,
    /// The network card: its TAP device or its MAC address, if there are several
    card: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge detach alice kvb1
  kvm-bridge detach alice 52:54:00:12:34:57
The guest lets go of the card first: its system has to run and support that. The VM keeps the MAC address.";

/// How long the guest may take to let go of its card.
const PATIENCE: Duration = Duration::from_secs(30);

impl Detach {
    pub(super) fn run(self) -> Result<String> {
        let rest = self.card.as_ref().map(|card| format!(" {}", quote(card))).unwrap_or_default();
        let search = Search { vm: &self.vm, command: ["detach", &rest], is_to_be_sure: false };
        let mut talk = Talk::begin(&search, |name| {
            let mac = self.card.as_deref().filter(|card| card.parse::<Mac>().is_ok()).unwrap_or("MAC");
            format!("virsh detach-interface {} bridge --mac {mac} --live", quote(name))
        })?;
        let devices = talk.devices()?;
        let device = self.card_of(&search, &talk.guests, &devices)?;
        let guest = talk.guests.iter().find(|guest| device.is_on(guest));
        let (mac, port) = (device.mac, guest.map(|guest| guest.port.detail.link.name.to_string()));
        let of = |error: Error| error.of(search.name());
        remove(&mut talk.monitor, &device.path, &search.name()).map_err(of)?;
        let removed = talk.monitor.execute("netdev_del", json!({ "id": device.netdev }));
        removed.map_err(|failure| failure.of("the card is gone, and its network is not")).map_err(of)?;
        if self.json {
            return Ok(report::json(&json!({ "vm": search.name(), "port": port, "mac": mac })));
        }
        Ok(format!("{} has no network card {mac} any more\n", search.name()))
    }

    /// The card that is meant, of those on bridges.
    fn card_of<'a>(&self, search: &Search, guests: &[Guest], devices: &'a [Device]) -> Result<&'a Device> {
        let tap = |device: &Device| {
            let guest = guests.iter().find(|guest| device.is_on(guest));
            guest.map(|guest| guest.port.detail.link.name.to_string())
        };
        let mut ours: Vec<&Device> = devices.iter().filter(|device| tap(device).is_some()).collect();
        ours.sort_by_key(|device| tap(device));
        let is_meant = |device: &&&Device| match &self.card {
            None => true,
            Some(card) => tap(device).as_ref() == Some(card) || card.parse() == Ok(device.mac),
        };
        let show = |device: &&Device| format!("{} ({})", tap(device).unwrap_or_default(), device.mac);
        let list = ours.iter().map(show).collect::<Vec<_>>().join(", ");
        match ours.iter().filter(is_meant).collect::<Vec<_>>().as_slice() {
            [device] => Ok(device),
            [] => {
                let card = self.card.as_deref().map(|card| format!(" {}", text::one_line(card))).unwrap_or_default();
                let what = format!("{} has no network card{card} that can be removed", search.name());
                Err(Error::new(what, format!("It has: {}.", if list.is_empty() { "none" } else { &list })))
            }
            [first, ..] => {
                let what = format!("{} has several network cards: {list}", search.name());
                Err(Error::new(what, format!("Say which: kvm-bridge detach {} {}", quote(&self.vm), first.mac)))
            }
        }
    }
}

/// Has a device removed, and waits until the guest has let go of it.
fn remove(monitor: &mut Monitor, path: &str, name: &str) -> Result<()> {
    let what = "cannot remove the network card";
    match monitor.execute("device_del", json!({ "id": path })) {
        Ok(_) => {}
        // Somebody has asked for it already.
        Err(Failure::Refused(why)) if why.contains("already in the process of unplug") => {}
        Err(Failure::Refused(why)) if why.contains(NO_HOT_PLUG) => {
            let what = format!("{what}: it is on a bus that keeps its cards while the machine runs");
            return Err(Error::new(what, "What was plugged in can be removed, and on a pc all cards."));
        }
        Err(failure) => return Err(failure.of(what)),
    }
    let is_its = |event: &Value| event["data"]["path"] == path;
    let is_end = |event: &Value| {
        is_its(event) && ["DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"].iter().any(|kind| event["event"] == *kind)
    };
    let silent = |error| Failure::Silent(error).of(what);
    match monitor.event(Instant::now() + PATIENCE, is_end).map_err(silent)? {
        Some(event) if event["event"] == "DEVICE_DELETED" => Ok(()),
        Some(_) => Err(Error::new(format!("{what}: the guest refuses to let go of it"), "Stop what uses it there.")),
        None => {
            let what = format!("{what}: the guest has not let go of it within {} seconds", PATIENCE.as_secs());
            let remedy = format!("It may yet do so. See whether the system of {name} runs and supports hot-plugging.");
            Err(Error::new(what, remedy))
        }
    }
}
