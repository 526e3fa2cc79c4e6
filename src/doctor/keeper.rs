//! Who looks after the uplink of a bridge that one would have, or a bridge that is there, and whether that goes together
//! with guests.

use super::{Check, Patient};
use crate::journal::Journal;
use crate::keeper::for_good::for_good;
use crate::keeper::networkd::taps;
use crate::keeper::{Keeper, keeper};
use crate::name::IfName;
use crate::net::observe::observe;
use crate::plan::plan;
use crate::ports::Bridge;
use crate::request::Nic;
use crate::step::Step;

const WHY: &str = "A network manager puts addresses back where it thinks they belong, unless it is told.";

pub(super) fn checks(patient: &mut Patient) -> Vec<Check> {
    let mut checks = Vec::new();
    for nic in patient.missing.clone() {
        checks.extend(of_missing(patient, &nic).map(|check| check.of(&nic.bridge)));
    }
    let bridges: Vec<Bridge> = patient.bridges.iter().filter(|bridge| bridge.journal.is_none()).cloned().collect();
    for bridge in bridges {
        let name = bridge.detail.link.name.clone();
        checks.extend(of_found(patient, &bridge).into_iter().map(|check| check.of(&name)));
    }
    let ours = patient.bridges.iter().filter_map(|bridge| {
        let keeper = bridge.journal.as_ref().and_then(Journal::told)?;
        let name = &bridge.detail.link.name;
        let saw = format!("{} leaves the uplink alone, as it was told to, as long as {name} is there", named(keeper));
        Some(Check::ok("keeper", saw, WHY).of(name))
    });
    checks.extend(ours);
    checks
}

/// Its name, and by what it looks after an interface.
fn named(keeper: &Keeper) -> String {
    let by = keeper.by().map(|by| format!(" (by {by})")).unwrap_or_default();
    format!("{}{by}", keeper.name())
}

/// Of the uplink that it would have. That it could not be taken is told where the uplink is looked at.
fn of_missing(patient: &mut Patient, nic: &Nic) -> Option<Check> {
    let nics = std::slice::from_ref(nic);
    let host = observe(&mut patient.netlink, nics, &patient.config).ok()?;
    let plan = plan(nics, &patient.config, &host).ok()?;
    let steps: Vec<&Step> = plan.bridges.iter().flat_map(|bridge| &bridge.steps).collect();
    let uplink: &IfName = steps.iter().find_map(|step| match step {
        Step::TakeUplink { uplink, .. } => Some(uplink),
        _ => None,
    })?;
    let link = host.link(uplink)?;
    let keeper = link.keeper.as_ref()?;
    let is_told = steps.iter().any(|step| matches!(step, Step::Tell { .. }));
    let what = match (is_told, keeper.is_idle()) {
        (true, _) => format!("it is told to leave {uplink} alone as long as {} is there", nic.bridge),
        (false, true) => "nothing of it runs, so that nothing has to be told".to_owned(),
        (false, false) => "it is not told: the uplink is taken by force".to_owned(),
    };
    let saw = format!("{} looks after {uplink}, and {what}", named(keeper));
    Some(Check::ok("keeper", saw, WHY).lasting(for_good(keeper, &nic.bridge, link)))
}

/// Of a bridge that is somebody's: TAPs that are put on it are not, but a broad file of networkd's takes them all the same.
fn of_found(patient: &mut Patient, bridge: &Bridge) -> Vec<Check> {
    let mut link = bridge.detail.link.clone();
    link.layer3 = patient.netlink.layer3(link.index).unwrap_or_default();
    let found = keeper(&link);
    let mut checks: Vec<Check> = (found.iter())
        .map(|keeper| Check::ok("keeper", format!("{} looks after {}", named(keeper), link.name), WHY))
        .collect();
    checks.extend(taps::taken_by().map(|file| {
        Check::warning(
            "keeper",
            format!("systemd-networkd takes TAPs too, by {}", file.display()),
            "It takes a guest's TAP off the bridge, and asks the guest for an address.",
            taps::MEND,
        )
    }));
    checks
}
