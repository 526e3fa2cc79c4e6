//! Network cards of a guest that runs: which it has, and how one is added and removed.

use crate::monitor::{Failure, Monitor};
use model::error::{Error, Result};
use model::mac::Mac;
use model::text;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What QEMU says of a bus on which nothing is plugged while the machine runs.
const NO_HOT_PLUG: &str = "does not support hotplugging";

/// The class of a bridge of PCI (PCI Code and ID Assignment Specification, 06h 04h).
const PCI_BRIDGE: u64 = 0x0604;

/// Where QEMU has its devices, those with an id and those without (qom-list).
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];

/// How long a guest may take to let go of its card.
const PATIENCE: Duration = Duration::from_secs(30);

/// A network card, as QEMU has it.
#[derive(Debug, Clone)]
pub struct Card {
    /// Its path among QEMU's objects.
    pub path: String,
    /// Its address.
    pub mac: Mac,
    /// The id of its netdev.
    pub netdev: String,
}

impl Monitor {
    /// The network cards on netdevs.
    pub fn cards(&mut self) -> Result<Vec<Card>> {
        let cannot = |failure: Failure| failure.of("cannot ask for the devices");
        let mut found = Vec::new();
        for folder in DEVICES {
            let devices = self.execute("qom-list", json!({ "path": folder })).map_err(cannot)?;
            let names = devices.as_array().into_iter().flatten();
            let names = names.filter(|one| one["type"].as_str().is_some_and(|kind| kind.starts_with("child<")));
            for path in names.filter_map(|one| Some(format!("{folder}/{}", one["name"].as_str()?))) {
                let mut get =
                    |property: &str| match self.execute("qom-get", json!({ "path": path, "property": property })) {
                        Ok(value) => Ok(value.as_str().map(str::to_owned)),
                        // Most devices have no such property.
                        Err(Failure::Refused(_)) => Ok(None),
                        Err(failure) => Err(cannot(failure)),
                    };
                if let Some(Ok(mac)) = get("mac")?.map(|mac| mac.parse()) {
                    found.extend(get("netdev")?.map(|netdev| Card { path, mac, netdev }));
                }
            }
        }
        Ok(found)
    }

    /// The network cards that it has, as QEMU shows them to people.
    pub fn shown(&mut self) -> Result<String> {
        let asked = self.execute("human-monitor-command", json!({ "command-line": "info network" }));
        let said = asked.map_err(|failure| failure.of("cannot ask for the network cards"))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// The ids of TAPs on which there is no card: of those that have one the line is behind the card's, and begins otherwise.
    pub fn networks_without_card(&mut self) -> Result<Vec<String>> {
        let shown = self.shown()?;
        let ids = shown.lines().filter_map(|line| line.split_once(": ").filter(|(_, rest)| rest.contains("type=tap,")));
        Ok(ids.map(|(id, _)| id).filter(|id| !id.starts_with(' ')).map(str::to_owned).collect())
    }

    /// Adds a card: where the machine puts it, else, on a bus that takes none while it runs, in the first port for that which is free.
    /// Tells which.
    pub fn add_card(&mut self, mut device: Value) -> Result<Option<String>> {
        let what = "cannot add the network card";
        let refused = match self.execute("device_add", device.clone()) {
            Ok(_) => return Ok(None),
            Err(Failure::Refused(why)) if why.contains(NO_HOT_PLUG) => why,
            Err(failure) => return Err(failure.of(what)),
        };
        for port in self.ports() {
            device["bus"] = port.clone().into();
            // Such a port has this place alone: another is taken without a word, and the guest never sees it.
            device["addr"] = "0".into();
            match self.execute("device_add", device.clone()) {
                Ok(_) => return Ok(Some(port)),
                // It is taken.
                Err(Failure::Refused(_)) => {}
                Err(failure) => return Err(failure.of(what)),
            }
        }
        let remedy =
            "A q35 needs a free port, at its start: -device pcie-root-port,id=hot0,chassis=1. A pc needs ACPI.";
        Err(Error::new(
            format!("{what}: no port that takes one while it runs is free ({})", text::one_line(&refused)),
            remedy,
        ))
    }

    /// The ports for cards that are plugged, by their names.
    fn ports(&mut self) -> Vec<String> {
        let buses = self.execute("query-pci", json!({})).unwrap_or_default();
        let devices =
            buses.as_array().into_iter().flatten().flat_map(|bus| bus["devices"].as_array().into_iter().flatten());
        let ports = devices.filter(|device| device["class_info"]["class"].as_u64() == Some(PCI_BRIDGE));
        let names = ports.filter_map(|port| port["qdev_id"].as_str().filter(|id| !id.is_empty()));
        names.map(str::to_owned).take(64).collect()
    }

    /// Has a card removed, by its path, and waits until the guest, of this name, has let go of it.
    pub fn remove_card(&mut self, path: &str, name: &str) -> Result<()> {
        let what = "cannot remove the network card";
        match self.execute("device_del", json!({ "id": path })) {
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
        match self.event(Instant::now() + PATIENCE, is_end).map_err(silent)? {
            Some(event) if event["event"] == "DEVICE_DELETED" => Ok(()),
            Some(_) => {
                Err(Error::new(format!("{what}: the guest refuses to let go of it"), "Stop what uses it there."))
            }
            None => {
                let what = format!("{what}: the guest has not let go of it within {} seconds", PATIENCE.as_secs());
                let remedy =
                    format!("It may yet do so. See whether the system of {name} runs and supports hot-plugging.");
                Err(Error::new(what, remedy))
            }
        }
    }
}
