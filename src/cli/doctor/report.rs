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
use model::ifname::IfName;
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
/// And so many characters of each.
const LONGEST: usize = 1000;
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
    let host = nix::sys::utsname::uname().map_err(|error| unreadable(error.into()))?;
    let mut anonymizer = Anonymizer::default();
    let files: Vec<(&str, Option<String>)> = FILES.iter().map(|path| (*path, without_comments(path))).collect();
    let network: HashMap<&str, Value> =
        NETWORK.iter().map(|command| (*command, structured(said(command), &mut anonymizer))).collect();
    name_hosts(&mut anonymizer, &host.nodename().to_string_lossy());
    name_guests(&mut anonymizer, &bridges);
    name_people(&mut anonymizer, files.iter().filter_map(|(_, text)| text.as_deref()));
    let named = bridges_of_files().into_iter().chain(query.bridge.clone()).map(|name| name.to_string());
    let names = links.iter().map(|link| link.name.to_string()).chain(named).chain(other_names(&network));
    for name in names.filter(|name| !is_usual(name)) {
        anonymizer.name("interface", &name);
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
            Some(json!({ "interface": link.name.as_str(), "manager": managed::of(link).ok()??.to_string() }))
        }).collect::<Vec<_>>(),
        "checks": checks,
        "bridges": bridges.iter().map(|bridge| to_json(bridge, None, dhcp_leases::now())).collect::<Vec<_>>(),
        "journals": journals(),
        "guests": guests(&bridges, &mut anonymizer),
        "log": log(),
        "files": files.iter().map(|(path, text)| (*path, json!(text))).collect::<HashMap<_, _>>(),
        "name_servers": resolver_words(&["nameserver"]),
        "network": network,
    });
    Ok(anonymizer.document(whole))
}

/// The host's names and its domains.
fn name_hosts(anonymizer: &mut Anonymizer, node: &str) {
    anonymizer.name("host", node);
    anonymizer.name("host", node.split('.').next().unwrap_or_default());
    for domain in resolver_words(&["search", "domain"]) {
        anonymizer.name("domain", &domain);
    }
}

/// VMs, also those that do not run, and whose they are.
fn name_guests(anonymizer: &mut Anonymizer, bridges: &[Bridge]) {
    for port in bridges.iter().flat_map(|bridge| &bridge.ports) {
        port.vm.iter().for_each(|vm| anonymizer.name("vm", vm));
        port.user.iter().filter(|user| *user != "root").for_each(|user| anonymizer.name("user", user));
    }
    for guest in bridges.iter().filter_map(|bridge| bridge.nat.as_ref()).flat_map(|nat| &nat.guests) {
        guest.name.iter().for_each(|name| anonymizer.name("vm", name));
    }
    let (records, _) = Store::open().and_then(|store| store.list()).unwrap_or_default();
    for record in &records {
        anonymizer.name("vm", record.name());
    }
}

/// People who have accounts here, or whom rules name: a directory may have them.
fn name_people<'a>(anonymizer: &mut Anonymizer, files: impl Iterator<Item = &'a str>) {
    users().iter().for_each(|user| anonymizer.name("user", user));
    for line in files.flat_map(str::lines) {
        for (key, name) in line.split_whitespace().zip(line.split_whitespace().skip(1)) {
            match key {
                "user" | "group" if name != "root" => anonymizer.name("user", name),
                "allow" | "deny" if name != "all" && !is_usual(name) => anonymizer.name("interface", name),
                _ => {}
            }
        }
    }
}

/// The bridges that journals and the configuration have, which may be no links.
fn bridges_of_files() -> Vec<IfName> {
    let configured = config::load().map(|config| config.bridges.into_keys().collect::<Vec<_>>());
    let journals = Files::all().unwrap_or_default();
    configured.unwrap_or_default().into_iter().chain(journals.iter().map(Files::bridge).cloned()).collect()
}

/// Shows it. With a name of a file it is written there too, by one who sits at a terminal only after they have said so.
pub(super) fn show(report: &Value, file: Option<&Path>) -> Result<String> {
    let text = json(report);
    let Some(path) = file else { return Ok(text) };
    if path.symlink_metadata().is_ok() {
        let what = format!("{} exists", path.display());
        return Err(Error::new(what, "Give the name of a new file: --report=FILE"));
    }
    output::print(&text)?;
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let _ = write!(io::stderr(), "Write this to {}? [y/N] ", path.display());
        let mut answer = String::new();
        let _ = io::stdin().lock().read_line(&mut answer);
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            output::say("kvm-bridge", "nothing is written");
            return Ok(String::new());
        }
    }
    // Not by a link, nor over a file that is there: the folder may be anybody's.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| {
        let what = format!("cannot write {}: {}", path.display(), reason(&error));
        Error::new(what, "Give a new file in a folder that you may write to: --report=FILE")
    })?;
    output::say("kvm-bridge", format_args!("wrote {}", path.display()));
    Ok(String::new())
}

/// The names that interfaces have beside their own.
fn other_names(network: &HashMap<&str, Value>) -> Vec<String> {
    let links = network.get(NETWORK[0]).and_then(Value::as_array).into_iter().flatten();
    let names = links.filter_map(|link| link["altnames"].as_array()).flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// A file of root's; what is written there for people is left out.
fn without_comments(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(line, _)| line).trim_end());
    Some(lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect())
}

/// What a command says; an error of one that is not there, or that fails.
fn said(command: &str) -> Result<String> {
    let mut words = command.split(' ');
    Program::new(words.next().unwrap_or_default()).words(words).within(PATIENCE).run()
}

/// JSON that a command says. Of others' tables of nftables the names are left out.
fn structured(said: Result<String>, anonymizer: &mut Anonymizer) -> Value {
    const USUAL: [&str; 6] = ["filter", "nat", "mangle", "raw", "security", "firewalld"];
    match said {
        Ok(text) if text.trim().is_empty() => Value::Null,
        Ok(text) => {
            let mut value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let tables = value.get_mut("nftables").and_then(Value::as_array_mut).into_iter().flatten();
            for name in tables.filter_map(|entry| entry.get_mut("table")?.get_mut("name")) {
                let text = name.as_str().unwrap_or_default();
                if !USUAL.contains(&text) && !text.starts_with("kvm") {
                    *name = anonymizer.value(text).into();
                }
            }
            value
        }
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
    // Anybody can write there in our name, of any length. These are root's and the caller's.
    let uid = nix::unistd::geteuid();
    let whose = ["-t".to_owned(), events::PROGRAM.to_owned(), "_UID=0".to_owned(), format!("_UID={uid}")];
    match journalctl.words(whose).within(PATIENCE).run() {
        Ok(text) => text.lines().map(|line| line.chars().take(LONGEST).collect::<String>()).collect(),
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
