//! Two cards of one address: who has which.

use crate::doctor::Context;
use crate::network::inventory::Bridge;
use crate::sys::random;
use crate::sys::tap_users::NOT_FOUND_OUT;
use crate::vm::{Record, Store};
use model::argv::inspect::QemuLine;
use model::check::Check;
use model::check::mac::{self, DEFAULT, MAC};
use model::mac::Mac;
use model::text;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for bridge in &context.bridges {
        let guests = bridge.ports.iter().filter(|port| port.mac.is_some()).count();
        let found = mac::collisions(owners(bridge), guests, fresh);
        checks.extend(found.into_iter().map(|check| check.of(&bridge.detail.link.name)));
    }
    checks.extend(defaults(context));
    checks.extend(given(context));
    checks
}

fn fresh() -> Option<Mac> {
    random::mac().ok()
}

/// Who has which address: ports of a bridge, and where it is a guest's, who was heard behind another port.
fn owners(bridge: &Bridge) -> BTreeMap<Mac, Vec<String>> {
    let mut owners: BTreeMap<Mac, Vec<String>> = BTreeMap::new();
    for port in &bridge.ports {
        let who = match &port.vm {
            Some(vm) => format!("{} ({})", port.detail.link.name, text::name(vm)),
            None => port.detail.link.name.to_string(),
        };
        let own = port.detail.link.mac.filter(|_| !port.is_tap());
        for mac in port.mac.into_iter().chain(own) {
            owners.entry(mac).or_default().push(who.clone());
        }
    }
    for entry in bridge.fdb.iter().filter(|entry| !entry.is_own) {
        let port = bridge.ports.iter().find(|port| port.detail.link.index == entry.port);
        let port = port.filter(|port| ![port.mac, port.detail.link.mac].contains(&Some(entry.mac)));
        if let (Some(owners), Some(port)) = (owners.get_mut(&entry.mac), port) {
            owners.push(format!("somebody behind {}", port.detail.link.name));
        }
    }
    owners
}

/// QEMUs that were told no address, and so have the same one: of each TAP one, as anybody can call a process QEMU.
fn defaults(context: &Context) -> Option<Check> {
    let (mut taps, users) = (BTreeSet::new(), &context.tap_users);
    let running: Vec<String> = (users.processes.iter())
        .filter(|process| process.taps.keys().filter(|tap| taps.insert(*tap)).count() > 0 && process.is_qemu())
        .filter(|process| mac::has_default(&QemuLine::read(process.words.get(1..).unwrap_or_default())))
        .map(|process| format!("{} {}", text::name(&process.program), process.pid))
        .collect();
    let is_asked = context.own.as_ref().is_some_and(mac::will_have_default);
    if !users.is_whole && (running.len() + usize::from(is_asked)) < 2 {
        let observed = format!("how many guests have QEMU's default, {DEFAULT}, was {NOT_FOUND_OUT}");
        return Some(MAC.warning(observed, "Try again."));
    }
    mac::defaults(&running, is_asked, fresh)
}

/// Addresses that are going to be given by hand.
fn given(context: &Context) -> Vec<Check> {
    let own = context.own.iter().flat_map(|line| &line.devices).filter_map(|device| device.mac);
    let ours = context.line.iter().flat_map(|line| &line.nics).filter_map(|nic| nic.mac);
    let vm = context.line.as_ref().map(|line| crate::vm::id_of(&line.vm).as_str().to_owned());
    let records = Store::everybodys();
    let check = |mac: Mac| {
        let has_it = |record: &&Record| record.slots.iter().flatten().any(|own| *own == Some(mac));
        let record = records.iter().filter(|record| Some(&record.vm) != vm.as_ref()).find(has_it);
        let heard = context.bridges.iter().find_map(|bridge| {
            let entry = bridge.fdb.iter().find(|entry| entry.mac == mac)?;
            let port = bridge.ports.iter().find(|port| port.detail.link.index == entry.port)?;
            Some(format!("somebody behind {} of {}", port.detail.link.name, bridge.detail.link.name))
        });
        mac::given(mac, record.map(|record| record.vm.as_str()), heard.as_deref(), fresh)
    };
    own.chain(ours).filter(|mac| *mac != DEFAULT).map(check).collect()
}
