//! `qemu-kvm`: QEMU with its guest on the network.
//!
//! ```text
//! argv -> scan -> what is asked for -> observe -> plan -> apply -> rewrite -> exec
//! ```

use crate::argv::{self, Backend, Line, Mode, Netdev, rewrite, scan};
use crate::bring_up::{Applied, bring_up};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::launch::{self, Qemu};
use crate::{announce, dry_run, out, reaper};
use std::env;
use std::ffi::OsString;

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
    if !is_for_us {
        return Err(launch::exec(&launch::find(&name, &Config::load()?)?, &words));
    }
    let line = scan(words.get(1..).unwrap_or_default(), nics_of_environment)?;
    if line.mode == Mode::Help {
        return Ok(crate::help::shim());
    }
    let config = Config::load()?;
    let qemu = launch::find(&name, &config)?;
    match line.mode {
        Mode::DryRun => dry_run::tell(&line, &config, &qemu),
        Mode::Launch if !line.nics.is_empty() => Err(start(&name, &line, &config, &qemu)),
        _ => Err(launch::exec(&qemu, &with_name(name, rewrite(&line.parts, &[])))),
    }
}

/// Sets the network up and becomes QEMU, which inherits the TAPs and the lock on its addresses.
fn start(name: &OsString, line: &Line, config: &Config, qemu: &Qemu) -> Error {
    let prepare = || {
        let ids = argv::rewrite::ids(line)?;
        let applied = bring_up(line, config)?;
        let netdevs = netdevs(line, config, ids, &applied);
        applied.pass_on()?;
        for news in &applied.news {
            out::say("qemu-kvm", news);
        }
        Ok((applied, netdevs))
    };
    match prepare() {
        Ok((_applied, netdevs)) => launch::exec(qemu, &with_name(name.clone(), rewrite(&line.parts, &netdevs))),
        Err(error) => error,
    }
}

fn netdevs(line: &Line, config: &Config, ids: Vec<String>, applied: &Applied) -> Vec<Netdev> {
    let backends = applied.descriptors().map(Backend::Fd).collect();
    argv::netdevs(line, config.model.as_deref(), ids, backends, applied.macs())
}

fn with_name(name: OsString, words: Vec<OsString>) -> Vec<OsString> {
    std::iter::once(name).chain(words).collect()
}

/// The values in the environment variable, which a shell's quotes may hold together.
pub fn nics_of_environment() -> Result<Vec<String>> {
    let variable = launch::NICS;
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(Vec::new());
    };
    let fault = |why: &str| {
        let what = format!("the environment variable {variable} {why}");
        Error::new(what, format!("Write it as the value of --bridge: {variable}=br0,model=virtio-net-pci"))
    };
    let text = value.to_str().ok_or_else(|| fault("is not UTF-8"))?;
    shell_words::split(text).map_err(|_| fault("has a quote that is not closed"))
}
