//! `kvm-bridge fabric`.

use crate::doctor::frr;
use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::uplink::vxlan;
use crate::output;
use clap::{Args, Subcommand};
use model::error::{Error, Result};
use model::fabric::{Fabric, network_of};
use model::report::json;
use serde_json::json;
use std::net::IpAddr;

/// The arguments of `kvm-bridge fabric`.
#[derive(Debug, Args)]
pub(super) struct Fabrics {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what FRR's configuration needs for bridges with uplink=vxlan:VNI; change nothing
    Init(Init),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Init {
    /// The number of the hosts' autonomous system, such as 65000
    #[arg(long = "as", value_name = "NUMBER", value_parser = number, allow_negative_numbers = true)]
    number: u32,
    /// All hosts, by name or address, separated by commas; this one may be among them
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', required_unless_present = "reflectors")]
    peers: Vec<String>,
    /// Hosts that tell all others who is where, so that not each speaks with each
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', conflicts_with = "peers")]
    reflectors: Vec<String>,
    /// This host's address (default: the one by which it reaches the first of them)
    #[arg(long, value_name = "ADDRESS")]
    local: Option<IpAddr>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge fabric init --as 65000 --peers h1,h2,h3
  kvm-bridge fabric init --as 65000 --reflectors h1,h2 >> /etc/frr/frr.conf; systemctl reload frr
What is missing of FRR is said on stderr. See docs/many-hosts.md.";

fn number(text: &str) -> Result<u32> {
    crate::cli::usage::number(text, 1, 4_294_967_294)
}

impl Fabrics {
    pub(super) fn run(self) -> Result<String> {
        let Command::Init(init) = self.command;
        init.run()
    }
}

impl Init {
    fn run(self) -> Result<String> {
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let own = netlink.all_addresses().map_err(unreadable)?;
        // On Debian, /etc/hosts has the host's own name as 127.0.1.1.
        let is_own = |ip: IpAddr| ip.is_loopback() || own.iter().any(|(_, address)| address.ip == ip);
        let named = if self.reflectors.is_empty() { &self.peers } else { &self.reflectors };
        let all = named.iter().map(|host| vxlan::address_of(host, self.local)).collect::<Result<Vec<IpAddr>>>()?;
        let peers: Vec<IpAddr> = all.iter().copied().filter(|peer| !is_own(*peer)).collect();
        let is_listed = peers.len() < all.len();
        let listed = all.iter().copied().find(|peer| is_own(*peer) && !peer.is_loopback());
        let local = self.local.or(listed).or_else(|| vxlan::source_towards(*peers.first()?).ok());
        let address = own.iter().map(|(_, address)| address).find(|address| Some(address.ip) == local);
        let Some(address) = address else {
            let what = match local {
                Some(local) => format!("the host has no address {local}"),
                None => "the host has no address by which it reaches any of these".to_owned(),
            };
            return Err(Error::new(what, "Give --local an address of the host; 'ip address' lists them."));
        };
        let is_reflector = is_listed && !self.reflectors.is_empty();
        let clients = is_reflector.then(|| (network_of(address.ip, address.prefix), address.prefix));
        let lacks = frr::lacks();
        let lines = Fabric { number: self.number, local: address.ip, peers: peers.clone(), clients }.lines();
        if self.json {
            let lacks: Vec<_> = lacks.iter().map(Error::to_string).collect();
            let peers: Vec<_> = peers.iter().map(IpAddr::to_string).collect();
            return Ok(json(&json!({ "frr": lines, "local": address.ip, "peers": peers, "missing": lacks })));
        }
        for lack in lacks {
            output::say("kvm-bridge", lack);
        }
        Ok(lines)
    }
}
