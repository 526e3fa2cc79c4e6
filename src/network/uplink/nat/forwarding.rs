//! The kernel's switches for forwarding, on for our bridges alone; `model::nat::lent` says how, and keeps the record.

use crate::network::uplink::nat::rules::{carry_out, list};
use crate::output::errno::{reason, to_write};
use crate::state::networks::{read, write as write_file};
use crate::sys::lock::Passing;
use crate::sys::place::run;
use crate::sys::sysctl;
use model::error::{Error, Result};
use model::ifname;
use model::ifname::IfName;
use model::nat::lent;
use model::nat::lent::Lent;
use model::nat::ruleset;
use nix::net::if_::{if_nameindex, if_nametoindex};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::io::Write;
use std::path::PathBuf;

/// Lets the host forward for a bridge, the one of this index. To be done again when an interface has come, or somebody has changed
/// the switches: then it does what is missing, and lends no more where forwarding is on for everybody. What is on because of us is
/// in a file, so that it is known also when somebody has flushed all rules; with `is_to_be_made` the table is made anew, whatever it
/// is.
pub fn lend(bridge: &IfName, index: u32, with_ipv6: bool, is_to_be_made: bool) -> Result<()> {
    let mut record = Record::open()?;
    record.settle()?;
    let links = links()?;
    let before = record.lent.clone();
    record.lent.bridges.insert(index, bridge.to_string());
    record.lent = wanted(&record.lent, &links, with_ipv6);
    let is_changed = record.lent != before;
    if is_changed {
        record.write()?;
    }
    let Lent { bridges, interfaces, ipv6, .. } = record.lent.clone();
    let forwarding: Vec<u32> = interfaces.into_iter().chain(bridges.keys().copied()).collect();
    let is_off = |index: &u32| links.get(index).is_some_and(|name| is(name, "ipv4", "0"));
    let is_ipv6_off = ipv6 && is("all", "ipv6", "0");
    // What is lent is guarded before it is on: the table may be another than the record says.
    if is_changed || is_to_be_made || is_ipv6_off || forwarding.iter().any(is_off) {
        carry_out(&lent::add(&record.lent))?;
    }
    let switch_on = |index: &u32, family: &str| match links.get(index) {
        Some(name) => switch(*index, name, family, "1"),
        None => Ok(()),
    };
    forwarding.iter().try_for_each(|index| switch_on(index, "ipv4"))?;
    if ipv6 {
        record.switch_all_of_ipv6("1")?;
    }
    if with_ipv6 {
        bridges.keys().try_for_each(|index| switch_on(index, "ipv6"))?;
    }
    Ok(())
}

/// What is to be lent by what was and what there is.
fn wanted(before: &Lent, links: &Links, with_ipv6: bool) -> Lent {
    let mut lent = before.clone();
    lent.bridges.retain(|index, _| links.contains_key(index));
    let is_everybodys = |family: &str| is("default", family, "1");
    lent.interfaces = match is_everybodys("ipv4") {
        true => BTreeSet::new(),
        false => {
            let is_lent = |index: &u32, name: &str| match is(name, "ipv4", "1") {
                true => before.interfaces.contains(index),
                false => !lent.bridges.contains_key(index) && has("ipv4", name),
            };
            links.iter().filter(|(index, name)| is_lent(index, name)).map(|(index, _)| *index).collect()
        }
    };
    lent.ipv6 = (before.ipv6 || with_ipv6 && is("all", "ipv6", "0")) && !is_everybodys("ipv6");
    lent
}

/// Whether the table is there, whole, that keeps the host from forwarding for others.
pub fn is_guarded() -> Result<bool> {
    let record = Record::open()?;
    let listed = list(lent::TABLE)?;
    Ok(listed.is_some_and(|listed| ruleset::is_whole(&listed, &lent::add(&record.lent))))
}

/// The host no longer forwards for a bridge, and after the last one not at all, if it did not before.
pub fn take_back(index: u32) -> Result<()> {
    let mut record = Record::open()?;
    if !record.file.exists() {
        return Ok(());
    }
    record.settle()?;
    let links = links()?;
    record.lent.bridges.remove(&index);
    record.lent.bridges.retain(|index, _| links.contains_key(index));
    if !record.lent.bridges.is_empty() {
        record.write()?;
        return carry_out(&lent::add(&record.lent));
    }
    if is("default", "ipv4", "0") {
        let lent = links.iter().filter(|(index, _)| record.lent.interfaces.contains(index));
        lent.into_iter().try_for_each(|(index, name)| switch(*index, name, "ipv4", "0"))?;
    }
    if record.lent.ipv6 && is("default", "ipv6", "0") {
        record.switch_all_of_ipv6("0")?;
    }
    carry_out(&ruleset::remove(lent::TABLE))?;
    // The record goes last.
    fs::remove_file(&record.file).map_err(|error| cannot_use(&error))
}

/// What is lent, in its file, under the lock of all reapers.
struct Record {
    lent: Lent,
    file: PathBuf,
    _lock: Passing,
}

impl Record {
    fn open() -> Result<Self> {
        let namespace = crate::sys::process::own_network();
        let namespace = namespace.ok_or(io::ErrorKind::NotFound.into()).map_err(|error| cannot_use(&error))?;
        let folder = run().join(namespace.1.to_string());
        let (lock, file) = (Passing::wait(folder.join("forwarding"), 2, cannot_use)?, folder.join("lent"));
        Ok(Self { lent: read(&file)?.unwrap_or_default(), file, _lock: lock })
    }

    fn write(&self) -> Result<()> {
        write_file(&self.file, &self.lent)
    }

    /// Turns IPv6 forwarding on or off for the host, and no switch but that one: the kernel changes those of all interfaces with
    /// it, and forgets the default routes that routers have announced, but for an interface that takes them in any case
    /// (`accept_ra` 2). What all were before is written down first: who is killed here leaves it to the next one.
    fn switch_all_of_ipv6(&mut self, value: &str) -> Result<()> {
        if is("all", "ipv6", value) {
            return Ok(());
        }
        let names = links()?.into_values().chain(["default".to_owned()]);
        let before = names.filter_map(|name| {
            let read = |setting: &str| sysctl::read(&name, &format!("ipv6/{setting}"));
            Some((read("forwarding")?, read("accept_ra")?)).map(|(forwarding, accept_ra)| (name, forwarding, accept_ra))
        });
        self.lent.switching = before.collect();
        self.write()?;
        let accepting = self.lent.switching.iter().filter(|(.., accept_ra)| accept_ra == "1");
        let done = accepting.into_iter().try_for_each(|(name, ..)| write(name, "ipv6/accept_ra", "2"));
        let done = done.and_then(|()| write("all", "ipv6/forwarding", value));
        self.settle().and(done)
    }

    /// Gives the interfaces what they had before the switch of all was turned.
    fn settle(&mut self) -> Result<()> {
        if self.lent.switching.is_empty() {
            return Ok(());
        }
        for (name, forwarding, accept_ra) in &self.lent.switching {
            for (setting, value) in [("ipv6/forwarding", forwarding), ("ipv6/accept_ra", accept_ra)] {
                if sysctl::read(name, setting).is_some_and(|now| now != *value) {
                    write(name, setting, value)?;
                }
            }
        }
        self.lent.switching.clear();
        self.write()
    }
}

/// The names of links by their indices.
type Links = BTreeMap<u32, String>;

/// All that may forward.
fn links() -> Result<Links> {
    let all = if_nameindex().map_err(|error| cannot_look(&error.into()))?;
    let links = all.iter().map(|link| (link.index(), link.name().to_string_lossy().into_owned()));
    Ok(links.filter(|(_, name)| name != "lo" && !is_a_guests(name)).collect())
}

/// Turns the switch of the link of this index, if its name is still its own: that of a renamed one can't be written any more once it
/// is open.
fn switch(index: u32, name: &str, family: &str, value: &str) -> Result<()> {
    if is(name, family, value) {
        return Ok(());
    }
    let setting = format!("{family}/forwarding");
    let done = sysctl::open(name, &setting).and_then(|mut file| match if_nametoindex(name) {
        Ok(now) if now == index => file.write_all(value.as_bytes()),
        _ => Ok(()),
    });
    unless_gone(name, &setting, done)
}

/// Whether it is the TAP of a guest by its name: that forwards nothing, as it is a port.
fn is_a_guests(name: &str) -> bool {
    let number = name.strip_prefix(ifname::PREFIX);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

fn has(family: &str, name: &str) -> bool {
    sysctl::read(name, &format!("{family}/forwarding")).is_some()
}

fn is(name: &str, family: &str, value: &str) -> bool {
    sysctl::read(name, &format!("{family}/forwarding")).as_deref() == Some(value)
}

/// An interface that has gone meanwhile needs nothing.
fn write(name: &str, setting: &str, value: &str) -> Result<()> {
    unless_gone(name, setting, sysctl::write(name, setting, value))
}

fn unless_gone(name: &str, setting: &str, done: io::Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| {
            let what = format!("cannot set {setting} of {name}: {}", reason(&error));
            Error::new(what, "A container needs a /proc/sys that can be written, or forwarding that is on.")
        }),
    }
}

fn cannot_look(error: &io::Error) -> Error {
    Error::new(format!("cannot look at the interfaces: {}", reason(error)), "Try again.")
}

fn cannot_use(error: &io::Error) -> Error {
    let folder = run().display().to_string();
    Error::new(format!("cannot use {folder}: {}", reason(error)), to_write(error, &folder))
}
