//! From what is asked for and what is there to the steps that are still missing.
//! It may not know how a step is carried out.
//!
//! Everything is checked here, before anything is touched. Planning for a host on which a plan was carried out finds no
//! step left for the bridges: that is what idempotent means. (A TAP belongs to one run of QEMU; each run makes its own.)
#![forbid(unsafe_code)]

use crate::config::{Bridge, Config};
use crate::error::{Error, Phrase, Result};
use crate::host::{Host, Kind, Link};
use crate::ifname::IfName;
use crate::journal::looks_ours;
use crate::nat::subnet::Ipv4Net;
use crate::request::{Nic, Queues, taken_twice};
use crate::share::{Share, ends};
use crate::slips;
use crate::step::{Create, Found, Ipv6, Tap, set_up, trunk};
use crate::uplink;
use crate::uplink::{Attach, Attachment, Uplink};
use port::{Guard, Policy};
use std::collections::BTreeMap;

/// What is to be done for one command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// For each bridge that the request names, in order and once, what it lacks.
    pub bridges: Vec<BridgePlan>,
    /// For each network card, in order, its TAP.
    pub taps: Vec<Tap>,
    /// For each bridge of which it is said, whether it stays when its last guest has gone.
    pub keep: BTreeMap<IfName, bool>,
}

impl Plan {
    /// Whether a bridge is to be made, and not only joined.
    pub fn makes_bridges(&self) -> bool {
        self.bridges.iter().any(|bridge| bridge.create.is_some())
    }
}

/// What one bridge lacks: nothing where it only has to be joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePlan {
    /// Its name.
    pub bridge: IfName,
    /// The bridge itself.
    pub create: Option<Create>,
    /// Whether it has to be set up.
    pub is_down: bool,
    /// Its uplink.
    pub attachment: Option<Attachment>,
}

impl BridgePlan {
    /// Whether it is there as it is to be.
    pub fn is_empty(&self) -> bool {
        self.create.is_none() && !self.is_down && self.attachment.is_none()
    }

    /// The uplink that it takes.
    pub fn uplink(&self) -> Option<&IfName> {
        self.attachment.as_ref()?.uplink()
    }

    /// How it shares that, if it does.
    pub fn share(&self) -> Option<&Share> {
        self.attachment.as_ref()?.share()
    }

    /// The commands that do the same, each a line for a shell.
    pub fn commands(&self) -> Vec<String> {
        let create = self.create.iter().flat_map(|create| create.commands(&self.bridge));
        let up = self.is_down.then(|| set_up(&self.bridge));
        let attach = self.attachment.iter().flat_map(|its| its.commands(&self.bridge));
        let [_, port] = ends(&self.bridge);
        let port = match &self.attachment {
            Some(Attachment::Shared(_)) => Some(&port),
            Some(Attachment::Vxlan(vtep)) => Some(&vtep.device),
            _ => self.uplink(),
        };
        let filters = self.create.as_ref().is_some_and(|create| create.filters_vlans);
        let trunk = port.filter(|_| filters).map(trunk);
        create.chain(up).chain(attach).chain(trunk).collect()
    }
}

/// Plans for network cards that `request::check_together` has passed.
pub fn plan(nics: &[Nic], config: &Config, host: &Host) -> Result<Plan> {
    let mut plan = Plan::default();
    for spec in bridge_specs(nics, config) {
        let bridge = spec.uplink.bridge;
        let (lacks, keep) = match host.link(bridge) {
            Some(link) => (join(&spec, link, host), spec.said.keep),
            None => (make(&spec.uplink, spec.filters_vlans, host), spec.keep),
        };
        let lacks = lacks.and_then(|lacks| check_disjoint(lacks, &plan));
        plan.bridges.push(lacks.map_err(|error| error.of_request(bridge))?);
        plan.keep.extend(keep.map(|keep| (bridge.clone(), keep)));
    }
    for nic in nics {
        let keys = [("net", nic.net.is_some()), ("forward", !nic.forwards.is_empty())];
        let key = keys.iter().find(|(_, is_given)| *is_given && !has_network(&nic.bridge, &plan, host));
        if let Some((key, _)) = key {
            let what =
                format!("--bridge {0}: {key}= is for uplink=nat, and {0} has another way to the network", nic.bridge);
            return Err(Error::new(what, format!("Leave {key}= out: its guests are reached by their own addresses.")));
        }
        let mtu = mtu_of(&nic.bridge, &plan, host);
        let tap = tap(nic, mtu, policy(nic, &config.bridge(&nic.bridge)), host);
        let tap =
            tap.and_then(|tap| check_filtering(tap, &plan, host)).map_err(|error| error.of_request(&nic.bridge))?;
        plan.taps.push(tap);
    }
    Ok(plan)
}

/// Two bridges may have found the same uplink.
fn check_disjoint(lacks: BridgePlan, plan: &Plan) -> Result<BridgePlan> {
    fn subnet(plan: &BridgePlan) -> Option<Ipv4Net> {
        Some(plan.attachment.as_ref()?.nat()?.network.subnet)
    }
    let other = |net: Ipv4Net| plan.bridges.iter().find(|other| subnet(other).is_some_and(|its| its.overlaps(net)));
    if let Some((net, other)) = subnet(&lacks).and_then(|net| Some((net, other(net)?))) {
        let what = format!("{net} is already to be the network of {}", other.bridge);
        return Err(Error::new(what, "Give each bridge a network of its own, or leave net= out."));
    }
    let vni = |plan: &BridgePlan| Some(plan.attachment.as_ref()?.vtep()?.asked.vni);
    if let Some(other) = plan.bridges.iter().find(|other| vni(other).is_some() && vni(other) == vni(&lacks)) {
        let what = format!("its VNI is to be that of {} already", other.bridge);
        return Err(Error::new(what, "Each bridge has one of its own, the same on all hosts."));
    }
    let Some(wanted) = lacks.uplink() else { return Ok(lacks) };
    match plan.bridges.iter().find(|other| other.uplink() == Some(wanted)) {
        Some(other) => Err(taken_twice(wanted, &other.bridge)),
        None => Ok(lacks),
    }
}

/// What all network cards together want of one bridge.
pub struct BridgeSpec<'a> {
    /// Its uplink.
    pub uplink: uplink::BridgeSpec<'a>,
    /// Whether it stays without guests, where that is said.
    pub keep: Option<bool>,
    /// Whether it filters VLANs.
    filters_vlans: bool,
    /// What the command line says, as against the configuration: of a bridge that is there this alone counts.
    said: Bridge,
}

/// The bridge_specs for each bridge that is named, in order and once.
pub fn bridge_specs<'a>(nics: &'a [Nic], config: &Config) -> Vec<BridgeSpec<'a>> {
    let mut bridge_specs: Vec<BridgeSpec> = Vec::new();
    for nic in nics {
        if bridge_specs.iter().any(|spec| spec.uplink.bridge == &nic.bridge) {
            continue;
        }
        let its = || nics.iter().filter(|other| other.bridge == nic.bridge);
        let said = Bridge {
            uplink: its().find_map(|nic| nic.uplink.clone()),
            keep: its().find_map(|nic| nic.keep),
            mtu: its().find_map(|nic| nic.mtu),
            attach: its().find_map(|nic| nic.attach),
            follow: its().find_map(|nic| nic.follow),
            net: its().find_map(|nic| nic.net),
            vlan_filtering: its().find_map(|nic| nic.vlan_filtering),
            ..Bridge::default()
        };
        let configured = config.bridge(&nic.bridge);
        // Who gives a guest VLANs wants them.
        let has_vlans = || its().any(|nic| policy(nic, &configured).vlans.is_some());
        let filters_vlans = said.vlan_filtering.or(configured.vlan_filtering).unwrap_or_else(has_vlans);
        // Keys that only it has ask for it.
        let is_of_nat = said.net.is_some() || its().any(|nic| !nic.forwards.is_empty());
        let by_its_keys = is_of_nat.then_some(Uplink::Nat);
        let uplink = uplink::BridgeSpec {
            bridge: &nic.bridge,
            is_configured: said.uplink.is_none() && configured.uplink.is_some(),
            uplink: said.uplink.clone().or(configured.uplink).or(by_its_keys).unwrap_or_default(),
            mtu: said.mtu.or(configured.mtu),
            attach: said.attach.or(configured.attach),
            is_late: its().any(|nic| nic.is_late),
            was_port: false,
            follow: said.follow.or(configured.follow).unwrap_or_default(),
            net: said.net.or(configured.net),
            falls_back: config.falls_back,
        };
        bridge_specs.push(BridgeSpec { uplink, keep: said.keep.or(configured.keep), filters_vlans, said });
    }
    bridge_specs
}

/// A bridge that is there is joined and not otherwise changed.
fn join(spec: &BridgeSpec, link: &Link, host: &Host) -> Result<BridgePlan> {
    let name = spec.uplink.bridge;
    if link.kind != Kind::Bridge {
        let what = format!("{name} exists and is not a bridge");
        return Err(Error::new(what, "Name another one; 'ip link show type bridge' lists the bridges."));
    }
    let share = host.shared.get(name);
    let refuse = |why: String, key: &str| {
        let what = format!("{name} is there, and {why}");
        let remedy = Phrase::from("Leave ").key(key, "").say(" out to join it as it is, or name another bridge.");
        Err(Error::new(
            what,
            match looks_ours(link) {
                true => remedy.say(" To create it again").run_as_root(format!("kvm-bridge down {name}")),
                false => remedy,
            },
        ))
    };
    if let Some(why) = spec.said.uplink.as_ref().and_then(|uplink| uplink.why_not_that_of(link, host)) {
        return refuse(why, "uplink");
    }
    match (spec.said.attach.filter(|_| !spec.uplink.is_late), share) {
        (Some(Attach::Port), Some(share)) => return refuse(format!("shares {}", share.uplink), "attach"),
        (Some(Attach::Share), None) => return refuse("shares no uplink".to_owned(), "attach"),
        _ => {}
    }
    if spec.said.follow == Some(true) && !spec.uplink.is_late && share.is_none_or(|share| !share.follow) {
        return refuse("does not follow the default route".to_owned(), "follow");
    }
    let its = host.networks.get(name).map(|network| network.subnet);
    if let Some(net) = spec.said.net.filter(|net| its != Some(*net)) {
        let its = its.map_or("no network of the host's own".to_owned(), |its| its.to_string());
        return refuse(format!("has {its}, not {net}"), "net");
    }
    if let Some(mtu) = spec.said.mtu.filter(|mtu| *mtu != link.mtu) {
        let what = format!("{name} is there with an MTU of {} bytes, not {mtu}", link.mtu);
        let remedy = Phrase::from("Leave ").key("mtu", "").say(" out, or run");
        return Err(Error::new(what, remedy.run_as_root(format!("ip link set dev {name} mtu {mtu}"))));
    }
    if spec.said.vlan_filtering.is_some_and(|filters| filters != link.filters_vlans) {
        let does = if link.filters_vlans { "filters" } else { "does not filter" };
        return refuse(format!("{does} VLANs"), "vlan_filtering");
    }
    Ok(BridgePlan { bridge: name.clone(), create: None, is_down: !link.is_up, attachment: None })
}

fn make(spec: &uplink::BridgeSpec, filters_vlans: bool, host: &Host) -> Result<BridgePlan> {
    let bridge = spec.bridge;
    slips::check_new_bridge(bridge)?;
    let attachment = uplink::plan(spec, host)?;
    let uplink = attachment.as_ref().and_then(Attachment::uplink).and_then(|uplink| host.link(uplink));
    let unpinned = || Error::new(format!("{bridge} has no address to be made with"), "Please report this.");
    let mac = *host.fresh_macs.get(bridge).ok_or_else(unpinned)?;
    // One that is not set follows the ports, of which the first has 1500 then.
    let of_vxlan = attachment.as_ref().and_then(Attachment::vtep).map(|vtep| vtep.mtu);
    let mtu =
        spec.mtu.or(of_vxlan).or(uplink.map(|uplink| uplink.mtu)).filter(|mtu| spec.mtu.is_some() || *mtu != 1500);
    let no_arp = attachment.as_ref().is_some_and(Attachment::keeps_host_off);
    let ipv6 = match host.has_ipv6 {
        false => Ipv6::Usual,
        true if no_arp => Ipv6::Off,
        // Without an uplink it is guests who would advertise themselves as the host's routers.
        true => Ipv6::NoRouters,
    };
    let create = Some(Create { mac, mtu, ipv6, no_arp, filters_vlans });
    Ok(BridgePlan { bridge: bridge.clone(), create, is_down: true, attachment })
}

/// Whether a bridge has a network of the host's own, or will have one.
fn has_network(bridge: &IfName, plan: &Plan, host: &Host) -> bool {
    let made = plan.bridges.iter().find(|known| known.bridge == *bridge).and_then(|made| made.attachment.as_ref());
    made.is_some_and(|made| made.nat().is_some()) || host.networks.contains_key(bridge)
}

/// The MTU that the bridge has, or will have.
fn mtu_of(bridge: &IfName, plan: &Plan, host: &Host) -> u32 {
    if let Some(link) = host.link(bridge) {
        return link.mtu;
    }
    let made = plan.bridges.iter().find(|known| known.bridge == *bridge);
    made.and_then(|made| made.create.as_ref()?.mtu).unwrap_or(1500)
}

/// What a guest's port is held to: what its card says, else what the configuration says of its bridge.
pub fn policy(nic: &Nic, configured: &Bridge) -> Policy {
    let its = configured.policy();
    Policy {
        guard: nic.guard.unwrap_or(its.guard),
        isolated: nic.isolated.unwrap_or(its.isolated),
        vlans: nic.vlan.clone().or(its.vlans),
        rate: nic.rate.or(its.rate),
    }
}

/// A port has VLANs only where its bridge filters them, which is not switched on behind anybody's back: each port is in one VLAN
/// then, and what was in another one is cut off.
fn check_filtering(mut tap: Tap, plan: &Plan, host: &Host) -> Result<Tap> {
    let bridge = &tap.bridge;
    let made = || plan.bridges.iter().find(|known| known.bridge == *bridge).and_then(|made| made.create.as_ref());
    let filters =
        host.link(bridge).map_or_else(|| made().is_some_and(|made| made.filters_vlans), |link| link.filters_vlans);
    match &mut tap.policy.vlans {
        Some(vlans) if !filters => {
            let command = format!("ip link set dev {bridge} type bridge vlan_filtering 1");
            let what = format!("vlan={vlans} is for a bridge that filters VLANs, and {bridge} does not");
            let remedy =
                Phrase::from("Leave ").key("vlan", "").say(" out. To have it filter, with all its ports in VLAN 1");
            Err(Error::new(what, remedy.run_as_root(command)))
        }
        Some(vlans) => {
            vlans.are_service_tags = host.link(bridge).is_some_and(|link| link.has_service_tags);
            Ok(tap)
        }
        None => Ok(tap),
    }
}

fn tap(nic: &Nic, mtu: u32, policy: Policy, host: &Host) -> Result<Tap> {
    let queues = match nic.queues {
        Some(Queues::Number(number)) => number,
        _ => 1,
    };
    let mut tap = Tap { name: nic.ifname.clone(), bridge: nic.bridge.clone(), mtu, queues, policy, found: None };
    let Some(link) = nic.ifname.as_ref().and_then(|name| host.link(name)) else {
        return Ok(tap);
    };
    let (name, bridge) = (&link.name, &nic.bridge);
    let other = "Give ifname= another name, or leave it out.";
    match &link.kind {
        Kind::Tap { is_persistent, .. } if link.has_carrier || !is_persistent => {
            let holder = host.holders.get(name).map_or("another process", String::as_str);
            Err(Error::new(format!("the TAP {name} is in use by {holder}"), other))
        }
        Kind::Tap { is_multi_queue, .. } => {
            let controller = host.link(bridge).map(|bridge| bridge.index);
            if controller.is_none() || link.controller != controller {
                let what = format!("the TAP {name} is there and is no port of {bridge}");
                let command = format!("ip link set dev {name} master {bridge}");
                return Err(Error::new(what, Phrase::from("To make it one").run_as_root(command)));
            }
            if queues > 1 && !is_multi_queue {
                let what = format!("the TAP {name} has one queue, not {queues}");
                let remedy = Phrase::from("Leave queues= out, or create it again")
                    .run_as_root(format!("ip tuntap del dev {name} mode tap"))
                    .say(", then")
                    .run_as_root(format!("ip tuntap add dev {name} mode tap multi_queue"));
                return Err(Error::new(what, remedy));
            }
            let is_held = [
                ("guard", nic.guard.map(|guard| guard != Guard::Off)),
                ("isolated", nic.isolated),
                ("vlan", nic.vlan.as_ref().map(|_| true)),
                ("rate", nic.rate.map(|_| true)),
            ];
            if let Some((key, _)) = is_held.into_iter().find(|(_, said)| *said == Some(true)) {
                let what = format!("{key}= is for a TAP that is made, and {name} is there");
                return Err(Error::new(what, format!("Leave {key}= out, or ifname=.")));
            }
            tap.policy = Policy::default();
            tap.found = Some(Found { index: link.index, is_up: link.is_up, is_multi_queue: *is_multi_queue });
            Ok(tap)
        }
        _ => Err(Error::new(format!("{name} is there and is no TAP"), other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Address, NotShareable, Underlay, Uplink as Seen};
    use crate::mac::Mac;
    use crate::manager::{Manager, Taker};
    use crate::share::{Changes, MarkBy};
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn card(index: u32, text: &str) -> Link {
        Link { is_ethernet: true, is_up: true, mac: Some(MAC), mtu: 1500, ..Link::bare(index, name(text)) }
    }

    fn host(links: impl IntoIterator<Item = Link>) -> Host {
        let links = links.into_iter().map(|link| (link.name.clone(), Some(link))).collect();
        let fresh_macs = ["br0", "br1"].map(|bridge| (name(bridge), MAC)).into();
        Host { links, fresh_macs, mark: Some(MarkBy::Skbedit), ..Host::default() }
    }

    fn nic(value: &str) -> Nic {
        Nic::parse(value.as_bytes()).unwrap()
    }

    /// The host as it is when the persistent steps of a plan were carried out.
    fn after(host: &Host, plan: &Plan) -> Host {
        let mut host = host.clone();
        for BridgePlan { bridge, create, is_down, attachment } in &plan.bridges {
            if let Some(Create { mac, mtu, .. }) = create {
                let index = 1000 + host.links.len() as u32;
                let new = Link { kind: Kind::Bridge, is_up: false, mac: Some(*mac), ..card(index, bridge.as_str()) };
                // Without one of its own it takes that of its ports, here the first.
                let port = attachment.as_ref().and_then(Attachment::port).and_then(|port| host.link(&port.uplink));
                let mtu = mtu.or(port.map(|port| port.mtu)).unwrap_or(1500);
                host.links.insert(bridge.clone(), Some(Link { mtu, ..new }));
            }
            let index = host.link(bridge).unwrap().index;
            host.links.get_mut(bridge).unwrap().as_mut().unwrap().is_up |= is_down;
            match attachment {
                Some(Attachment::Port(port)) => {
                    let link = host.links.get_mut(&port.uplink).unwrap().as_mut().unwrap();
                    (link.controller, link.is_up) = (Some(index), link.is_up || port.was_down);
                }
                Some(Attachment::Shared(share)) => {
                    host.shared.insert(bridge.clone(), share.clone());
                }
                Some(Attachment::Nat(masquerade)) => {
                    host.networks.insert(bridge.clone(), masquerade.network.clone());
                }
                Some(Attachment::Vxlan(vtep)) => {
                    host.vxlans.insert(bridge.clone(), vtep.asked.to_string());
                }
                Some(Attachment::Awaited(_)) | None => {}
            }
        }
        host
    }

    proptest! {
        #[test]
        fn planning_after_applying_is_empty(
            is_up: bool, card_mtu in 68u32..=9000, mtu in proptest::option::of(prop_oneof![68u32..=1500, Just(1500)]),
            uplink in proptest::sample::select(vec!["none", "eth0", "vxlan:7"]), there: bool, down: bool,
        ) {
            let mut links = vec![Link { is_up, mtu: card_mtu, ..card(2, "eth0") }];
            if there {
                links.push(Link { kind: Kind::Bridge, is_up: !down, ..card(9, "br1") });
            }
            let local = "10.0.0.1".parse().unwrap();
            let (remotes, others) = (Vec::new(), Vec::new());
            let underlay = Underlay { link: name("eth0"), index: 2, mtu: 1500, local, remotes, others };
            let host = Host { for_vxlan: [(name("br0"), Ok(underlay))].into(), ..host(links) };
            let mtu = mtu.map(|mtu| format!(",mtu={mtu}")).unwrap_or_default();
            let nics = [nic(&format!("br0,uplink={uplink}{mtu}")), nic("br1,uplink=none")];
            if let Ok(plan) = plan(&nics, &Config::default(), &host) {
                let again = super::plan(&nics, &Config::default(), &after(&host, &plan)).unwrap();
                prop_assert!(again.bridges.iter().all(BridgePlan::is_empty), "{again:?}");
                prop_assert_eq!(again.taps, plan.taps);
            } else {
                prop_assert!(uplink != "none" && !mtu.is_empty());
            }
        }
    }

    #[test]
    fn a_bridge_that_is_there_is_only_joined() {
        let bridge = Link { kind: Kind::Bridge, mtu: 1400, ..card(7, "br0") };
        let plan = plan(&[nic("br0")], &Config::default(), &host([bridge])).unwrap();
        let joined = BridgePlan { bridge: name("br0"), create: None, is_down: false, attachment: None };
        assert_eq!(plan.bridges, [joined]);
        assert_eq!(plan.taps[0].mtu, 1400);
    }

    #[test]
    fn what_would_cost_the_host_its_network_is_refused() {
        let refused =
            |link: Link| plan(&[nic("br0,uplink=eth0")], &Config::default(), &host([link])).unwrap_err().to_string();
        assert!(
            refused(Link { uplink: Seen { is_wifi: true, ..Seen::default() }, ..card(2, "eth0") }).contains("Wi-Fi")
        );
        assert!(refused(Link { is_ethernet: false, ..card(2, "eth0") }).contains("no Ethernet"));
        assert!(refused(Link { kind: Kind::Bridge, ..card(2, "eth0") }).contains("a bridge itself"));
        assert!(refused(card(2, "eth1")).contains("no interface eth0"));
    }

    fn address(text: &str, is_link_local: bool) -> Address {
        Address { ip: text.parse().unwrap(), prefix: 24, expires: false, is_link_local }
    }

    /// How the bridge has its uplink.
    fn attached(value: &str, uplink: Link) -> Result<Attachment> {
        let sharing = uplink.uplink.sharing.clone().or(Some(Ok(Changes::default())));
        let uplink = Link { uplink: Seen { sharing, ..uplink.uplink.clone() }, ..uplink };
        let plan = plan(&[nic(value)], &Config::default(), &host([uplink]))?;
        Ok(plan.bridges[0].attachment.clone().unwrap())
    }

    #[test]
    fn what_anybody_uses_is_shared_and_what_nobody_uses_becomes_a_port() {
        let is_shared = |value: &str, uplink: Link| attached(value, uplink).unwrap().share().is_some();
        let used = |uplink: Seen| Link { uplink, ..card(2, "eth0") };
        let with = |address| Link { addresses: vec![address], ..card(2, "eth0") };
        let own = "br0,uplink=eth0";
        assert!(!is_shared(own, card(2, "eth0")));
        assert!(!is_shared(own, with(address("fe80::1", true))), "the kernel gives every interface one");
        assert!(is_shared(own, with(address("192.0.2.1", false))));
        assert!(is_shared(own, used(Seen { manager: Some(Manager::Connman), ..Seen::default() })));
        assert!(is_shared(own, used(Seen { upper: vec![name("eth0.5")], ..Seen::default() })));
        assert!(is_shared(own, used(Seen { may_have_programs: true, ..Seen::default() })));
        assert!(is_shared("br0,uplink=eth0,attach=share", card(2, "eth0")));
        assert!(!is_shared("br0,uplink=eth0,attach=port", used(Seen { may_have_programs: true, ..Seen::default() })));
        let refused =
            attached("br0,uplink=eth0,attach=port", with(address("192.0.2.1", false))).unwrap_err().to_string();
        assert!(refused.contains("the host has 192.0.2.1/24 on it") && refused.contains("type bridge"), "{refused}");
    }

    #[test]
    fn what_leaves_no_room_is_not_shared() {
        let with = |why| Link {
            uplink: Seen { sharing: Some(Err(why)), may_have_programs: true, ..Seen::default() },
            ..card(2, "eth0")
        };
        let refused = |why| attached("br0,uplink=eth0", with(why)).unwrap_err().to_string();
        assert!(refused(NotShareable::IngressQdisc).contains("tc qdisc add dev eth0 clsact"));
        assert!(refused(NotShareable::IsShared(name("kvbh-br7"))).contains("--bridge br7"));
        let taken = |taker| {
            let sharing = Some(Ok(Changes::default()));
            let uplink = Seen { sharing, may_have_programs: true, ..Seen::default() };
            let host = Host { taker: Some(taker), ..host([Link { uplink, ..card(2, "eth0") }]) };
            plan(&[nic("br0,uplink=eth0")], &Config::default(), &host).unwrap_err().to_string()
        };
        assert!(taken(Taker::Connman).contains("Add kvb to NetworkInterfaceBlacklist"));
        assert!(taken(Taker::Dhcpcd).contains("denyinterfaces kvb*"));
    }

    #[test]
    fn a_persistent_tap_is_used_where_it_is_a_port_already() {
        let bridge = Link { kind: Kind::Bridge, ..card(7, "br0") };
        let kind = Kind::Tap { is_persistent: true, is_multi_queue: true };
        let tap = Link { kind, controller: Some(7), ..card(8, "tap0") };
        let plan_with = |tap: Link| plan(&[nic("br0,ifname=tap0")], &Config::default(), &host([bridge.clone(), tap]));
        assert_eq!(
            plan_with(tap.clone()).unwrap().taps[0].found,
            Some(Found { index: 8, is_up: true, is_multi_queue: true })
        );
        assert!(plan_with(Link { controller: None, ..tap.clone() }).is_err());
        assert!(plan_with(Link { has_carrier: true, ..tap }).is_err());
    }
}
