//! `kvm-bridge doctor --report`: all that a stranger needs to find a fault, with nothing that tells whose host it is.
//!
//! It is put together of what others look at: the checks, `status`, journals, what our processes wrote into the host's log,
//! and what iproute2 says. Only then, as a whole, is everything replaced that names somebody (`model::anonymous`).

use crate::doctor::Query;
use crate::launch;
use crate::netlink::Netlink;
use crate::network::inventory::{self, Bridge};
use crate::network::links::unreadable;
use crate::network::managed;
use crate::output;
use crate::output::errno::reason;
use crate::state::journal::Files;
use crate::state::{config, dhcp_leases, events};
use crate::sys::process;
use crate::sys::program::Program;
use crate::vm::Store;
use model::anonymous::Anonymizer;
use model::argv::masked::masked;
use model::check::Check;
use model::error::{Error, Result};
use model::report::bridge::to_json;
use model::report::json;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// For so long iproute2 and journalctl may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many lines of the log are told.
const LINES: &str = "100";
/// Whose versions are told.
const PROGRAMS: [&str; 5] = ["ip -V", "dnsmasq --version", "nft --version", "pasta --version", "systemctl --version"];
/// What root has written down for us.
const FILES: [&str; 3] = [config::SYSTEM, kvm_bridge_helper::acl::OURS, kvm_bridge_helper::acl::QEMU];
/// What iproute2 is asked. None of it can have a secret: keys of WireGuard, 802.1X and IPsec are told by others.
const NETWORK: [&str; 9] = [
    "ip -j -details link show",
    "ip -j address show",
    "ip -j rule show",
    "ip -j -4 route show table all",
    "ip -j -6 route show table all",
    "bridge -j -details link show",
    "bridge -j vlan show",
    "tc -j qdisc show",
    "nft -j list tables",
];

/// The report, replaced.
pub(super) fn report(query: &Query, checks: &[Check]) -> Result<Value> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let bridges = inventory::look(&mut netlink)?;
    let links = netlink.links().map_err(unreadable)?;
    let mut anonymizer = Anonymizer::default();
    let host = nix::sys::utsname::uname().map_err(|error| unreadable(error.into()))?;
    let node = host.nodename().to_string_lossy();
    anonymizer.name("host", &node);
    anonymizer.name("host", node.split('.').next().unwrap_or_default());
    for domain in resolver_words(&["search", "domain"]) {
        anonymizer.name("domain", &domain);
    }
    for port in bridges.iter().flat_map(|bridge| &bridge.ports) {
        port.vm.iter().for_each(|vm| anonymizer.name("vm", vm));
        port.user.iter().filter(|user| *user != "root").for_each(|user| anonymizer.name("user", user));
    }
    let (records, _) = Store::open().and_then(|store| store.list()).unwrap_or_default();
    for record in &records {
        anonymizer.name("vm", record.vm.split_once(':').map_or(record.vm.as_str(), |(_, name)| name));
    }
    for user in users() {
        anonymizer.name("user", &user);
    }
    for link in links.iter().filter(|link| !is_usual(link.name.as_str())) {
        anonymizer.name("interface", link.name.as_str());
    }
    let whole = json!({
        "report": 1,
        "versions": {
            "kvm-bridge": env!("CARGO_PKG_VERSION"),
            "kernel": host.release().to_string_lossy(),
            "machine": host.machine().to_string_lossy(),
            "distribution": distribution(),
            "qemu": qemu(),
            "programs": PROGRAMS.iter().filter_map(|command| said(command).ok()?.lines().next().map(str::to_owned)).collect::<Vec<_>>(),
        },
        "root": process::is_root(),
        "bridge": query.bridge.as_ref().map(|bridge| bridge.as_str()),
        "managers": links.iter().filter_map(|link| {
            Some((link.name.to_string(), json!(managed::of(link).ok()??.to_string())))
        }).collect::<serde_json::Map<_, _>>(),
        "checks": checks,
        "bridges": bridges.iter().map(|bridge| to_json(bridge, None, dhcp_leases::now())).collect::<Vec<_>>(),
        "journals": journals(),
        "guests": guests(&bridges, &mut anonymizer),
        "log": log(),
        "files": FILES.iter().map(|path| (*path, json!(fs::read_to_string(path).ok()))).collect::<HashMap<_, _>>(),
        "name_servers": resolver_words(&["nameserver"]),
        "network": NETWORK.iter().map(|command| (*command, structured(said(command)))).collect::<HashMap<_, _>>(),
    });
    Ok(anonymizer.document(whole))
}

/// Shows it. With a name of a file it is written there too, by one who sits at a terminal only after they have said so.
pub(super) fn show(report: &Value, file: Option<&Path>) -> Result<String> {
    let text = json(report);
    let Some(path) = file else { return Ok(text) };
    output::print(&text)?;
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let _ = write!(io::stderr(), "Write this to {}? [y/N] ", path.display());
        let mut answer = String::new();
        let _ = io::stdin().lock().read_line(&mut answer);
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(String::new());
        }
    }
    // Not by a link, nor over a file that is there: the folder may be anybody's.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let what = format!("cannot write {}: {}", path.display(), reason(&error));
        Error::new(what, "Give the name of a new file: kvm-bridge doctor --report=FILE")
    })?;
    output::say("kvm-bridge", format_args!("wrote {}", path.display()));
    Ok(String::new())
}

/// What a command says; an error of one that is not there, or that fails.
fn said(command: &str) -> Result<String> {
    let mut words = command.split(' ');
    Program::new(words.next().unwrap_or_default()).words(words).within(PATIENCE).run()
}

fn structured(said: Result<String>) -> Value {
    match said {
        Ok(text) if text.trim().is_empty() => Value::Null,
        Ok(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Err(error) => json!({ "error": error.what() }),
    }
}

/// The first line of what QEMU says of itself.
fn qemu() -> Option<String> {
    let qemu = launch::find("qemu-kvm".as_ref(), &config::load().ok()?).ok()?;
    let (_, said) = qemu.ask(&["--version".as_ref()])?;
    Some(format!("{}: {}", qemu.path().display(), said.lines().next().unwrap_or_default()))
}

fn distribution() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The words behind these of resolv.conf(5).
fn resolver_words(keys: &[&str]) -> Vec<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let words = lines.filter(|words| words.first().is_some_and(|word| keys.contains(word)));
    words.flat_map(|words| words[1..].iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).collect()
}

/// The names of people who have accounts here.
fn users() -> Vec<String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let people = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let people =
        people.filter(|words| words.get(2).and_then(|uid| uid.parse().ok()).is_some_and(|uid: u32| uid >= 1000));
    people.filter_map(|words| Some((*words.first()?).to_owned())).filter(|name| name != "nobody").collect()
}

/// Whether the kernel, a distribution or we call interfaces so, with a number behind. In a longer one is an address.
fn is_usual(name: &str) -> bool {
    const STARTS: [&str; 17] = [
        "lo", "eth", "eno", "ens", "enp", "wlan", "wlp", "wlo", "br", "virbr", "docker", "veth", "tap", "tun", "wg",
        "kvb", "vnet",
    ];
    let is_number = |rest: &str| rest.len() <= 10 && rest.chars().all(|c| c.is_ascii_digit() || "spdfn".contains(c));
    STARTS.iter().any(|start| name.strip_prefix(start).is_some_and(is_number))
}

/// The guests' command lines.
fn guests(bridges: &[Bridge], anonymizer: &mut Anonymizer) -> Vec<Value> {
    let ports = bridges.iter().flat_map(|bridge| &bridge.ports);
    let guests = ports.filter_map(|port| Some((port, port.process.as_ref().filter(|process| process.is_qemu())?)));
    let guests = guests.map(|(port, process)| {
        json!({
            "port": port.detail.link.name.as_str(),
            "program": process.program,
            "words": masked(process.words.get(1..).unwrap_or_default(), anonymizer),
        })
    });
    guests.collect()
}

/// What our processes have written into the host's log.
fn log() -> Value {
    let journalctl = Program::new("journalctl").words(["-q", "--no-pager", "-o", "short-iso", "-n", LINES]);
    match journalctl.words(["-t", events::PROGRAM]).within(PATIENCE).run() {
        Ok(text) => text.lines().collect(),
        Err(error) => json!({ "error": error.what() }),
    }
}

/// Those of all bridges, also of some that are gone, and the error of each that can't be read.
fn journals() -> Vec<Value> {
    let all = Files::all().unwrap_or_default().into_iter();
    let journals = all.map(|files| match files.read() {
        Ok(journal) => json!(journal),
        Err(error) => error.to_json(),
    });
    journals.collect()
}
