//! What this host has: bridges, interfaces, VMs, users, files. Read without any privilege.

use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::user_network;
use crate::network::user_network::Place;
use crate::state::config;
use crate::state::journal::Files;
use crate::sys::process;
use crate::vm::Store;
use model::complete::{Candidate, Thing};
use model::host::{Kind, Link};
use model::ifname;
use model::ifname::IfName;
use model::journal::Journal;
use model::uplink::why_no_uplink;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// All that the host has of these things.
pub(super) fn all(things: Thing) -> Vec<Candidate> {
    match things {
        Thing::Bridges => bridges(),
        Thing::Uplinks(bridge) => uplinks(bridge),
        Thing::Taps => taps(),
        Thing::Vms => vms(),
        Thing::Guests => guests(),
        Thing::Names => names(),
        Thing::Users => users(),
        Thing::Files(typed) => files(typed),
        Thing::Keymaps(folders) => keymaps(folders),
    }
}

/// The interfaces, by name.
fn links() -> Vec<Link> {
    let mut links = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
    links.sort_by(|one, other| one.name.cmp(&other.name));
    links
}

fn is_tap(link: &Link) -> bool {
    matches!(link.kind, Kind::Tap { .. })
}

fn bridges() -> Vec<Candidate> {
    let links = links();
    let there = links.iter().filter(|link| link.kind == Kind::Bridge);
    let there = there.map(|bridge| Candidate::new(bridge.name.to_string(), describe(bridge, &links)));
    let configured = config::load().map(|config| config.bridges).unwrap_or_default();
    let is_there = |name: &IfName| links.iter().any(|link| link.kind == Kind::Bridge && link.name == *name);
    let missing = configured.into_iter().filter(|(name, _)| !is_there(name) && !user_network::is_there(name)).map(
        |(name, bridge)| {
            let uplink = bridge.uplink.map(|uplink| format!(", {}", uplink.in_words())).unwrap_or_default();
            Candidate::new(name.to_string(), format!("to be made{uplink}"))
        },
    );
    let own = if process::is_root() { Vec::new() } else { Place::all() };
    let own = own.into_iter().map(|place| Candidate::new(place.bridge().to_string(), "a network of your own"));
    there.chain(own).chain(missing).collect()
}

fn describe(bridge: &Link, links: &[Link]) -> String {
    let ports = links.iter().filter(|link| link.controller == Some(bridge.index));
    let (taps, cards): (Vec<&Link>, Vec<&Link>) = ports.partition(|port| is_tap(port));
    let mut cards: Vec<String> = cards.iter().map(|card| card.name.to_string()).take(3).collect();
    cards.extend(match taps.len() {
        0 => None,
        1 => Some("1 TAP".to_owned()),
        many => Some(format!("{many} TAPs")),
    });
    let ports = if cards.is_empty() { "no ports".to_owned() } else { cards.join(", ") };
    let is_ours = bridge.alias.as_ref().is_some_and(|alias| alias.starts_with("kvm-bridge "));
    let whose = if is_ours { "made by kvm-bridge: " } else { "" };
    let down = if bridge.is_up && bridge.has_carrier { "" } else { ", down" };
    format!("{whose}{ports}{down}")
}

/// One of the ports of a bridge that is there, else an interface that the planner would take.
fn uplinks(bridge: &str) -> Vec<Candidate> {
    let mut links = links();
    match links.iter().find(|link| link.kind == Kind::Bridge && link.name.as_str() == bridge).map(|link| link.index) {
        Some(index) => {
            let shared = IfName::new(bridge).and_then(|bridge| Files::of_journal(&bridge)).ok().flatten();
            let shared = shared.and_then(|files| files.read().ok().flatten());
            let shared = shared.as_ref().and_then(Journal::share).map(|share| &share.uplink);
            links.retain(|link| {
                let is_port = link.controller == Some(index) && !is_tap(link);
                is_port && !link.name.as_str().starts_with(ifname::PREFIX) || Some(&link.name) == shared
            });
        }
        None => links.retain(|link| why_no_uplink(link).is_none()),
    }
    let is_wifi = |link: &Link| {
        let folder = Path::new("/sys/class/net").join(link.name.as_str());
        folder.join("phy80211").exists() || folder.join("wireless").exists()
    };
    let about = |link: &Link| if link.is_up && link.has_carrier { "connected" } else { "no carrier" };
    let links = links.iter().filter(|link| !is_wifi(link));
    links.map(|link| Candidate::new(link.name.to_string(), about(link))).collect()
}

/// Those that are persistent can be asked for by name.
fn taps() -> Vec<Candidate> {
    let links = links();
    let taps = links.iter().filter(|link| is_tap(link)).map(|tap| {
        let bridge = links.iter().find(|link| Some(link.index) == tap.controller);
        let on = bridge.map_or_else(String::new, |bridge| format!(" on {}", bridge.name));
        Candidate::new(tap.name.to_string(), format!("TAP{on}"))
    });
    taps.collect()
}

fn vms() -> Vec<Candidate> {
    let records = Store::open().and_then(|store| store.list()).map(|(records, _)| records).unwrap_or_default();
    let vms = records.into_iter().map(|record| {
        let macs: Vec<String> = record.slots.iter().flatten().flatten().map(ToString::to_string).collect();
        Candidate::new(record.vm, macs.join(" "))
    });
    vms.collect()
}

/// On the host's bridges those that can be seen, and those of the user's own networks.
fn guests() -> Vec<Candidate> {
    let bridges = Netlink::open().ok().and_then(|mut netlink| inventory::look(&mut netlink).ok()).unwrap_or_default();
    let ports = bridges.iter().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)));
    let here = ports.filter_map(|(bridge, port)| Some((port.vm.clone()?, bridge.detail.link.name.to_string())));
    let there = user_network::each(&["status", "--json"], Duration::ZERO)
        .iter()
        .flat_map(|said| said.json("bridges"))
        .collect::<Vec<_>>();
    let there = there.iter().flat_map(|bridge| {
        let ports = bridge["ports"].as_array().into_iter().flatten();
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        ports.filter_map(move |port| Some((text(&port["vm"])?, text(&bridge["name"])?)))
    });
    let mut guests: Vec<Candidate> = here.chain(there).map(|(vm, on)| Candidate::new(vm, format!("on {on}"))).collect();
    guests.sort_by(|one, other| one.text.cmp(&other.text));
    guests.dedup_by(|one, other| one.text == other.text);
    guests
}

fn names() -> Vec<Candidate> {
    let names = vms().into_iter().filter_map(|vm| {
        let name = vm.text.strip_prefix("name:").filter(|name| !name.contains('\\'))?;
        Some(Candidate::new(model::optstr::escape(name), vm.about))
    });
    names.collect()
}

fn users() -> Vec<Candidate> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let users = passwd.lines().filter_map(|line| line.split(':').next()).filter(|name| !name.is_empty());
    users.map(Candidate::bare).collect()
}

fn files(typed: &str) -> Vec<Candidate> {
    let typed = typed.replace(",,", ",");
    let (folder, start) = typed.split_at(typed.rfind('/').map_or(0, |at| at + 1));
    let entries = fs::read_dir(if folder.is_empty() { "." } else { folder }).into_iter().flatten().flatten();
    let mut files: Vec<Candidate> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_wanted = name.starts_with(start) && (start.starts_with('.') || !name.starts_with('.'));
            let slash = if entry.path().is_dir() { "/" } else { "" };
            // A comma in a value is written twice.
            let mut file = Candidate::bare(format!("{}{slash}", model::optstr::escape(&format!("{folder}{name}"))));
            file.goes_on = !slash.is_empty();
            is_wanted.then_some(file)
        })
        .collect();
    files.sort_by(|one, other| one.text.cmp(&other.text));
    files
}

fn keymaps(folders: &str) -> Vec<Candidate> {
    let mut names: Vec<String> = folders
        .lines()
        .flat_map(|folder| fs::read_dir(format!("{folder}/keymaps")).into_iter().flatten().flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(Candidate::bare).collect()
}
