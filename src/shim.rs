//! `qemu-kvm`: QEMU with its guest on the network.
//!
//! ```text
//! argv -> scan -> what is asked for -> observe -> plan -> apply -> rewrite -> exec
//! ```

use crate::argv::table::Arity;
use crate::argv::{self, Line, Mode, Outside, models, rewrite, scan};
use crate::bring_up::bring_up;
use crate::config::Config;
use crate::config_files;
use crate::error::{Error, Result};
use crate::launch::{self, Qemu, refusal};
use crate::{announce, dry_run, kvm, out, reaper, slips};
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The whole program: `words` are argv. Returns only if QEMU does not run.
pub fn main(words: Vec<OsString>) -> i32 {
    if words.first().is_some_and(|name| name == reaper::NAME) {
        return reaper::main(&words);
    }
    if words.first().is_some_and(|name| name == announce::NAME) {
        return announce::main(&words);
    }
    match run(words).and_then(|text| out::print(&text)) {
        Ok(()) => 0,
        Err(error) => {
            out::say("qemu-kvm", &error);
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
        out::tell_steps("qemu-kvm");
    }
    match line.mode {
        Mode::Help => return Ok(crate::help::shim()),
        Mode::Version => return Ok(crate::help::version()),
        _ => {}
    }
    // Programs ask QEMU about itself with all that they have; a person has meant a guest.
    if line.machine.as_deref() == Some(b"none") && std::io::stderr().is_terminal() {
        out::say("qemu-kvm", "the machine 'none' has no guest: no network is set up for it");
    }
    if line.nics.is_empty() && line.mode == Mode::Launch {
        return Err(pass_on(&name, &with_name(name.clone(), rewrite(&line, &[])), || line.is_probe));
    }
    let config = config_files::load()?;
    let qemu = launch::find(&name, &config)?;
    qemu.check_not_again()?;
    out::step(|| format!("QEMU is {}: {}", qemu.path().display(), qemu.why()));
    let mut news = settle(&mut line, &config, &qemu)?;
    match line.mode {
        Mode::DryRun => dry_run::tell(&line, &qemu, &config, &news),
        _ => {
            news.extend(kvm::word(&name, &line));
            Err(start(&name, &line, &config, &qemu, news))
        }
    }
}

/// Becomes QEMU with nothing of ours. Of a configuration that is wrong no more than a word is said, and to one who only
/// asks QEMU something not even that.
fn pass_on(name: &OsStr, words: &[OsString], is_probe: impl Fn() -> bool) -> Error {
    let tell = |error: &Error| {
        if !is_probe() {
            out::say("qemu-kvm", error);
        }
    };
    let ours = words.iter().skip(1).filter_map(|word| slips::option_of_ours(word.as_bytes()));
    for slip in ours.filter(|_| !is_probe()) {
        out::say("qemu-kvm", format_args!("is --bridge meant by {slip}? QEMU gets it as it is"));
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
    let news = argv::settle::settle(line, config.model.as_deref(), &system, |line, cards| {
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
            models::check(model, help).map_err(|error| error.of(format_args!("--bridge {}", nic.bridge)))?;
        }
    }
    Ok(news)
}

/// Sets the network up and becomes QEMU, which inherits the TAPs and the lock on its addresses.
fn start(name: &OsString, line: &Line, config: &Config, qemu: &Qemu, mut news: Vec<String>) -> Error {
    let mut prepare = || {
        let ids = argv::rewrite::ids(line)?;
        let files = refusal::check_files(line);
        let applied = bring_up(line, config, || files.and_then(|()| refusal::check_options(line, qemu)))?;
        let applied = applied.out_of_the_way();
        let netdevs = argv::netdevs(line, ids, applied.backends(), applied.macs());
        applied.pass_on()?;
        if let Some(descriptor) = applied.descriptor() {
            refusal::check_script(qemu, descriptor)?;
        }
        news.extend_from_slice(&applied.news);
        for news in &news {
            out::say("qemu-kvm", news);
        }
        Ok((applied, netdevs))
    };
    match prepare() {
        Ok((_applied, netdevs)) => launch::exec(qemu, &with_name(name.clone(), rewrite(line, &netdevs))),
        Err(error) => error,
    }
}

/// Of the longest file for `-readconfig` that is looked into, in bytes.
const LONGEST_CONFIG: u64 = 1 << 20;

/// What the line does not tell: the environment, QEMU, and files.
pub struct Caller<'a> {
    /// The name that we were called by.
    pub name: &'a OsStr,
}

impl Outside for Caller<'_> {
    fn nics(&self) -> Result<Vec<String>> {
        nics_of_environment()
    }

    fn arity(&self, option: &[u8]) -> Arity {
        let qemu = config_files::load().and_then(|config| launch::find(self.name, &config));
        match qemu {
            Ok(qemu) if !option.is_empty() => qemu.arity(option),
            // An error that is going to be met again.
            _ => Arity::Unknown,
        }
    }

    fn config(&self, path: &[u8]) -> Option<Vec<u8>> {
        let path = Path::new(OsStr::from_bytes(path));
        // What is no file, such as a shell's <(...), can be read only once: by QEMU.
        let is_fit = |metadata: &std::fs::Metadata| metadata.is_file() && metadata.len() <= LONGEST_CONFIG;
        path.metadata().ok().filter(is_fit).and_then(|_| std::fs::read(path).ok())
    }
}

fn with_name(name: OsString, words: Vec<OsString>) -> Vec<OsString> {
    std::iter::once(name).chain(words).collect()
}

/// The values in the environment variable, which a shell's quotes may hold together.
fn nics_of_environment() -> Result<Vec<String>> {
    let variable = launch::NICS;
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(Vec::new());
    };
    let fault = |why: &str| {
        let what = format!("the environment variable {variable} {why}");
        Error::new(what, format!("Write it as the value of --bridge: {variable}=br0,model=virtio-net-pci"))
    };
    let text = value.to_str().ok_or_else(|| fault("is not UTF-8"))?;
    let values = shell_words::split(text).map_err(|_| fault("has a quote that is not closed"))?;
    match values.iter().any(|value| value.starts_with("--bridge") || value.starts_with("-bridge")) {
        true => Err(fault("has the option itself in it")),
        false => Ok(values),
    }
}
