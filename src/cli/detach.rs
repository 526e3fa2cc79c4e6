//! `kvm-bridge detach`.

use crate::cli::attach::Talk;
use crate::cli::guest::{Guest, Search};
use crate::monitor::cards::Card;
use clap::Args;
use model::error::{Error, Result};
use model::mac::Mac;
use model::report;
use model::text;
use model::text::shell::quote;
use serde_json::json;

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

impl Detach {
    pub(super) fn run(self) -> Result<String> {
        let rest = self.card.as_ref().map(|card| format!(" {}", quote(card))).unwrap_or_default();
        let search = Search { vm: &self.vm, command: ["detach", &rest], is_to_be_sure: false };
        let mut talk = Talk::begin(&search, |name| {
            let mac = self.card.as_deref().filter(|card| card.parse::<Mac>().is_ok()).unwrap_or("MAC");
            format!("virsh detach-interface {} bridge --mac {mac} --live", quote(name))
        })?;
        let cards = talk.monitor.cards()?;
        let device = self.card_of(&search, &talk.guests, &cards)?;
        let guest = talk.guests.iter().find(|guest| guest.has(device));
        let (mac, port) = (device.mac, guest.map(|guest| guest.port.detail.link.name.to_string()));
        let of = |error: Error| error.of(search.name());
        talk.monitor.remove_card(&device.path, &search.name()).map_err(of)?;
        let removed = talk.monitor.execute("netdev_del", json!({ "id": device.netdev }));
        removed.map_err(|failure| failure.of("the card is gone, and its network is not")).map_err(of)?;
        if self.json {
            return Ok(report::json(&json!({ "vm": search.name(), "port": port, "mac": mac })));
        }
        Ok(format!("{} has no network card {mac} any more\n", search.name()))
    }

    /// The card that is meant, of those on bridges.
    fn card_of<'a>(&self, search: &Search, guests: &[Guest], cards: &'a [Card]) -> Result<&'a Card> {
        let tap = |device: &Card| {
            let guest = guests.iter().find(|guest| guest.has(device));
            guest.map(|guest| guest.port.detail.link.name.to_string())
        };
        let mut ours: Vec<&Card> = cards.iter().filter(|device| tap(device).is_some()).collect();
        ours.sort_by_key(|device| tap(device));
        let is_meant = |device: &&&Card| match &self.card {
            None => true,
            Some(card) => tap(device).as_ref() == Some(card) || card.parse() == Ok(device.mac),
        };
        let show = |device: &&Card| format!("{} ({})", tap(device).unwrap_or_default(), device.mac);
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
