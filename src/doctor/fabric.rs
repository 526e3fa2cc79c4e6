//! Looks at a network of many hosts: asks FRR, and sends packets of full size to the others.

use crate::doctor::{Context, frr};
use crate::netlink::Netlink;
use crate::sys::process;
use crate::sys::program::{Program, is_installed};
use model::check::fabric::{self, FABRIC, Probe};
use model::check::{Check, Verdict};
use model::error::{Error, Result};
use model::fabric::frr::{duplicates, sessions, vni};
use model::journal::Journal;
use model::uplink::Vtep;
use model::uplink::vxlan::overhead;
use std::net::IpAddr;
use std::time::Duration;

/// How long FRR may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many other hosts are sent packets to.
const MOST_PROBED: usize = 4;

pub(super) fn checks(context: &mut Context) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_quick = context.query.watch == Some(Duration::ZERO);
    for bridge in &context.bridges {
        let Some(vtep) = bridge.journal.as_ref().and_then(Journal::vtep) else { continue };
        let (mut its, mut remotes) = (Vec::new(), vtep.remotes.clone());
        if vtep.is_evpn() {
            let (found, hosts) = of_frr(vtep);
            its.extend(found);
            remotes = hosts;
        }
        let size = vtep.mtu + overhead(vtep.local);
        its.extend(of_underlay(&mut context.netlink, vtep, size));
        if !is_quick {
            let probe = |remote: &IpAddr| Some(fabric::of_probe(vtep, *remote, size, probe(vtep, *remote, size)?));
            its.extend(remotes.iter().take(MOST_PROBED).filter_map(probe));
        }
        checks.extend(its.into_iter().map(|check| check.of(&bridge.detail.link.name)));
    }
    checks
}

/// What FRR says, and the other hosts that it knows.
fn of_frr(vtep: &Vtep) -> (Vec<Check>, Vec<IpAddr>) {
    if let Some(lack) = frr::lacks().first() {
        return (vec![FABRIC.error(Verdict::Failure, lack)], Vec::new());
    }
    if !process::is_root() {
        let why = "what FRR knows was not asked: that takes root";
        return (vec![FABRIC.warning(why, "sudo kvm-bridge doctor")], Vec::new());
    }
    let number = vtep.asked.vni;
    let (mut checks, mut hosts) = (Vec::new(), Vec::new());
    checks.push(match ask("show bgp l2vpn evpn summary json", sessions) {
        Ok(sessions) => fabric::of_sessions(&sessions),
        Err(error) => FABRIC.error(Verdict::Warning, &error),
    });
    checks.push(match ask(&format!("show evpn vni {number} json"), vni) {
        Ok(known) => {
            hosts = known.as_ref().map(|known| known.hosts.clone()).unwrap_or_default();
            fabric::of_vni(number, known.as_ref())
        }
        Err(error) => FABRIC.error(Verdict::Warning, &error),
    });
    match ask(&format!("show evpn mac vni {number} duplicate json"), duplicates) {
        Ok(macs) => checks.extend(fabric::of_duplicates(number, &macs)),
        Err(error) => checks.push(FABRIC.error(Verdict::Warning, &error)),
    }
    (checks, hosts)
}

/// What FRR answers.
fn ask<T>(question: &str, read: impl Fn(&str) -> Option<T>) -> Result<T> {
    let said = Program::new("vtysh").words(["-c", question]).within(PATIENCE).run()?;
    read(&said).ok_or_else(|| {
        Error::new(format!("FRR's answer to '{question}' was not understood"), format!("vtysh -c '{question}'"))
    })
}

fn of_underlay(netlink: &mut Netlink, vtep: &Vtep, size: u32) -> Option<Check> {
    let link = netlink.link_at(vtep.underlay_index).ok()??;
    fabric::of_underlay(vtep, size, link.mtu)
}

/// What becomes of packets to another host; `None` where nobody can send any.
fn probe(vtep: &Vtep, remote: IpAddr, size: u32) -> Option<Probe> {
    if !is_installed("ping") {
        return None;
    }
    let headers = if remote.is_ipv4() { 28 } else { 48 };
    let (local, remote) = (vtep.local.to_string(), remote.to_string());
    let ping = |words: &[&str]| {
        let usual = ["-n", "-q", "-c", "2", "-W", "1", "-I", &local];
        Program::new("ping").words(usual).words(words).words([&remote]).within(PATIENCE).run().is_ok()
    };
    if ping(&["-M", "do", "-s", &(size - headers).to_string()]) {
        return Some(Probe::Whole);
    }
    Some(if ping(&[]) { Probe::Small } else { Probe::Nothing })
}
