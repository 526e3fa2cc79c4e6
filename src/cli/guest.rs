//! A guest as people call it: found on the host's bridges and in the user's own networks, with its addresses.

use crate::capture::Watch;
use crate::monitor::cards::Card;
use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::inventory::{Bridge, Port};
use crate::network::links::unreadable;
use crate::network::user_network;
use crate::network::user_network::Place;
use crate::output;
use crate::output::ProgressLine;
use crate::state::dhcp_leases;
use crate::state::journal::Files;
use crate::sys::{place, process};
use model::error::{Error, Result};
use model::ifname::IfName;
use model::packet::frame::Told;
use model::packet::is_link_local;
use model::packet::lease::DhcpLease;
use model::packet::progress::{Heard, Progress};
use model::text;
use model::text::shell::quote;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So long is a port watched for an address that the guest itself has where nothing was heard on it yet.
pub(super) const A_MOMENT: Duration = Duration::from_secs(2);
/// How often a guest that is silent is asked for its address.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often a guest that is not there yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Names of guests may end so, as `Host *.vm` of ssh_config(5) has them.
pub(super) const DOMAIN: &str = ".vm";

/// A port of a guest.
pub(super) struct Guest {
    /// The bridge that it is on.
    pub(super) bridge: Bridge,
    /// The port itself.
    pub(super) port: Port,
    /// What it is asked.
    questions: Vec<Vec<u8>>,
    /// Its addresses, each with how it is known.
    pub(super) known: BTreeMap<IpAddr, &'static str>,
    /// How far it has got while its port was watched.
    pub(super) progress: Progress,
}

impl Guest {
    pub(super) fn index(&self) -> u32 {
        self.port.detail.link.index
    }

    /// The name of its bridge.
    pub(super) fn bridge_name(&self) -> &str {
        self.bridge.detail.link.name.as_str()
    }

    /// Whether this is its card: one that has sent nothing is known by its TAP.
    pub(super) fn has(&self, card: &Card) -> bool {
        self.port.mac == Some(card.mac) || self.port.detail.link.mac == Some(card.mac.of_tap())
    }

    /// What is waited for: an IPv4 address that is good beyond its own link. IPv6 addresses come before it, and some at once.
    pub(super) fn has_enough(&self) -> bool {
        self.known.keys().any(|ip| ip.is_ipv4() && !is_link_local(ip))
    }

    /// Takes in what was heard, if it is of this guest.
    fn hear(&mut self, heard: &Heard) {
        // Of itself a guest speaks on its own port; what comes to it anybody can have sent.
        let is_its = heard.is_sent || matches!(heard.told, Told::Dhcp(_));
        let Some(mac) = self.port.mac.or_else(|| heard.client()) else { return };
        if self.index() != heard.index || !is_its {
            return;
        }
        self.progress.hear(heard.told, mac);
        self.keep();
        let how = match heard.told {
            Told::Dhcp(_) => "dhcp",
            Told::Address { ip: IpAddr::V4(_), .. } => "arp",
            Told::Address { ip: IpAddr::V6(_), .. } => "nd",
        };
        for ip in &self.progress.addresses {
            self.known.entry(*ip).or_insert(how);
        }
    }

    /// Writes down which lease it was seen to get: the bridge may have nobody else who listens.
    fn keep(&self) {
        // Who answers without having been asked is no server.
        let ack = self.progress.ack.filter(|_| self.progress.request);
        let lease = ack.and_then(|message| DhcpLease::of(self.index(), &message, dhcp_leases::now()));
        let files = IfName::new(self.bridge_name()).and_then(|bridge| Files::of(&bridge));
        if let (Some(lease), Ok(files)) = (lease, files) {
            dhcp_leases::keep(&files, &[lease], |_| true);
        }
    }
}

/// What has been found out of addresses, for people and programs: those that are good beyond their own link first. What has answered
/// the host comes before what was only heard: anybody on the bridge can say it.
pub(super) fn in_order(guests: &[Guest]) -> Vec<IpAddr> {
    let mut found: Vec<(&IpAddr, &&str)> = guests.iter().flat_map(|guest| &guest.known).collect();
    found.sort_by_key(|(ip, how)| (is_link_local(ip), **how != "neighbour", *ip));
    found.into_iter().map(|(ip, _)| *ip).collect()
}

/// Who is looked for.
pub(super) struct Search<'a> {
    /// What it is called: a VM, its TAP, its MAC address, or the process ID of its QEMU.
    pub(super) vm: &'a str,
    /// The command that looks for it, and what follows the name on its line.
    pub(super) command: [&'a str; 2],
    /// Whether a program goes there, and any guest can say that an address is at another's MAC: for root a neighbour that the host
    /// has learnt is not enough then. Who may not watch a port has nothing better.
    pub(super) is_to_be_sure: bool,
}

impl Search<'_> {
    /// What it was called, for people.
    pub(super) fn name(&self) -> String {
        text::one_line(self.vm)
    }

    /// The command for a guest that is called so.
    pub(super) fn command_for(&self, name: &str) -> String {
        let [command, rest] = self.command;
        format!("kvm-bridge {command} {}{rest}", quote(name))
    }

    /// Whether only what the guest itself was heard to have counts.
    pub(super) fn is_strict(&self) -> bool {
        self.is_to_be_sure && process::is_root()
    }

    /// Finds it on the host, else in one of the user's own networks, into which this process goes then. Until `end` it may be started
    /// yet.
    pub(super) fn find_in_time(&self, end: Option<Instant>) -> Result<(Netlink, Vec<Guest>)> {
        let mut line = ProgressLine::default();
        let find = || {
            let mut netlink = Netlink::open().map_err(unreadable)?;
            self.find(&mut netlink).map(|guests| (netlink, guests))
        };
        loop {
            let error = match find() {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let is_outside = !process::is_root() && place::user_network().is_none();
            let networks = if is_outside { Place::all() } else { Vec::new() };
            let its: Vec<Place> = networks.into_iter().filter(|place| place.is_so_there(|| find().is_ok())).collect();
            match its.as_slice() {
                [] if end.is_none_or(|end| Instant::now() >= end) => return Err(error),
                [] => {
                    line.show(format_args!("waiting for {} to be started", self.name()));
                    std::thread::sleep(LOOK_AGAIN);
                }
                [there] => {
                    user_network::enter(there.bridge())?;
                }
                [first, ..] => {
                    let names: Vec<&str> = its.iter().map(|place| place.bridge().as_str()).collect();
                    let what = format!("{} is on several networks of yours: {}", self.name(), names.join(", "));
                    let command = self.command_for(self.vm);
                    let remedy = format!("Say which: kvm-bridge enter {} -- {command}", quote(first.bridge().as_str()));
                    return Err(Error::new(what, remedy));
                }
            }
        }
    }

    /// The guest's ports, each with its bridge: one that runs several times has several.
    fn find(&self, netlink: &mut Netlink) -> Result<Vec<Guest>> {
        let bridges = inventory::look(netlink)?;
        let short = self.vm.strip_suffix(DOMAIN).filter(|short| !short.is_empty());
        let called = |name| self.called(&bridges, name);
        let mut guests = called(self.vm);
        if let Some(short) = short.filter(|_| guests.is_empty()) {
            guests = called(short);
        }
        let guests = if process::is_root() { self.those_of_root(guests)? } else { guests };
        // Anybody may call a program of theirs a VM of somebody else's.
        let mut owners = guests.iter().filter_map(|guest| Some(guest.port.process.as_ref()?.uid));
        let first = owners.next();
        if owners.any(|owner| Some(owner) != first) {
            let taps: Vec<String> = guests.iter().map(|guest| guest.port.detail.link.name.to_string()).collect();
            let what = format!("{} can be guests of several users, on {}", self.name(), taps.join(", "));
            return Err(Error::new(
                what,
                format!("Say which: {}. 'kvm-bridge status' tells whose they are.", self.command_for(&taps[0])),
            ));
        }
        if guests.is_empty() {
            let what = format!("there is no guest {} on a bridge", self.name());
            return Err(Error::new(what, "'kvm-bridge status' lists those that run."));
        }
        Ok(guests)
    }

    /// The ports of all guests that are called so.
    fn called(&self, bridges: &[Bridge], vm: &str) -> Vec<Guest> {
        let called = match vm.split_once(':') {
            Some(("name" | "uuid" | "disk" | "kernel", name)) => name,
            _ => vm,
        };
        let is_called = |port: &Port| {
            let is_its = |own: &String| own == called || own == vm || own.ends_with(&format!("/{called}"));
            let is_mac = port.mac.is_some_and(|mac| vm.parse() == Ok(mac));
            port.is_tap() && (port.vm.as_ref().is_some_and(is_its) || is_mac || self.is_tap_or_process(port))
        };
        let guest = |bridge: &Bridge, port: &Port| Guest {
            questions: bridge.questions(port),
            known: self.known_of(port),
            progress: Progress::default(),
            port: port.clone(),
            bridge: bridge.clone(),
        };
        let ports = bridges.iter().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)));
        ports.filter(|(_, port)| is_called(port)).map(|(bridge, port)| guest(bridge, port)).collect()
    }

    /// What is known of it without watching.
    fn known_of(&self, port: &Port) -> BTreeMap<IpAddr, &'static str> {
        let leases = port.leases.iter().map(|lease| (lease.address.into(), "dhcp"));
        let neighbours = port.addresses.iter().filter(|_| !self.is_strict()).map(|ip| (*ip, "neighbour"));
        leases.chain(neighbours).collect()
    }

    /// Whether a port is called by its own name or by its process.
    fn is_tap_or_process(&self, port: &Port) -> bool {
        let is_process = port.process.as_ref().is_some_and(|process| process.pid.to_string() == self.vm);
        is_process || port.detail.link.name.as_str() == self.vm
    }

    /// Of guests that are found by a name or an address, those that root's own commands or processes call so: anybody may call a
    /// program of theirs a VM of root's, which may not even run.
    fn those_of_root(&self, guests: Vec<Guest>) -> Result<Vec<Guest>> {
        let is_meant = |guest: &Guest| is_roots(&guest.port) || self.is_tap_or_process(&guest.port);
        let (ours, others): (Vec<Guest>, Vec<Guest>) = guests.into_iter().partition(is_meant);
        let Some(other) = others.first().filter(|_| ours.is_empty()) else { return Ok(ours) };
        let (tap, whose) = (&other.port.detail.link.name, other.port.user.as_deref().unwrap_or("another user"));
        let what = format!("{} is what {} calls a guest, on {tap}", self.name(), text::one_line(whose));
        Err(Error::new(what, format!("If that is meant: {}", self.command_for(tap.as_str()))))
    }

    /// What the host has learnt meanwhile. A guest that has ended will have no address any more.
    fn look_again(&self, netlink: &mut Netlink, guests: &mut [Guest]) -> Result<()> {
        let now = self.find(netlink).map_err(|_| {
            let what = format!("{} ended while it was waited for", self.name());
            Error::new(what, "Look at what its QEMU said.")
        })?;
        for now in now {
            let of_it = guests.iter_mut().filter(|guest| guest.index() == now.index());
            of_it.for_each(|guest| guest.known.extend(&now.known));
        }
        Ok(())
    }
}

/// Whether a guest is called so by root's own commands or processes.
pub(super) fn is_roots(port: &Port) -> bool {
    // A TAP that somebody owns is theirs, whatever its owner says now (TUNSETOWNER) and whoever has it open.
    let has_owner = port.detail.owner.is_some();
    port.process.as_ref().is_some_and(|process| process.uid == 0 && !has_owner) || port.detail.link.vm().is_some()
}

/// Listens to guests for their addresses, and asks those that are silent.
pub(super) struct Listener {
    /// `None` for who may not watch a port: what the host itself learns is waited for.
    watch: Option<Watch>,
    asked: Option<Instant>,
}

impl Listener {
    /// Listens from now on.
    pub(super) fn open(guests: &[Guest]) -> Result<Self> {
        let watch = match Watch::open(guests.iter().map(Guest::index)) {
            Err(_) if !process::is_root() => {
                let what = "a port can be watched by root only: what the host itself learns is waited for";
                output::say("kvm-bridge", what);
                None
            }
            watch => Some(watch?),
        };
        Ok(Self { watch, asked: None })
    }

    /// Takes in what is heard next, or what the host has learnt by `tick`.
    pub(super) fn listen(
        &mut self,
        search: &Search,
        netlink: &mut Netlink,
        guests: &mut [Guest],
        tick: Instant,
    ) -> Result<()> {
        // One that has its address for long may say nothing of itself.
        if let Some(watch) = self.watch.as_ref().filter(|_| self.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN))
        {
            self.asked = Some(Instant::now());
            let silent = guests.iter().filter(|guest| !guest.has_enough());
            silent.for_each(|guest| watch.send(guest.index(), &guest.questions));
        }
        match self.watch.as_mut().map(|watch| watch.next(tick)).transpose()?.flatten() {
            Some(heard) => guests.iter_mut().for_each(|guest| guest.hear(&heard)),
            None => {
                std::thread::sleep(tick.saturating_duration_since(Instant::now()));
                search.look_again(netlink, guests)?;
            }
        }
        Ok(())
    }
}
