//! `qemu-kvm`: QEMU with its guest on the network.
//! It may not hold what another program needs.
//!
//! ```text
//! argv -> scan -> what is asked for -> observe -> plan -> apply -> rewrite -> exec
//! ```

pub mod dry_run;

use crate::launch;
use crate::launch::environment::Caller;
use crate::launch::kvm;
use crate::launch::{Qemu, refusal};
use crate::monitor;
use crate::network;
use crate::network::bring_up::bring_up;
use crate::output;
use crate::state::config;
use crate::sys::place;
use crate::vm::id_of;
use model::argv;
use model::argv::{Line, Mode, models, rewrite, scan};
use model::config::Config;
use model::error::{Error, Result};
use model::request::help;
use model::slips;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The whole program: `words` are argv. Returns only if QEMU does not run.
pub fn main(words: Vec<OsString>) -> i32 {
    place::find_out();
    if let Some(status) = network::run_left_behind(&words) {
        return status;
    }
    match run(words).and_then(|text| output::print(&text)) {
        Ok(()) => 0,
        Err(error) => {
            output::say("qemu-kvm", &error);
            i32::from(error.status())
        }
    }
}

/// Becomes QEMU, or returns what was asked to be printed instead.
fn run(words: Vec<OsString>) -> Result<String> {
    let name = words.first().cloned().unwrap_or_else(|| "qemu-kvm".into());
    let is_for_us = env::var_os(launch::NICS).is_some_and(|value| !value.is_empty())
        || words.iter().skip(1).any(|word| argv::scan::may_be_ours(word));
    let rest = words.get(1..).unwrap_or_default();
    if !is_for_us {
        let is_probe = || scan(rest, || Ok(Vec::new())).is_ok_and(|line| line.is_probe);
        return Err(pass_on(&name, &words, is_probe));
    }
    let mut line = scan(rest, Caller { name: &name })?;
    if line.is_verbose || env::var_os(launch::VERBOSE).is_some_and(|value| !value.is_empty()) {
        output::tell_steps("qemu-kvm");
    }
    match line.mode {
        Mode::Help => return Ok(help::text(env!("CARGO_PKG_VERSION"))),
        Mode::Version => return Ok(concat!("kvm-bridge ", env!("CARGO_PKG_VERSION"), "\n").to_owned()),
        _ => {}
    }
    // Programs ask QEMU about itself with all that they have; a person has meant a guest.
    if line.machine.as_deref() == Some(b"none") && std::io::stderr().is_terminal() {
        output::say("qemu-kvm", "the machine 'none' has no guest: no network is set up for it");
    }
    if line.nics.is_empty() && line.mode == Mode::Launch {
        return Err(pass_on(&name, &with_name(name.clone(), rewrite(&line, &[])), || line.is_probe));
    }
    let config = config::load()?;
    let qemu = launch::find(&name, &config)?;
    qemu.check_not_again()?;
    output::step(|| format!("QEMU is {}: {}", qemu.path().display(), qemu.why()));
    let mut notices = settle(&mut line, &config, &qemu)?;
    match line.mode {
        Mode::DryRun => dry_run::tell(&line, &qemu, &config, &notices),
        _ => {
            notices.extend(kvm::word(&name, &line));
            Err(start(&name, &line, &config, &qemu, notices))
        }
    }
}

/// Becomes QEMU with nothing of ours. Of a configuration that is wrong no more than a word is said, and to one who only
/// asks QEMU something not even that.
fn pass_on(name: &OsStr, words: &[OsString], is_probe: impl Fn() -> bool) -> Error {
    let tell = |error: &Error| {
        if !is_probe() {
            output::say("qemu-kvm", error);
        }
    };
    let ours = words.iter().skip(1).filter_map(|word| slips::option_of_ours(word.as_bytes()));
    for slip in ours.filter(|_| !is_probe()) {
        output::say("qemu-kvm", format_args!("is --bridge meant by {slip}? QEMU gets it as it is"));
    }
    match launch::find_alone(name, tell) {
        Ok(qemu) => launch::exec(&qemu, words),
        Err(error) => error,
    }
}

/// Decides what the line leaves open, and checks the models of network cards. QEMU is asked about a machine and about a model
/// that are not among the usual ones.
pub fn settle(line: &mut Line, config: &Config, qemu: &Qemu) -> Result<Vec<String>> {
    let system = qemu.system();
    let notices = argv::settle::settle(line, config.model.as_deref(), &system, |line, cards| {
        launch::board::of(qemu, line, cards)
    })?;
    let mut help = None;
    for nic in &line.nics {
        let has_device = nic.id.as_ref().is_some_and(|id| line.devices_on.contains_key(id.as_bytes()));
        if let Some(model) = nic
            .model
            .as_deref()
            .filter(|model| !has_device && !nic.is_on_board && models::is_to_be_asked_for(model, &system))
        {
            let answer = || qemu.ask(&["-device".as_ref(), "help".as_ref()]).map(|(_, text)| text).unwrap_or_default();
            let help: &String = help.get_or_insert_with(answer);
            models::check(model, help).map_err(|error| error.of_request(&nic.bridge))?;
        }
    }
    Ok(notices)
}

/// Sets the network up and becomes QEMU, which inherits the TAPs and the lock on its addresses.
fn start(name: &OsString, line: &Line, config: &Config, qemu: &Qemu, mut notices: Vec<String>) -> Error {
    let mut prepare = || {
        let ids = argv::rewrite::ids(line)?;
        refusal::check_wrapper(qemu)?;
        let monitor = monitor_of(line)?;
        monitor.as_deref().map_or(Ok(()), monitor::prepare)?;
        let applied = bring_up(line, config, |missing| refusal::check(line, qemu, missing))?;
        let applied = applied.renumber();
        let netdevs = argv::netdevs(line, ids, applied.backends(), applied.macs());
        applied.clear_cloexec()?;
        notices.extend_from_slice(&applied.notices);
        for notice in &notices {
            output::say("qemu-kvm", notice);
        }
        Ok((applied, netdevs, monitor))
    };
    match prepare() {
        Ok((_applied, netdevs, monitor)) => {
            let words = rewrite(line, &netdevs).into_iter().chain(monitor.iter().flat_map(|path| monitor::words(path)));
            launch::exec(qemu, &with_name(name.clone(), words.collect()))
        }
        Err(error) => error,
    }
}

/// Where QEMU is to have a monitor of its user's own, if it is.
fn monitor_of(line: &Line) -> Result<Option<PathBuf>> {
    let is_wanted = line.nics.iter().any(|nic| nic.has_monitor);
    is_wanted.then(|| monitor::own_path(&id_of(&line.vm).file_name())).transpose()
}

fn with_name(name: OsString, words: Vec<OsString>) -> Vec<OsString> {
    std::iter::once(name).chain(words).collect()
}
