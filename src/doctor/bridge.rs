//! The bridge itself: its settings, its ports, what we have written down about it.

use crate::doctor::Context;
use crate::network::inventory::{Bridge, Port, Role};
use crate::state::journal::Files;
use model::check::{Check, Topic, Verdict, bridge};
use model::host::Link;
use model::text;
use std::fs;

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    for found in &context.bridges {
        let link = &found.detail.link;
        let (name, settings) = (&link.name, found.detail.bridge.unwrap_or_default());
        let ports: Vec<&Link> = found.ports.iter().map(|port| &port.detail.link).collect();
        let mut taps = found.ports.iter().filter(|port| port.is_tap() && !port.detail.has_carrier);
        let idle = taps.find(|port| port.role == Role::Foreign).map(|port| &port.detail.link.name);
        let own = [
            bridge::stp(name, settings),
            bridge::vlan(name, settings, have_own_vlans(found)),
            bridge::pinned(link, assign_type(link)),
            bridge::mtu(link, &ports),
            bridge::room(name, ports.len(), idle),
        ];
        checks.extend(own.into_iter().chain(bridge::disguised(&ports)).map(|check| check.of(name)));
        checks.extend(uncarried(found));
    }
    checks
}

/// Whether guests are on it, and all of them in other VLANs than a new port would be.
fn have_own_vlans(bridge: &Bridge) -> bool {
    let default = bridge.detail.bridge.and_then(|settings| settings.default_vlan);
    let mut guests = bridge.ports.iter().filter(|port| port.is_tap()).peekable();
    let own = |port: &Port| port.held.vlans.as_ref().is_some_and(|vlans| vlans.untagged != default);
    guests.peek().is_some() && guests.all(own)
}

/// The guests whose VLAN no way out is in: what is no guest's.
fn uncarried(bridge: &Bridge) -> Vec<Check> {
    let ways: Vec<&Port> = bridge.ports.iter().filter(|port| !port.is_tap()).collect();
    let is_carried = |vlan: u16| ways.iter().any(|way| way.held.vlans.as_ref().is_some_and(|vlans| vlans.has(vlan)));
    let check = |port: &Port| {
        let (vlan, way) = (port.held.vlans.as_ref()?.untagged?, ways.first()?);
        let guest = port.vm.as_deref().map_or_else(|| port.detail.link.name.to_string(), text::name);
        let carried = way.held.vlans.as_ref().map(ToString::to_string).unwrap_or_default();
        (!is_carried(vlan)).then(|| bridge::uncarried(vlan, &way.detail.link.name, &carried).of(guest))
    };
    bridge.ports.iter().filter(|port| port.is_tap()).filter_map(check).collect()
}

/// The folder of a link. sysfs shows the network namespace that it was mounted in, which may be another one.
pub(super) fn in_sysfs(link: &Link) -> Option<String> {
    let folder = format!("/sys/class/net/{}", link.name);
    let index = fs::read_to_string(format!("{folder}/ifindex")).ok()?;
    (index.trim().parse() == Ok(link.index)).then_some(folder)
}

fn assign_type(link: &Link) -> Option<u8> {
    fs::read_to_string(format!("{}/addr_assign_type", in_sysfs(link)?)).ok()?.trim().parse().ok()
}

/// The journals of this network namespace.
pub(super) fn journals(context: &Context) -> Vec<Check> {
    const JOURNAL: Topic = Topic("journal", "A journal records what has to be undone when the last guest has gone.");
    const LEFT: Topic = Topic("journal", "What could not be removed is still to be.");
    const FIX: &str = "kvm-bridge recover";
    let all = match Files::all() {
        Ok(all) => all,
        Err(error) => return vec![JOURNAL.error(Verdict::Failure, &error)],
    };
    let mut checks = Vec::new();
    for files in &all {
        let name = files.bridge();
        if context.query.bridge.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let known = context.bridges.iter().find(|bridge| bridge.detail.link.name == *name);
        // Read once: its reaper may forget it meanwhile.
        let last_failure = known.and_then(|bridge| bridge.last_failure.as_ref());
        let check = match (files.read(), last_failure, known) {
            (Err(error), ..) => JOURNAL.error(Verdict::Failure, &error),
            (Ok(None), ..) => continue,
            (_, Some(last_failure), _) => LEFT.failure(last_failure.lines().next().unwrap_or_default(), FIX),
            // It is there, and not asked about.
            (_, _, None) if context.there.contains(name) => continue,
            (_, _, None) => JOURNAL.warning(format!("{name} is gone, and its journal is not"), FIX),
            (_, _, Some(bridge)) if bridge.journal.is_none() => {
                JOURNAL.warning(format!("the journal of {name} is of another bridge than this {name}"), FIX)
            }
            (_, _, Some(bridge)) if bridge.lacks_reaper => {
                JOURNAL.failure(format!("{name} was created by kvm-bridge, and its reaper was killed"), FIX)
            }
            (Ok(Some(journal)), ..) => {
                let until = if journal.keep { "it stays" } else { "its reaper waits for its last guest" };
                JOURNAL.ok(format!("{name} was created by kvm-bridge, and {until}"))
            }
        };
        checks.push(check.of(name));
    }
    if checks.is_empty() {
        checks.push(JOURNAL.ok("nothing is left to be undone"));
    }
    checks
}
