//! `kvm-bridge ip`.

use super::json;
use crate::error::{Error, Result};
use crate::net::observe::unreadable;
use crate::net::rtnl::Netlink;
use crate::out;
use crate::ports::{self, Port, is_link_local};
use crate::watch::frame::Told;
use crate::watch::{Progress, Watch, client_of};
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The arguments of `kvm-bridge ip`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ip {
    /// The VM, as 'kvm-bridge status' calls it; or its TAP, its MAC address, or the process of its QEMU
    vm: String,
    /// Wait for so long until it is there and has an address; to watch its port needs root
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge ip alice
  ssh root@$(kvm-bridge ip alice --wait 60 | head -n 1)
One address on a line, those that are good on their own link only at the end. Exit status:
0 an address is known, 1 none is, 125 there is no such guest or it could not be looked for.";

/// No address is known.
const UNKNOWN: u8 = 1;

/// How an address is known.
type Known = BTreeMap<IpAddr, &'static str>;

impl Ip {
    pub(super) fn run(self) -> Result<(String, ExitCode)> {
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let end = self.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let guests = self.find_in_time(&mut netlink, end)?;
        let mut known: Vec<Known> = guests.iter().map(|(_, port)| neighbours(port)).collect();
        if let Some(end) = end
            && !known.iter().any(is_enough)
        {
            self.watch(&mut netlink, &guests, &mut known, end)?;
        }
        let status = if known.iter().all(Known::is_empty) { ExitCode::from(UNKNOWN) } else { ExitCode::SUCCESS };
        if self.json {
            let guests: Vec<_> =
                guests.iter().zip(&known).map(|((bridge, port), known)| to_json(bridge, port, known)).collect();
            return Ok((json(&json!({ "guests": guests })), status));
        }
        let mut addresses: Vec<IpAddr> = known.iter().flat_map(Known::keys).copied().collect();
        addresses.sort_by_key(|ip| (is_link_local(ip), *ip));
        if addresses.is_empty() {
            let more = match self.wait {
                None => format!("it may be learnt while its port is watched: kvm-bridge ip {} --wait 60", self.vm),
                Some(_) => format!("to see why: kvm-bridge doctor {}", guests[0].0),
            };
            out::say("kvm-bridge", format_args!("no address of {} is known\n  {more}", self.vm));
        }
        Ok((addresses.iter().map(|ip| format!("{ip}\n")).collect(), status))
    }

    /// A guest that is waited for may not have been started yet.
    fn find_in_time(&self, netlink: &mut Netlink, end: Option<Instant>) -> Result<Vec<(String, Port)>> {
        let mut line = ProgressLine::new();
        loop {
            match self.find(netlink) {
                Err(_) if end.is_some_and(|end| Instant::now() < end) => {
                    line.show(format_args!("waiting for {} to be started", self.vm));
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
    fn find(&self, netlink: &mut Netlink) -> Result<Vec<(String, Port)>> {
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
        let bridges = ports::look(netlink)?;
        let guests: Vec<(String, Port)> = bridges
            .iter()
            .flat_map(|bridge| bridge.ports.iter().map(|port| (bridge.detail.link.name.to_string(), port.clone())))
            .filter(|(_, port)| is_called(port))
            .collect();
        match guests.is_empty() {
            false => Ok(guests),
            true => {
                let what = format!("there is no guest {} on a bridge", self.vm);
                Err(Error::new(what, "'kvm-bridge status' lists those that run."))
            }
        }
    }

    fn watch(&self, netlink: &mut Netlink, guests: &[(String, Port)], known: &mut [Known], end: Instant) -> Result<()> {
        let start = Instant::now();
        let mut watch = match Watch::open(guests.iter().map(|(_, port)| port.detail.link.index)) {
            Ok(watch) => Some(watch),
            Err(error) if nix::unistd::geteuid().is_root() => return Err(error),
            Err(_) => {
                out::say("kvm-bridge", "a port can be watched by root only: what the host itself learns is waited for");
                None
            }
        };
        let mut line = ProgressLine::new();
        let mut progress = vec![Progress::default(); guests.len()];
        while !known.iter().any(is_enough) && Instant::now() < end {
            line.show(format_args!(
                "waiting for {}: {} s, {}",
                self.vm,
                start.elapsed().as_secs(),
                progress.iter().map(Progress::describe).next().unwrap_or_default()
            ));
            let tick = end.min(Instant::now() + Duration::from_millis(500));
            match watch.as_mut().map(|watch| watch.next(tick)).transpose()?.flatten() {
                Some((index, told)) => {
                    for (((_, port), progress), known) in guests.iter().zip(&mut progress).zip(known.iter_mut()) {
                        if port.detail.link.index == index
                            && let Some(mac) = port.mac.or_else(|| client_of(&told))
                        {
                            progress.hear(told, mac);
                            note(known, told, &progress.addresses);
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
    fn look_again(&self, netlink: &mut Netlink, guests: &[(String, Port)], known: &mut [Known]) -> Result<()> {
        let now = self.find(netlink).map_err(|_| {
            let what = format!("{} ended while it was waited for", self.vm);
            Error::new(what, "Look at what its QEMU said.")
        })?;
        for ((_, port), known) in guests.iter().zip(known) {
            if let Some((_, port)) = now.iter().find(|(_, now)| now.detail.link.index == port.detail.link.index) {
                known.extend(neighbours(port));
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

fn neighbours(port: &Port) -> Known {
    port.addresses.iter().map(|ip| (*ip, "neighbour")).collect()
}

/// An address that is good on its own link only is there before any other: it is not what is waited for.
fn is_enough(known: &Known) -> bool {
    known.keys().any(|ip| !is_link_local(ip))
}

fn to_json(bridge: &str, port: &Port, known: &Known) -> serde_json::Value {
    let addresses: Vec<_> = known.iter().map(|(ip, how)| json!({ "address": ip, "source": how })).collect();
    json!({
        "bridge": bridge,
        "port": port.detail.link.name.as_str(),
        "vm": port.vm,
        "mac": port.mac,
        "addresses": addresses,
    })
}

/// A line on a terminal that is written over again and again; on anything else nothing.
struct ProgressLine {
    is_shown: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { is_shown: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, text: std::fmt::Arguments) {
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }

    fn clear(&mut self) {
        self.show(format_args!(""));
    }
}
