//! `kvm-bridge ip`.

use crate::capture::{Progress, Watch};
use crate::cli::json;
use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::inventory::{Bridge, Port, is_link_local};
use crate::network::links::unreadable;
use crate::output;
use crate::output::ProgressLine;
use crate::state::dhcp_leases;
use crate::state::dhcp_leases::DhcpLease;
use crate::state::journal::Files;
use clap::Args;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::packet::frame::Told;
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
}

impl Guest {
    fn index(&self) -> u32 {
        self.port.detail.link.index
    }

    /// Writes down which lease it was seen to get: the bridge may have nobody else who listens.
    fn keep(&self, progress: &Progress) {
        // Who answers without having been asked is no server.
        let ack = progress.ack.filter(|_| progress.request);
        let lease = ack.and_then(|message| DhcpLease::of(self.index(), &message, dhcp_leases::now()));
        let files = IfName::new(&self.bridge).and_then(|bridge| Files::of(&bridge));
        if let (Some(lease), Ok(files)) = (lease, files) {
            dhcp_leases::keep(&files, &[lease], |_| true);
        }
    }
}

/// How an address is known.
type Known = BTreeMap<IpAddr, &'static str>;

impl Ip {
    pub(super) fn run(self) -> Result<(String, ExitCode)> {
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let end = self.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let guests = self.find_in_time(&mut netlink, end)?;
        let mut known: Vec<Known> = guests.iter().map(|guest| self.known_of(&guest.port)).collect();
        if let Some(end) = end.or_else(|| self.is_strict().then(|| Instant::now() + A_MOMENT))
            && !known.iter().all(is_enough)
        {
            self.watch(&mut netlink, &guests, &mut known, end)?;
        }
        let status = if known.iter().all(Known::is_empty) { ExitCode::from(UNKNOWN) } else { ExitCode::SUCCESS };
        if self.json {
            let guests: Vec<_> = guests.iter().zip(&known).map(|(guest, known)| to_json(guest, known)).collect();
            return Ok((json(&json!({ "guests": guests })), status));
        }
        // What has answered the host comes before what was only heard: anybody on the bridge can say it.
        let mut found: Vec<(IpAddr, &str)> = known.iter().flatten().map(|(ip, how)| (*ip, *how)).collect();
        found.sort_by_key(|(ip, how)| (is_link_local(ip), *how != "neighbour", *ip));
        let mut addresses: Vec<IpAddr> = found.into_iter().map(|(ip, _)| ip).collect();
        if self.first {
            addresses.truncate(1);
        }
        if addresses.is_empty() {
            let more = match self.wait {
                None => {
                    format!("it may be learnt while its port is watched: kvm-bridge ip {} --wait 60", quote(&self.vm))
                }
                Some(_) => format!("to see why: kvm-bridge doctor {}", quote(&guests[0].bridge)),
            };
            let last: Vec<&IpAddr> = guests.iter().flat_map(|guest| &guest.port.last_known).collect();
            let last = match last.first() {
                Some(ip) => format!("; before it was started now it had {ip}"),
                None => String::new(),
            };
            output::say("kvm-bridge", format_args!("no address of {} is known{last}\n  {more}", self.name()));
        }
        Ok((addresses.iter().map(|ip| format!("{ip}\n")).collect(), status))
    }

    /// Whether a neighbour that the host has learnt is not enough: with one address a program goes there, and any guest can say
    /// that an address is at another's MAC. Who may not watch a port has nothing better.
    fn is_strict(&self) -> bool {
        self.first && nix::unistd::geteuid().is_root()
    }

    /// What is known of it without watching.
    fn known_of(&self, port: &Port) -> Known {
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
        let mut line = ProgressLine::new();
        loop {
            match self.find(netlink) {
                Err(_) if end.is_some_and(|end| Instant::now() < end) => {
                    line.show(format_args!("waiting for {} to be started", self.name()));
                    std::thread::sleep(Duration::from_millis(100));
                }
                found => {
                    line.clear();
                    return found;
                }
            }
        }
    }

    /// The guest's ports, each with its bridge: one that runs several times has several.
    fn find(&self, netlink: &mut Netlink) -> Result<Vec<Guest>> {
        let called = self.vm.split_once(':').map_or(self.vm.as_str(), |(kind, name)| match kind {
            "name" | "uuid" | "disk" | "kernel" => name,
            _ => self.vm.as_str(),
        });
        let is_called = |port: &Port| {
            let is_vm = port
                .vm
                .as_ref()
                .is_some_and(|vm| vm == called || vm == &self.vm || vm.ends_with(&format!("/{called}")));
            let is_mac = port.mac.is_some_and(|mac| self.vm.parse() == Ok(mac));
            let is_process = port.process.as_ref().is_some_and(|process| process.pid.to_string() == self.vm);
            port.is_tap() && (is_vm || is_mac || is_process || port.detail.link.name.as_str() == self.vm)
        };
        let bridges = inventory::look(netlink)?;
        let guest = |bridge: &Bridge, port: &Port| Guest {
            bridge: bridge.detail.link.name.to_string(),
            questions: bridge.questions(port),
            port: port.clone(),
        };
        let ports = bridges.iter().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port)));
        let guests: Vec<Guest> =
            ports.filter(|(_, port)| is_called(port)).map(|(bridge, port)| guest(bridge, port)).collect();
        let guests = if nix::unistd::geteuid().is_root() { self.those_of_root(guests)? } else { guests };
        // Anybody may call a program of theirs a VM of somebody else's.
        let mut owners: Vec<u32> =
            guests.iter().filter_map(|guest| guest.port.process.as_ref()).map(|process| process.uid).collect();
        owners.sort_unstable();
        owners.dedup();
        if owners.len() > 1 {
            let taps: Vec<String> = guests.iter().map(|guest| guest.port.detail.link.name.to_string()).collect();
            let what = format!("{} can be guests of several users, on {}", self.name(), taps.join(", "));
            return Err(Error::new(
                what,
                format!("Say which: kvm-bridge ip {}. 'kvm-bridge status' tells whose they are.", taps[0]),
            ));
        }
        match guests.is_empty() {
            false => Ok(guests),
            true => {
                let what = format!("there is no guest {} on a bridge", self.name());
                Err(Error::new(what, "'kvm-bridge status' lists those that run."))
            }
        }
    }

    /// Of guests that are found by a name or an address, those that root's own commands or processes call so: anybody may call a
    /// program of theirs a VM of root's, which may not even run.
    fn those_of_root(&self, guests: Vec<Guest>) -> Result<Vec<Guest>> {
        let is_meant = |guest: &Guest| {
            let (link, process) = (&guest.port.detail.link, guest.port.process.as_ref());
            link.name.as_str() == self.vm
                || process.is_some_and(|process| process.pid.to_string() == self.vm || process.uid == 0)
                || link.vm().is_some()
        };
        let (ours, others): (Vec<Guest>, Vec<Guest>) = guests.into_iter().partition(is_meant);
        let Some(other) = others.first().filter(|_| ours.is_empty()) else { return Ok(ours) };
        let (tap, whose) = (&other.port.detail.link.name, other.port.user.as_deref().unwrap_or("another user"));
        let what = format!("{} is what {} calls a guest, on {tap}", self.name(), text::one_line(whose));
        Err(Error::new(what, format!("If that is meant: kvm-bridge ip {}", quote(tap.as_str()))))
    }

    fn watch(&self, netlink: &mut Netlink, guests: &[Guest], known: &mut [Known], end: Instant) -> Result<()> {
        let start = Instant::now();
        let mut watch = match Watch::open(guests.iter().map(Guest::index)) {
            Ok(watch) => Some(watch),
            Err(error) if nix::unistd::geteuid().is_root() => return Err(error),
            Err(_) => {
                output::say(
                    "kvm-bridge",
                    "a port can be watched by root only: what the host itself learns is waited for",
                );
                None
            }
        };
        let mut line = ProgressLine::new();
        let mut progress = vec![Progress::default(); guests.len()];
        let mut asked = None;
        while !known.iter().all(is_enough) && Instant::now() < end {
            line.show(format_args!(
                "waiting for {}: {} s, {}",
                self.name(),
                start.elapsed().as_secs(),
                progress.iter().map(Progress::describe).next().unwrap_or_default()
            ));
            // One that has its address for long may say nothing of itself.
            if asked.is_none_or(|asked: Instant| asked.elapsed() >= ASK_AGAIN) {
                asked = Some(Instant::now());
                let silent = guests.iter().zip(&*known).filter(|(_, known)| !is_enough(known));
                silent
                    .for_each(|(guest, _)| watch.iter().for_each(|watch| watch.send(guest.index(), &guest.questions)));
            }
            let tick = end.min(Instant::now() + Duration::from_millis(500));
            match watch.as_mut().map(|watch| watch.next(tick)).transpose()?.flatten() {
                Some(heard) => {
                    for ((guest, progress), known) in guests.iter().zip(&mut progress).zip(known.iter_mut()) {
                        // Of itself a guest speaks on its own port; what comes to it anybody can have sent.
                        let is_its = heard.is_sent || matches!(heard.told, Told::Dhcp(_));
                        if guest.index() == heard.index
                            && is_its
                            && let Some(mac) = guest.port.mac.or_else(|| heard.client())
                        {
                            progress.hear(heard.told, mac);
                            guest.keep(progress);
                            note(known, heard.told, &progress.addresses);
                        }
                    }
                }
                None => {
                    std::thread::sleep(tick.saturating_duration_since(Instant::now()));
                    self.look_again(netlink, guests, known)?;
                }
            }
        }
        line.clear();
        Ok(())
    }

    /// What the host has learnt meanwhile. A guest that has ended will have no address any more.
    fn look_again(&self, netlink: &mut Netlink, guests: &[Guest], known: &mut [Known]) -> Result<()> {
        let now = self.find(netlink).map_err(|_| {
            let what = format!("{} ended while it was waited for", self.name());
            Error::new(what, "Look at what its QEMU said.")
        })?;
        for (guest, known) in guests.iter().zip(known) {
            if let Some(now) = now.iter().find(|now| now.index() == guest.index()) {
                known.extend(self.known_of(&now.port));
            }
        }
        Ok(())
    }
}

fn note(known: &mut Known, told: Told, addresses: &std::collections::BTreeSet<IpAddr>) {
    let how = match told {
        Told::Dhcp(_) => "dhcp",
        Told::Address { ip: IpAddr::V4(_), .. } => "arp",
        Told::Address { ip: IpAddr::V6(_), .. } => "nd",
    };
    for ip in addresses {
        known.entry(*ip).or_insert(how);
    }
}

/// What is waited for: an IPv4 address that is good beyond its own link. IPv6 addresses come before it, and some at once.
fn is_enough(known: &Known) -> bool {
    known.keys().any(|ip| ip.is_ipv4() && !is_link_local(ip))
}

fn to_json(Guest { bridge, port, .. }: &Guest, known: &Known) -> serde_json::Value {
    let addresses: Vec<_> = known.iter().map(|(ip, how)| json!({ "address": ip, "source": how })).collect();
    json!({
        "bridge": bridge,
        "port": port.detail.link.name.as_str(),
        "vm": port.vm,
        "mac": port.mac,
        "addresses": addresses,
    })
}
