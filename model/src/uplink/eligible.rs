//! Which interfaces can be the uplink of a bridge, and the right answer for each that can't.

use crate::error::{Error, Phrase, Result};
use crate::host::{Host, Kind, Link};
use crate::ifname;
use crate::uplink::BridgeSpec;

/// Why an interface can't be a port of a bridge, and what to do about it; `None` for one that can.
pub fn why_no_uplink(link: &Link) -> Option<(String, Phrase)> {
    let name = &link.name;
    let instead =
        |given: &str| Phrase::from(given).say(", or ").key("uplink", "none").say(" for a bridge without one.");
    let other = || instead("Give another interface");
    let below = || instead("Give the interface that it is stacked on");
    match &link.kind {
        _ if link.controller.is_some() && !link.is_in_vrf => Some((
            "it is a port of another link already".into(),
            free(link),
        )),
        Kind::Other(kind) if kind == "veth" && name.as_str().starts_with(ifname::PREFIX) => {
            Some(("it is a part of a bridge of kvm-bridge".into(), other()))
        }
        Kind::Bridge => Some(("it is a bridge itself".into(), Phrase::from("To join it: ").request(name, &[]))),
        Kind::Tap { .. } => Some(("it is a TAP".into(), other())),
        Kind::Other(kind) if why_not_of_kind(kind).is_some() => {
            let (why, is_on_another) = why_not_of_kind(kind)?;
            Some((why.to_owned(), if is_on_another { below() } else { other() }))
        }
        _ if link.uplink.is_wifi => Some((
            "it is Wi-Fi: a station's 802.11 frames have three addresses, and the access point lets no other than its own in"
                .into(),
            "For guests on the LAN: give a wired interface.".into(),
        )),
        _ if !link.is_ethernet || link.mac.is_none() => Some(("it is no Ethernet".into(), other())),
        _ => None,
    }
}

/// Why no link of a kind can be, and whether the one below may do.
fn why_not_of_kind(kind: &str) -> Option<(&'static str, bool)> {
    match kind {
        "wireguard" => {
            Some(("it is a WireGuard tunnel, which carries IP packets, and a bridge Ethernet frames", false))
        }
        "tun" => Some(("it is a tunnel of IP packets, and a bridge is one of Ethernet frames", false)),
        "ifb" => Some(("it is an ifb, which leads to no network", false)),
        "macvtap" | "ipvtap" => Some(("its frames are those of the program that has it open", true)),
        "ipvlan" => Some(("it is an ipvlan, which has its address in common with the interface below", true)),
        "macvlan" => Some(("it is a macvlan, which lets in no frame that is for another address than its own", true)),
        "bond balance" => Some((
            "its mode, balance-tlb or balance-alb, puts its members' addresses into the frames of guests: give it another, \
             such as active-backup or 802.3ad",
            false,
        )),
        _ => None,
    }
}

/// Why this one can't be, with the names of the links around it, where all were looked up.
pub(super) fn why_not(link: &Link, host: &Host) -> Option<(String, Phrase)> {
    let controller = link.controller.and_then(|index| host.all.iter().find(|other| other.index == index));
    let Some(controller) = controller.filter(|_| !link.is_in_vrf) else { return why_no_uplink(link) };
    let of = &controller.name;
    Some(match &controller.kind {
        Kind::Bridge => (
            format!("it is a port of the bridge {of} already"),
            Phrase::from("To join that: ").request(of, &[]).say(". ").say(free(link)),
        ),
        Kind::Other(kind) if kind.starts_with("bond") || kind == "team" => (
            format!("it is a member of {of}"),
            Phrase::from(format!("Give {of} in its place: ")).key("uplink", of.as_str()),
        ),
        _ => (format!("it is a port of {of} already"), free(link)),
    })
}

/// Whether an interface can be an uplink.
pub(super) fn check_uplink<'a>(link: &'a Link, spec: &BridgeSpec, host: &Host) -> Result<&'a Link> {
    let name = &link.name;
    let refuse = |why: &str, remedy: Phrase| Err(Error::new(format!("{name} cannot be the uplink: {why}"), remedy));
    if let Some((why, remedy)) = why_not(link, host) {
        // One that is a bridge, or on one, has a better answer.
        let leads_out = link.controller.is_none() && link.kind != Kind::Bridge && name.as_str() != "lo";
        let ways = if leads_out { remedy.say("\n  ").say(behind_the_host(spec)) } else { remedy };
        return refuse(&why, ways);
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu > link.mtu) {
        let why = format!("its MTU is {} bytes, less than the {mtu} asked for", link.mtu);
        return refuse(
            &why,
            Phrase::from("Ask for less, or run").run_as_root(format!("ip link set dev {name} mtu {mtu}")),
        );
    }
    Ok(link)
}

/// A guest behind the host's address is not on the LAN: it is offered, and not done unasked.
pub(super) fn behind_the_host(spec: &BridgeSpec) -> Phrase {
    Phrase::from("For guests behind the host's address: ").request(spec.bridge, &[("uplink", "nat")])
}

/// All interfaces: those that can be the uplink first, then why the others can't, but for the one of which that was `told`.
pub(super) fn candidates(spec: &BridgeSpec, host: &Host, told: Option<&Link>) -> Phrase {
    const MOST: usize = 8;
    let reason_of = |link: &Link| why_not(link, host).map(|(why, _)| why);
    let others =
        host.all.iter().filter(|link| link.name.as_str() != "lo" && told.is_none_or(|told| told.index != link.index));
    let (can, cannot): (Vec<&Link>, Vec<&Link>) = others.partition(|link| reason_of(link).is_none());
    let make = Phrase::from(format!("To make {}: ", spec.bridge));
    let ways =
        can.iter().fold(make, |ways, link| ways.request(spec.bridge, &[("uplink", link.name.as_str())]).say(", or "));
    let ways = ways.request(spec.bridge, &[("uplink", "none")]).say(" for guests and host alone.");
    // A host may have a thousand TAPs.
    let cannot: Vec<_> = cannot.into_iter().filter(|link| !matches!(link.kind, Kind::Tap { .. })).collect();
    let mut reasons: String = (cannot.iter().take(MOST))
        .filter_map(|link| Some(format!("\n  {} cannot be one: {}.", link.name, reason_of(link)?)))
        .collect();
    if cannot.len() > MOST {
        reasons += &format!("\n  {} others cannot be one either.", cannot.len() - MOST);
    }
    ways.say(reasons)
}

/// What frees a port.
fn free(link: &Link) -> Phrase {
    Phrase::from("To free it").run_as_root(format!("ip link set dev {} nomaster", link.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Uplink;
    use crate::ifname::IfName;

    fn card(index: u32, name: &str) -> Link {
        let mac = Some(crate::mac::Mac([2, 0, 0, 0, 0, 1]));
        Link { is_ethernet: true, mac, ..Link::bare(index, IfName::new(name).unwrap()) }
    }

    fn of_kind(kind: &str) -> Link {
        Link { kind: Kind::Other(kind.to_owned()), ..card(2, "eth0") }
    }

    #[test]
    fn each_kind_has_its_answer() {
        for can in ["vlan", "bond", "team", "macvlan passthru", "veth", "dummy", "vxlan"] {
            assert_eq!(why_no_uplink(&of_kind(can)), None, "{can}");
        }
        for (cannot, why) in [
            ("macvlan", "for another address than its own"),
            ("ipvlan", "the interface below"),
            ("macvtap", "the program that has it open"),
            ("bond balance", "active-backup"),
            ("wireguard", "IP packets"),
            ("tun", "IP packets"),
            ("ifb", "no network"),
        ] {
            let (what, remedy) = why_no_uplink(&of_kind(cannot)).unwrap();
            assert!(what.contains(why), "{cannot}: {what}");
            assert!(remedy.to_string().contains("uplink=none"), "{cannot}: {remedy}");
        }
        let (what, remedy) =
            why_no_uplink(&Link { uplink: Uplink { is_wifi: true, ..Uplink::default() }, ..card(2, "wlan0") }).unwrap();
        assert!(
            what.contains("802.11 frames have three addresses") && remedy.to_string().contains("a wired interface"),
            "{what} {remedy}"
        );
    }

    #[test]
    fn a_member_is_told_of_what_it_is_a_member_of() {
        let member = Link { controller: Some(7), ..card(2, "eth0") };
        let answer = |controller: Link| {
            let host = Host { all: vec![member.clone(), controller], ..Host::default() };
            let (what, remedy) = why_not(&member, &host).unwrap();
            format!("{what}. {remedy}")
        };
        let bond = Link { kind: Kind::Other("bond".to_owned()), ..card(7, "bond0") };
        assert_eq!(answer(bond), "it is a member of bond0. Give bond0 in its place: uplink=bond0");
        let bridge = answer(Link { kind: Kind::Bridge, ..card(7, "br7") });
        assert!(bridge.contains("a port of the bridge br7 already. To join that: --bridge br7"), "{bridge}");
        let vrf = answer(Link { kind: Kind::Other("vrf".to_owned()), ..card(7, "red") });
        assert!(vrf.contains("a port of red already. To free it: ip link set dev eth0 nomaster"), "{vrf}");
    }
}
