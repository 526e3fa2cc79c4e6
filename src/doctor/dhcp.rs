//! Who gives addresses on the network: asked, as a guest would.

use super::{Check, Patient};
use crate::error::Result;
use crate::host::Link;
use crate::net::observe::observe;
use crate::plan::plan;
use crate::ports::Bridge;
use crate::step::Step;
use crate::sys::process;
use crate::watch::ask::{self, Offer};

const WHY: &str = "A guest that asks for an address has what the first server to answer offers.";

pub(super) fn checks(patient: &mut Patient) -> Vec<Check> {
    if !patient.question.asks {
        return Vec::new();
    }
    if !(process::can_change_network() && process::can_watch()) {
        let saw = "nobody was asked: that needs CAP_NET_ADMIN and CAP_NET_RAW";
        return vec![Check::warning("dhcp", saw, WHY, "sudo kvm-bridge doctor")];
    }
    let mut checks = Vec::new();
    for at in 0..patient.bridges.len() {
        let bridge = patient.bridges[at].clone();
        let name = &bridge.detail.link.name;
        if !bridge.detail.link.is_up {
            continue;
        }
        let settings = bridge.detail.bridge.unwrap_or_default();
        checks.push(
            match settings.stp && settings.forward_delay > 0 {
                true => Check::warning(
                    "dhcp",
                    "nobody was asked: with STP on, it would take too long",
                    WHY,
                    format!("ip link set dev {name} type bridge stp_state 0"),
                ),
                false => judge(
                    ask::on_bridge(&mut patient.netlink, &bridge.detail.link),
                    is_isolated(&bridge),
                    name.as_str(),
                ),
            }
            .of(name),
        );
    }
    for nic in patient.missing.clone() {
        if let Some(uplink) = future_uplink(patient, &nic) {
            checks.push(judge(ask::on_interface(uplink.index), false, uplink.name.as_str()).of(&nic.bridge));
        }
    }
    checks
}

fn is_isolated(bridge: &Bridge) -> bool {
    bridge.ports.iter().all(|port| port.is_tap())
}

/// The interface that a guest's start would take for a bridge that is not there.
fn future_uplink(patient: &mut Patient, nic: &crate::request::Nic) -> Option<Link> {
    let nics = std::slice::from_ref(nic);
    let host = observe(&mut patient.netlink, nics, &patient.config).ok()?;
    let plan = plan(nics, &patient.config, &host).ok()?;
    let taken = plan.bridges.iter().flat_map(|bridge| &bridge.steps).find_map(|step| match step {
        Step::TakeUplink { uplink, .. } => host.link(uplink).cloned(),
        _ => None,
    });
    taken.filter(|uplink| uplink.is_up)
}

fn judge(answers: Result<Vec<Offer>>, is_isolated: bool, on: &str) -> Check {
    const NOBODY: &str = "A guest with ip=dhcp waits for an address in vain.";
    let offers = match answers {
        Ok(offers) => offers,
        Err(error) => return Check::of_error("dhcp", super::Verdict::Warning, &error, WHY),
    };
    let said: Vec<String> = offers.iter().map(describe).collect();
    match said.as_slice() {
        [] if is_isolated => Check::warning(
            "dhcp",
            format!("nobody on {on} answers a DHCPDISCOVER, and it has no uplink"),
            NOBODY,
            format!(
                "ip addr add 10.99.0.1/24 dev {on}; dnsmasq --port=0 --interface={on} --bind-interfaces --dhcp-range=10.99.0.10,10.99.0.250"
            ),
        ),
        [] => Check::failure(
            "dhcp",
            format!("nobody on {on} answers a DHCPDISCOVER"),
            NOBODY,
            format!(
                "tcpdump -eni {on} port 67 or port 68   (or give the guest an address: -append ip=ADDRESS::GATEWAY:NETMASK::eth0:off)"
            ),
        ),
        [one] => Check::ok("dhcp", one, WHY),
        several => Check::warning(
            "dhcp",
            format!("{} servers answer: {}", several.len(), several.join("; ")),
            "Which of them a guest listens to is chance; their addresses and ways out may differ.",
            format!(
                "Switch off the one that should not be: {}",
                offers.iter().filter_map(whereabouts).collect::<Vec<_>>().join(" or ")
            ),
        ),
    }
}

fn describe(offer: &Offer) -> String {
    let server = offer.server.map_or("a server without a name".to_owned(), |server| server.to_string());
    let prefix = offer.prefix.map(|prefix| format!("/{prefix}")).unwrap_or_default();
    let router = offer.router.map_or(", and no router".to_owned(), |router| format!(" with the router {router}"));
    format!("{server} ({}) offers {}{prefix}{router}", offer.mac, offer.address)
}

fn whereabouts(offer: &Offer) -> Option<String> {
    Some(format!("ssh {}", offer.server?))
}
