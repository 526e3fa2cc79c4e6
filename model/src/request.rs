//! What the user asked for: one `--bridge` value, read and checked in itself.
//! It may not know the host.
//!
//! Nothing here knows the host: whether the bridge exists and the uplink can be taken is the planner's question.
#![forbid(unsafe_code)]

pub mod help;
mod qemus;
pub mod taps;

use crate::error::{Error, Phrase, Result};
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::nat::forward::Forward;
use crate::nat::subnet::Ipv4Net;
use crate::optstr;
use crate::slips;
use crate::uplink::{Attach, Uplink};
use port::{Guard, Rate, Vlans};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// A VM that runs this many times at once is a mistake.
pub const MAX_SLOTS: usize = 1024;

/// `queues=`: how many at once carry a card's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queues {
    /// One for each CPU of the guest.
    Auto,
    /// So many.
    Number(u16),
}

/// `vhost=`: whether the kernel itself moves frames between the TAP and a virtio card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vhost {
    /// It has to.
    On,
    /// QEMU does.
    Off,
    /// Where /dev/vhost-net can be opened.
    Auto,
}

/// One network card that is asked for: the value of one `--bridge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// The bridge that it is on.
    pub bridge: IfName,
    /// `uplink=`: of a bridge that is missing.
    pub uplink: Option<Uplink>,
    /// Whether that may come when the bridge is there already (`kvm-bridge up --late`).
    pub is_late: bool,
    /// `mac=`: the guest's address, for this run only.
    pub mac: Option<Mac>,
    /// `model=`: the QEMU device.
    pub model: Option<String>,
    /// Whether that is the machine's own, on board: known once the line is settled.
    pub is_on_board: bool,
    /// `queues=`: of the TAP and a virtio card.
    pub queues: Option<Queues>,
    /// `vhost=`: who moves the frames.
    pub vhost: Option<Vhost>,
    /// `ifname=`: the TAP's name on the host.
    pub ifname: Option<IfName>,
    /// `id=`: the netdev's id on QEMU's command line.
    pub id: Option<String>,
    /// `replace=user`: whether it takes the place of a user-mode card of the line.
    pub replaces_user: bool,
    /// `vm=`: which VM this is, whose MAC addresses it has.
    pub vm: Option<String>,
    /// `slot=`: which of its runs at once this is.
    pub slot: Option<usize>,
    /// `keep=`: whether a bridge that is made stays when its last guest has gone.
    pub keep: Option<bool>,
    /// `mtu=`: of a bridge that is made, in bytes.
    pub mtu: Option<u32>,
    /// `attach=`: how the uplink is attached.
    pub attach: Option<Attach>,
    /// `follow=`: whether the bridge goes with the default route to another uplink.
    pub follow: Option<bool>,
    /// `vlan_filtering=`: whether a bridge that is made filters VLANs.
    pub vlan_filtering: Option<bool>,
    /// `vlan=`: the VLANs of the guest's port.
    pub vlan: Option<Vlans>,
    /// `guard=`: whether its port lets in only what an honest guest sends.
    pub guard: Option<Guard>,
    /// `isolated=`: whether it sees no other isolated guest.
    pub isolated: Option<bool>,
    /// `rate=`: how fast it is, in each direction.
    pub rate: Option<Rate>,
    /// `announce=`: to tell the address that the guest gets.
    pub announce: bool,
    /// `monitor=`: whether QEMU has a QMP socket for the user's own commands.
    pub has_monitor: bool,
    /// The subnet of a network of the host's own.
    pub net: Option<Ipv4Net>,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
}

/// The keys of `--bridge`, each with the form of its value and what it is for. Help, completions and the man page are
/// held against this list by tests.
pub const KEYS: [(&str, &str, &str); 23] = [
    (
        "uplink",
        "IFACE|auto|nat|user|none|vxlan:VNI",
        "the uplink of a new bridge (default: auto, the interface of the default route); nat: a network of the host's own; user: \
         one of the user's own, without root; vxlan: one with other hosts",
    ),
    ("net", "NET/PREFIX", "with uplink=nat or user, the IPv4 network of the guests (default: a free one, chosen once)"),
    (
        "forward",
        "PROTO:[ADDR:]PORT:GUEST_PORT",
        "with uplink=nat or user, a port of the host that leads to the guest, on 127.0.0.1 unless ADDR is given; repeatable",
    ),
    ("attach", "share|port", "how the uplink is attached (default: share; port if the interface is not in use)"),
    (
        "follow",
        "on|off",
        "on: with uplink=auto, the bridge follows the default route to another interface (default: off)",
    ),
    ("mac", "MAC", "the guest's MAC address for this run, instead of the one stored for the VM"),
    ("model", "DEVICE", "the model of the network card (default: e1000, or one that the machine supports)"),
    ("queues", "N|auto", "the number of queues of a virtio card; auto: one for each CPU of the guest (default: 1)"),
    (
        "vhost",
        "on|off|auto",
        "whether the kernel moves a virtio card's frames (default: auto: if /dev/vhost-net can be opened)",
    ),
    ("ifname", "NAME", "the name of the TAP device on the host (default: the first free one of kvb0, kvb1 ...)"),
    ("id", "ID", "the ID of the netdev; if a -device names it, that device is used"),
    ("replace", "user", "replace a user-mode card of the command line; its ID, model and bus address stay"),
    ("vm", "NAME", "the VM whose MAC address is used (default: -name, else -uuid, disk image, kernel or CD)"),
    (
        "slot",
        "N",
        "which of the VM's simultaneous runs this is, or with -incoming replaces (default: the first free one)",
    ),
    ("keep", "on|off", "on: keep a new bridge after its last guest (default: off)"),
    ("mtu", "BYTES", "the MTU of a new bridge (default: that of its uplink, else 1500)"),
    (
        "guard",
        "on|ip|off",
        "on: the port lets in only frames with the guest's own address, no VLAN tags, and nothing that is for switches; ip: of \
         these only what comes from the addresses that DHCP gave the guest (default: off)",
    ),
    ("isolated", "on|off", "on: no frames between this guest and other isolated ones (default: off)"),
    (
        "vlan",
        "VLANS",
        "the VLAN of the guest, and those with tags: vlan=10, vlan=10:20-30+40 (default: that of the bridge)",
    ),
    (
        "vlan_filtering",
        "on|off",
        "on: a new bridge filters VLANs, and its uplink carries all of them (default: off; on with vlan=)",
    ),
    ("rate", "RATE", "the most that the guest sends per second, and gets: rate=100mbit (default: no limit)"),
    ("announce", "on|off", "on: print the address that the guest gets by DHCP to stderr"),
    (
        "monitor",
        "on|off",
        "on: give QEMU a QMP socket that only you can open, for kvm-bridge attach and detach (default: off)",
    ),
];

/// The values of `--bridge` in an environment variable, which a shell's quotes may hold together.
pub fn of_variable(variable: &str, value: &OsStr) -> Result<Vec<String>> {
    let fault = |why: &str| {
        let what = format!("the environment variable {variable} {why}");
        Error::new(what, format!("Write it as the value of --bridge: {variable}=br0,model=virtio-net-pci"))
    };
    let text = value.to_str().ok_or_else(|| fault("is not UTF-8"))?;
    let values = shell_words::split(text).map_err(|_| fault("has a quote that is not closed"))?;
    match values.iter().any(|value| value.starts_with("--bridge") || value.starts_with("-bridge")) {
        true => Err(fault("has the option itself in it")),
        false => Ok(values),
    }
}

impl Nic {
    /// How many queues it has, once it is settled.
    pub fn number_of_queues(&self) -> u16 {
        match self.queues {
            Some(Queues::Number(number)) => number,
            _ => 1,
        }
    }

    /// Whether it says anything of the bridge's uplink.
    pub fn is_about_uplink(&self) -> bool {
        let is_about_nat = self.net.is_some() || !self.forwards.is_empty();
        self.uplink.is_some() || self.attach.is_some() || self.follow.is_some() || is_about_nat
    }

    /// Reads a value: `BR[,key=value...]` in QEMU's own grammar.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let show = String::from_utf8_lossy(text).into_owned();
        Self::read(text).map_err(|error| match show.is_empty() {
            true => error.of("--bridge"),
            false => error.of_request(show),
        })
    }

    /// The same, with errors that do not say of what value.
    pub fn read(text: &[u8]) -> Result<Self> {
        if text.ends_with(b",") && !text.ends_with(b",,") {
            let remedy = "Leave it out; what comes behind it comes without a blank: --bridge br0,uplink=eth0.";
            return Err(Error::new("a comma is the end of it", remedy));
        }
        let mut params = optstr::parse(text).into_iter();
        let name = match params.next() {
            Some(optstr::Param { key: None, value: Some(name) }) => name,
            None => Vec::new(),
            Some(_) => return Err(Error::new("the bridge's name has to come first", "Write --bridge br0,key=value.")),
        };
        let mut nic = Self {
            bridge: IfName::new(&utf8(name)?)?,
            uplink: None,
            mac: None,
            model: None,
            is_on_board: false,
            queues: None,
            vhost: None,
            ifname: None,
            id: None,
            replaces_user: false,
            vm: None,
            slot: None,
            is_late: false,
            keep: None,
            mtu: None,
            attach: None,
            follow: None,
            vlan_filtering: None,
            vlan: None,
            guard: None,
            isolated: None,
            rate: None,
            announce: false,
            has_monitor: false,
            net: None,
            forwards: Vec::new(),
        };
        let mut seen = HashSet::new();
        for optstr::Param { key, value } in params {
            let key = utf8(key.unwrap_or_default())?;
            if !KEYS.iter().any(|(known, ..)| *known == key) {
                let known: Vec<&str> = KEYS.iter().map(|(known, ..)| *known).collect();
                let meant = || slips::near(&key, known.iter().copied()).map(|near| format!("Is {near}= meant?"));
                let remedy = qemus::answer(&key)
                    .or_else(meant)
                    .or_else(|| qemus::answer_misspelt(&key))
                    .unwrap_or_else(|| format!("The keys are {}.", known.join(", ")));
                return Err(Error::new(format!("there is no key '{key}'"), remedy));
            }
            let Some(value) = value else {
                return Err(Error::new(format!("{key} has no value"), format!("Write {key}={}.", form_of(&key))));
            };
            nic.set(&key, &utf8(value)?)?;
            if !seen.insert(key.clone()) && key != "forward" {
                return Err(Error::new(format!("{key}= is given twice"), "Leave one of them out."));
            }
        }
        if nic.ifname.as_ref() == Some(&nic.bridge) {
            return Err(Error::new("the TAP cannot have the bridge's name", "Give ifname= another name."));
        }
        if nic.uplink.as_ref().and_then(Uplink::interface) == Some(&nic.bridge) {
            return Err(Error::new("the uplink cannot be the bridge itself", "Give uplink= an interface of the host."));
        }
        if nic.replaces_user && nic.id.is_some() {
            let what = "replace=user keeps the id of the card whose place it takes";
            return Err(Error::new(what, "Leave id= out, or replace=."));
        }
        if nic.vlan.is_some() && nic.vlan_filtering == Some(false) {
            return Err(Error::new(
                "vlan= is for a bridge that filters VLANs",
                "Leave vlan_filtering=off out, or vlan=.",
            ));
        }
        if nic.follow == Some(true) && !nic.uplink.as_ref().is_none_or(Uplink::can_follow) {
            let remedy = Phrase::from("Leave ").key("uplink", "").say(" out, or ").key("follow", "").say(".");
            return Err(Error::new("follow=on is for uplink=auto: it follows the default route", remedy));
        }
        if nic.attach.is_some() && !nic.uplink.as_ref().is_none_or(Uplink::is_interface) {
            return Err(Error::new(
                "attach= is of an interface, and there is to be none",
                "Leave uplink= out, or attach=.",
            ));
        }
        let is_of_nat = [("net", nic.net.is_some()), ("forward", !nic.forwards.is_empty())];
        let has_none = nic.uplink.as_ref().is_some_and(|uplink| !uplink.has_subnet());
        if let Some((key, _)) = is_of_nat.iter().find(|(_, is_given)| *is_given && has_none) {
            let what = format!("{key}= is for uplink=nat or uplink=user");
            return Err(Error::new(what, format!("Write one of these, or leave {key}= out.")));
        }
        Ok(nic)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = || {
            let ways: Vec<String> = form_of(key).split('|').map(|way| format!("{key}={way}")).collect();
            Error::new(format!("{key} cannot be '{value}'"), format!("Write {}.", ways.join(" or ")))
        };
        if matches!(key, "uplink" | "model" | "ifname" | "id" | "vm") {
            slips::check_value(&format!("{key}="), value)?;
        }
        match key {
            "uplink" => self.uplink = Some(value.parse()?),
            "mac" => self.mac = Some(value.parse::<Mac>()?.check_unicast()?),
            "model" if is_model(value) => self.model = Some(value.to_owned()),
            "model" => {
                let remedy = "Give the name of a QEMU device; qemu-kvm -device help lists them.";
                return Err(Error::new(format!("model='{value}' is no name of a device"), remedy));
            }
            "queues" => self.queues = Some(queues(value)?),
            "vhost" => {
                let vhost = [("on", Vhost::On), ("off", Vhost::Off), ("auto", Vhost::Auto)];
                let vhost = vhost.into_iter().find(|(name, _)| *name == value);
                self.vhost = Some(vhost.ok_or_else(wrong)?.1);
            }
            "ifname" => self.ifname = Some(IfName::new(value)?),
            "id" if is_id(value) => self.id = Some(value.to_owned()),
            "id" => {
                let remedy = "An id begins with a letter; then come letters, digits, '-', '.' and '_'.";
                return Err(Error::new(format!("QEMU would not take id='{value}'"), remedy));
            }
            "replace" if value == "user" => self.replaces_user = true,
            "vm" if !value.is_empty() => self.vm = Some(value.to_owned()),
            "vm" => return Err(Error::new("vm= is empty", "Give the VM a name, or leave vm= out.")),
            "slot" => match value.parse() {
                Ok(slot) if slot < MAX_SLOTS => self.slot = Some(slot),
                _ => {
                    let remedy = format!("Give a number from 0 to {}.", MAX_SLOTS - 1);
                    return Err(Error::new(format!("slot={value} is no slot"), remedy));
                }
            },
            "net" => self.net = Some(value.parse()?),
            "forward" => {
                let forward = value.parse()?;
                check_ports(self.forwards.iter(), &forward)?;
                self.forwards.push(forward);
            }
            "keep" => self.keep = Some(switch(value).ok_or_else(wrong)?),
            "vlan" => self.vlan = Some(value.parse().map_err(|()| no_vlans(value))?),
            "vlan_filtering" => self.vlan_filtering = Some(switch(value).ok_or_else(wrong)?),
            "guard" => self.guard = Some(value.parse().map_err(|()| wrong())?),
            "isolated" => self.isolated = Some(switch(value).ok_or_else(wrong)?),
            "rate" => self.rate = Some(value.parse().map_err(|()| no_rate(value))?),
            "announce" => self.announce = switch(value).ok_or_else(wrong)?,
            "monitor" => self.has_monitor = switch(value).ok_or_else(wrong)?,
            "attach" => self.attach = Some(attach(value).ok_or_else(wrong)?),
            "follow" => self.follow = Some(switch(value).ok_or_else(wrong)?),
            "mtu" => match value.parse() {
                Ok(mtu) if MTU.contains(&mtu) => self.mtu = Some(mtu),
                _ => return Err(Error::new(format!("mtu={value} is no MTU"), "Give a number from 68 to 65535.")),
            },
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

fn queues(value: &str) -> Result<Queues> {
    match value.parse() {
        _ if value == "auto" => Ok(Queues::Auto),
        // MAX_TAP_QUEUES of the kernel's drivers/net/tun.c.
        Ok(number @ 1..=256) => Ok(Queues::Number(number)),
        _ => Err(Error::new(format!("queues={value} is no number of queues"), "Give a number from 1 to 256, or auto.")),
    }
}

/// The error of a text that names no VLANs.
pub(crate) fn no_vlans(value: &str) -> Error {
    let remedy = "Give a number from 1 to 4094, and behind a colon those that have tags: 10, 10:20-30, 10:20+30-39.";
    Error::new(format!("'{value}' is no VLAN"), remedy)
}

/// The error of a text that is no rate.
pub(crate) fn no_rate(value: &str) -> Error {
    let remedy = "Give a number and its unit, from 8kbit to 100gbit: 512kbit, 100mbit, 1gbit.";
    Error::new(format!("'{value}' is no rate"), remedy)
}

fn attach(value: &str) -> Option<Attach> {
    match value {
        "share" => Some(Attach::Share),
        "port" => Some(Attach::Port),
        _ => None,
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn form_of(key: &str) -> &'static str {
    KEYS.iter().find(|(known, ..)| *known == key).map_or("", |(_, form, _)| form)
}

/// What a bridge can have for an MTU: ETH_MIN_MTU to ETH_MAX_MTU of the kernel.
pub const MTU: RangeInclusive<u32> = 68..=65535;

/// Whether this can be the name of a QEMU device.
pub fn is_model(text: &str) -> bool {
    is_word(text, "-_.")
}

/// Whether QEMU takes this for an id: id_wellformed() of its util/id.c.
pub fn is_id(text: &str) -> bool {
    is_word(text, "-._") && text.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn is_word(text: &str, more: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Error::new(format!("'{text}' is not UTF-8"), "Names and values of --bridge are UTF-8 text.")
    })
}

/// A port of the host leads to one place.
fn check_ports<'a>(mut others: impl Iterator<Item = &'a Forward>, forward: &Forward) -> Result<()> {
    match others.find(|other| other.collides(forward)) {
        Some(other) => Err(Error::new(
            format!("forward={forward} and forward={other} are of one port of the host"),
            "Give each another port of the host.",
        )),
        None => Ok(()),
    }
}

/// What all the network cards of one command line have to agree on.
pub fn check_together(nics: &[Nic]) -> Result<()> {
    let unique = |what: &str, remedy: &str, values: Vec<String>| {
        let mut seen = HashSet::new();
        match values.into_iter().find(|value| !seen.insert(value.clone())) {
            Some(twice) => Err(Error::new(format!("{what}={twice} is asked for twice"), remedy)),
            None => Ok(()),
        }
    };
    fn all<T: Display>(nics: &[Nic], of: impl Fn(&Nic) -> Option<&T>) -> Vec<String> {
        nics.iter().filter_map(of).map(T::to_string).collect()
    }
    unique("ifname", "Each network card has a TAP of its own.", all(nics, |nic| nic.ifname.as_ref()))?;
    unique("id", "Each netdev has an id of its own.", all(nics, |nic| nic.id.as_ref()))?;
    unique("mac", "Each network card has an address of its own.", all(nics, |nic| nic.mac.as_ref()))?;
    for (at, nic) in nics.iter().enumerate() {
        for earlier in &nics[..at] {
            check_pair(earlier, nic).map_err(|error| error.of_request(&nic.bridge))?;
        }
    }
    Ok(())
}

/// The error of two bridges that want the same uplink.
pub fn taken_twice(uplink: &IfName, other: &IfName) -> Error {
    let what = format!("{uplink} is already to be the uplink of {other}");
    Error::new(what, "An interface is the uplink of one bridge only: give another, or uplink=none.")
}

fn check_pair(one: &Nic, other: &Nic) -> Result<()> {
    other.forwards.iter().try_for_each(|forward| check_ports(one.forwards.iter(), forward))?;
    fn differ<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one != other)
    }
    if differ(&one.vm, &other.vm) {
        return Err(Error::new("vm= names two VMs on one command line", "Give one of them, once."));
    }
    if differ(&one.slot, &other.slot) {
        return Err(Error::new("slot= names two slots on one command line", "Give one of them, once."));
    }
    if one.bridge == other.bridge {
        for (key, differs) in [
            ("uplink", differ(&one.uplink, &other.uplink)),
            ("keep", differ(&one.keep, &other.keep)),
            ("mtu", differ(&one.mtu, &other.mtu)),
            ("attach", differ(&one.attach, &other.attach)),
            ("follow", differ(&one.follow, &other.follow)),
            ("net", differ(&one.net, &other.net)),
            ("vlan_filtering", differ(&one.vlan_filtering, &other.vlan_filtering)),
        ] {
            if differs {
                return Err(Error::new(format!("{key}= is given twice for this bridge"), "Give it once."));
            }
        }
    } else if let Some(link) = one.uplink.as_ref().filter(|_| one.uplink == other.uplink).and_then(Uplink::interface) {
        return Err(taken_twice(link, &one.bridge));
    }
    Ok(())
}
