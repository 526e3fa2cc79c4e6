//! How far guests have got that have no address: seen on their ports.

use super::{Check, Patient};
use crate::error::Result;
use crate::ports::{Port, is_link_local};
use crate::qemu_line::QemuLine;
use crate::watch::{Progress, Watch, client_of};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const WHY: &str = "An address is got in four steps: DISCOVER, OFFER, REQUEST, ACK.";

pub(super) fn checks(patient: &mut Patient) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut waiting: Vec<(String, Port)> = Vec::new();
    for bridge in &patient.bridges {
        for port in bridge.ports.iter().filter(|port| port.is_tap() && port.detail.has_carrier) {
            match port.addresses.iter().find(|ip| !is_link_local(ip)) {
                Some(ip) => checks.push(Check::ok("guest", format!("it has {ip}"), WHY).of(name(port))),
                None => waiting.push((bridge.detail.link.name.to_string(), port.clone())),
            }
        }
    }
    if waiting.is_empty() || patient.question.watch.is_zero() {
        return Ok(checks);
    }
    let mut watch = match Watch::open(waiting.iter().map(|(_, port)| port.detail.link.index)) {
        Ok(watch) => watch,
        Err(error) => {
            let guests = waiting.iter().map(|(_, port)| name(port));
            checks.extend(guests.map(|guest| Check::of_error("guest", super::Verdict::Warning, &error, WHY).of(guest)));
            return Ok(checks);
        }
    };
    let mut progress = vec![Progress::default(); waiting.len()];
    let end = Instant::now() + patient.question.watch;
    while progress.iter().any(|progress| !has_arrived(progress)) {
        let Some((index, told)) = watch.next(end)? else { break };
        for ((_, port), progress) in waiting.iter().zip(&mut progress) {
            if let (true, Some(mac)) = (port.detail.link.index == index, port.mac.or_else(|| client_of(&told))) {
                progress.hear(told, mac);
            }
        }
    }
    let details = patient.netlink.details().map_err(crate::net::observe::unreadable)?;
    for ((bridge, port), progress) in waiting.iter().zip(&progress) {
        let Some(now) = details.iter().find(|detail| detail.link.index == port.detail.link.index) else { continue };
        let check = judge(bridge, port, progress, now.stats.rx_packets, patient.question.watch).of(name(port));
        let is_silent = !progress.offer && !progress.request && !has_arrived(progress);
        checks.push(check);
        // Its own command line may tell why.
        if let (true, Some(process)) = (is_silent, &port.process) {
            let line = QemuLine::read(process.words.get(1..).unwrap_or_default());
            let folder = PathBuf::from(format!("/proc/{}/cwd", process.pid));
            let found = super::qemu::checks(&line, &[], &folder).into_iter();
            checks.extend(found.filter(|check| check.verdict != super::Verdict::Ok).map(|check| check.of(name(port))));
        }
    }
    Ok(checks)
}

/// A guest as people know it.
fn name(port: &Port) -> String {
    match &port.vm {
        Some(vm) => format!("{vm} ({})", port.detail.link.name),
        None => port.detail.link.name.to_string(),
    }
}

fn has_arrived(progress: &Progress) -> bool {
    progress.ack.is_some() || progress.addresses.iter().any(|ip| !is_link_local(ip))
}

fn judge(bridge: &str, port: &Port, progress: &Progress, frames: u64, watched: Duration) -> Check {
    let tap = &port.detail.link.name;
    let in_time = format!("in {} s", watched.as_secs());
    let is_global = |ip: &&IpAddr| !is_link_local(ip);
    if let Some(message) = progress.ack {
        let address = message.address.map(|ip| ip.to_string()).unwrap_or_default();
        let server = message.server.map(|ip| format!(" from {ip}")).unwrap_or_default();
        return Check::ok("guest", format!("ACK: it got {address}{server} just now"), WHY);
    }
    if let Some(ip) = progress.addresses.iter().find(is_global) {
        return Check::ok("guest", format!("it has {ip}"), WHY);
    }
    let tcpdump = format!("tcpdump -eni {tap} port 67 or port 68");
    match progress {
        _ if frames == 0 => Check::failure(
            "guest",
            "it has sent no frame at all",
            "Its kernel has no driver for its network card, or has not come so far, or nobody in it sets the card up.",
            format!("kvm-bridge doctor {bridge} -- and the arguments of its QEMU; or look at its console"),
        ),
        Progress { nak: true, .. } => Check::failure(
            "guest",
            "REQUEST without ACK: the server refused the address (NAK)",
            "It asks for an address of another network, or for one that is somebody else's by now.",
            "Delete the guest's old lease, such as /var/lib/dhcp/*.leases in it, and start it again",
        ),
        Progress { request: true, .. } => Check::failure(
            "guest",
            format!("REQUEST without ACK {in_time}"),
            "The server does not confirm the address, or its answer is lost on the way.",
            tcpdump,
        ),
        Progress { offer: true, .. } => Check::failure(
            "guest",
            format!("OFFER without REQUEST {in_time}"),
            "Answers reach the guest's port, and the guest does not take them: often because the host leaves their checksums to a card that they never reach.",
            format!("ethtool -K {bridge} tx off"),
        ),
        Progress { discover: true, .. } => Check::failure(
            "guest",
            format!("DISCOVER without OFFER {in_time}"),
            "The guest asks, and no answer reaches its port: there is no server, or something drops the frames between.",
            format!("kvm-bridge doctor {bridge}   (its checks dhcp, firewall and uplink tell which)"),
        ),
        _ => Check::warning(
            "guest",
            format!("it has sent {frames} frames, and none of DHCP {in_time}"),
            "It does not ask for an address, or has given up, or has had one for long and is silent.",
            "For a kernel that asks by itself: -append \"ip=dhcp\"; in a distribution: dhclient, or networkctl renew",
        ),
    }
}
