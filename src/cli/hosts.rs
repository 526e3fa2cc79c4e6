//! `kvm-bridge hosts`.

use crate::cli::guest::{DOMAIN, is_roots};
use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::links::unreadable;
use crate::sys::process;
use clap::Args;
use model::error::Result;
use model::report;
use serde_json::json;

/// The arguments of `kvm-bridge hosts`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Hosts {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge hosts
  { sed '/# kvm-bridge$/d' /etc/hosts; kvm-bridge hosts; } > hosts.new && cat hosts.new > /etc/hosts
Guests in a network of your own have names inside it: kvm-bridge enter NETWORK -- COMMAND.";

impl Hosts {
    pub(super) fn run(self) -> Result<String> {
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let is_root = process::is_root();
        let hosts = inventory::hosts(&inventory::look(&mut netlink)?, is_root, |port| !is_root || is_roots(port));
        if self.json {
            let hosts = hosts.iter().map(|host| json!({ "address": host.address, "name": host.name, "vm": host.vm }));
            return Ok(report::json(&json!({ "hosts": hosts.collect::<Vec<_>>() })));
        }
        let line = |host: &inventory::Host| {
            format!("{}\t{name}{DOMAIN} {name}\t# kvm-bridge\n", host.address, name = host.name)
        };
        Ok(hosts.iter().map(line).collect())
    }
}
