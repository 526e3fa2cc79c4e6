//! ISC dhclient, as ifupdown and many hands start it: one process for one interface.
//!
//! It is killed, since every kinder way gives the lease up, and the same program goes on with the same lease on the
//! bridge. Its own files there have names that Debian's AppArmor profile lets it write.
#![forbid(unsafe_code)]

use super::clients::{self, Process, Running};
use super::{Keeper, Place, is_of_ifupdown, remove, write};
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::name::IfName;
use crate::sys::program::Program;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where it has its configuration when none is named.
const CONFIGURATION: &str = "/etc/dhcp/dhclient.conf";

/// A dhclient that looks after one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its process.
    pub process: Process,
    /// Its program.
    pub program: PathBuf,
    /// The words of its command line.
    pub words: Vec<String>,
    /// The interface, which is the last of them.
    pub interface: IfName,
    /// Where it keeps its leases.
    pub leases: PathBuf,
    /// Its control group.
    pub group: Option<String>,
    /// Whether ifupdown started it, and can end it.
    pub is_of_ifupdown: bool,
}

/// What a dhclient is for this interface, if anything.
pub(super) fn recognise(link: &Link, running: &Running) -> Option<Keeper> {
    let name = || format!("dhclient ({})", running.process.pid);
    if !clients::is_for(&running.words, &link.name) {
        return None;
    }
    let is_alone = running.words.last().map(String::as_str) == Some(link.name.as_str());
    let interfaces = running.words.iter().skip(1).filter(|word| word.as_str() == link.name.as_str());
    if !is_alone || interfaces.count() != 1 {
        return Some(Keeper::stranger(name(), "it is not for this one interface alone"));
    }
    if running.words.iter().any(|word| word == "-6") {
        return Some(Keeper::stranger(name(), "it is one for DHCPv6, which was not tried"));
    }
    if !link.layer3.has_ipv4() {
        return Some(Keeper::stranger(name(), "it has no address yet"));
    }
    Some(Keeper::Dhclient(Client {
        process: running.process.clone(),
        program: running.process.program()?,
        leases: value_of("-lf", &running.words).unwrap_or("/var/lib/dhcp/dhclient.leases").into(),
        words: running.words.clone(),
        interface: link.name.clone(),
        group: running.process.group(),
        is_of_ifupdown: is_of_ifupdown(&link.name),
    }))
}

fn value_of<'a>(option: &str, words: &'a [String]) -> Option<&'a str> {
    words.iter().skip_while(|word| *word != option).nth(1).map(String::as_str)
}

/// Its own files on the bridge.
fn file(bridge: &IfName, end: &str) -> PathBuf {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map(|file| file.ino()).unwrap_or_default();
    format!("/run/dhclient-kvm-bridge-{namespace}-{bridge}.{end}").into()
}

impl Client {
    /// Its configuration (dhclient.conf(5)), where that has a part for this interface, which the bridge needs too.
    fn own_configuration(&self) -> Option<String> {
        let path = value_of("-cf", &self.words).unwrap_or(CONFIGURATION);
        let name = quoted(&self.interface);
        let is_named = |line: &str| !line.trim_start().starts_with('#') && line.contains(&name);
        fs::read_to_string(path).ok().filter(|text| text.lines().any(is_named))
    }

    fn words_on(&self, bridge: &IfName) -> Vec<String> {
        let has_own = self.own_configuration().is_some();
        let mut words = Vec::new();
        let mut old = self.words.iter().skip(1);
        while let Some(word) = old.next() {
            match word.as_str() {
                "-pf" | "-lf" => drop(old.next()),
                "-cf" if has_own => drop(old.next()),
                // In the foreground it would have to be waited for.
                "-d" => {}
                _ => words.push(word.clone()),
            }
        }
        words.pop();
        let path = |end| file(bridge, end).display().to_string();
        if has_own {
            words.extend(["-cf".to_owned(), path("leases.conf")]);
        }
        words.extend(["-pf".to_owned(), path("pid"), "-lf".to_owned(), path("leases"), bridge.to_string()]);
        words
    }

    pub(super) fn commands(&self, bridge: &IfName) -> [Vec<String>; 2] {
        let leases = file(bridge, "leases");
        let [from, to] = [&self.interface, bridge].map(quoted);
        let renamed = |from_file: &str, to_file: &Path| {
            format!("sed 's/interface {from}/interface {to}/' {from_file} >{}", to_file.display())
        };
        let mut after = vec![renamed(&self.leases.display().to_string(), &leases)];
        if self.own_configuration().is_some() {
            let path = value_of("-cf", &self.words).unwrap_or(CONFIGURATION);
            after.push(renamed(path, &file(bridge, "leases.conf")));
        }
        let start = format!("{} {}", self.program.display(), self.words_on(bridge).join(" "));
        after.push(start);
        [vec![format!("kill -KILL {}", self.process.pid)], after]
    }

    pub(super) fn silence(&self) -> Result<()> {
        match self.process.kill() {
            true => Ok(()),
            false => Err(Error::new("it cannot be ended", "See what it waits for: ps -o pid,stat,wchan")),
        }
    }

    /// The one that we started on the bridge: its command line names its own file.
    fn on_bridge(bridge: &IfName) -> Vec<Process> {
        let leases = file(bridge, "leases").display().to_string();
        clients::with_word("dhclient", &leases)
    }

    pub(super) fn renew(&self, place: &Place) -> Result<()> {
        if !Self::on_bridge(place.bridge).is_empty() {
            return Ok(());
        }
        let leases = fs::read_to_string(&self.leases).map_err(|error| unreadable(&self.leases, &error))?;
        write(&file(place.bridge, "leases"), &renamed(&leases, &self.interface, place.bridge))?;
        if let Some(text) = self.own_configuration() {
            write(&file(place.bridge, "leases.conf"), &text.replace(&quoted(&self.interface), &quoted(place.bridge)))?;
        }
        self.program(&self.words_on(place.bridge)).dying_with_us().start()
    }

    fn program(&self, words: &[String]) -> Program {
        let name = self.words.first().map_or("dhclient", String::as_str);
        Program::new(&self.program).called(name).words(words).in_group(self.group.as_deref())
    }

    pub(super) fn release(&self, place: &Place) -> Result<()> {
        for process in Self::on_bridge(place.bridge) {
            process.kill();
        }
        Ok(())
    }

    pub(super) fn wake(&self, place: &Place) -> Result<()> {
        let (leases, pid) = (file(place.bridge, "leases"), file(place.bridge, "pid"));
        // Renamed, or down for ifupdown: then it is for whoever did that.
        let is_there =
            place.uplink.as_ref() == Some(&self.interface) && (!self.is_of_ifupdown || is_of_ifupdown(&self.interface));
        if is_there {
            // One of us may have been killed before it saw its end: it would be taken for one that goes on.
            self.silence()?;
        }
        let runs = clients::running().iter().any(|client| {
            client.name == "dhclient" && client.words.last().map(String::as_str) == Some(self.interface.as_str())
        });
        if is_there && !runs {
            // What it had from its server meanwhile. Without a lease it would ask for another address.
            if let Ok(text) = fs::read_to_string(&leases)
                && text.contains("lease {")
            {
                write(&self.leases, &renamed(&text, place.bridge, &self.interface))?;
            }
            self.program(self.words.get(1..).unwrap_or_default()).start()?;
        }
        remove(&file(place.bridge, "leases.conf"))?;
        remove(&leases)?;
        remove(&pid)?;
        Ok(())
    }
}

/// A file of leases (dhclient.leases(5)) that is for another interface.
fn renamed(leases: &str, from: &IfName, to: &IfName) -> String {
    leases.replace(&format!("interface {}", quoted(from)), &format!("interface {}", quoted(to)))
}

/// A name as dhclient writes it.
fn quoted(name: &IfName) -> String {
    format!("\"{name}\"")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(format!("cannot read {}: {}", path.display(), reason(error)), "It has the lease: see where it is.")
}
