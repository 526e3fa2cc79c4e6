//! What this host has: bridges, interfaces, VMs, users, files. Read without any privilege.

use crate::netlink::Netlink;
use crate::state::config;
use crate::state::journal::Files;
use crate::vm::Store;
use model::complete::{Candidate, Thing};
use model::ifname;
use model::ifname::IfName;
use model::journal::Journal;
use model::uplink::why_no_uplink;
use std::fs;
use std::path::{Path, PathBuf};

const LINKS: &str = "/sys/class/net";

/// A link, by its folder in sysfs.
struct Link(PathBuf);

impl Link {
    fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default().trim().to_owned()
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// The bridge or bond that it is a port of.
    fn controller(&self) -> Option<String> {
        let target = fs::read_link(self.0.join("master")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    fn is_wifi(&self) -> bool {
        self.has("phy80211") || self.has("wireless")
    }

    fn is_up(&self) -> bool {
        self.text("carrier") == "1"
    }
}

/// All that the host has of these things.
pub(super) fn all(things: Thing) -> Vec<Candidate> {
    match things {
        Thing::Bridges => bridges(),
        Thing::Uplinks(bridge) => uplinks(bridge),
        Thing::Taps => taps(),
        Thing::Vms => vms(),
        Thing::Names => names(),
        Thing::Users => users(),
        Thing::Files(typed) => files(typed),
        Thing::Keymaps(folders) => keymaps(folders),
    }
}

fn links() -> Vec<Link> {
    let mut links: Vec<Link> =
        fs::read_dir(LINKS).into_iter().flatten().flatten().map(|entry| Link(entry.path())).collect();
    links.sort_by_key(Link::name);
    links
}

fn ports(bridge: &str) -> Vec<Link> {
    links().into_iter().filter(|link| link.controller().as_deref() == Some(bridge)).collect()
}

/// The bridges that are there, with what is on them, and those that the configuration knows how to make.
fn bridges() -> Vec<Candidate> {
    let there: Vec<Link> = links().into_iter().filter(|link| link.has("bridge")).collect();
    let names: Vec<String> = there.iter().map(Link::name).collect();
    let configured = config::load().map(|config| config.bridges).unwrap_or_default();
    let missing = configured.into_iter().filter(|(name, _)| !names.contains(&name.to_string()));
    let missing = missing.map(|(name, bridge)| {
        let uplink = bridge.uplink.map(|uplink| format!(", {}", uplink.in_words())).unwrap_or_default();
        let about = format!("to be made{uplink}");
        Candidate::new(name.to_string(), about)
    });
    there.iter().map(|bridge| Candidate::new(bridge.name(), describe(bridge))).chain(missing).collect()
}

fn describe(bridge: &Link) -> String {
    let (taps, cards): (Vec<Link>, Vec<Link>) =
        ports(&bridge.name()).into_iter().partition(|port| port.has("tun_flags"));
    let mut cards = cards.iter().map(Link::name).take(3).collect::<Vec<_>>();
    cards.extend(match taps.len() {
        0 => None,
        1 => Some("1 TAP".to_owned()),
        many => Some(format!("{many} TAPs")),
    });
    let ports = if cards.is_empty() { "no ports".to_owned() } else { cards.join(", ") };
    let whose = if bridge.text("ifalias").starts_with("kvm-bridge ") { "made by kvm-bridge: " } else { "" };
    let down = if bridge.text("operstate") == "down" { ", down" } else { "" };
    format!("{whose}{ports}{down}")
}

/// What `uplink=` can be for this bridge: one of its ports if it is there, else an interface that the planner would take.
fn uplinks(bridge: &str) -> Vec<Candidate> {
    let is_there = Link(Path::new(LINKS).join(bridge)).has("bridge");
    let names: Vec<String> = match is_there {
        true => {
            let names = ports(bridge).into_iter().filter(|port| !port.has("tun_flags")).map(|port| port.name());
            let shared = IfName::new(bridge).and_then(|bridge| Files::of_journal(&bridge)).ok().flatten();
            let shared = shared.and_then(|files| files.read().ok().flatten());
            let shared = shared.as_ref().and_then(Journal::share).map(|share| share.uplink.to_string());
            names.filter(|name| !name.starts_with(ifname::PREFIX)).chain(shared).collect()
        }
        false => {
            let all = Netlink::open().and_then(|mut netlink| netlink.links()).unwrap_or_default();
            all.iter().filter(|link| why_no_uplink(link).is_none()).map(|link| link.name.to_string()).collect()
        }
    };
    let links = links().into_iter().filter(|link| names.contains(&link.name()) && !link.is_wifi());
    links.map(|link| Candidate::new(link.name(), if link.is_up() { "connected" } else { "no carrier" })).collect()
}

/// The TAPs that are there; those that are persistent can be asked for by name.
fn taps() -> Vec<Candidate> {
    let taps = links().into_iter().filter(|link| link.has("tun_flags"));
    taps.map(|tap| {
        let on = tap.controller().map_or_else(String::new, |bridge| format!(" on {bridge}"));
        Candidate::new(tap.name(), format!("TAP{on}"))
    })
    .collect()
}

/// The VMs that have addresses, as `kvm-bridge mac list` calls them: `name:alice`.
fn vms() -> Vec<Candidate> {
    let records = Store::open().and_then(|store| store.list()).map(|(records, _)| records).unwrap_or_default();
    let vms = records.into_iter().map(|record| {
        let macs: Vec<String> = record.slots.iter().flatten().flatten().map(ToString::to_string).collect();
        Candidate::new(record.vm, macs.join(" "))
    });
    vms.collect()
}

/// The names of VMs that have addresses, as an option string holds them.
fn names() -> Vec<Candidate> {
    let names = vms().into_iter().filter_map(|vm| {
        let name = vm.text.strip_prefix("name:").filter(|name| !name.contains('\\'))?;
        Some(Candidate::new(model::optstr::escape(name), vm.about.clone()))
    });
    names.collect()
}

/// The users of this host.
fn users() -> Vec<Candidate> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let users = passwd.lines().filter_map(|line| line.split(':').next()).filter(|name| !name.is_empty());
    users.map(Candidate::bare).collect()
}

/// The files that a half-typed path may become, as an option string holds them; folders end in a slash.
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

/// The keyboard layouts in folders beside QEMU's firmware.
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
