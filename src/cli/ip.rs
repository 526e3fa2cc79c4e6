//! `kvm-bridge ip`.

use crate::capture::Watch;
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
use crate::sys::process;
use clap::Args;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::packet::frame::Told;
use model::packet::is_link_local;
use model::packet::lease::DhcpLease;
use model::packet::progress::{Heard, Progress};
use model::report::json;
use model::text;
use model::text::shell::quote;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The arguments of `kvm-bridge ip`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ip {
    /// The VM's name in 'kvm-bridge status', its TAP device, its MAC address, or the process ID of its QEMU
    vm: String,
    /// Wait at most so long until the VM exists and each of its cards has an IPv4 address; needs root to watch its port
    #[arg(long, value_name = "SECONDS", value_parser = crate::cli::seconds, allow_negative_numbers = true)]
    wait: Option<u32>,
    /// Print only the first address that is not link-local; for root one that the guest itself was heard to have
    #[arg(long, conflicts_with = "json")]
    first: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge ip alice
  ip=$(kvm-bridge ip alice --wait 60 --first) && ssh root@$ip
Each address is on a line, link-local addresses last. Exit status: 0 an address is known,
1 no address is known, 125 there is no such guest or the command failed.";

/// No address is known.
const UNKNOWN: u8 = 1;

/// So long is a port watched for `--first` where nothing was heard on it yet.
const A_MOMENT: Duration = Duration::from_secs(2);

/// How often a guest that is silent is asked for its address.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A port of the guest.
struct Guest {
    bridge: String,
    port: Port,
    /// What it is asked.
    questions: Vec<Vec<u8>>,
    /// Its addresses, each with how it is known.
    known: BTreeMap<IpAddr, &'static str>,
    /// How far it has got while its port was watched.
    progress: Progress,
}

impl Guest {
    fn index(&self) -> u32 {
        self.port.detail.link.index
    }

    /// What is waited for: an IPv4 address that is good beyond its own link. IPv6 addresses come before it, and some at once.
    fn has_enough(&self) -> bool {
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
        let files = IfName::new(&self.bridge).and_then(|bridge| Files::of(&bridge));
        if let (Some(lease), Ok(files)) = (lease, files) {
            dhcp_leases::keep(&files, &[lease], |_| true);
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let addresses: Vec<_> = self.known.iter().map(|(ip, how)| json!({ "address": ip, "source": how })).collect();
        json!({
            "bridge": self.bridge,
            "port": self.port.detail.link.name.as_str(),
            "vm": self.port.vm,
            "mac": self.port.mac,
            "addresses": addresses,
        })
    }
}

impl Ip {
    pub(super) fn run(self) -> Result<(String, ExitCode)> {
        let end = self.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        self.go_there(end)?;
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let mut guests = self.find_in_time(&mut netlink, end)?;
        if let Some(end) = end.or_else(|| self.is_strict().then(|| Instant::now() + A_MOMENT))
            && !guests.iter().all(Guest::has_enough)
        {
            self.watch(&mut netlink, &mut guests, end)?;
        }
        let is_unknown = guests.iter().all(|guest| guest.known.is_empty());
        let status = if is_unknown { ExitCode::from(UNKNOWN) } else { ExitCode::SUCCESS };
        if self.json {
            let guests: Vec<_> = guests.iter().map(Guest::to_json).collect();
            return Ok((json(&json!({ "guests": guests })), status));
        }
        // What has answered the host comes before what was only heard: anybody on the bridge can say it.
        let mut found: Vec<(&IpAddr, &&str)> = guests.iter().flat_map(|guest| &guest.known).collect();
        found.sort_by_key(|(ip, how)| (is_link_local(ip), **how != "neighbour", *ip));
        if self.first {
            found.truncate(1);
        }
        if is_unknown {
            let more = match self.wait {
                None => {
                    format!("it may be learnt while its port is watched: kvm-bridge ip {} --wait 60", quote(&self.vm))
                }
                Some(_) => format!("to see why: kvm-bridge doctor {}", quote(&guests[0].bridge)),
            };
            let last = guests.iter().flat_map(|guest| &guest.port.last_known).next();
            let last = last.map(|ip| format!("; before it was started now it had {ip}")).unwrap_or_default();
            output::say("kvm-bridge", format_args!("no address of {} is known{last}\n  {more}", self.name()));
        }
        Ok((found.iter().map(|(ip, _)| format!("{ip}\n")).collect(), status))
    }

    /// Goes into the one of the user's own networks that has the guest, unless the host has it.
    fn go_there(&self, end: Option<Instant>) -> Result<()> {
        let is_here = || Netlink::open().is_ok_and(|mut netlink| self.find(&mut netlink).is_ok());
        let networks = || if process::is_root() { Vec::new() } else { Place::all() };
        while !networks().is_empty() && !is_here() {
            let its: Vec<Place> = networks().into_iter().filter(|place| place.is_so_there(is_here)).collect();
            match its.as_slice() {
                [] => {}
                [place] => return user_network::enter(place.bridge()).map(|_| ()),
                [first, ..] => {
                    let names: Vec<&str> = its.iter().map(|place| place.bridge().as_str()).collect();
                    let what = format!("{} is on several networks of yours: {}", self.name(), names.join(", "));
                    let first = quote(first.bridge().as_str());
                    let remedy = format!("Say which: kvm-bridge enter {first} -- kvm-bridge ip {}", quote(&self.vm));
                    return Err(Error::new(what, remedy));
                }
            }
            if end.is_none_or(|end| Instant::now() >= end) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Whether a neighbour that the host has learnt is not enough: with one address a program goes there, and any guest can say
    /// that an address is at another's MAC. Who may not watch a port has nothing better.
    fn is_strict(&self) -> bool {
        self.first && nix::unistd::geteuid().is_root()
    }

    /// What is known of it without watching.
    fn known_of(&self, port: &Port) -> BTreeMap<IpAddr, &'static str> {
        let leases = port.leases.iter().map(|lease| (lease.address.into(), "dhcp"));
        let neighbours = port.addresses.iter().filter(|_| !self.is_strict()).map(|ip| (*ip, "neighbour"));
        leases.chain(neighbours).collect()
    }

    /// What it was called, for people.
    fn name(&self) -> String {
        text::one_line(&self.vm)
    }

    /// A guest that is waited for may not have been started yet.
    fn find_in_time(&self, netlink: &mut Netlink, end: Option<Instant>) -> Result<Vec<Guest>> {
        let mut line = ProgressLine::default();
        loop {
            match self.find(netlink) {
                Err(_) if end.is_some_and(|end| Instant::now() < end) => {
                    line.show(format_args!("waiting for {} to be started", self.name()));
                    std::thread::sleep(Duration::from_millis(100));
                }
                found => return found,
            }
        }
    }

    /// The guest's ports, each with its bridge: one that runs several times has several.
    fn find(&self, netlink: &mut Netlink) -> Result<Vec<Guest>> {
        let called = match self.vm.split_once(':') {
            Some(("name" | "uuid" | "disk" | "kernel", name)) => name,
            _ => &self.vm,
        };
        let is_called = |port: &Port| {
            let is_its = |vm: &String| vm == called || *vm == self.vm || vm.ends_with(&format!("/{called}"));
            let is_mac = port.mac.is_some_and(|mac| self.vm.parse() == Ok(mac));
            port.is_tap() && (port.vm.as_ref().is_some_and(is_its) || is_mac || self.is_tap_or_process(port))
        };
        let bridges = inventory::look(netlink)?;
        let guest = |bridge: &Bridge, port: &Port| Guest {
            bridge: bridge.detail.link.name.to_string(),
            questions: bridge.questions(port),
            known: self.known_of(port),
            progress: Progress::default(),
            port: port.clone(),
        };
        let ports = bridges.iter().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)));
        let guests: Vec<Guest> =
            ports.filter(|(_, port)| is_called(port)).map(|(bridge, port)| guest(bridge, port)).collect();
        let guests = if nix::unistd::geteuid().is_root() { self.those_of_root(guests)? } else { guests };
        // Anybody may call a program of theirs a VM of somebody else's.
        let mut owners = guests.iter().filter_map(|guest| Some(guest.port.process.as_ref()?.uid));
        let first = owners.next();
        if owners.any(|owner| Some(owner) != first) {
            let taps: Vec<String> = guests.iter().map(|guest| guest.port.detail.link.name.to_string()).collect();
            let what = format!("{} can be guests of several users, on {}", self.name(), taps.join(", "));
            return Err(Error::new(
                what,
                format!("Say which: kvm-bridge ip {}. 'kvm-bridge status' tells whose they are.", taps[0]),
            ));
        }
        if guests.is_empty() {
            let what = format!("there is no guest {} on a bridge", self.name());
            return Err(Error::new(what, "'kvm-bridge status' lists those that run."));
        }
        Ok(guests)
    }

    /// Whether a port is called by its own name or by its process.
    fn is_tap_or_process(&self, port: &Port) -> bool {
        let is_process = port.process.as_ref().is_some_and(|process| process.pid.to_string() == self.vm);
        is_process || port.detail.link.name.as_str() == self.vm
    }

    /// Of guests that are found by a name or an address, those that root's own commands or processes call so: anybody may call a
    /// program of theirs a VM of root's, which may not even run.
    fn those_of_root(&self, guests: Vec<Guest>) -> Result<Vec<Guest>> {
        let is_meant = |guest: &Guest| {
            let is_roots = guest.port.process.as_ref().is_some_and(|process| process.uid == 0);
            is_roots || self.is_tap_or_process(&guest.port) || guest.port.detail.link.vm().is_some()
        };
        let (ours, others): (Vec<Guest>, Vec<Guest>) = guests.into_iter().partition(is_meant);
        let Some(other) = others.first().filter(|_| ours.is_empty()) else { return Ok(ours) };
        let (tap, whose) = (&other.port.detail.link.name, other.port.user.as_deref().unwrap_or("another user"));
        let what = format!("{} is what {} calls a guest, on {tap}", self.name(), text::one_line(whose));
        Err(Error::new(what, format!("If that is meant: kvm-bridge ip {}", quote(tap.as_str()))))
    }

    fn watch(&self, netlink: &mut Netlink, guests: &mut [Guest], end: Instant) -> Result<()> {
        let start = Instant::now();
        let mut watch = match Watch::open(guests.iter().map(Guest::index)) {
            Err(_) if !nix::unistd::geteuid().is_root() => {
                let what = "a port can be watched by root only: what the host itself learns is waited for";
                output::say("kvm-bridge", what);
                None
            }
            watch => Some(watch?),
        };
        let mut line = ProgressLine::default();
        let mut asked: Option<Instant> = None;
        while !guests.iter().all(Guest::has_enough) && Instant::now() < end {
            line.show(format_args!(
                "waiting for {}: {} s, {}",
                self.name(),
                start.elapsed().as_secs(),
                guests.first().map(|guest| guest.progress.describe()).unwrap_or_default()
            ));
            // One that has its address for long may say nothing of itself.
            if let Some(watch) = watch.as_ref().filter(|_| asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN)) {
                asked = Some(Instant::now());
                let silent = guests.iter().filter(|guest| !guest.has_enough());
                silent.for_each(|guest| watch.send(guest.index(), &guest.questions));
            }
            let tick = end.min(Instant::now() + Duration::from_millis(500));
            match watch.as_mut().map(|watch| watch.next(tick)).transpose()?.flatten() {
                Some(heard) => guests.iter_mut().for_each(|guest| guest.hear(&heard)),
                None => {
                    std::thread::sleep(tick.saturating_duration_since(Instant::now()));
                    self.look_again(netlink, guests)?;
                }
            }
        }
        Ok(())
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
