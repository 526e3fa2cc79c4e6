//! `kvm-bridge status`.

mod uplinks;
mod watch;

use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::inventory::{Bridge, Port};
use crate::network::links::unreadable;
use crate::network::managed;
use crate::network::user_network;
use crate::output;
use crate::state::dhcp_leases;
use crate::sys::place;
use clap::Args;
use model::error::{Error, Result};
use model::host::Kind;
use model::ifname::IfName;
use model::manager::Manager;
use model::report::bridge::{to_json, tree};
use model::report::json;
use model::report::prometheus::metrics;
use model::text;
use model::text::shell::quote;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uplinks::Uplink;

/// The arguments of `kvm-bridge status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Status {
    /// Show only this bridge
    pub(super) bridge: Option<String>,
    /// Show it on a screen that follows what happens, with what passes each port in a second
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print metrics for the textfile collector of Prometheus' node exporter
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge status
  kvm-bridge status br0
  kvm-bridge status --prometheus
  kvm-bridge status --watch
  kvm-bridge status --json | jq -r '.bridges[].ports[] | select(.vm == \"alice\").pid'
The command needs no privileges; only root sees the processes of other users.
Exit status: 0, 1 a bridge created by kvm-bridge has a fault, 125 there is no such bridge.";

/// A bridge of ours is not as it should be.
const FAULTY: u8 = 1;

/// What was seen.
struct Seen {
    bridges: Vec<(Bridge, Option<Manager>)>,
    uplinks: Vec<Uplink>,
}

impl Status {
    pub(super) fn run(self) -> Result<(String, ExitCode)> {
        if self.watch {
            return self.watch().map(|()| (String::new(), ExitCode::SUCCESS));
        }
        let seen = self.look(&mut Netlink::open().map_err(unreadable)?)?;
        let is_well =
            seen.bridges.iter().all(|(bridge, _)| bridge.faults().is_empty() && bridge.last_failure.is_none());
        let status = if is_well { ExitCode::SUCCESS } else { ExitCode::from(FAULTY) };
        // Networks of the user's own are none of one bridge's business.
        let elsewhere =
            if self.bridge.is_none() { user_network::each(&self.words(), Duration::ZERO) } else { Vec::new() };
        let status =
            elsewhere.iter().map(|there| there.status).find(|status| *status != 0).map_or(status, ExitCode::from);
        if self.prometheus {
            return Ok((metrics(seen.bridges.iter().map(|(bridge, _)| bridge)), status));
        }
        if self.json {
            let bridges = seen.bridges.iter();
            let bridges = bridges.map(|(bridge, manager)| to_json(bridge, manager.as_ref(), dhcp_leases::now()));
            let bridges: Vec<_> = bridges.chain(elsewhere.iter().flat_map(|there| there.json("bridges"))).collect();
            let uplinks: Vec<_> = seen.uplinks.iter().map(Uplink::to_json).collect();
            return Ok((json(&json!({ "bridges": bridges, "uplinks": uplinks })), status));
        }
        let is_hidden = |port: &Port| port.is_tap() && port.detail.has_carrier && port.process.is_none();
        let mut ports = seen.bridges.iter().flat_map(|(bridge, _)| &bridge.ports);
        if !nix::unistd::geteuid().is_root() && ports.any(is_hidden) {
            output::say("kvm-bridge", "the processes of other users' guests are seen by root only");
        }
        Ok((seen.text(elsewhere.into_iter().map(|there| there.out)), status))
    }

    /// Looks at what is asked for.
    fn look(&self, netlink: &mut Netlink) -> Result<Seen> {
        let mut found = inventory::look(netlink)?;
        if let Some(name) = &self.bridge {
            found.retain(|bridge| bridge.detail.link.name.as_str() == name);
            let other = if found.is_empty() { IfName::new(name).ok() } else { None };
            if let Some(other) = other.map(|name| netlink.link(&name)).transpose().map_err(unreadable)?.flatten() {
                let own = text::one_line(other.name.as_str());
                let what = match other.kind {
                    Kind::Bridge => format!("{} is another name of {own}", text::one_line(name)),
                    _ => format!("{own} exists and is not a bridge"),
                };
                return Err(Error::new(what, "'kvm-bridge status' lists the bridges."));
            }
            if found.is_empty() {
                let what = format!("there is no bridge {}", text::one_line(name));
                return Err(Error::new(
                    what,
                    format!("'kvm-bridge status' lists all. To make it: kvm-bridge up {}", quote(name)),
                ));
            }
        }
        output::step(|| "looks at network managers and default routes".to_owned());
        let with_manager = |bridge: Bridge| {
            let is_ours = bridge.journal.is_some();
            let manager = if is_ours { None } else { managed::of(&bridge.detail.link).unwrap_or_default() };
            (bridge, manager)
        };
        let bridges = found.into_iter().map(with_manager).collect();
        // What leads to the network is none of one bridge's business.
        let uplinks = if self.bridge.is_none() { uplinks::look(netlink)? } else { Vec::new() };
        Ok(Seen { bridges, uplinks })
    }

    /// The same command for one of the user's own networks.
    fn words(&self) -> Vec<&str> {
        if self.json { vec!["status", "--json"] } else { vec!["status"] }
    }
}

impl Seen {
    /// For people; `elsewhere` is told of other networks.
    fn text(&self, elsewhere: impl IntoIterator<Item = String>) -> String {
        let style = output::style();
        let whose = if place::user_network().is_some() { "your own" } else { "the host's own" };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let tree = |(bridge, manager): &(Bridge, Option<Manager>)| tree(bridge, manager.as_ref(), whose, now, style);
        let mut texts: Vec<String> = self.bridges.iter().map(tree).collect();
        texts.extend(elsewhere);
        if texts.is_empty() {
            texts.push("There is no bridge.\n".to_owned());
        }
        let is_shared = |uplink: &Uplink| {
            let mut shared = self.bridges.iter().filter_map(|(bridge, _)| bridge.shared.as_ref());
            shared.any(|shared| shared.name() == uplink.name())
        };
        let others = self.uplinks.iter().filter(|uplink| !is_shared(uplink));
        texts.extend(others.filter_map(|uplink| Some(format!("{}\n", uplink.line(style)?))));
        texts.join("\n")
    }
}
