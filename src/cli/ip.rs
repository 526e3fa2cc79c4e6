//! `kvm-bridge ip`.

use crate::cli::guest::{A_MOMENT, Guest, Listener, Search, in_order};
use crate::netlink::Netlink;
use crate::output;
use crate::output::ProgressLine;
use clap::Args;
use model::error::Result;
use model::report::json;
use model::text::shell::quote;
use serde_json::json;
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

impl Guest {
    fn to_json(&self) -> serde_json::Value {
        let addresses: Vec<_> = self.known.iter().map(|(ip, how)| json!({ "address": ip, "source": how })).collect();
        json!({
            "bridge": self.bridge_name(),
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
        let search = Search { vm: &self.vm, command: ["ip", ""], is_to_be_sure: self.first };
        let (mut netlink, mut guests) = search.find_in_time(end)?;
        let end = end.or_else(|| search.is_strict().then(|| Instant::now() + A_MOMENT));
        if let Some(end) = end.filter(|_| !guests.iter().all(Guest::has_enough)) {
            wait(&search, &mut netlink, &mut guests, end)?;
        }
        let mut found = in_order(&guests);
        let status = if found.is_empty() { ExitCode::from(UNKNOWN) } else { ExitCode::SUCCESS };
        if self.json {
            let guests: Vec<_> = guests.iter().map(Guest::to_json).collect();
            return Ok((json(&json!({ "guests": guests })), status));
        }
        if self.first {
            found.truncate(1);
        }
        if found.is_empty() {
            let more = match self.wait {
                None => {
                    format!("it may be learnt while its port is watched: {} --wait 60", search.command_for(&self.vm))
                }
                Some(_) => format!("to see why: kvm-bridge doctor {}", quote(guests[0].bridge_name())),
            };
            let last = guests.iter().flat_map(|guest| &guest.port.last_known).next();
            let last = last.map(|ip| format!("; before it was started now it had {ip}")).unwrap_or_default();
            output::say("kvm-bridge", format_args!("no address of {} is known{last}\n  {more}", search.name()));
        }
        Ok((found.iter().map(|ip| format!("{ip}\n")).collect(), status))
    }
}

/// Waits until each has an IPv4 address.
fn wait(search: &Search, netlink: &mut Netlink, guests: &mut [Guest], end: Instant) -> Result<()> {
    let start = Instant::now();
    let mut listener = Listener::open(guests)?;
    let mut line = ProgressLine::default();
    while !guests.iter().all(Guest::has_enough) && Instant::now() < end {
        line.show(format_args!(
            "waiting for {}: {} s, {}",
            search.name(),
            start.elapsed().as_secs(),
            guests.first().map(|guest| guest.progress.describe()).unwrap_or_default()
        ));
        listener.listen(search, netlink, guests, end.min(Instant::now() + Duration::from_millis(500)))?;
    }
    Ok(())
}
