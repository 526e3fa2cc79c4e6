//! Who gives addresses on the network: asked, as a guest would.

use crate::doctor::{Context, Query};
use crate::netlink::Netlink;
use crate::network::dhcp_probe;
use crate::network::dhcp_probe::Asker;
use crate::network::inventory::{Bridge, Port, Role, SharedUplink};
use crate::network::observe::Planned;
use crate::output::ProgressLine;
use crate::state::journal::Files;
use crate::sys::process;
use model::check::dhcp::{self, DHCP};
use model::check::{Check, Verdict};
use model::error::Error;
use model::ifname::IfName;
use model::text;
use model::text::shell::quote;
use std::collections::BTreeSet;
use std::time::Duration;

/// For so long an asker's port may take to forward: with the delay that the check of STP puts up with.
const MOST: Duration = Duration::from_secs(10);

pub(super) fn checks(context: &mut Context) -> Vec<Check> {
    if !context.query.asks {
        return Vec::new();
    }
    if !(process::can_change_network() && process::can_watch()) {
        let observed = "nobody was asked: that needs CAP_NET_ADMIN and CAP_NET_RAW";
        return vec![DHCP.warning(observed, "sudo kvm-bridge doctor")];
    }
    let (mut checks, mut asked, mut askers) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |bridge: &IfName, on: &IfName, vlan, has_uplink: bool, asker: Result<Asker, Box<Check>>| match asker {
        Ok(asker) => {
            asked.push((bridge.clone(), on.clone(), vlan, has_uplink));
            askers.push(asker);
        }
        Err(check) => checks.push(check.of(bridge)),
    };
    for bridge in context.bridges.iter().filter(|bridge| bridge.detail.link.is_up) {
        let link = &bridge.detail.link;
        for vlan in vlans_of(bridge) {
            let mut on_bridge = |delay| Asker::on_bridge(&mut context.netlink, link, vlan, delay);
            let asker = delay_of(bridge).and_then(|delay| on_bridge(delay).map_err(|error| unasked(&error)));
            add(&link.name, &link.name, vlan, has_uplink(context.query, bridge), asker);
        }
    }
    for (bridge, planned) in &context.missing {
        let uplink = planned.as_ref().ok().and_then(Planned::uplink);
        let Some(uplink) = uplink.filter(|uplink| uplink.is_up) else { continue };
        let asker = Asker::on_interface(uplink.index, None).map_err(|error| unasked(&error));
        add(bridge, &uplink.name, None, true, asker);
    }
    let mut line = ProgressLine::default();
    if !askers.is_empty() {
        let bridges: Vec<&str> = asked.iter().map(|(bridge, ..)| bridge.as_str()).collect();
        line.show(format_args!("asking for DHCP servers on {}", text::one_line(&bridges.join(", "))));
    }
    let answers: Vec<_> = dhcp_probe::ask(askers).into_iter().zip(asked).collect();
    for (answers, (bridge, on, vlan, has_uplink)) in answers {
        let is_silent = answers.as_ref().is_ok_and(Vec::is_empty);
        let shared = context.bridges.iter().find(|known| known.detail.link.name == bridge);
        let shared = shared.and_then(|known| known.shared.as_ref()).filter(|_| is_silent && !context.is_firewalled);
        let check = shared.and_then(of_one_mac).unwrap_or_else(|| match answers {
            Ok(offers) => dhcp::judge(&offers, has_uplink, on.as_str()).in_vlan(vlan),
            Err(error) => *unasked(&error),
        });
        checks.push(check.of(bridge));
    }
    checks.into_iter().map(|check| unless_gone(context, check)).collect()
}

/// The VLANs that its guests are in; the default one, where that is none of a guest's own.
fn vlans_of(bridge: &Bridge) -> BTreeSet<Option<u16>> {
    let default = bridge.detail.bridge.and_then(|settings| settings.default_vlan);
    let of_port =
        |port: &Port| port.held.vlans.as_ref().and_then(|vlans| vlans.untagged).filter(|vlan| Some(*vlan) != default);
    let vlans: BTreeSet<Option<u16>> = bridge.ports.iter().filter(|port| port.is_tap()).map(of_port).collect();
    if vlans.is_empty() { [None].into() } else { vlans }
}

fn unasked(error: &Error) -> Box<Check> {
    Box::new(DHCP.error(Verdict::Warning, error))
}

/// A bridge that was taken down while servers were asked on it tells nothing of its network.
fn unless_gone(context: &mut Context, check: Check) -> Check {
    let of_it = |bridge: &&Bridge| Some(bridge.detail.link.name.as_str()) == check.subject.as_deref();
    match context.bridges.iter().find(of_it) {
        Some(bridge) if check.verdict != Verdict::Ok && is_gone(&mut context.netlink, bridge) => {
            let name = &bridge.detail.link.name;
            let observed = "the bridge went away meanwhile, or is being taken down: of its network nothing is known";
            DHCP.warning(observed, format!("kvm-bridge status {}", quote(name))).of(name)
        }
        _ => check,
    }
}

/// Whether a bridge is no longer what it was, as far as can be seen.
fn is_gone(netlink: &mut Netlink, bridge: &Bridge) -> bool {
    let link = &bridge.detail.link;
    let is_there = |index: u32, netlink: &mut Netlink| match netlink.link_at(index) {
        Ok(found) => found.is_some_and(|found| found.is_up),
        // What can't be read is not gone for that.
        Err(_) => true,
    };
    let journal = || Files::of(&link.name).and_then(|files| files.read());
    let is_ours_still = || journal().map_or(true, |journal| journal.is_some_and(|journal| journal.is_finished));
    let uplink = bridge.ports.iter().find(|port| port.role == Role::Uplink).map(|port| &port.detail.link);
    !is_there(link.index, netlink)
        || bridge.journal.as_ref().is_some_and(|journal| journal.is_finished) && !is_ours_still()
        || uplink.is_some_and(|uplink| uplink.is_up && !is_there(uplink.index, netlink))
}

/// Whether a server answers the host's own address, where none has answered another.
fn of_one_mac(shared: &SharedUplink) -> Option<Check> {
    let asker = Asker::on_interface(shared.share.index, Some(shared.share.mac)).ok()?;
    let offers = dhcp_probe::ask(vec![asker]).pop()?.ok()?;
    Some(dhcp::of_one_mac(shared.name().as_str(), offers.first()?.server))
}

/// After which time a new port of the bridge forwards; or why nobody asks there.
fn delay_of(bridge: &Bridge) -> Result<Duration, Box<Check>> {
    let (name, settings) = (&bridge.detail.link.name, bridge.detail.bridge.unwrap_or_default());
    // The kernel counts both halves of the delay on its own timers.
    let delay = Duration::from_millis(if settings.stp { u64::from(settings.forward_delay) * 20 + 500 } else { 0 });
    // The bridge's own carrier tells nothing: one that never had a port has one, too.
    if !bridge.ports.iter().any(|port| port.detail.link.is_up && port.detail.has_carrier) {
        return Err(Box::new(DHCP.warning(
            "nobody was asked: no port of it has a carrier, and who asks would give it one",
            format!("sudo kvm-bridge doctor {}   # while a guest is on it", quote(name)),
        )));
    }
    if delay > MOST {
        let observed = "nobody was asked: with STP on, it would take too long";
        let fix = format!("ip link set dev {} type bridge stp_state 0", quote(name));
        return Err(Box::new(DHCP.warning(observed, fix)));
    }
    Ok(delay)
}

/// Whether there has to be a server: where there is a way to the network. A port that is no network card, as those of
/// containers, counts on a bridge that is ours or asked about only.
fn has_uplink(query: &Query, bridge: &Bridge) -> bool {
    let is_meant = query.is_about_some() || bridge.journal.is_some();
    bridge.ports.iter().any(|port| port.role == Role::Uplink || is_meant && !port.is_tap())
}
