//! Says what a launch would do, in commands that a person could type, and does nothing.

use crate::launch::{Qemu, refusal};
use crate::monitor;
use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::observe::{Planned, planned, shared_by};
use crate::network::rootless::{Way, check_making, ways};
use crate::output;
use crate::shim::monitor_of;
use crate::sys::random;
use crate::sys::{process, tap};
use crate::vm::{Store, id_of};
use model::argv;
use model::argv::{Backend, Line, rewrite};
use model::config::Config;
use model::error::Result;
use model::host::Host;
use model::ifname::IfName;
use model::ifname::PREFIX;
use model::mac::Mac;
use model::plan::{BridgePlan, Plan};
use model::report::dry_run::Launch;
use model::request::{Nic, Vhost};
use model::share::Share;
use model::text;
use std::collections::BTreeSet;
use std::ffi::OsString;

/// The commands for a settled line, one a line, for a shell; QEMU's is the last. News are comments.
pub fn tell(line: &Line, qemu: &Qemu, config: &Config, notices: &[String]) -> Result<String> {
    launch(line, qemu, config, notices).map(|launch| launch.text())
}

/// Finds out what a launch of a settled line would do.
pub fn launch(line: &Line, qemu: &Qemu, config: &Config, notices: &[String]) -> Result<Launch> {
    let ids = argv::rewrite::ids(line)?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let is_rootless = !process::can_change_network() && !process::is_root();
    let without_root = match is_rootless {
        true => Some(ways(&mut netlink, &line.nics, config)),
        false => check_making(&mut netlink, &line.nics).err().map(Err),
    };
    let Planned { mut host, plan } = match &without_root {
        // Nothing is to be made.
        Some(Ok((host, _))) => Planned { host: host.clone(), plan: Plan::default() },
        without_root => match (planned(&mut netlink, &line.nics, config), without_root) {
            // Why root would be refused as well is not what this user asks.
            (Err(_), Some(Err(why))) => return Err(why.clone()),
            (as_root, _) => as_root?,
        },
    };
    output::step(|| format!("asked the kernel for the links that are named: {}", host.links.len()));
    refusal::check_wrapper(qemu)?;
    let is_made_by_root = !matches!(without_root, Some(Ok(_)));
    let bridges = line.nics.iter().map(|nic| &nic.bridge).filter(|_| is_made_by_root);
    let missing: Vec<&IfName> = bridges.filter(|bridge| host.link(bridge).is_none()).collect();
    if !missing.is_empty() {
        refusal::check(line, qemu, &missing)?;
    }
    for bridge in plan.bridges.iter().filter(|plan| host.links.get(&plan.bridge).is_some_and(Option::is_some)) {
        host.shared.extend(shared_by(&mut netlink, &bridge.bridge)?.map(|share| (bridge.bridge.clone(), share)));
    }
    let vm = id_of(&line.vm);
    let given: Vec<Option<Mac>> = line.nics.iter().map(|nic| nic.mac).collect();
    let known = Store::open()?.peek(&vm, line.run, &given)?;
    output::step(|| format!("looked up the MAC addresses of {}", text::one_line(vm.display())));
    let macs = known.iter().map(|mac| mac.map_or_else(random::mac, Ok)).collect::<Result<Vec<Mac>>>()?;
    let bridges = plan.bridges.iter().map(|bridge| bridge.bridge.clone()).collect();
    let names = tap_names(&mut netlink, bridges, plan.taps.iter().map(|tap| tap.name.clone()).collect())?;

    let notices = notices.iter().map(|notice| format!("{notice}."));
    let (notes, commands, backends) = match without_root {
        Some(Ok((_, ways))) => {
            let notes = notices.chain(ways.iter().map(Way::to_string)).collect();
            let backends = ways.iter().zip(&line.nics).map(|(way, nic)| way.backend(has_vhost(nic))).collect();
            (notes, Vec::new(), backends)
        }
        without_root => {
            let by: Vec<String> = match without_root {
                Some(Err(why)) => format!("Not as this user: {why}\nAs root:").lines().map(str::to_owned).collect(),
                _ if process::is_root() => Vec::new(),
                _ => vec!["By your own right to change the network, CAP_NET_ADMIN:".to_owned()],
            };
            let notes = notices.chain(by).chain(plan.bridges.iter().filter_map(|plan| note_of(plan, &host)));
            let steps = plan.bridges.iter().flat_map(BridgePlan::commands);
            let taps = plan.taps.iter().zip(&names).zip(&macs).flat_map(|((tap, name), mac)| {
                tap.commands(name, *mac, &vm.alias(), share_of(&plan, &host, &tap.bridge))
            });
            let backends = plan.taps.iter().zip(&names).zip(&line.nics).map(|((tap, name), nic)| Backend::Named {
                name: name.clone(),
                queues: tap.queues,
                vhost: has_vhost(nic),
            });
            (notes.collect(), steps.chain(taps).collect(), backends.collect())
        }
    };
    let netdevs = argv::netdevs(line, ids, backends, &macs);
    let qemus = std::iter::once(OsString::from(qemu.path())).chain(rewrite(line, &netdevs));
    let monitor = monitor_of(line)?;
    let qemus = qemus.chain(monitor.iter().flat_map(|path| monitor::words(path))).collect();
    let why = qemu.is_chosen().then(|| qemu.why());
    Ok(Launch { notes, commands, qemu: qemus, why, has_example: known.contains(&None) })
}

/// How the bridge of a plan gets its uplink, or the one that it joins has it.
fn share_of<'a>(plan: &'a Plan, host: &'a Host, bridge: &IfName) -> Option<&'a Share> {
    let its = plan.bridges.iter().find(|plan| plan.bridge == *bridge);
    its.and_then(BridgePlan::share).or_else(|| host.shared.get(bridge))
}

/// What is to be said of an uplink.
fn note_of(plan: &BridgePlan, host: &Host) -> Option<String> {
    let share = plan.share()?;
    let uplink = &share.uplink;
    let manager = host.link(uplink).and_then(|link| link.uplink.manager.as_ref());
    let by = manager.map(|manager| format!(", which {manager} manages,")).unwrap_or_default();
    Some(format!("{uplink}{by} is shared: the host keeps all that it has on it"))
}

/// Whether the kernel itself would move the frames of a settled network card.
fn has_vhost(nic: &Nic) -> bool {
    match nic.vhost {
        Some(Vhost::On) => true,
        Some(Vhost::Auto) => tap::open_vhost().is_ok(),
        _ => false,
    }
}

/// The names that the TAPs would have: the kernel takes the lowest `kvbN` that is free, of those not `used` by then.
fn tap_names(netlink: &mut Netlink, mut used: BTreeSet<IfName>, wanted: Vec<Option<IfName>>) -> Result<Vec<IfName>> {
    used.extend(wanted.iter().flatten().cloned());
    let mut number = 0;
    let mut free = || loop {
        let name = IfName::new(&format!("{PREFIX}{number}"))?;
        number += 1;
        if !used.contains(&name) && netlink.link(&name).map_err(unreadable)?.is_none() {
            return Ok(name);
        }
    };
    wanted.into_iter().map(|name| name.map_or_else(&mut free, Ok)).collect()
}
