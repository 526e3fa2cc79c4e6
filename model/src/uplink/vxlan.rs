//! `uplink=vxlan:VNI`: Ethernet in UDP between hosts (RFC 7348). docs/many-hosts.md says what it is.

use crate::error::{Error, Phrase, Result};
use crate::host::{Host, Underlay};
use crate::ifname::IfName;
use crate::step::{no_ipv6, set_up};
use crate::text::shell::quote;
use crate::uplink::BridgeSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The UDP port that IANA gave it, on every host.
pub const PORT: u16 = 4789;

/// What is asked for: `vxlan:VNI[:remote=HOST+HOST...|:group=ADDR][:local=ADDR][:dev=IFACE]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Vxlan {
    /// The network's number (VXLAN network identifier), the same on all hosts.
    pub vni: u32,
    /// How the other hosts are known.
    pub peers: Peers,
    /// The host's address that frames go out with.
    pub local: Option<IpAddr>,
    /// The interface that they go by.
    pub dev: Option<IfName>,
}

/// How the other hosts of a VXLAN are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// By BGP EVPN (RFC 8365): FRR fills the forwarding database.
    Evpn,
    /// By their names or addresses: what is for many goes to each of them.
    Static(Vec<String>),
    /// By a group that all of them are members of.
    Multicast(IpAddr),
}

/// What this side of a VXLAN is made of (VXLAN tunnel end point).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vtep {
    /// What was asked for.
    pub asked: Vxlan,
    /// The device, a port of the bridge.
    pub device: IfName,
    /// The interface that the packets go by.
    pub underlay: IfName,
    /// Its index.
    pub underlay_index: u32,
    /// The host's address that they go out with.
    pub local: IpAddr,
    /// The other hosts, where they were named.
    pub remotes: Vec<IpAddr>,
    /// What is left of the underlay's MTU for the frames of guests, in bytes.
    pub mtu: u32,
}

/// The device of a bridge.
pub fn device(bridge: &IfName) -> IfName {
    IfName::of_bridge("kvbv-", bridge)
}

/// What the headers take of the underlay's MTU: the guest's Ethernet, VXLAN, UDP and IP.
pub fn overhead(local: IpAddr) -> u32 {
    14 + 8 + 8 + if local.is_ipv4() { 20 } else { 40 }
}

/// Plans it for what was found, or says why it can't be.
pub(super) fn plan(asked: &Vxlan, spec: &BridgeSpec, host: &Host) -> Result<Vtep> {
    let unseen = || Error::new("the host's addresses were not looked at", "Please report this.");
    let Underlay { link, index, mtu, local, remotes, others } =
        host.for_vxlan.get(spec.bridge).cloned().ok_or_else(unseen)??;
    let vni = asked.vni;
    if let Some((other, _)) = others.iter().find(|(_, its)| *its == vni) {
        let what = format!("the VNI {vni} is that of {other} already");
        return Err(Error::new(what, "Each bridge has one of its own, the same on all hosts: give another number."));
    }
    let group = match asked.peers {
        Peers::Multicast(group) => Some(group),
        Peers::Evpn | Peers::Static(_) => None,
    };
    if let Some(other) = remotes.iter().chain(&group).find(|other| other.is_ipv4() != local.is_ipv4()) {
        let what = format!("{other} cannot be reached from {local}: one is of IPv4, the other of IPv6");
        return Err(Error::new(what, "Give local= an address of the host of the same kind."));
    }
    let left = mtu.min(0xffff).saturating_sub(overhead(local));
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu > left) {
        let what = format!(
            "mtu={mtu} is more than {left}, which VXLAN's headers leave of the {mtu_of} of {link}",
            mtu_of = left + overhead(local)
        );
        let command = format!("ip link set dev {link} mtu {}", mtu + overhead(local));
        return Err(Error::new(
            what,
            Phrase::from("Ask for less, or on all hosts, and the switches between").run_as_root(command),
        ));
    }
    Ok(Vtep {
        asked: asked.clone(),
        device: device(spec.bridge),
        underlay: link,
        underlay_index: index,
        local,
        remotes,
        mtu: spec.mtu.unwrap_or(left),
    })
}

impl Vtep {
    /// Whether FRR is to say who is where, and nothing is learnt from frames.
    pub fn is_evpn(&self) -> bool {
        self.asked.peers == Peers::Evpn
    }

    /// The group that the other hosts are in.
    pub fn group(&self) -> Option<IpAddr> {
        match self.asked.peers {
            Peers::Multicast(group) => Some(group),
            Peers::Evpn | Peers::Static(_) => None,
        }
    }

    /// The interface that the device is bound to: the one that was asked for, and with a group, which the kernel wants one for.
    pub fn bound_to(&self) -> Option<u32> {
        (self.asked.dev.is_some() || self.group().is_some()).then_some(self.underlay_index)
    }

    /// What people call it.
    pub fn in_words(&self) -> String {
        let peers = match &self.asked.peers {
            Peers::Evpn => "EVPN".to_owned(),
            Peers::Static(_) if self.remotes.is_empty() => "no other hosts".to_owned(),
            Peers::Static(_) => self.remotes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            Peers::Multicast(group) => format!("the group {group}"),
        };
        let Self { asked: Vxlan { vni, .. }, underlay, local, .. } = self;
        format!("VXLAN {vni} from {local} on {underlay} ({peers})")
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let Self { asked: Vxlan { vni, .. }, device, underlay, local, remotes, mtu, .. } = self;
        json!({
            "vni": vni,
            "device": device.as_str(),
            "local": local,
            "underlay": underlay.as_str(),
            "mtu": mtu,
            "evpn": self.is_evpn(),
            "remotes": remotes,
            "group": self.group(),
        })
    }

    /// The commands that do the same, each a line for a shell.
    pub(super) fn commands(&self, bridge: &IfName) -> Vec<String> {
        let (dev, local, vni) = (quote(&self.device), self.local, self.asked.vni);
        let mut add = format!("ip link add name {dev} type vxlan id {vni} dstport {PORT} local {local}");
        if let Some(group) = self.group() {
            add += &format!(" group {group}");
        }
        if self.bound_to().is_some() {
            add += &format!(" dev {}", quote(&self.underlay));
        }
        if self.is_evpn() {
            add += " nolearning";
        }
        let mut commands = vec![
            add,
            format!("ip link set dev {dev} mtu {}", self.mtu),
            no_ipv6(&self.device),
            format!("ip link set dev {dev} master {}", quote(bridge)),
        ];
        if self.is_evpn() {
            commands.push(format!("ip link set dev {dev} type bridge_slave learning off neigh_suppress on"));
        }
        let flood = |remote| format!("bridge fdb append 00:00:00:00:00:00 dev {dev} dst {remote}");
        commands.extend(self.remotes.iter().map(flood));
        commands.push(set_up(&self.device));
        commands
    }
}

impl FromStr for Vxlan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = |why: String| {
            let form = "uplink=vxlan:VNI, with :remote=HOST+HOST for hosts without EVPN, or :group=ADDR; and :local=ADDR, :dev=IFACE";
            Error::new(format!("uplink='{text}': {why}"), format!("Write {form}."))
        };
        let mut parts = text.split(':');
        if parts.next() != Some("vxlan") {
            return Err(fault("it does not begin with vxlan:".to_owned()));
        }
        let number = parts.next().unwrap_or_default();
        let vni = number.parse().ok().filter(|vni| (1..1 << 24).contains(vni));
        let vni = vni.ok_or_else(|| fault(format!("a VNI is a number from 1 to 16777215, not '{number}'")))?;
        // An address of IPv6 has colons of its own.
        let mut keys: Vec<(&str, String)> = Vec::new();
        for part in parts {
            match (part.split_once('='), keys.last_mut()) {
                (Some((key, value)), _) => keys.push((key, value.to_owned())),
                (None, Some((_, value))) => *value += &format!(":{part}"),
                (None, None) => return Err(fault(format!("'{part}' is no KEY=VALUE"))),
            }
        }
        let mut vxlan = Self { vni, peers: Peers::Evpn, local: None, dev: None };
        let address = |key: &str, value: &str| {
            value.parse::<IpAddr>().map_err(|_| fault(format!("{key}= has an address of IPv4 or IPv6, not '{value}'")))
        };
        for (at, (key, value)) in keys.iter().enumerate() {
            if keys[..at].iter().any(|(other, _)| other == key) {
                let several = if *key == "remote" { ": several hosts are remote=HOST+HOST" } else { "" };
                return Err(fault(format!("{key}= is given twice{several}")));
            }
            match *key {
                "remote" | "group" if vxlan.peers != Peers::Evpn => {
                    return Err(fault("remote= and group= are two ways to the same".to_owned()));
                }
                "remote" => vxlan.peers = Peers::Static(hosts(value).map_err(fault)?),
                "group" => {
                    let group = address(key, value)?;
                    if !group.is_multicast() {
                        let why =
                            format!("{group} is no multicast address, such as 239.1.1.1; a host is remote={group}");
                        return Err(fault(why));
                    }
                    vxlan.peers = Peers::Multicast(group);
                }
                "local" => vxlan.local = Some(address(key, value)?),
                "dev" => vxlan.dev = Some(IfName::new(value)?),
                _ => return Err(fault(format!("there is no key '{key}'"))),
            }
        }
        Ok(vxlan)
    }
}

/// Names or addresses of hosts.
fn hosts(value: &str) -> std::result::Result<Vec<String>, String> {
    let is_name = |host: &str| {
        let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !host.is_empty() && host.len() <= 253 && !host.starts_with('-') && host.bytes().all(is_of_names)
    };
    let hosts = value.split('+').map(|host| match is_name(host) || host.parse::<IpAddr>().is_ok() {
        true => Ok(host.to_owned()),
        false => Err(format!("'{host}' is no name or address of a host")),
    });
    hosts.collect()
}

impl fmt::Display for Vxlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "vxlan:{}", self.vni)?;
        match &self.peers {
            Peers::Evpn => {}
            Peers::Static(hosts) => write!(out, ":remote={}", hosts.join("+"))?,
            Peers::Multicast(group) => write!(out, ":group={group}")?,
        }
        if let Some(local) = self.local {
            write!(out, ":local={local}")?;
        }
        if let Some(dev) = &self.dev {
            write!(out, ":dev={dev}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Vxlan {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Vxlan> for String {
    fn from(vxlan: Vxlan) -> Self {
        vxlan.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::{Attachment, Uplink};

    fn name(text: &str) -> IfName {
        IfName::new(text).unwrap()
    }

    fn underlay(local: &str) -> Underlay {
        let local = local.parse().unwrap();
        Underlay { link: name("eth0"), index: 2, mtu: 1500, local, remotes: Vec::new(), others: Vec::new() }
    }

    fn planned(asked: &str, mtu: Option<u32>, found: Result<Underlay>, is_late: bool) -> Result<Attachment> {
        let bridge = name("lab");
        let host = Host { for_vxlan: [(bridge.clone(), found)].into(), ..Host::default() };
        let spec = BridgeSpec {
            bridge: &bridge,
            uplink: asked.parse().unwrap(),
            attach: None,
            mtu,
            is_late,
            was_port: false,
            follow: false,
            is_configured: false,
            net: None,
            falls_back: false,
        };
        crate::uplink::plan(&spec, &host).map(Option::unwrap)
    }

    fn vtep(asked: &str, found: Underlay) -> Vtep {
        planned(asked, None, Ok(found), false).unwrap().vtep().unwrap().clone()
    }

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for text in [
            "vxlan:1",
            "vxlan:16777215:remote=h1+10.0.0.2+fd00::1",
            "vxlan:7:group=239.1.1.1:dev=eth0",
            "vxlan:7:group=ff05::100:local=fd00::1:dev=a=b",
            "vxlan:7:local=10.0.0.1",
        ] {
            assert_eq!(text.parse::<Vxlan>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Uplink>().unwrap().to_string(), text);
        }
        let vxlan = "vxlan:7:remote=fd00::1+h2:local=fd00::2".parse::<Vxlan>().unwrap();
        assert_eq!(vxlan.peers, Peers::Static(vec!["fd00::1".to_owned(), "h2".to_owned()]));
        assert_eq!(vxlan.local, Some("fd00::2".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("vxlan", "not ''"),
            ("vxlan:", "not ''"),
            ("vxlan:0", "not '0'"),
            ("vxlan:16777216", "1 to 16777215"),
            ("vxlan:x", "not 'x'"),
            ("vxlan:1:2", "'2' is no KEY=VALUE"),
            ("vxlan:1:remote=", "'' is no name"),
            ("vxlan:1:remote=a+", "'' is no name"),
            ("vxlan:1:remote=a b", "'a b' is no name"),
            ("vxlan:1:remote=-a", "'-a' is no name"),
            ("vxlan:1:remote=a:remote=b", "remote=HOST+HOST"),
            ("vxlan:1:remote=a:group=239.1.1.1", "two ways"),
            ("vxlan:1:group=10.0.0.1", "no multicast"),
            ("vxlan:1:group=x", "not 'x'"),
            ("vxlan:1:local=h1", "not 'h1'"),
            ("vxlan:1:dev=", "cannot be empty"),
            ("vxlan:1:port=8472", "no key 'port'"),
        ] {
            let error = text.parse::<Uplink>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_headers_are_taken_off_the_underlays_mtu() {
        assert_eq!(vtep("vxlan:7", underlay("10.0.0.1")).mtu, 1450);
        assert_eq!(vtep("vxlan:7", underlay("fd00::1")).mtu, 1430);
        assert_eq!(vtep("vxlan:7", Underlay { mtu: 65536, ..underlay("10.0.0.1") }).mtu, 65485);
        let asked = |mtu| planned("vxlan:7", Some(mtu), Ok(underlay("10.0.0.1")), false);
        assert_eq!(asked(1400).unwrap().vtep().unwrap().mtu, 1400);
        let error = asked(1500).unwrap_err().to_string();
        assert!(error.contains("more than 1450") && error.contains("ip link set dev eth0 mtu 1550"), "{error}");
    }

    #[test]
    fn a_number_is_one_bridges_and_all_hosts_are_of_one_kind() {
        let taken = Underlay { others: vec![(name("vx0"), 7)], ..underlay("10.0.0.1") };
        let error = planned("vxlan:7", None, Ok(taken.clone()), false).unwrap_err().to_string();
        assert!(error.contains("the VNI 7 is that of vx0 already"), "{error}");
        assert!(planned("vxlan:8", None, Ok(taken), false).is_ok());
        let mixed = Underlay { remotes: vec!["fd00::1".parse().unwrap()], ..underlay("10.0.0.1") };
        let error = planned("vxlan:7:remote=h2", None, Ok(mixed), false).unwrap_err().to_string();
        assert!(error.contains("fd00::1 cannot be reached from 10.0.0.1"), "{error}");
        let error = planned("vxlan:7:group=ff05::1", None, Ok(underlay("10.0.0.1")), false).unwrap_err().to_string();
        assert!(error.contains("ff05::1 cannot be reached"), "{error}");
    }

    #[test]
    fn an_address_that_is_not_there_yet_is_waited_for_where_that_is_asked() {
        let none = || Err(Error::new("no address", "Wait."));
        assert_eq!(planned("vxlan:7", None, none(), false).unwrap_err().to_string(), "no address\n  Wait.");
        let awaited = planned("vxlan:7", None, none(), true).unwrap();
        assert_eq!(awaited.awaited().unwrap().uplink.to_string(), "vxlan:7");
    }

    #[test]
    fn the_commands_say_who_finds_the_others() {
        let commands = |asked: &str, found| vtep(asked, found).commands(&name("lab")).join("\n");
        let evpn = commands("vxlan:7", underlay("10.0.0.1"));
        let add = "ip link add name kvbv-lab type vxlan id 7 dstport 4789 local 10.0.0.1 nolearning\n";
        assert!(evpn.starts_with(add), "{evpn}");
        assert!(evpn.contains("learning off neigh_suppress on") && !evpn.contains("fdb"), "{evpn}");
        let remotes = ["10.0.0.2", "10.0.0.3"].map(|remote| remote.parse().unwrap()).to_vec();
        let flooded = commands("vxlan:7:remote=h2+h3", Underlay { remotes, ..underlay("10.0.0.1") });
        assert!(!flooded.contains("learning") && !flooded.contains(" dev eth0"), "{flooded}");
        assert!(flooded.contains("bridge fdb append 00:00:00:00:00:00 dev kvbv-lab dst 10.0.0.3\n"), "{flooded}");
        let group = commands("vxlan:7:group=239.1.1.1", underlay("10.0.0.1"));
        assert!(group.contains("local 10.0.0.1 group 239.1.1.1 dev eth0\n"), "{group}");
    }

    #[test]
    fn a_long_name_of_a_bridge_is_cut() {
        for bridge in ["br0", "fifteen-bytes-x"] {
            let device = device(&name(bridge));
            assert!(device.as_str().len() <= IfName::MAX && device.as_str().starts_with("kvbv-"), "{device}");
        }
    }
}
