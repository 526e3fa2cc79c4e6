//! BusyBox udhcpc: one process for one interface, which knows its lease by heart.
//!
//! It is stopped, not ended. Its clock is what it has left to wait for, so that when it is let go again it asks for its
//! lease as if it had slept, and need not be started anew with a script that begins by taking the address away. On the
//! bridge another one renews meanwhile, whose script leaves that out the first time.
#![forbid(unsafe_code)]

use super::clients::{self, Process, Running};
use super::{Keeper, Place, in_shell, remove, write};
use crate::error::{Error, Result};
use crate::host::Link;
use crate::journal::RUN;
use crate::name::IfName;
use crate::shell::quote;
use crate::sys::program::Program;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where distributions have the script that is run when none is named.
const SCRIPTS: [&str; 2] = ["/etc/udhcpc/default.script", "/usr/share/udhcpc/default.script"];

/// A udhcpc that looks after one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Its process.
    pub process: Process,
    /// Its program, which is BusyBox.
    pub program: PathBuf,
    /// What it is called by: `udhcpc`, or `busybox udhcpc`.
    pub name: Vec<String>,
    /// Its options, without those that name its interface, pid file, script and address.
    pub options: Vec<String>,
    /// Its script.
    pub script: PathBuf,
    /// The address that it holds.
    pub address: String,
    /// Its control group.
    pub group: Option<String>,
}

/// What a udhcpc is for this interface, if anything.
pub(super) fn recognise(link: &Link, running: &Running) -> Option<Keeper> {
    let name = || format!("udhcpc ({})", running.process.pid);
    let first = running.words.iter().position(|word| word.rsplit('/').next() == Some("udhcpc"))? + 1;
    let (name_words, words) = running.words.split_at_checked(first)?;
    let options = Options::of(words);
    if options.interface.as_deref().unwrap_or("eth0") != link.name.as_str() {
        return None;
    }
    let script =
        options.script.map(PathBuf::from).or_else(|| SCRIPTS.iter().map(PathBuf::from).find(|script| script.exists()));
    let address = link.layer3.address_texts().into_iter().find(|address| !address.contains(':'));
    match (script, address) {
        (Some(script), Some(address)) => Some(Keeper::Udhcpc(Client {
            process: running.process.clone(),
            program: running.process.program()?,
            name: name_words.to_vec(),
            options: options.others,
            script,
            address: address.split('/').next().unwrap_or_default().to_owned(),
            group: running.process.group(),
        })),
        (None, _) => Some(Keeper::stranger(name(), "its script is not where it usually is")),
        (_, None) => Some(Keeper::stranger(name(), "it has no address yet")),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    interface: Option<String>,
    script: Option<String>,
    others: Vec<String>,
}

impl Options {
    /// Of udhcpc's usage: those that take a value, and their long names; `-a` may have one in the same word.
    const WITH_VALUE: &str = "tTAOxFVPisprcHh";
    const LONG_WITH_VALUE: [&str; 11] = [
        "--interface",
        "--script",
        "--pidfile",
        "--request",
        "--retries",
        "--timeout",
        "--tryagain",
        "--request-option",
        "--fqdn",
        "--vendorclass",
        "--client-port",
    ];

    fn of(words: &[String]) -> Self {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word.starts_with("--") {
                let (name, value) = match word.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (word.as_str(), None),
                };
                let is_alone = value.is_none() && Self::LONG_WITH_VALUE.contains(&name);
                let value = if is_alone { words.next().cloned() } else { value };
                options.take(name.to_owned(), value);
                continue;
            }
            let Some(mut letters) = word.strip_prefix('-') else {
                options.others.push(word.clone());
                continue;
            };
            // Several may stand in one word, the last with its value.
            while let Some(letter) = letters.chars().next() {
                letters = &letters[letter.len_utf8()..];
                let rest = || (!letters.is_empty()).then(|| letters.to_owned());
                if letter == 'a' {
                    options.others.push(format!("-a{letters}"));
                    break;
                }
                if Self::WITH_VALUE.contains(letter) {
                    let value = rest().or_else(|| words.next().cloned());
                    options.take(format!("-{letter}"), value);
                    break;
                }
                options.take(format!("-{letter}"), None);
            }
        }
        options
    }

    fn take(&mut self, name: String, value: Option<String>) {
        match name.as_str() {
            "-i" | "--interface" => self.interface = value,
            "-s" | "--script" => self.script = value,
            // Its own; and what would have it stay in the foreground, or end.
            "-p" | "--pidfile" | "-r" | "--request" | "-f" | "--foreground" | "-q" | "--quit" | "-n" | "--now"
            | "-b" | "--background" | "-R" | "--release" => {}
            _ => self.others.extend([Some(name), value].into_iter().flatten()),
        }
    }
}

impl Client {
    fn words_on(&self, bridge: &IfName, pid_file: &Path, script: &Path) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let own = ["-b", "-i", bridge.as_str(), "-r", &self.address, "-p", &path(pid_file), "-s", &path(script)];
        self.name.iter().skip(1).cloned().chain(own.map(str::to_owned)).chain(self.options.iter().cloned()).collect()
    }

    pub(super) fn commands(&self, bridge: &IfName) -> [Vec<String>; 2] {
        let [pid_file, script, first] = ["pid", "script", "first"].map(|end| Path::new(RUN).join(end));
        let words = self.words_on(bridge, &pid_file, &script);
        let wrap = in_shell(&script, &self.wrapper(&first));
        let ready = format!("chmod 755 {}; touch {}", script.display(), first.display());
        let start = format!("{} {}", self.name.first().map_or("udhcpc", String::as_str), words.join(" "));
        [vec![format!("kill -STOP {}", self.process.pid)], vec![wrap, ready, start]]
    }

    pub(super) fn silence(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP);
        match self.process.runs() {
            true => Ok(()),
            false => Err(Error::new("it ended in this moment", "Try again.")),
        }
    }

    /// Its script but for the first call, which would take the address away.
    fn wrapper(&self, first: &Path) -> String {
        format!(
            "#!/bin/sh\n[ \"$1\" = deconfig ] && rm {} 2>/dev/null && exit\nexec {} \"$@\"\n",
            quote(first),
            quote(&self.script)
        )
    }

    pub(super) fn renew(&self, place: &Place) -> Result<()> {
        let [pid_file, script, first] = ["pid", "script", "first"].map(|end| place.files.of_client(end));
        if !on_bridge(place).is_empty() {
            return Ok(());
        }
        write(&first, "")?;
        write(&script, &self.wrapper(&first))?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, executable).map_err(|error| {
            Error::new(format!("cannot use {}: {error}", script.display()), "A usual /run is needed.")
        })?;
        let name = self.name.first().map_or("udhcpc", String::as_str);
        let words = self.words_on(place.bridge, &pid_file, &script);
        Program::new(&self.program).called(name).words(words).in_group(self.group.as_deref()).dying_with_us().start()
    }

    pub(super) fn release(&self, place: &Place) -> Result<()> {
        for process in on_bridge(place) {
            process.kill();
        }
        for end in ["pid", "script", "first"] {
            remove(&place.files.of_client(end))?;
        }
        Ok(())
    }

    pub(super) fn wake(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT);
        Ok(())
    }
}

/// The one that we started on the bridge: its command line names its own script.
fn on_bridge(place: &Place) -> Vec<Process> {
    let script = place.files.of_client("script").display().to_string();
    clients::with_word("udhcpc", &script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_apart_however_they_are_written() {
        let of = |line: &str| Options::of(&line.split(' ').map(str::to_owned).collect::<Vec<String>>());
        for line in [
            "-i eth1 -s /x -p /run/p -b -t 5 -O 42 -S",
            "-bieth1 -s/x -p/run/p -t5 -O42 -S",
            "-nqRfi eth1 -t 5 --script=/x --pidfile /run/p -O 42 -Sr 10.0.0.7",
        ] {
            let options = of(line);
            assert_eq!(options.interface.as_deref(), Some("eth1"), "{line}");
            assert_eq!(options.script.as_deref(), Some("/x"), "{line}");
            assert_eq!(options.others, ["-t", "5", "-O", "42", "-S"], "{line}");
        }
        assert_eq!(of("-a500 -x hostname:-i --retries=3").others, ["-a500", "-x", "hostname:-i", "--retries", "3"]);
    }
}
