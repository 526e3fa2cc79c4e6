//! The way to the network: that of a bridge that is there, or that one would have.

use super::{Check, Patient, Verdict};
use crate::journal::Journal;
use crate::keeper::keeper;
use crate::net::observe::observe;
use crate::plan::plan;
use crate::ports::{Bridge, Port, Role};
use crate::request::Nic;
use crate::shell::quote;
use crate::step::Step;

const WHY: &str = "The uplink is the bridge's way to the network and to its DHCP server.";

pub(super) fn checks(patient: &mut Patient) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_asked = patient.question.is_about_some();
    for bridge in &patient.bridges {
        checks.extend(of_bridge(bridge, is_asked).into_iter().map(|check| check.of(&bridge.detail.link.name)));
    }
    let missing = patient.missing.clone();
    for nic in missing {
        checks.extend(of_missing(patient, &nic).into_iter().map(|check| check.of(&nic.bridge)));
    }
    checks
}

fn of_bridge(bridge: &Bridge, is_asked: bool) -> Vec<Check> {
    let name = &bridge.detail.link.name;
    let mut checks = Vec::new();
    if !bridge.detail.link.is_up {
        let saw = format!("{name} is down");
        checks.push(Check::failure(
            "bridge",
            saw,
            "A bridge that is down forwards nothing.",
            format!("ip link set dev {} up", quote(name.as_str())),
        ));
    }
    // On somebody else's bridge a port that is no TAP may be the way out as well.
    let mut uplinks = bridge.ports.iter().filter(|port| port.role == Role::Uplink).peekable();
    if uplinks.peek().is_none() {
        let others: Vec<&str> =
            bridge.ports.iter().filter(|port| !port.is_tap()).map(|port| port.detail.link.name.as_str()).collect();
        checks.push(match others.as_slice() {
            [] => Check::ok("uplink", format!("{name} has none: its guests and the host are among themselves"), WHY),
            others => Check::ok("uplink", format!("{name} has the ports {}", others.join(", ")), WHY),
        });
    }
    // A port that is no network card may be the way out of a bridge that is asked about, if it is the only one; on others it
    // is a container's.
    let is_only = bridge.ports.iter().filter(|port| !port.is_tap()).count() == 1;
    let bad = |port: &Port| if port.role == Role::Uplink || is_only { Verdict::Failure } else { Verdict::Warning };
    let counts = |port: &&Port| !port.is_tap() && (is_asked || port.role == Role::Uplink);
    for port in bridge.ports.iter().filter(counts) {
        let link = &port.detail.link;
        let told = bridge.journal.as_ref().and_then(Journal::told);
        let keeper = keeper(link).filter(|keeper| {
            bridge.journal.is_some() && port.role == Role::Uplink && told.is_none() && !keeper.is_idle()
        });
        checks.push(match (link.is_up, port.detail.has_carrier, keeper) {
            (false, ..) => Check::new("uplink", bad(port), format!("{} is down", link.name), WHY)
                .mended_by(format!("ip link set dev {} up", quote(link.name.as_str()))),
            (_, false, _) => Check::new(
                "uplink",
                bad(port),
                format!("{} has no carrier: nobody is at the other end of its cable", link.name),
                WHY,
            )
            .mended_by(see_cable(link.name.as_str())),
            (_, _, Some(keeper)) => Check::warning(
                "uplink",
                format!("{} is a port, and {} looks after it still", link.name, keeper.name()),
                "At its next renewal it puts addresses on the port again, or takes the port off the bridge.",
                format!("kvm-bridge down {}   # and have {} make the bridge", quote(name.as_str()), keeper.name()),
            ),
            _ if port.role != Role::Uplink => continue,
            _ => {
                let told = told.map(|keeper| format!("; {} leaves it alone meanwhile", keeper.name()));
                let saw = format!("{} is up and has a carrier{}", link.name, told.unwrap_or_default());
                Check::ok("uplink", saw, WHY)
            }
        });
    }
    checks
}

/// No command plugs a cable in; this one tells as soon as somebody has.
fn see_cable(name: &str) -> String {
    format!("ip monitor link dev {}   # while the cable is plugged in: it has to say LOWER_UP", quote(name))
}

/// A bridge that is not there is planned for, as a guest's start would.
fn of_missing(patient: &mut Patient, nic: &Nic) -> Vec<Check> {
    const NEW: &str = "The bridge is not there: a guest's start would make it, with this uplink.";
    let nics = std::slice::from_ref(nic);
    let planned =
        observe(&mut patient.netlink, nics, &patient.config).and_then(|host| plan(nics, &patient.config, &host));
    let plan = match planned {
        Ok(plan) => plan,
        Err(error) => {
            // A bridge that nobody asked for need not be possible.
            let verdict = if patient.question.is_about_some() { Verdict::Failure } else { Verdict::Warning };
            return vec![Check::of_error("uplink", verdict, &error, NEW)];
        }
    };
    let taken = plan.bridges.iter().flat_map(|bridge| &bridge.steps).find_map(|step| match step {
        Step::TakeUplink { uplink, index, .. } => Some((uplink, *index)),
        _ => None,
    });
    let Some((uplink, index)) = taken else {
        return vec![Check::ok("uplink", format!("{} would be made without one", nic.bridge), NEW)];
    };
    let details = patient.netlink.details().unwrap_or_default();
    let found = details.into_iter().find(|detail| detail.link.index == index);
    vec![match found {
        Some(detail) if detail.link.is_up && !detail.has_carrier => {
            let saw = format!("{uplink} would be taken, and has no carrier: nobody is at the other end of its cable");
            Check::failure("uplink", saw, NEW, see_cable(uplink.as_str()))
        }
        _ => {
            let saw = format!("{uplink} can be taken, with all that the host has on it");
            Check::ok("uplink", saw, NEW)
        }
    }]
}
