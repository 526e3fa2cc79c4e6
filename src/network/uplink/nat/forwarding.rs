//! The kernel's switches for forwarding, on for our bridges alone; `model::nat::lent` says how, and keeps the record.

use crate::network::uplink::nat::rules::carry_out;
use crate::output::errno::reason;
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
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Lets the host forward for a bridge. To be done again when an interface has come, or somebody has changed the switches: then it
/// does what is missing, and lends no more where forwarding is on for everybody. What is on because of us is in a file, so that it
/// is known also when somebody has flushed all rules; with `is_to_be_made` the table is made anew, whatever it is.
pub fn lend(bridge: &IfName, with_ipv6: bool, is_to_be_made: bool) -> Result<()> {
    let (_lock, file) = lock()?;
    let before: Lent = read(&file)?.unwrap_or_default();
    let lent = settled(|| {
        let lent = wanted(&before, bridge, with_ipv6);
        if lent != before {
            write_file(&file, &lent)?;
        }
        if lent != before || is_to_be_made {
            // What is lent is guarded before it is on.
            carry_out(&lent::add(&lent))?;
        }
        Ok(lent)
    })?;
    for name in lent.interfaces.iter().chain(&lent.bridges) {
        set(name, "ipv4", "1")?;
    }
    if lent.ipv6 {
        for_all_of_ipv6("1")?;
    }
    if with_ipv6 {
        lent.bridges.iter().try_for_each(|name| set(name, "ipv6", "1"))?;
    }
    Ok(())
}

/// What is lent with one bridge more.
fn wanted(before: &Lent, bridge: &IfName, with_ipv6: bool) -> Lent {
    let mut lent = before.clone();
    lent.bridges.insert(bridge.to_string());
    lent.bridges.retain(|name| has("ipv4", name));
    let is_off = |name: &String| is(name, "ipv4", "0") && !lent.bridges.contains(name);
    let is_everybodys = |family: &str| is("default", family, "1");
    lent.interfaces = match is_everybodys("ipv4") {
        true => BTreeSet::new(),
        false => {
            let lent_before = before.interfaces.iter().filter(|name| is(name, "ipv4", "1")).cloned();
            links("ipv4").into_iter().filter(is_off).chain(lent_before).collect()
        }
    };
    lent.ipv6 = (before.ipv6 || with_ipv6 && is("all", "ipv6", "0")) && !is_everybodys("ipv6");
    lent
}

/// Tries once more where interfaces have come or gone meanwhile: the kernel takes no table with one that is not there.
fn settled<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    const ATTEMPTS: u32 = 20;
    for _ in 1..ATTEMPTS {
        let before = links("ipv4");
        match attempt() {
            Err(_) if links("ipv4") != before => {}
            done => return done,
        }
    }
    attempt()
}

/// The host no longer forwards for a bridge, and after the last one not at all, if it did not before.
pub fn take_back(bridge: &IfName) -> Result<()> {
    let (_lock, file) = lock()?;
    let Some(mut lent) = read::<Lent>(&file)? else { return Ok(()) };
    lent.bridges.remove(bridge.as_str());
    lent.bridges.retain(|name| has("ipv4", name));
    if !lent.bridges.is_empty() {
        write_file(&file, &lent)?;
        return settled(|| {
            lent.bridges.retain(|name| has("ipv4", name));
            lent.interfaces.retain(|name| has("ipv4", name));
            carry_out(&lent::add(&lent))
        });
    }
    if is("default", "ipv4", "0") {
        lent.interfaces.iter().try_for_each(|name| set(name, "ipv4", "0"))?;
    }
    if lent.ipv6 && is("default", "ipv6", "0") {
        for_all_of_ipv6("0")?;
    }
    carry_out(&ruleset::remove(lent::TABLE))?;
    // The record goes last.
    fs::remove_file(&file).map_err(|error| cannot_use(&error))
}

/// Turns IPv6 forwarding on or off for the host, and no switch but that one: the kernel changes those of all interfaces with it,
/// and forgets the default routes that routers have announced, but for an interface that takes them in any case (`accept_ra` 2).
fn for_all_of_ipv6(value: &str) -> Result<()> {
    if is("all", "ipv6", value) {
        return Ok(());
    }
    let names: Vec<String> = links("ipv6").into_iter().chain(["default".to_owned()]).collect();
    let read = |name: &String, setting: &str| sysctl::read(name, &format!("ipv6/{setting}"));
    let before: Vec<_> = names.iter().map(|name| (name, read(name, "forwarding"), read(name, "accept_ra"))).collect();
    let accepting = || before.iter().filter(|(_, _, accept)| accept.as_deref() == Some("1")).map(|(name, ..)| *name);
    accepting().try_for_each(|name| write(name, "ipv6/accept_ra", "2"))?;
    let done = write("all", "ipv6/forwarding", value);
    for (name, forwarding, _) in &before {
        if let Some(forwarding) = forwarding.as_deref().filter(|forwarding| !is(name, "ipv6", forwarding)) {
            set(name, "ipv6", forwarding)?;
        }
    }
    accepting().try_for_each(|name| write(name, "ipv6/accept_ra", "1"))?;
    done
}

/// All interfaces of a family.
fn links(family: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(format!("/proc/sys/net/{family}/conf")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !["all", "default", "lo"].contains(&name.as_str()) && !is_a_guests(name)).collect()
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

fn set(name: &str, family: &str, value: &str) -> Result<()> {
    if is(name, family, value) { Ok(()) } else { write(name, &format!("{family}/forwarding"), value) }
}

/// An interface that has gone meanwhile needs nothing.
fn write(name: &str, setting: &str, value: &str) -> Result<()> {
    match sysctl::write(name, setting, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| {
            let what = format!("cannot set {setting} of {name}: {}", reason(&error));
            Error::new(what, "A container needs a /proc/sys that can be written, or forwarding that is on.")
        }),
    }
}

/// The reapers of several bridges have one record: its lock and its file.
fn lock() -> Result<(Passing, PathBuf)> {
    let namespace = crate::sys::process::own_network();
    let namespace = namespace.ok_or(io::ErrorKind::NotFound.into()).map_err(|error| cannot_use(&error))?;
    let folder = run().join(namespace.1.to_string());
    Ok((Passing::wait(folder.join("forwarding"), 2, cannot_use)?, folder.join("lent")))
}

fn cannot_use(error: &io::Error) -> Error {
    Error::new(format!("cannot use {}: {}", run().display(), reason(error)), "Run it as root, with a writable /run.")
}
