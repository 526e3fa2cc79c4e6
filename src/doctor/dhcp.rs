//! Who gives addresses on the network: asked, as a guest would.

use crate::doctor::{Check, Context, Query, Verdict};
use crate::netlink::Netlink;
use crate::network::dhcp_probe;
use crate::network::dhcp_probe::{Asker, Offer};
use crate::network::inventory::{Bridge, Role, SharedUplink};
use crate::network::observe::Planned;
use crate::output::ProgressLine;
use crate::state::journal::Files;
use crate::sys::process;
use model::error::Error;
use model::text;
use model::text::shell::quote;
use std::time::Duration;

const WHY: &str = "A guest that asks for an address has what the first server to answer offers.";
/// For so long an asker's port may take to forward: with the delay that the check of STP puts up with.
const MOST: Duration = Duration::from_secs(10);

pub(super) fn checks(context: &mut Context) -> Vec<Check> {
    if !context.query.asks {
        return Vec::new();
    }
    if !(process::can_change_network() && process::can_watch()) {
        let observed = "nobody was asked: that needs CAP_NET_ADMIN and CAP_NET_RAW";
        return vec![Check::warning("dhcp", observed, WHY, "sudo kvm-bridge doctor")];
    }
    let mut checks = Vec::new();
    let mut asked = Vec::new();
    let mut askers = Vec::new();
    for bridge in &context.bridges {
        let link = &bridge.detail.link;
        if !link.is_up {
            continue;
        }
        match delay_of(bridge) {
            Err(check) => checks.push(check.of(&link.name)),
            Ok(delay) => match Asker::on_bridge(&mut context.netlink, link, delay) {
                Ok(asker) => {
                    asked.push((link.name.to_string(), link.name.to_string(), has_uplink(context.query, bridge)));
                    askers.push(asker);
                }
                Err(error) => checks.push(Check::of_error("dhcp", Verdict::Warning, &error, WHY).of(&link.name)),
            },
        }
    }
    for (bridge, planned) in &context.missing {
        let uplink = planned.as_ref().ok().and_then(Planned::uplink);
        let Some(uplink) = uplink.filter(|uplink| uplink.is_up) else { continue };
        match Asker::on_interface(uplink.index, None) {
            Ok(asker) => {
                asked.push((bridge.to_string(), uplink.name.to_string(), true));
                askers.push(asker);
            }
            Err(error) => checks.push(Check::of_error("dhcp", Verdict::Warning, &error, WHY).of(bridge)),
        }
    }
    let mut line = ProgressLine::new();
    if !askers.is_empty() {
        let bridges: Vec<&str> = asked.iter().map(|(bridge, _, _)| bridge.as_str()).collect();
        line.show(format_args!("asking for DHCP servers on {}", text::one_line(&bridges.join(", "))));
    }
    let answers: Vec<_> = dhcp_probe::ask(askers).into_iter().zip(asked).collect();
    for (answers, (bridge, on, has_uplink)) in answers {
        let is_silent = answers.as_ref().is_ok_and(Vec::is_empty);
        let shared = context.bridges.iter().find(|known| known.detail.link.name.as_str() == bridge);
        let shared = shared.and_then(|known| known.shared.as_ref()).filter(|_| is_silent && !context.is_firewalled);
        let check = shared.and_then(of_one_mac).unwrap_or_else(|| judge(answers, has_uplink, &on));
        checks.push(check.of(bridge));
    }
    line.clear();
    checks.into_iter().map(|check| unless_gone(context, check)).collect()
}

/// A bridge that was taken down while servers were asked on it tells nothing of its network.
fn unless_gone(context: &mut Context, check: Check) -> Check {
    let of_it = |bridge: &&Bridge| Some(bridge.detail.link.name.as_str()) == check.subject.as_deref();
    match context.bridges.iter().find(of_it) {
        Some(bridge) if check.verdict != Verdict::Ok && is_gone(&mut context.netlink, bridge) => {
            let name = &bridge.detail.link.name;
            let observed = "the bridge went away meanwhile, or is being taken down: of its network nothing is known";
            Check::warning("dhcp", observed, WHY, format!("kvm-bridge status {}", quote(name.as_str()))).of(name)
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

/// A server that answers the host's own address, and nobody else's, is behind a switch that lets in one address for each of
/// its ports.
fn of_one_mac(shared: &SharedUplink) -> Option<Check> {
    let asker = Asker::on_interface(shared.share.index, Some(shared.share.mac)).ok()?;
    let offers = dhcp_probe::ask(vec![asker]).pop()?.ok()?;
    let offer = offers.first()?;
    let uplink = shared.name();
    let observed = format!(
        "on {uplink}, {} a DHCPDISCOVER of the host's own MAC address, and nobody one of another",
        offer.server.map_or("a server answers".to_owned(), |server| format!("{server} answers"))
    );
    const WHY: &str = "The switch lets in one MAC address for each port (port security), as most Wi-Fi access points and the \
                       virtual switches of VMware and clouds do.";
    let fix = "Allow more MAC addresses, or promiscuous mode and forged transmits, on the switch's port; or --bridge BRIDGE,uplink=none.";
    Some(Check::failure("dhcp", observed, WHY, fix))
}

/// After which time a new port of the bridge forwards; or why nobody asks there.
fn delay_of(bridge: &Bridge) -> Result<Duration, Box<Check>> {
    let (name, settings) = (&bridge.detail.link.name, bridge.detail.bridge.unwrap_or_default());
    // The kernel counts both halves of the delay on its own timers.
    let delay = Duration::from_millis(if settings.stp { u64::from(settings.forward_delay) * 20 + 500 } else { 0 });
    // The bridge's own carrier tells nothing: one that never had a port has one, too.
    if !bridge.ports.iter().any(|port| port.detail.link.is_up && port.detail.has_carrier) {
        return Err(Box::new(Check::warning(
            "dhcp",
            "nobody was asked: no port of it has a carrier, and who asks would give it one",
            WHY,
            format!("sudo kvm-bridge doctor {}   # while a guest is on it", quote(name.as_str())),
        )));
    }
    if delay > MOST {
        let observed = "nobody was asked: with STP on, it would take too long";
        let fix = format!("ip link set dev {} type bridge stp_state 0", quote(name.as_str()));
        return Err(Box::new(Check::warning("dhcp", observed, WHY, fix)));
    }
    Ok(delay)
}

/// Whether there has to be a server: where there is a way to the network. A port that is no network card, as those of
/// containers, counts on a bridge that is ours or asked about only.
fn has_uplink(query: &Query, bridge: &Bridge) -> bool {
    let is_meant = query.is_about_some() || bridge.journal.is_some();
    bridge.ports.iter().any(|port| port.role == Role::Uplink || is_meant && !port.is_tap())
}

fn judge(answers: Result<Vec<Offer>, Error>, has_uplink: bool, on: &str) -> Check {
    const NOBODY: &str = "A guest with ip=dhcp waits for an address in vain.";
    let offers = match answers {
        Ok(offers) => offers,
        Err(error) => return Check::of_error("dhcp", Verdict::Warning, &error, WHY),
    };
    let said: Vec<String> = offers.iter().map(describe).collect();
    let dev = quote(on);
    match said.as_slice() {
        [] if !has_uplink => Check::warning(
            "dhcp",
            format!("nobody on {on} answers a DHCPDISCOVER, and it has no uplink"),
            NOBODY,
            format!(
                "ip addr add 10.99.0.1/24 dev {dev}; dnsmasq --port=0 --interface={dev} --bind-interfaces --dhcp-range=10.99.0.10,10.99.0.250"
            ),
        ),
        [] => Check::failure(
            "dhcp",
            format!("nobody on {on} answers a DHCPDISCOVER"),
            NOBODY,
            format!(
                "tcpdump -eni {dev} port 67 or port 68   # or give the guest an address: -append ip=ADDRESS::GATEWAY:NETMASK::eth0:off"
            ),
        ),
        [one] => Check::ok("dhcp", one, WHY),
        several => Check::warning(
            "dhcp",
            format!("{} servers answer: {}", several.len(), several.join("; ")),
            "Which of them a guest listens to is chance; their addresses and ways out may differ.",
            // By its MAC: what a server calls itself is its own choice.
            format!(
                "bridge fdb show | grep{}   # the ports behind which they are: switch off the one that should not be",
                offers.iter().map(|offer| format!(" -e {}", offer.mac)).collect::<String>()
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
