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
use crate::sys::process;

const WHY: &str = "A network manager puts addresses back where it thinks they belong, unless it is told.";

pub(super) fn checks(patient: &mut Patient) -> Vec<Check> {
    let mut checks = Vec::new();
    for nic in patient.missing.clone() {
        checks.extend(of_missing(patient, &nic).into_iter().map(|check| check.of(&nic.bridge)));
    }
    for bridge in patient.bridges.clone() {
        let told = bridge.journal.as_ref().map(Journal::told);
        let found = match told {
            Some(told) => of_ours(told, &bridge.detail.link.name),
            None => of_found(patient, &bridge),
        };
        checks.extend(found.into_iter().map(|check| check.of(&bridge.detail.link.name)));
    }
    checks
}

/// Of the uplink that it would have. That it could not be taken is told where the uplink is looked at.
fn of_missing(patient: &mut Patient, nic: &Nic) -> Vec<Check> {
    let nics = std::slice::from_ref(nic);
    let planned = observe(&mut patient.netlink, nics, &patient.config)
        .and_then(|host| plan(nics, &patient.config, &host).map(|plan| (plan, host)));
    let Ok((plan, host)) = planned else { return Vec::new() };
    let steps: Vec<&Step> = plan.bridges.iter().flat_map(|bridge| &bridge.steps).collect();
    let told = steps.iter().find_map(|step| match step {
        Step::Tell { keeper, .. } => Some(keeper),
        _ => None,
    });
    let uplink = steps.iter().find_map(|step| match step {
        Step::TakeUplink { uplink, .. } => host.link(uplink),
        _ => None,
    });
    let of_uplink = uplink.and_then(|link| {
        let uplink = &link.name;
        let Some(keeper) = link.keeper.as_ref() else {
            let saw = format!("who looks after {uplink}, if anybody does, is seen by root only");
            let mend = format!("sudo kvm-bridge doctor {}", nic.bridge);
            return (!process::is_root()).then(|| Check::warning("keeper", saw, WHY, mend));
        };
        let what = match (told, keeper.is_idle()) {
            (Some(_), _) => format!("it is told to leave {uplink} alone as long as {} is there", nic.bridge),
            (None, true) => "nothing of it runs, so that nothing has to be told".to_owned(),
            (None, false) => "it is not told: the uplink is taken by force".to_owned(),
        };
        let saw = format!("{} looks after {uplink}, and {what}", keeper.named());
        Some(Check::ok("keeper", saw, WHY).lasting(for_good(keeper, &nic.bridge, link)))
    });
    let of_taps = if matches!(told, Some(Keeper::Networkd(_))) {
        // It would be told of TAPs too.
        None
    } else if steps.iter().any(|step| matches!(step, Step::Spare { .. })) {
        let saw = format!("systemd-networkd would take {} and its TAPs, and is told to leave them alone", nic.bridge);
        Some(Check::ok("keeper", saw, WHY))
    } else {
        taps_taken(Some(&nic.bridge))
    };
    of_uplink.into_iter().chain(of_taps).collect()
}

fn of_ours(told: Option<&Keeper>, bridge: &IfName) -> Vec<Check> {
    let of_uplink = told.map(|keeper| {
        let saw =
            format!("{} leaves the uplink alone, as it was told to, as long as {bridge} is there", keeper.named());
        Check::ok("keeper", saw, WHY)
    });
    of_uplink.into_iter().chain(taps_taken(Some(bridge))).collect()
}

/// Of a bridge that is somebody's.
fn of_found(patient: &mut Patient, bridge: &Bridge) -> Vec<Check> {
    let mut link = bridge.detail.link.clone();
    link.layer3 = patient.netlink.layer3(link.index).unwrap_or_default();
    let found = keeper(&link);
    let mut checks: Vec<Check> = (found.iter())
        .map(|keeper| Check::ok("keeper", format!("{} looks after {}", keeper.named(), link.name), WHY))
        .collect();
    checks.extend(taps_taken(None));
    checks
}

/// TAPs are protected where networkd was told of an uplink, and not where it was not.
fn taps_taken(ours: Option<&IfName>) -> Option<Check> {
    let file = taps::taken_by()?;
    let saw = format!("systemd-networkd takes TAPs too, by {}", file.display());
    const WHY: &str = "It takes a guest's TAP off the bridge, and asks the guest for an address.";
    Some(Check::warning("keeper", saw, WHY, taps::mend(ours)))
}
