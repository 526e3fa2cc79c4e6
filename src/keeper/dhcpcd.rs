//! dhcpcd, for all interfaces ("manager mode") or for one.
//!
//! It is ended in a way that leaves everything configured, and started again with its own configuration and lease under
//! the bridge's name. Its processes rewrite their command lines, so that nothing is learnt from these.
#![forbid(unsafe_code)]

use super::clients::{self, Process};
use super::networkd::taps::fits;
use super::{Keeper, Place, in_shell, remove, write};
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::journal::{Files, RUN};
use crate::name::IfName;
use crate::sys::program::Program;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where its configuration and its leases are.
const CONFIGURATION: &str = "/etc/dhcpcd.conf";
const LEASES: &str = "/var/lib/dhcpcd";

/// A dhcpcd that looks after an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its process.
    pub process: Process,
    /// Its pid file.
    pub pid_file: PathBuf,
    /// Its program.
    pub program: PathBuf,
    /// The interface.
    pub interface: IfName,
    /// Whether it is for this interface alone.
    pub is_alone: bool,
    /// The metric of the routes that it made, which follows from the interface's index otherwise.
    pub metric: Option<u32>,
    /// Its control group.
    pub group: Option<String>,
}

/// The dhcpcd that has configured this interface, if one has.
pub(super) fn recognise(link: &Link) -> Option<Keeper> {
    let name = &link.name;
    let alone = [format!("/run/dhcpcd/{name}.pid"), format!("/run/dhcpcd-{name}.pid")];
    let for_all = ["/run/dhcpcd/pid".to_owned(), "/run/dhcpcd.pid".to_owned()];
    let files = alone.into_iter().map(|file| (file, true)).chain(for_all.into_iter().map(|file| (file, false)));
    let mut files = files.map(|(file, is_alone)| (PathBuf::from(file), is_alone));
    let (pid_file, is_alone, process) = files.find_map(|(file, is_alone)| {
        let process = Process::of_file(&file)?;
        Some((file, is_alone, process))
    })?;
    let program = process.program()?;
    if !program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dhcpcd")) {
        return None;
    }
    // Just started, it does not tell yet what it is about to take over.
    let has_lease = link.layer3.has_leases() && lease_of(name.as_str()).exists();
    if !is_alone && let Some(bridge) = renews_on(link) {
        let why = format!("it renews on {bridge} already, and one process can be told of one bridge only");
        let is_its = has_lease || link.layer3.has_routes_of_dhcp();
        return is_its.then(|| Keeper::stranger("dhcpcd", why));
    }
    match Program::new(&program).words(["-U", name.as_str()]).run() {
        Err(_) if is_alone => Some(Keeper::stranger("dhcpcd", "it does not tell what it has done to the interface")),
        // Of several interfaces with addresses it tells nothing at all (9.4.1); what it made of a static one shows by the
        // routes, which no other here has made.
        Err(_) if !has_lease && !link.layer3.has_routes_of_dhcp() => None,
        Ok(said) if !has_lease && !said.lines().any(|line| line.starts_with("ip_address=")) => {
            is_alone.then(|| Keeper::stranger("dhcpcd", "it has no address yet"))
        }
        Ok(said) if said.lines().any(|line| line.starts_with("protocol=dhcp6")) => {
            Some(Keeper::stranger("dhcpcd", "it has an address by DHCPv6, which was not tried"))
        }
        _ => Some(Keeper::Dhcpcd(Client {
            group: process.group(),
            process,
            pid_file,
            program,
            interface: name.clone(),
            is_alone,
            metric: link.layer3.default_metric(),
        })),
    }
}

/// The bridge of ours on which the dhcpcd for all interfaces renews, other than this link.
fn renews_on(link: &Link) -> Option<IfName> {
    let all = Files::all().unwrap_or_default().into_iter().filter(|files| *files.bridge() != link.name);
    let mut told = all.filter(|files| files.of_client("conf").exists());
    told.next().map(|files| files.bridge().clone())
}

fn lease_of(interface: &str) -> PathBuf {
    Path::new(LEASES).join(format!("{interface}.lease"))
}

impl Client {
    pub(super) fn commands(&self, bridge: &IfName, uplink: &IfName) -> [Vec<String>; 2] {
        let conf = &Path::new(RUN).join("conf");
        let copy = format!("cp {} {}", lease_of(uplink.as_str()).display(), lease_of(bridge.as_str()).display());
        let text = fs::read_to_string(CONFIGURATION).unwrap_or_default();
        let text = configuration(&text, uplink, bridge, self.metric);
        let is_said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let said: Vec<&str> = text.lines().filter(is_said).collect();
        let program = self.program.display();
        let start = format!("{program} {}", self.words(conf, bridge).join(" "));
        [
            vec![format!("{program} {}", self.words_to_end(self.interface.as_str()).join(" "))],
            vec![copy, in_shell(conf, &said.join("\n")), start],
        ]
    }

    fn words(&self, configuration: &Path, bridge: &IfName) -> Vec<String> {
        let mut words = vec!["-b".to_owned(), "-q".to_owned(), "-f".to_owned(), configuration.display().to_string()];
        words.extend(self.is_alone.then(|| bridge.to_string()));
        words
    }

    fn words_to_end(&self, interface: &str) -> Vec<String> {
        let mut words = vec!["-p".to_owned(), "-x".to_owned()];
        words.extend(self.is_alone.then(|| interface.to_owned()));
        words
    }

    pub(super) fn silence(&self, place: &Place) -> Result<()> {
        match &place.uplink {
            Some(uplink) => self.end(&self.process, uplink.as_str()),
            None => Err(Error::new("the interface went away in this moment", "Try again.")),
        }
    }

    /// Ends it in a way that leaves all configured (`persistent`).
    fn end(&self, process: &Process, interface: &str) -> Result<()> {
        if !process.runs() {
            return Ok(());
        }
        let asked = Program::new(&self.program).words(self.words_to_end(interface)).run();
        if !process.ends_within(Duration::from_secs(2)) {
            // What it left to do would be undone anyway; its helpers end with it.
            process.signal(Signal::SIGKILL);
        }
        match process.ends_within(Duration::from_secs(5)) {
            true => {
                end_helpers(interface);
                Ok(())
            }
            false => Err(asked.err().unwrap_or_else(|| Error::new("it does not end", "See its log."))),
        }
    }

    /// The one that runs by our configuration.
    fn on_bridge(&self, place: &Place) -> Option<Process> {
        let pid_file = match self.is_alone {
            true => self.pid_file.with_file_name(
                self.pid_file.file_name()?.to_str()?.replace(self.interface.as_str(), place.bridge.as_str()),
            ),
            false => self.pid_file.clone(),
        };
        let is_ours = place.files.of_client("conf").exists();
        Process::of_file(&pid_file).filter(|process| is_ours && *process != self.process)
    }

    pub(super) fn renew(&self, place: &Place) -> Result<()> {
        if self.on_bridge(place).is_some() {
            return Ok(());
        }
        let conf = place.files.of_client("conf");
        let text = match fs::read_to_string(CONFIGURATION) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let what = format!("cannot read {CONFIGURATION}: {}", reason(&error));
                return Err(Error::new(what, "Make it readable."));
            }
        };
        move_lease(self.interface.as_str(), place.bridge.as_str())?;
        write(&conf, &configuration(&text, &self.interface, place.bridge, self.metric))?;
        let words = self.words(&conf, place.bridge);
        Program::new(&self.program).words(words).in_group(self.group.as_deref()).dying_with_us().start()
    }

    pub(super) fn release(&self, place: &Place) -> Result<()> {
        // Whoever started it may have been killed before it had written its pid file: then it has its command line still.
        let conf = place.files.of_client("conf").display().to_string();
        let process = self.on_bridge(place);
        let session = process.as_ref().and_then(Process::session);
        if let Some(process) = process {
            self.end(&process, place.bridge.as_str())?;
        }
        end_all(session, |words| words.contains(&conf));
        Ok(())
    }

    pub(super) fn wake(&self, place: &Place) -> Result<()> {
        let bridges = lease_of(place.bridge.as_str());
        if self.on_bridge(place).is_some() {
            return Err(Error::new("the one on the bridge still runs", "To try again: kvm-bridge recover"));
        }
        if bridges.exists() {
            move_lease(place.bridge.as_str(), self.interface.as_str())?;
        }
        // It may be about to end, told so by one of us that was killed since.
        self.end(&self.process, self.interface.as_str())?;
        let runs = Process::of_file(&self.pid_file).is_some();
        if !runs && place.uplink.as_ref() == Some(&self.interface) {
            let interface = self.is_alone.then_some(self.interface.as_str());
            let words = ["-b", "-q"].into_iter().chain(interface);
            Program::new(&self.program).words(words).in_group(self.group.as_deref()).start()?;
        }
        remove(&place.files.of_client("conf"))?;
        remove(&bridges)?;
        Ok(())
    }
}

/// Kills those of its processes whose command lines, or the titles in their place, are such; and the helpers of these, and
/// of this session.
fn end_all(session: Option<i32>, is_one: impl Fn(&[String]) -> bool) {
    let mut sessions: Vec<i32> = session.into_iter().collect();
    // One may be on its way from another.
    for _ in 0..100 {
        let all = clients::running().into_iter().filter(|client| client.name.starts_with("dhcpcd"));
        let all: Vec<_> = all.map(|client| (client.process.session(), client)).collect();
        sessions.extend(all.iter().filter(|(_, client)| is_one(&client.words)).filter_map(|(session, _)| *session));
        let mut these = all.iter().filter(|(session, _)| session.is_some_and(|session| sessions.contains(&session)));
        let mut is_over = true;
        for (_, client) in &mut these {
            client.process.signal(Signal::SIGKILL);
            client.process.ends_within(Duration::from_millis(100));
            is_over = false;
        }
        if is_over {
            break;
        }
    }
}

/// Kills those of its helpers that outlive it: "dhcpcd: [BPF ARP] eth0 10.0.0.2" may.
fn end_helpers(interface: &str) {
    for client in clients::running().iter().filter(|client| client.name.starts_with("dhcpcd")) {
        let mut words = client.words.iter().flat_map(|title| title.split(' ')).skip(1);
        if words.next() == Some("[BPF") && words.any(|word| word == interface) {
            client.process.signal(Signal::SIGKILL);
        }
    }
}

/// Its lease goes on under another interface's name: the server knows it by the MAC, which is the same.
fn move_lease(from: &str, to: &str) -> Result<()> {
    let (from, to) = (lease_of(from), lease_of(to));
    match fs::copy(&from, &to) {
        Ok(_) => Ok(()),
        // A static address has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let what = format!("cannot copy {} to {}: {}", from.display(), to.display(), reason(&error));
            Err(Error::new(what, "A writable folder is needed: run it as root."))
        }
    }
}

/// Its configuration (dhcpcd.conf(5)) with the bridge in the uplink's place.
fn configuration(text: &str, uplink: &IfName, bridge: &IfName, metric: Option<u32>) -> String {
    let mut lines = vec![format!("denyinterfaces {uplink} tap*")];
    let mut is_named = false;
    let metric = metric.map(|metric| format!("metric {metric}"));
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["interface", name, ..] if *name == uplink.as_str() => {
                lines.push(format!("interface {bridge}"));
                lines.extend(metric.clone());
                is_named = true;
            }
            ["allowinterfaces", names @ ..] => {
                let others = names.iter().filter(|name| **name != uplink.as_str()).copied();
                // The uplink may have been allowed by a pattern, which the bridge does not fit.
                let names: Vec<&str> = others.chain([bridge.as_str()]).collect();
                lines.push(format!("allowinterfaces {}", names.join(" ")));
            }
            ["denyinterfaces", names @ ..] => {
                let others: Vec<&str> = names.iter().copied().filter(|name| !fits(bridge.as_str(), name)).collect();
                if !others.is_empty() {
                    lines.push(format!("denyinterfaces {}", others.join(" ")));
                }
            }
            _ => lines.push(line.to_owned()),
        }
    }
    if !is_named {
        // A bridge that is not named is left alone.
        lines.push(format!("interface {bridge}"));
        lines.extend(metric);
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_stands_where_the_uplink_stood() {
        let [eth0, br0] = ["eth0", "br0"].map(|name| IfName::new(name).unwrap());
        let text =
            "hostname\nallowinterfaces eth0 eth1\ninterface eth0\nstatic ip_address=10.0.0.2/24\ninterface eth1\n";
        let wanted = "denyinterfaces eth0 tap*\nhostname\nallowinterfaces eth1 br0\ninterface br0\nmetric 1002\n\
                      static ip_address=10.0.0.2/24\ninterface eth1\n";
        assert_eq!(configuration(text, &eth0, &br0, Some(1002)), wanted);
        let patterns = "allowinterfaces eth*\ndenyinterfaces veth* br*\ndenyinterfaces br0\n";
        let wanted = "denyinterfaces eth0 tap*\nallowinterfaces eth* br0\ndenyinterfaces veth*\ninterface br0\n";
        assert_eq!(configuration(patterns, &eth0, &br0, None), wanted);
        assert_eq!(configuration("", &eth0, &br0, None), "denyinterfaces eth0 tap*\ninterface br0\n");
    }
}
