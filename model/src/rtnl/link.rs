//! Links, as a plan needs them (linux/if_link.h).

use crate::host::{Kind, Link};
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::rtnl::{HEADER, attribute, attributes, number, text, u16_at, u32_at};

pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_IFALIAS: u16 = 20;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;

/// A struct ifinfomsg and its attributes.
pub fn parse(body: &[u8]) -> Option<Link> {
    const ARPHRD_ETHER: u16 = 1;
    const IFF_UP: u32 = 1;
    const IFF_PROMISC: u32 = 0x100;
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        is_ethernet: u16_at(body, 2)? == ARPHRD_ETHER,
        is_up: flags & IFF_UP != 0,
        is_promiscuous: flags & IFF_PROMISC != 0,
        ..Link::bare(u32_at(body, 4)?, IfName::seen(String::new()))
    };
    let mut is_lower_elsewhere = false;
    for (kind, value) in attributes(body.get(HEADER..)?) {
        match kind {
            IFLA_LINK_NETNSID => is_lower_elsewhere = true,
            IFLA_IFNAME => link.name = IfName::seen(text(value)),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_LINK => link.lower = u32_at(value, 0),
            IFLA_MASTER => link.controller = u32_at(value, 0),
            IFLA_CARRIER => link.has_carrier = value.first() == Some(&1),
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_LINKINFO => {
                link.kind = parse_kind(value);
                link.filters_vlans = link.kind == Kind::Bridge && filters_vlans(value);
                link.has_service_tags = link.kind == Kind::Bridge && has_service_tags(value);
            }
            _ => {}
        }
    }
    // Its index is one of another network namespace.
    link.lower = link.lower.filter(|_| !is_lower_elsewhere);
    Some(link)
}

/// The name and VNI of a VXLAN device that has one.
pub fn vni(body: &[u8]) -> Option<(IfName, u32)> {
    const IFLA_VXLAN_ID: u16 = 1;
    const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
    let attributes = body.get(HEADER..)?;
    let info = attribute(attributes, IFLA_LINKINFO)?;
    let data = attribute(info, IFLA_INFO_DATA)?;
    let is_of_many = attribute(data, IFLA_VXLAN_COLLECT_METADATA).is_some_and(|value| value.first() == Some(&1));
    let is_one = attribute(info, IFLA_INFO_KIND).map(text).as_deref() == Some("vxlan") && !is_of_many;
    Some((IfName::seen(text(attribute(attributes, IFLA_IFNAME)?)), number(data, IFLA_VXLAN_ID)?)).filter(|_| is_one)
}

/// Whether the IFLA_LINKINFO of a bridge says so.
fn filters_vlans(info: &[u8]) -> bool {
    const IFLA_BR_VLAN_FILTERING: u16 = 7;
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    attribute(data, IFLA_BR_VLAN_FILTERING).is_some_and(|value| value.first() == Some(&1))
}

/// The same of 802.1ad.
fn has_service_tags(info: &[u8]) -> bool {
    const IFLA_BR_VLAN_PROTOCOL: u16 = 8;
    const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    attribute(data, IFLA_BR_VLAN_PROTOCOL) == Some(&ETH_P_8021AD)
}

/// IFLA_LINKINFO; for a TAP with the flags that IFLA_TUN_* tell.
fn parse_kind(info: &[u8]) -> Kind {
    const IFLA_TUN_TYPE: u16 = 3;
    const IFLA_TUN_PERSIST: u16 = 6;
    const IFLA_TUN_MULTI_QUEUE: u16 = 7;
    const IFF_TAP: u8 = 2;
    const IFLA_MACVLAN_MODE: u16 = 1;
    const MACVLAN_MODE_PASSTHRU: u32 = 8;
    const IFLA_BOND_MODE: u16 = 1;
    const BOND_MODE_TLB: u8 = 5;
    const BOND_MODE_ALB: u8 = 6;
    let data = attribute(info, IFLA_INFO_DATA).unwrap_or_default();
    let byte = |kind| attribute(data, kind).and_then(|value| value.first().copied()).unwrap_or_default();
    match attribute(info, IFLA_INFO_KIND).map(text).as_deref() {
        None => Kind::Card,
        Some("bridge") => Kind::Bridge,
        Some("tun") if byte(IFLA_TUN_TYPE) == IFF_TAP => {
            Kind::Tap { is_persistent: byte(IFLA_TUN_PERSIST) != 0, is_multi_queue: byte(IFLA_TUN_MULTI_QUEUE) != 0 }
        }
        Some("macvlan") if number(data, IFLA_MACVLAN_MODE) == Some(MACVLAN_MODE_PASSTHRU) => {
            Kind::Other("macvlan passthru".to_owned())
        }
        Some("bond") if matches!(byte(IFLA_BOND_MODE), BOND_MODE_TLB | BOND_MODE_ALB) => {
            Kind::Other("bond balance".to_owned())
        }
        Some(other) => Kind::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtnl::push;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, kind, value);
        bytes
    }

    /// A link as the kernel tells it (linux/rtnetlink.h, linux/if_link.h), with what its driver tells of itself.
    fn told(kind: &str, data: &[u8]) -> Link {
        parse(&message(kind, data)).unwrap()
    }

    fn message(kind: &str, data: &[u8]) -> Vec<u8> {
        let info = [attribute(1, kind.as_bytes()), attribute(2, data)].concat();
        let mut message = vec![0, 0, 1, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        for (kind, value) in [
            (IFLA_IFNAME, &b"up0\0"[..]),
            (IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]),
            (IFLA_MTU, &1500u32.to_ne_bytes()),
            (IFLA_LINK, &10u32.to_ne_bytes()),
            (IFLA_LINKINFO, &info),
        ] {
            message.extend(attribute(kind, value));
        }
        message
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_vxlan_tells_its_number() {
        let id = attribute(1, &7u32.to_ne_bytes());
        assert_eq!(vni(&message("vxlan", &id)), Some((IfName::seen("up0".to_owned()), 7)));
        assert_eq!(vni(&message("vxlan", &[id.clone(), attribute(25, &[1])].concat())), None);
        assert_eq!(vni(&message("geneve", &id)), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn what_a_link_can_be_used_for_is_told_by_its_mode() {
        let kind = |kind: &str, data: &[u8]| match told(kind, data).kind {
            Kind::Other(kind) => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind("vlan", &attribute(1, &7u16.to_ne_bytes())), "vlan");
        assert_eq!(kind("bond", &attribute(1, &[1])), "bond");
        assert_eq!(kind("bond", &attribute(1, &[6])), "bond balance");
        assert_eq!(kind("macvlan", &attribute(1, &4u32.to_ne_bytes())), "macvlan");
        assert_eq!(kind("macvlan", &attribute(1, &8u32.to_ne_bytes())), "macvlan passthru");
        let vlan = told("vlan", &[]);
        assert_eq!((vlan.lower, vlan.index, vlan.is_ethernet, vlan.is_up), (Some(10), 5, true, true));
        // As a container has it, where the index is the host's.
        let message = [message("vlan", &[]), attribute(IFLA_LINK_NETNSID, &0u32.to_ne_bytes())].concat();
        assert_eq!(parse(&message).unwrap().lower, None);
    }
}
