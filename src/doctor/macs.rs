//! Two cards of one address: both are there at times, and neither all the time.

use crate::doctor::{Check, Context};
use crate::network::inventory::Bridge;
use crate::sys::random;
use crate::sys::tap_users::NOT_FOUND_OUT;
use crate::vm::{Record, Store};
use model::argv::inspect::QemuLine;
use model::mac::Mac;
use model::text;
use std::collections::{BTreeMap, BTreeSet};

const WHY: &str =
    "Frames for an address go to whoever spoke last with it: two guests that share one lose each other's.";
/// What QEMU gives its first card where it is not told (qemu_macaddr_default_if_unset in QEMU's net/net.c).
const DEFAULT: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for bridge in &context.bridges {
        let mut found = collisions(bridge);
        if found.is_empty() {
            let guests = bridge.ports.iter().filter(|port| port.mac.is_some()).count();
            found.push(Check::ok(
                "mac",
                format!("{guests} {}, and no address twice", if guests == 1 { "guest" } else { "guests" }),
                WHY,
            ));
        }
        checks.extend(found.into_iter().map(|check| check.of(&bridge.detail.link.name)));
    }
    checks.extend(defaults(context));
    checks.extend(given(context));
    checks
}

/// Addresses that two ports of a bridge have, or that a guest has and somebody behind another port as well.
fn collisions(bridge: &Bridge) -> Vec<Check> {
    let mut owners: BTreeMap<Mac, Vec<String>> = BTreeMap::new();
    for port in &bridge.ports {
        let who = || match &port.vm {
            Some(vm) => format!("{} ({})", port.detail.link.name, text::name(vm)),
            None => port.detail.link.name.to_string(),
        };
        if let Some(mac) = port.mac {
            owners.entry(mac).or_default().push(who());
        }
        if let (false, Some(mac)) = (port.is_tap(), port.detail.link.mac) {
            owners.entry(mac).or_default().push(who());
        }
    }
    for entry in bridge.fdb.iter().filter(|entry| !entry.is_own) {
        let port = bridge.ports.iter().find(|port| port.detail.link.index == entry.port);
        if let (Some(owners), Some(port)) = (owners.get_mut(&entry.mac), port)
            && port.mac != Some(entry.mac)
            && port.detail.link.mac != Some(entry.mac)
        {
            owners.push(format!("somebody behind {}", port.detail.link.name));
        }
    }
    let twice = owners.into_iter().filter(|(_, owners)| owners.len() > 1);
    twice
        .map(|(mac, owners)| {
            Check::failure("mac", format!("{mac} is that of {}", owners.join(" and of ")), WHY, another())
        })
        .collect()
}

fn another() -> String {
    let mac = random::mac().map_or("52:54:00:...".to_owned(), |mac| mac.to_string());
    format!("qemu-kvm --bridge br0,mac={mac} ...   # for one of them; without mac= each VM gets one of its own")
}

/// QEMUs that were told no address, and so have the same one: of each TAP one, as anybody can call a process QEMU.
fn defaults(context: &Context) -> Option<Check> {
    let has_default = |line: &QemuLine| {
        line.devices.iter().any(|device| {
            device.mac.is_none_or(|mac| mac == DEFAULT) && is_on_a_network(line, device.netdev.as_deref())
        })
    };
    let (mut taps, users) = (BTreeSet::new(), &context.tap_users);
    let running: Vec<String> = (users.processes.iter())
        .filter(|process| process.taps.keys().filter(|tap| taps.insert(*tap)).count() > 0 && process.is_qemu())
        .filter(|process| has_default(&QemuLine::read(process.words.get(1..).unwrap_or_default())))
        .map(|process| format!("{} {}", text::name(&process.program), process.pid))
        .collect();
    let asked = context.query.words.as_ref().map(|words| QemuLine::read(&crate::doctor::without_ours(words)));
    let asked = asked.is_some_and(|line| {
        // A -device that names the netdev of a --bridge is the user's own.
        line.devices.iter().any(|device| device.mac.is_none_or(|mac| mac == DEFAULT)) && !line.devices.is_empty()
    });
    if !users.is_whole && (running.len() + usize::from(asked)) < 2 {
        let observed = format!("how many guests have QEMU's default, {DEFAULT}, was {NOT_FOUND_OUT}");
        return Some(Check::warning("mac", observed, WHY, "Try again."));
    }
    let observed = match (running.len(), asked) {
        (0, false) => return None,
        (0, true) => {
            return Some(Check::ok(
                "mac",
                format!("the guest will have QEMU's default, {DEFAULT}, and no other that runs has it"),
                WHY,
            ));
        }
        (1, false) => {
            return Some(Check::ok(
                "mac",
                format!("{} has QEMU's default, {DEFAULT}, and no other does", running[0]),
                WHY,
            ));
        }
        (_, true) => {
            format!("the guest will have QEMU's default, {DEFAULT}, which {} has already", running.join(" and "))
        }
        (_, false) => format!("{} all have QEMU's default, {DEFAULT}", running.join(" and ")),
    };
    Some(Check::failure("mac", observed, WHY, another()))
}

/// A card on QEMU's own user-mode network meets no other.
fn is_on_a_network(line: &QemuLine, netdev: Option<&str>) -> bool {
    let netdev = line.netdevs.iter().find(|known| Some(known.id.as_str()) == netdev);
    netdev.is_some_and(|netdev| matches!(netdev.kind.as_str(), "tap" | "bridge"))
}

/// Addresses that are going to be given by hand.
fn given(context: &Context) -> Vec<Check> {
    let own = context.query.words.as_ref().map(|words| QemuLine::read(&crate::doctor::without_ours(words)));
    let own = own.iter().flat_map(|line| &line.devices).filter_map(|device| device.mac);
    let ours = context.line.iter().flat_map(|line| &line.nics).filter_map(|nic| nic.mac);
    let vm = context.line.as_ref().map(|line| crate::vm::id_of(&line.vm).as_str().to_owned());
    let records =
        Store::everybodys().into_iter().filter_map(|store| store.list().ok()).flat_map(|(records, _)| records);
    let records: Vec<Record> = records.collect();
    let mut checks = Vec::new();
    for mac in own.chain(ours).filter(|mac| *mac != DEFAULT) {
        let whose = records.iter().find(|record| {
            Some(&record.vm) != vm.as_ref() && record.slots.iter().flatten().any(|own| *own == Some(mac))
        });
        let heard = context.bridges.iter().find_map(|bridge| {
            let entry = bridge.fdb.iter().find(|entry| entry.mac == mac)?;
            let port = bridge.ports.iter().find(|port| port.detail.link.index == entry.port)?;
            Some(format!("somebody behind {} of {}", port.detail.link.name, bridge.detail.link.name))
        });
        let observed = match (whose, heard) {
            (Some(record), _) => format!("{mac} is kept for {}", text::one_line(&record.vm)),
            (None, Some(somebody)) => format!("{mac} is that of {somebody} already"),
            (None, None) => {
                checks.push(Check::ok("mac", format!("{mac} is not in use elsewhere"), WHY));
                continue;
            }
        };
        checks.push(Check::failure("mac", observed, WHY, another()));
    }
    checks
}
