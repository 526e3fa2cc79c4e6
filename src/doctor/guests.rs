//! How far guests have got that have no address: seen on their ports.

use crate::capture::{Heard, Progress, Watch};
use crate::doctor::{Check, Context};
use crate::network::inventory::{Port, is_link_local};
use crate::output::ProgressLine;
use crate::sys::process;
use crate::sys::tap_users::{Process, age};
use model::argv::inspect::QemuLine;
use model::error::Result;
use model::text;
use model::text::shell::quote;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const WHY: &str = "An address is got in four steps: DISCOVER, OFFER, REQUEST, ACK.";

/// How long a port is watched, unless somebody says otherwise: a guest that asks in vain asks again within that.
const WATCH: Duration = Duration::from_secs(10);
/// How long that of a guest which has run for `LONG` and has not sent one frame: it is not about to.
const BRIEFLY: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(60);
/// When guests are asked for their addresses: at once, and again if something was lost.
const ASKED_AT: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];
/// How often somebody who watches is told.
const TICK: Duration = Duration::from_millis(500);

/// A guest whose address is not known.
struct Waiting {
    bridge: String,
    port: Port,
    /// What it is asked.
    questions: Vec<Vec<u8>>,
    progress: Progress,
}

pub(super) fn checks(context: &mut Context) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut waiting: Vec<Waiting> = Vec::new();
    for bridge in &context.bridges {
        for port in bridge.ports.iter().filter(|port| port.is_tap() && port.detail.has_carrier) {
            match port.addresses.iter().find(|ip| !is_link_local(ip)) {
                Some(ip) => checks.push(Check::ok("guest", format!("it has {ip}"), WHY).of(name(port))),
                None => waiting.push(Waiting {
                    bridge: bridge.detail.link.name.to_string(),
                    questions: bridge.questions(port),
                    port: port.clone(),
                    progress: Progress::default(),
                }),
            }
        }
    }
    if waiting.is_empty() || context.query.watch == Some(Duration::ZERO) {
        return Ok(checks);
    }
    match Watch::open(waiting.iter().map(|guest| guest.port.detail.link.index)) {
        Ok(mut watch) => follow(&mut watch, &mut waiting, context.query.watch)?,
        Err(error) => {
            let guests = waiting.iter().map(|guest| name(&guest.port));
            let check = |guest| Check::of_error("guest", crate::doctor::Verdict::Warning, &error, WHY).of(guest);
            let by_root = "sudo kvm-bridge doctor";
            let can_watch = process::can_watch();
            checks.extend(guests.map(check).map(|check| if can_watch { check } else { check.fixed_by(by_root) }));
            return Ok(checks);
        }
    }
    let watched = context.query.watch.unwrap_or(WATCH);
    let details = context.netlink.details().map_err(crate::network::links::unreadable)?;
    for Waiting { bridge, port, progress, .. } in &waiting {
        let Some(now) = details.iter().find(|detail| detail.link.index == port.detail.link.index) else { continue };
        let check = judge(bridge, port, progress, now.stats.rx_packets, watched).of(name(port));
        let is_silent = !progress.offer && !progress.request && !has_arrived(progress);
        checks.push(check);
        // Its own command line may tell why.
        if let (true, Some(process)) = (is_silent, &port.process) {
            let line = QemuLine::read(process.words.get(1..).unwrap_or_default());
            let found = look_at_line(process, line).into_iter();
            checks.extend(
                found.filter(|check| check.verdict != crate::doctor::Verdict::Ok).map(|check| check.of(name(port))),
            );
        }
    }
    Ok(checks)
}

/// What a guest's own command line tells. The kernel of another user's guest is not looked into: who goes the way to a file can be
/// kept there by whose it is, for ever.
fn look_at_line(process: &Process, mut line: QemuLine) -> Vec<Check> {
    let is_own = process.uid == nix::unistd::geteuid().as_raw();
    let kernel = if is_own { None } else { line.kernel.take() };
    let folder = PathBuf::from(format!("/proc/{}/cwd", process.pid));
    let mut checks = crate::doctor::qemu::checks(&line, &[], &folder);
    checks.extend(kernel.map(|kernel| {
        let observed = format!("{} is another user's, and was not looked into", text::one_line(&kernel));
        let fix = format!("sudo -u '#{}' kvm-bridge doctor   # as that user", process.uid);
        Check::warning(
            "kernel",
            observed,
            "It would tell whether the kernel knows the card and can ask for an address.",
            fix,
        )
    }));
    checks
}

/// Watches guests until it is clear how far each of them got, for `time` at the most.
fn follow(watch: &mut Watch, waiting: &mut [Waiting], time: Option<Duration>) -> Result<()> {
    let (start, end) = (Instant::now(), Instant::now() + time.unwrap_or(WATCH));
    let mut moments = ASKED_AT.iter().peekable();
    let mut line = ProgressLine::new();
    let mut ends = Ok(());
    while watch.is_watching() && Instant::now() < end {
        let elapsed = start.elapsed();
        let is_clear = |guest: &Waiting| {
            has_arrived(&guest.progress) || time.is_none() && elapsed >= BRIEFLY && guest.has_sent_nothing()
        };
        let Some(first) = waiting.iter().find(|guest| !is_clear(guest)) else { break };
        line.show(format_args!(
            "watching {}: {} s, {}",
            text::one_line(&name(&first.port)),
            elapsed.as_secs(),
            first.progress.describe()
        ));
        if moments.next_if(|moment| **moment <= elapsed).is_some() {
            for guest in waiting.iter().filter(|guest| !has_arrived(&guest.progress)) {
                watch.send(guest.port.detail.link.index, &guest.questions);
            }
        }
        match watch.next(end.min(Instant::now() + TICK)) {
            Ok(Some(heard)) => waiting.iter_mut().for_each(|guest| guest.hear(&heard)),
            Ok(None) => {}
            Err(error) => {
                ends = Err(error);
                break;
            }
        }
    }
    line.clear();
    ends
}

impl Waiting {
    fn hear(&mut self, heard: &Heard) {
        let of = self.port.mac.or_else(|| heard.client());
        if let (true, Some(mac)) = (self.port.detail.link.index == heard.index, of) {
            self.progress.hear(heard.told, mac);
        }
    }

    /// Whether it has had all the time of the world and has not said a word.
    fn has_sent_nothing(&self) -> bool {
        let age = self.port.process.as_ref().and_then(age);
        age.is_some_and(|age| age > LONG)
            && self.port.detail.stats.rx_packets == 0
            && self.progress == Progress::default()
    }
}

/// A guest as people know it.
fn name(port: &Port) -> String {
    match &port.vm {
        Some(vm) => format!("{} ({})", text::name(vm), port.detail.link.name),
        None => port.detail.link.name.to_string(),
    }
}

fn has_arrived(progress: &Progress) -> bool {
    progress.ack.is_some() || progress.addresses.iter().any(|ip| !is_link_local(ip))
}

fn judge(bridge: &str, port: &Port, progress: &Progress, frames: u64, watched: Duration) -> Check {
    let (tap, bridge) = (quote(port.detail.link.name.as_str()), quote(bridge));
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
            match port.process {
                Some(_) => "Look at its console.".to_owned(),
                None => {
                    format!("kvm-bridge doctor {bridge} -- ARGUMENTS   # those of its QEMU; or look at its console")
                }
            },
        ),
        Progress { nak: true, .. } => Check::failure(
            "guest",
            "REQUEST without ACK: the server refused the address (NAK)",
            "It asks for an address of another network, or for one that is somebody else's by now.",
            "rm /var/lib/dhcp/*.leases   # or wherever the guest's client keeps its old lease; in the guest, then reboot",
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
            format!("kvm-bridge doctor {bridge}   # its checks dhcp, firewall and uplink tell which"),
        ),
        _ => Check::warning(
            "guest",
            format!(
                "it has sent {frames} {}, and none of DHCP {in_time}",
                if frames == 1 { "frame" } else { "frames" }
            ),
            "It does not ask for an address, or has given up, or has had one for long and is silent.",
            "-append \"ip=dhcp\"   # for a kernel that asks by itself; in a distribution: dhclient, or networkctl renew",
        ),
    }
}
