//! From what is asked for and what is there to the steps that are still missing.
//!
//! Everything is checked here, before anything is touched. Planning for a host on which a plan was carried out finds no
//! step left for the bridges: that is what idempotent means. (A TAP belongs to one run of QEMU; each run makes its own.)
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::host::{Host, Kind, Link};
use crate::name::IfName;
use crate::request::{Nic, Uplink};
use crate::step::{Found, Step, Tap};
use std::collections::BTreeMap;

/// What is to be done for one command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// For each bridge that the request names, in order and once, the steps that it lacks.
    pub bridges: Vec<BridgePlan>,
    /// For each network card, in order, its TAP.
    pub taps: Vec<Tap>,
    /// For each bridge of which it is said, whether it stays when its last guest has gone.
    pub keep: BTreeMap<IfName, bool>,
}

/// What one bridge lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePlan {
    /// Its name.
    pub bridge: IfName,
    /// The steps, none where it only has to be joined.
    pub steps: Vec<Step>,
}

/// Plans for network cards that `request::check_together` has passed.
pub fn plan(nics: &[Nic], host: &Host) -> Result<Plan> {
    let keep = nics.iter().filter_map(|nic| Some((nic.bridge.clone(), nic.keep?))).collect();
    let mut plan = Plan { keep, ..Plan::default() };
    for nic in nics {
        let of_nic = |error: Error| error.of(format_args!("--bridge {}", nic.bridge));
        if !plan.bridges.iter().any(|known| known.bridge == nic.bridge) {
            let wish = Wish::of(&nic.bridge, nics);
            let steps = bridge_steps(&wish, host).map_err(of_nic)?;
            plan.bridges.push(BridgePlan { bridge: nic.bridge.clone(), steps });
        }
        let mtu = mtu_of(&nic.bridge, &plan, host);
        plan.taps.push(tap(nic, mtu, host).map_err(of_nic)?);
    }
    Ok(plan)
}

/// What all network cards together want of one bridge.
struct Wish<'a> {
    bridge: &'a IfName,
    uplink: Option<&'a Uplink>,
    mtu: Option<u32>,
}

impl<'a> Wish<'a> {
    fn of(bridge: &'a IfName, nics: &'a [Nic]) -> Self {
        let mut its = nics.iter().filter(|nic| nic.bridge == *bridge);
        let uplink = its.clone().find_map(|nic| nic.uplink.as_ref());
        Self { bridge, uplink, mtu: its.find_map(|nic| nic.mtu) }
    }
}

fn bridge_steps(wish: &Wish, host: &Host) -> Result<Vec<Step>> {
    match host.link(wish.bridge) {
        Some(link) => join(wish, link, host),
        None => make(wish, host),
    }
}

/// A bridge that is there is joined and not otherwise changed.
fn join(wish: &Wish, link: &Link, host: &Host) -> Result<Vec<Step>> {
    let name = wish.bridge;
    if link.kind != Kind::Bridge {
        let what = format!("{name} is there and is no bridge");
        return Err(Error::new(what, "Give --bridge another name; 'ip link show type bridge' lists the bridges."));
    }
    if let Some(Uplink::Link(uplink)) = wish.uplink {
        let is_port = host.link(uplink).is_some_and(|port| port.controller == Some(link.index));
        if !is_port {
            let what = format!("{name} is there, and {uplink} is none of its ports");
            let remedy =
                format!("Leave uplink= out to join it as it is, or run: ip link set dev {uplink} master {name}");
            return Err(Error::new(what, remedy));
        }
    }
    if let Some(mtu) = wish.mtu.filter(|mtu| *mtu != link.mtu) {
        let what = format!("{name} is there with an MTU of {} bytes, not {mtu}", link.mtu);
        return Err(Error::new(what, format!("Leave mtu= out, or run: ip link set dev {name} mtu {mtu}")));
    }
    Ok(if link.is_up { Vec::new() } else { vec![Step::SetUp { link: name.clone() }] })
}

fn make(wish: &Wish, host: &Host) -> Result<Vec<Step>> {
    let bridge = wish.bridge;
    let unpinned = || Error::new(format!("{bridge} has no address to be made with"), "Please report this.");
    match wish.uplink {
        None => Err(choices(bridge, host)),
        Some(Uplink::Isolated) => {
            let mac = *host.fresh_macs.get(bridge).ok_or_else(unpinned)?;
            let add = Step::AddBridge { bridge: bridge.clone(), mac, mtu: wish.mtu };
            Ok(vec![add, Step::SetUp { link: bridge.clone() }])
        }
        Some(Uplink::Link(name)) => {
            let link = check_uplink(name, wish.mtu, host)?;
            let mac = link.mac.ok_or_else(unpinned)?;
            let mtu = Some(wish.mtu.unwrap_or(link.mtu)).filter(|mtu| *mtu != 1500);
            let mut steps = vec![
                Step::AddBridge { bridge: bridge.clone(), mac, mtu },
                Step::SetUp { link: bridge.clone() },
                Step::TakeUplink { bridge: bridge.clone(), uplink: name.clone(), index: link.index },
            ];
            if !link.is_up {
                steps.push(Step::SetUp { link: name.clone() });
            }
            Ok(steps)
        }
    }
}

/// Whether an interface can become a port, without anybody losing anything.
fn check_uplink<'a>(name: &IfName, mtu: Option<u32>, host: &'a Host) -> Result<&'a Link> {
    let Some(link) = host.link(name) else {
        let remedy = format!("{} 'ip link' lists all.", candidates(host));
        return Err(Error::new(format!("there is no interface {name} to be the uplink"), remedy));
    };
    let refuse = |why: &str, remedy: &str| Err(Error::new(format!("{name} cannot be the uplink: {why}"), remedy));
    let other = "Give another interface, or uplink=none for a bridge without one.";
    if link.controller.is_some() {
        return refuse("it is a port of another link already", &format!("To free it: ip link set dev {name} nomaster"));
    }
    if link.kind == Kind::Bridge {
        return refuse("it is a bridge itself", &format!("To join it: --bridge {name}"));
    }
    if link.is_wifi {
        return refuse("it is Wi-Fi, whose frames carry the address of the station alone", other);
    }
    if !link.is_ethernet || link.mac.is_none() {
        return refuse("it is no Ethernet", other);
    }
    if !link.addresses.is_empty() {
        let why = format!("it has {}, and the host would lose its network", link.addresses.join(" and "));
        let remedy = format!(
            "Give an interface without address or uplink=none, or make the bridge with the address on it, in your \
             network's own configuration, and join it: --bridge BR. To give the address up: ip addr flush dev {name}"
        );
        return refuse(&why, &remedy);
    }
    if let Some(mtu) = mtu.filter(|mtu| *mtu > link.mtu) {
        let why = format!("its MTU is {} bytes, less than the {mtu} asked for", link.mtu);
        return refuse(&why, &format!("Ask for less, or run: ip link set dev {name} mtu {mtu}"));
    }
    Ok(link)
}

fn candidates(host: &Host) -> String {
    match host.candidates.as_slice() {
        [] => "No interface here can be one.".to_owned(),
        names => {
            let names: Vec<&str> = names.iter().map(IfName::as_str).collect();
            format!("It can be {}.", names.join(" or "))
        }
    }
}

fn choices(bridge: &IfName, host: &Host) -> Error {
    let uplinks = host.candidates.iter().map(|name| format!("--bridge {bridge},uplink={name}, or "));
    let choices: String = uplinks.collect();
    Error::new(
        "there is no such bridge, and no word on its uplink",
        format!("To make it: {choices}--bridge {bridge},uplink=none for guests and host alone."),
    )
}

/// The MTU that the bridge has, or will have.
fn mtu_of(bridge: &IfName, plan: &Plan, host: &Host) -> u32 {
    if let Some(link) = host.link(bridge) {
        return link.mtu;
    }
    let steps = plan.bridges.iter().filter(|known| known.bridge == *bridge).flat_map(|known| &known.steps);
    let mut mtu = steps.filter_map(|step| match step {
        Step::AddBridge { mtu, .. } => *mtu,
        _ => None,
    });
    mtu.next().unwrap_or(1500)
}

fn tap(nic: &Nic, mtu: u32, host: &Host) -> Result<Tap> {
    let mut tap = Tap { name: nic.ifname.clone(), bridge: nic.bridge.clone(), mtu, found: None };
    let Some(link) = nic.ifname.as_ref().and_then(|name| host.link(name)) else {
        return Ok(tap);
    };
    let (name, bridge) = (&link.name, &nic.bridge);
    let other = "Give ifname= another name, or leave it out.";
    match &link.kind {
        _ if link.holder.is_some() => {
            let holder = link.holder.as_deref().unwrap_or_default();
            Err(Error::new(format!("the TAP {name} is in use by {holder}"), other))
        }
        Kind::Tap { is_persistent: true, is_multi_queue } => {
            let controller = host.link(bridge).map(|bridge| bridge.index);
            if controller.is_none() || link.controller != controller {
                let what = format!("the TAP {name} is there and is no port of {bridge}");
                return Err(Error::new(what, format!("To make it one: ip link set dev {name} master {bridge}")));
            }
            tap.found = Some(Found { is_multi_queue: *is_multi_queue });
            Ok(tap)
        }
        Kind::Tap { is_persistent: false, .. } => {
            Err(Error::new(format!("the TAP {name} is in use by another process"), other))
        }
        _ => Err(Error::new(format!("{name} is there and is no TAP"), other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn card(index: u32, text: &str) -> Link {
        Link {
            index,
            name: name(text),
            kind: Kind::Card,
            is_ethernet: true,
            is_up: true,
            mac: Some(MAC),
            mtu: 1500,
            controller: None,
            alias: None,
            addresses: Vec::new(),
            is_wifi: false,
            holder: None,
        }
    }

    fn host(links: impl IntoIterator<Item = Link>) -> Host {
        let links = links.into_iter().map(|link| (link.name.clone(), Some(link))).collect();
        let fresh_macs = ["br0", "br1"].map(|bridge| (name(bridge), MAC)).into();
        Host { links, fresh_macs, ..Host::default() }
    }

    fn nic(value: &str) -> Nic {
        Nic::parse(value.as_bytes()).unwrap()
    }

    /// The host as it is when the lasting steps of a plan were carried out.
    fn after(host: &Host, plan: &Plan) -> Host {
        let mut host = host.clone();
        for step in plan.bridges.iter().flat_map(|bridge| &bridge.steps) {
            match step {
                Step::AddBridge { bridge, mac, mtu } => {
                    let index = 1000 + host.links.len() as u32;
                    let new =
                        Link { kind: Kind::Bridge, is_up: false, mac: Some(*mac), ..card(index, bridge.as_str()) };
                    host.links.insert(bridge.clone(), Some(Link { mtu: mtu.unwrap_or(1500), ..new }));
                }
                Step::SetUp { link } => host.links.get_mut(link).unwrap().as_mut().unwrap().is_up = true,
                Step::TakeUplink { bridge, uplink, .. } => {
                    let index = host.link(bridge).unwrap().index;
                    host.links.get_mut(uplink).unwrap().as_mut().unwrap().controller = Some(index);
                }
            }
        }
        host
    }

    proptest! {
        #[test]
        fn planning_after_applying_is_empty(
            is_up: bool, card_mtu in 68u32..=9000, mtu in proptest::option::of(68u32..=1500),
            uplink in proptest::sample::select(vec!["none", "eth0"]), there: bool, down: bool,
        ) {
            let mut links = vec![Link { is_up, mtu: card_mtu, ..card(2, "eth0") }];
            if there {
                links.push(Link { kind: Kind::Bridge, is_up: !down, ..card(9, "br1") });
            }
            let host = host(links);
            let mtu = mtu.map(|mtu| format!(",mtu={mtu}")).unwrap_or_default();
            let nics = [nic(&format!("br0,uplink={uplink}{mtu}")), nic("br1,uplink=none")];
            if let Ok(plan) = plan(&nics, &host) {
                let again = super::plan(&nics, &after(&host, &plan)).unwrap();
                prop_assert!(again.bridges.iter().all(|bridge| bridge.steps.is_empty()), "{again:?}");
                prop_assert_eq!(again.taps, plan.taps);
            } else {
                prop_assert!(uplink == "eth0" && !mtu.is_empty());
            }
        }
    }

    #[test]
    fn a_bridge_that_is_there_is_only_joined() {
        let bridge = Link { kind: Kind::Bridge, mtu: 1400, ..card(7, "br0") };
        let plan = plan(&[nic("br0")], &host([bridge])).unwrap();
        assert_eq!(plan.bridges, [BridgePlan { bridge: name("br0"), steps: vec![] }]);
        assert_eq!(plan.taps[0].mtu, 1400);
    }

    #[test]
    fn what_would_cost_the_host_its_network_is_refused() {
        let refused = |link: Link| plan(&[nic("br0,uplink=eth0")], &host([link])).unwrap_err().to_string();
        let with_address = Link { addresses: vec!["10.0.0.1/8".to_owned()], ..card(2, "eth0") };
        assert!(refused(with_address).contains("it has 10.0.0.1/8"));
        assert!(refused(Link { controller: Some(5), ..card(2, "eth0") }).contains("another link"));
        assert!(refused(Link { is_wifi: true, ..card(2, "eth0") }).contains("Wi-Fi"));
        assert!(refused(Link { is_ethernet: false, ..card(2, "eth0") }).contains("no Ethernet"));
        assert!(refused(Link { kind: Kind::Bridge, ..card(2, "eth0") }).contains("a bridge itself"));
        assert!(refused(card(2, "eth1")).contains("no interface eth0"));
    }

    #[test]
    fn a_persistent_tap_is_used_where_it_is_a_port_already() {
        let bridge = Link { kind: Kind::Bridge, ..card(7, "br0") };
        let kind = Kind::Tap { is_persistent: true, is_multi_queue: true };
        let tap = Link { kind, controller: Some(7), ..card(8, "tap0") };
        let plan_with = |tap: Link| plan(&[nic("br0,ifname=tap0")], &host([bridge.clone(), tap]));
        assert_eq!(plan_with(tap.clone()).unwrap().taps[0].found, Some(Found { is_multi_queue: true }));
        assert!(plan_with(Link { controller: None, ..tap.clone() }).is_err());
        assert!(plan_with(Link { holder: Some("qemu (7)".to_owned()), ..tap }).is_err());
    }
}
