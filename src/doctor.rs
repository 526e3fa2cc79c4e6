//! Looks for what keeps a guest off the network, before anything is changed and after something went wrong.
//! It may not change anything but its own probe.
//!
//! A check is data: what was seen, how bad it is, why it matters, and the command that fixes it. Each group of checks is a
//! file of its own; what can be judged without looking is a function of what was seen, so that it can be tested.
//!
//! Nothing is changed by looking, but for one thing: the question for DHCP servers is asked from a TAP that is on the bridge
//! for as long as it is asked. The bridge has a carrier and an address of its own before that, and keeps both.

mod bridge;
mod dhcp;
mod fabric;
mod firewall;
pub mod frr;
mod guards;
mod guests;
mod host;
mod ikconfig;
mod incoming;
mod macs;
mod nat;
mod qemu;
mod rights;
mod uplink;

use crate::launch::environment::Caller;
use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::inventory::{Bridge, Role};
use crate::network::links::unreadable;
use crate::network::observe::{Planned, planned};
use crate::network::user_network;
use crate::state::config;
use crate::sys::place;
use crate::sys::tap_users::TapUsers;
use model::argv;
use model::argv::Line;
use model::argv::inspect::QemuLine;
use model::check::bridge::unplugged;
use model::check::qemu::ours;
use model::check::{Check, Verdict};
use model::config::Config;
use model::error::Result;
use model::ifname::IfName;
use model::mac::Mac;
use model::request::Nic;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// What is to be looked at.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// One bridge; else those of the arguments, else all.
    pub bridge: Option<IfName>,
    /// The arguments that qemu-kvm would be given.
    pub words: Option<Vec<OsString>>,
    /// The user whose rights are looked at, in place of the caller.
    pub user: Option<String>,
    /// How long the ports of guests without an address are watched. Without it as long as it takes to tell.
    pub watch: Option<Duration>,
    /// Whether DHCP servers are asked for.
    pub asks: bool,
    /// A guest that is to move here.
    pub incoming: Option<Incoming>,
}

/// A guest that runs at another host and is to move here.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The VM, as people call it.
    pub vm: String,
    /// The address that it has there.
    pub mac: Option<Mac>,
}

impl Query {
    /// Whether bridges are named, and not just all looked at.
    fn is_about_some(&self) -> bool {
        self.bridge.is_some() || self.words.is_some()
    }
}

/// What the checks look at.
struct Context<'a> {
    query: &'a Query,
    config: Config,
    bridges: Vec<Bridge>,
    /// The processes that have TAPs open.
    tap_users: TapUsers,
    /// All bridges that there are.
    there: Vec<IfName>,
    /// The bridges that are asked about and are not there, each with what a guest's start would do.
    missing: Vec<(IfName, Result<Planned>)>,
    /// The arguments, understood.
    line: Option<Line>,
    /// QEMU's own words of them.
    own: Option<QemuLine>,
    netlink: Netlink,
    /// Whether the host's own firewall drops what is forwarded, or may.
    is_firewalled: bool,
}

/// Makes all checks.
pub fn examine(query: &Query) -> Result<Vec<Check>> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let (mut bridges, tap_users) = inventory::look_with_users(&mut netlink)?;
    let caller = || Caller { name: "qemu-kvm".as_ref() };
    let line = query.words.as_ref().map(|words| argv::scan(words, caller())).transpose()?;
    let own = query.words.as_ref().map(|words| QemuLine::read(&argv::without_ours(words)));
    let asked: Vec<Nic> = line.iter().flat_map(|line| line.nics.iter().cloned()).collect();
    let named = query.bridge.as_ref().map(|bridge| Nic::parse(bridge.as_str().as_bytes())).transpose()?;
    let wanted: Vec<Nic> = match named {
        Some(named) => vec![asked.into_iter().find(|nic| nic.bridge == named.bridge).unwrap_or(named)],
        None => asked,
    };
    let there: Vec<IfName> = bridges.iter().map(|bridge| bridge.detail.link.name.clone()).collect();
    // Before anything is set up, what the first guest would find is looked at.
    let is_for_guests =
        |bridge: &Bridge| bridge.journal.is_some() || bridge.ports.iter().any(|p| p.role == Role::Uplink);
    let first = Nic::parse(b"br0")?;
    // Who has networks of their own needs neither a bridge of the host's nor a helper.
    let is_at_home = !query.is_about_some() && query.user.is_none() && user_network::are_there();
    let is_first =
        !query.is_about_some() && !is_at_home && !bridges.iter().any(is_for_guests) && !there.contains(&first.bridge);
    if !wanted.is_empty() {
        bridges.retain(|bridge| wanted.iter().any(|nic| nic.bridge == bridge.detail.link.name));
    }
    let config = config::load()?;
    let missing = wanted.iter().filter(|nic| !there.contains(&nic.bridge)).chain(is_first.then_some(&first));
    let plan = |nic: &Nic| (nic.bridge.clone(), planned(&mut netlink, std::slice::from_ref(nic), &config));
    let missing = missing.map(plan).collect();
    let mut context =
        Context { query, config, bridges, tap_users, there, missing, line, own, netlink, is_firewalled: false };
    let mut checks = host::checks(&context);
    // In a network of their own a user has all rights.
    if place::user_network().is_none() && !is_at_home {
        checks.extend(rights::checks(&context));
    }
    checks.extend(bridge::journals(&context));
    checks.extend(uplink::checks(&mut context));
    checks.extend(bridge::checks(&context));
    checks.extend(nat::checks(&mut context));
    checks.extend(fabric::checks(&mut context));
    checks.extend(macs::checks(&context));
    checks.extend(context.netlink.links().iter().flat_map(|links| unplugged(links)));
    let firewall = firewall::checks(&context);
    // Who drops what servers answer is known then, or who may.
    context.is_firewalled = firewall.iter().any(|check| check.verdict != Verdict::Ok);
    checks.extend(firewall);
    checks.extend(dhcp::checks(&mut context));
    checks.extend(guards::checks(&context));
    checks.extend(guests::checks(&mut context)?);
    checks.extend(incoming::checks(&context)?);
    if let Some(own) = &context.own {
        let model = context.config.model.as_deref();
        let ours = context.line.as_ref().map(|line| ours(line, model)).unwrap_or_default();
        checks.extend(qemu::checks(own, &ours, Path::new(".")));
    }
    Ok(checks)
}
