//! Looks at a network of many hosts: asks FRR, and sends packets of full size to the others.

use crate::doctor::{Context, frr};
use crate::netlink::Netlink;
use crate::sys::process;
use crate::sys::program::{Program, is_installed};
use model::check::fabric::{self, FABRIC, Probe, Refusal};
use model::check::{Check, Verdict};
use model::error::{Error, Result};
use model::fabric::frr::{duplicates, sessions, vni};
use model::journal::Journal;
use model::uplink::Vtep;
use model::uplink::vxlan::{PORT, overhead};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

/// How long FRR may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long who refuses a packet may take to say so.
const ANSWERED: Duration = Duration::from_millis(300);
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
        let device = bridge.ports.iter().map(|port| &port.detail).find(|detail| detail.link.name == vtep.device);
        its.extend(device.and_then(|device| {
            let stats = device.stats;
            fabric::of_silence(stats.rx_packets, stats.tx_packets, remotes.len())
        }));
        its.extend(of_underlay(&mut context.netlink, vtep, size));
        let addresses = context.netlink.all_addresses();
        let gone = addresses.ok().and_then(|addresses| {
            let addresses: Vec<IpAddr> = addresses.into_iter().map(|(_, address)| address.ip).collect();
            fabric::of_local(vtep, &addresses)
        });
        if !is_quick && gone.is_none() {
            for remote in remotes.iter().take(MOST_PROBED) {
                let probed = probe(vtep, *remote, size);
                its.extend(probed.map(|probed| fabric::of_probe(vtep, *remote, size, probed)));
                let is_reached = probed.is_some_and(|probed| probed != Probe::Nothing);
                its.extend(
                    refusal(vtep.local, *remote, is_reached).map(|refusal| fabric::of_refusal(*remote, refusal)),
                );
            }
        }
        its.extend(gone);
        checks.extend(its.into_iter().map(|check| check.of(&bridge.detail.link.name)));
    }
    checks
}

/// What FRR says, and the other hosts that it knows.
fn of_frr(vtep: &Vtep) -> (Vec<Check>, Vec<IpAddr>) {
    if !process::is_root() {
        let why = "what FRR knows was not asked: that takes root";
        return (vec![FABRIC.warning(why, "sudo kvm-bridge doctor")], Vec::new());
    }
    if let Some(lack) = frr::lacks().first() {
        return (vec![FABRIC.error(Verdict::Failure, lack)], Vec::new());
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
            fabric::of_vni(vtep, known.as_ref())
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
    let headers = fabric::ping_headers(remote);
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

/// Who refuses packets to VXLAN's port of another host, if somebody answers so. What is sent has no VNI, so that who takes such
/// packets drops it (RFC 7348, section 5).
fn refusal(local: IpAddr, remote: IpAddr, is_reached: bool) -> Option<Refusal> {
    let ask = || {
        let socket = UdpSocket::bind((local, 0))?;
        socket.set_read_timeout(Some(ANSWERED))?;
        socket.connect((remote, PORT))?;
        socket.send(&[0; 8])?;
        socket.recv(&mut [0; 8])
    };
    match ask().err()?.raw_os_error()? {
        // A firewall that lets none of a user's out may let those of the kernel out.
        libc::EPERM if process::is_root() => Some(Refusal::Own),
        // ICMP's answers (icmp_err_convert in net/ipv4/icmp.c, net/ipv6/icmp.c).
        libc::ECONNREFUSED | libc::EACCES => Some(Refusal::Others),
        // Also of a host that is not there at all.
        libc::EHOSTUNREACH if is_reached => Some(Refusal::Others),
        _ => None,
    }
}
