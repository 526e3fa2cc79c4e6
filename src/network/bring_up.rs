//! Makes the network that a command line asks for, and hands over what QEMU is to inherit.
//!
//! A bridge that was there before us is joined without a word to anybody. Where a bridge is missing or ours, its lock is
//! held from looking at it to having joined it: a maker holds it alone, those who join share it, and the reaper takes it
//! alone before it takes the bridge away.

use crate::launch::inherited::{Inherited, assign_macs, mac_notices, open_vhosts};
use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::locks::planned_locked;
use crate::network::made;
use crate::network::made::{Card, Indices, Made};
use crate::network::observe::Planned;
use crate::network::reaper;
use crate::network::rootless;
use crate::network::up::add_configured;
use crate::output;
use crate::output::errno::as_root;
use crate::sys::{process, tap};
use crate::vm::id_of;
use model::argv::Line;
use model::config::Config;
use model::error::{Error, Result};
use model::ifname::IfName;
use std::fs::File;

/// Brings the network of a line up. If anything fails, what this made is taken back first. `check` is asked whether
/// bridges that are missing are to be made: whether QEMU would run.
pub fn bring_up(line: &Line, config: &Config, check: impl FnOnce(&[&IfName]) -> Result<()>) -> Result<Inherited> {
    if !process::can_change_network() {
        if !process::is_root() {
            return rootless::bring_up(line, config);
        }
        let what =
            format!("--bridge {}: this needs the right to change the network, CAP_NET_ADMIN", line.nics[0].bridge);
        return Err(Error::new(what, as_root("sudo qemu-kvm --bridge ...")));
    }
    if let Some(nic) = line.nics.iter().find(|nic| nic.announce && !process::can_watch()) {
        let what = format!("--bridge {}: announce=on needs the right to watch interfaces, CAP_NET_RAW", nic.bridge);
        return Err(Error::new(what, "Run it as root, or leave announce= out."));
    }
    process::hold_standard_places()?;
    // Before any lock is held: the way to a disk may be a user's, who can keep whoever goes it.
    let vm = id_of(&line.vm);
    let mut netlink = Netlink::open().map_err(unreadable)?;
    rootless::check_making(&mut netlink, &line.nics)?;
    reaper::ensure_all()?;
    let (mut devices, mut vhosts) = (Vec::new(), Vec::new());
    for nic in &line.nics {
        let of = |error: Error| error.of_request(&nic.bridge);
        let device = |_| tap::open_device().map_err(of);
        devices.push((0..nic.number_of_queues()).map(device).collect::<Result<Vec<File>>>()?);
        vhosts.push(open_vhosts(nic).map_err(of)?);
    }
    let (planned, locks) = planned_locked(&mut netlink, &line.nics, config, check)?;
    let Planned { host, plan } = &planned;
    output::step(|| {
        let lacking = plan.bridges.iter().filter(|bridge| !bridge.is_empty()).count();
        format!("the host was looked at: bridges to make or set up: {lacking}, TAPs: {}", plan.taps.len())
    });
    let (assigned, is_kept) = assign_macs(&mut netlink, &vm, line, host)?;
    output::step(|| {
        let macs: Vec<String> = assigned.macs.iter().map(ToString::to_string).collect();
        format!("{} has slot {} and {}", vm.display(), assigned.slot, macs.join(", "))
    });
    let announced = line.nics.iter().zip(&assigned.macs).filter(|(nic, _)| nic.announce);
    let announced = announced.map(|(nic, mac)| (nic.bridge.clone(), *mac)).collect();
    let cards = line.nics.iter().zip(&assigned.macs);
    let cards: Vec<Card> = cards.map(|(nic, mac)| Card { vm: &vm, mac: *mac, forwards: &nic.forwards }).collect();
    let taps = |made: &mut Made, indices: &Indices| made.taps(plan, indices, &locks, devices, &cards);
    let (taps, mut made) = made::carry_out(netlink, &planned, &locks, announced, taps)?;
    made.notices.extend(made.ours.iter().filter_map(|(journal, _)| made::notices(journal, host)));
    for (journal, _) in made.ours.iter().filter(|(journal, _)| journal.keep) {
        made.notices.extend(add_configured(&mut made.netlink, &journal.bridge, journal.index, config));
    }
    made.notices.extend(mac_notices(line, &vm, &assigned, is_kept));
    Ok(Inherited { assigned, taps, vhosts, ports: made.reserved, notices: made.notices })
}
