//! How far guests have got that have no address: seen on their ports.

use crate::capture::Watch;
use crate::doctor::{Context, qemu};
use crate::network::inventory::Port;
use crate::network::links::unreadable;
use crate::output::ProgressLine;
use crate::sys::process;
use crate::sys::tap_users::{Process, age};
use model::argv::inspect::QemuLine;
use model::check::guest::{GUEST, Watched, judge};
use model::check::{Check, Verdict, kernel};
use model::error::Result;
use model::packet::is_link_local;
use model::packet::progress::{Heard, Progress};
use model::text;
use std::path::PathBuf;
use std::time::{Duration, Instant};

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
                Some(ip) => checks.push(GUEST.ok(format!("it has {ip}")).of(name(port))),
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
            checks.extend(waiting.iter().map(|guest| {
                let check = GUEST.error(Verdict::Warning, &error).of(name(&guest.port));
                let by_root = || Some("sudo kvm-bridge doctor".to_owned());
                let fix = if process::can_watch() { check.fix } else { by_root() };
                Check { fix, ..check }
            }));
            return Ok(checks);
        }
    }
    let seconds = context.query.watch.unwrap_or(WATCH).as_secs();
    let details = context.netlink.details().map_err(unreadable)?;
    for Waiting { bridge, port, progress, .. } in &waiting {
        let link = &port.detail.link;
        let Some(now) = details.iter().find(|detail| detail.link.index == link.index) else { continue };
        let (has_process, frames) = (port.process.is_some(), now.stats.rx_packets);
        let guest = Watched { tap: link.name.as_str(), bridge, has_process, progress, frames, seconds };
        checks.push(judge(&guest).of(name(port)));
        // Its own command line may tell why.
        if let (false, Some(process)) = (progress.offer || progress.request || progress.has_arrived(), &port.process) {
            let line = QemuLine::read(process.words.get(1..).unwrap_or_default());
            let found = look_at_line(process, line).into_iter().filter(|check| check.verdict != Verdict::Ok);
            checks.extend(found.map(|check| check.of(name(port))));
        }
    }
    Ok(checks)
}

/// What a guest's own command line tells. The kernel of another user's guest is not looked into: who goes the way to a file can be
/// kept there by whose it is, for ever.
fn look_at_line(process: &Process, mut line: QemuLine) -> Vec<Check> {
    let is_own = process.uid == nix::unistd::geteuid().as_raw();
    let foreign = if is_own { None } else { line.kernel.take() };
    let folder = PathBuf::from(format!("/proc/{}/cwd", process.pid));
    let mut checks = qemu::checks(&line, &[], &folder);
    checks.extend(foreign.map(|path| {
        let observed = format!("{} is another user's, and was not looked into", text::one_line(&path));
        let fix = format!("sudo -u '#{}' kvm-bridge doctor   # as that user", process.uid);
        kernel::UNKNOWN.warning(observed, fix)
    }));
    checks
}

/// Watches guests until it is clear how far each of them got, for `time` at the most.
fn follow(watch: &mut Watch, waiting: &mut [Waiting], time: Option<Duration>) -> Result<()> {
    let (start, end) = (Instant::now(), Instant::now() + time.unwrap_or(WATCH));
    let mut moments = ASKED_AT.iter().peekable();
    let mut line = ProgressLine::default();
    while watch.is_watching() && Instant::now() < end {
        let elapsed = start.elapsed();
        let is_clear = |guest: &Waiting| {
            guest.progress.has_arrived() || time.is_none() && elapsed >= BRIEFLY && guest.has_sent_nothing()
        };
        let Some(first) = waiting.iter().find(|guest| !is_clear(guest)) else { break };
        line.show(format_args!(
            "watching {}: {} s, {}",
            text::one_line(&name(&first.port)),
            elapsed.as_secs(),
            first.progress.describe()
        ));
        if moments.next_if(|moment| **moment <= elapsed).is_some() {
            for guest in waiting.iter().filter(|guest| !guest.progress.has_arrived()) {
                watch.send(guest.port.detail.link.index, &guest.questions);
            }
        }
        if let Some(heard) = watch.next(end.min(Instant::now() + TICK))? {
            waiting.iter_mut().for_each(|guest| guest.hear(&heard));
        }
    }
    Ok(())
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
