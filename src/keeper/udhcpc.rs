//! BusyBox udhcpc: one process for one interface, which knows its lease by heart.
//!
//! It is stopped, not ended. Its clock is what it has left to wait for, so that when it is let go again it asks for its
//! lease as if it had slept, and need not be started anew with a script that begins by taking the address away. On the
//! bridge another one renews meanwhile, whose script leaves that out the first time.
#![forbid(unsafe_code)]

use super::clients::{self, Process, Running};
use super::{Keeper, Place, remove, write};
use crate::error::{Error, Result};
use crate::host::Link;
use crate::journal::RUN;
use crate::name::IfName;
use crate::sys::program::Program;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Of udhcpc's usage: those that take a value.
    const WITH_VALUE: [&str; 7] = ["-t", "-T", "-A", "-O", "-x", "-F", "-V"];

    fn of(words: &[String]) -> Self {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-i" | "--interface" => options.interface = words.next().cloned(),
                "-s" | "--script" => options.script = words.next().cloned(),
                // Its own; and what would have it stay in the foreground, or end.
                "-p" | "--pidfile" | "-r" | "--request" => drop(words.next()),
                "-f" | "--foreground" | "-q" | "--quit" | "-n" | "--now" | "-b" | "--background" | "-R"
                | "--release" => {}
                option if option.starts_with("-i") && !option.starts_with("--") => {
                    options.interface = Some(option[2..].to_owned());
                }
                option => {
                    options.others.push(option.to_owned());
                    if Self::WITH_VALUE.contains(&option) {
                        options.others.extend(words.next().cloned());
                    }
                }
            }
        }
        options
    }
}

impl Client {
    fn words_on(&self, bridge: &IfName, pid_file: &Path, script: &Path) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let own = ["-b", "-i", bridge.as_str(), "-r", &self.address, "-p", &path(pid_file), "-s", &path(script)];
        self.name.iter().skip(1).cloned().chain(own.map(str::to_owned)).chain(self.options.iter().cloned()).collect()
    }

    pub(super) fn commands(&self, bridge: &IfName) -> [Vec<String>; 2] {
        let script = &format!("{RUN}/script");
        let words = self.words_on(bridge, Path::new(&format!("{RUN}/pid")), Path::new(script));
        let wrap =
            format!("install -m 755 /dev/stdin {script} # {}, but for its first deconfig", self.script.display());
        let start = format!("{} {}", self.name.first().map_or("udhcpc", String::as_str), words.join(" "));
        [vec![format!("kill -STOP {}", self.process.pid)], vec![wrap, start]]
    }

    pub(super) fn silence(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP);
        match self.process.runs() {
            true => Ok(()),
            false => Err(Error::new("it ended in this moment", "Try again.")),
        }
    }

    pub(super) fn renew(&self, place: &Place) -> Result<()> {
        let [pid_file, script, first] = ["pid", "script", "first"].map(|end| place.files.of_client(end));
        if !on_bridge(place).is_empty() {
            return Ok(());
        }
        // It begins with taking the address away.
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = deconfig ] && rm {} 2>/dev/null && exit\nexec {} \"$@\"\n",
            quoted(&first),
            quoted(&self.script)
        );
        write(&first, "")?;
        write(&script, &text)?;
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
            process.signal(Signal::SIGKILL);
            process.ends_within(Duration::from_secs(5));
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
    let is_ours = |client: &Running| client.name == "udhcpc" && client.words.contains(&script);
    clients::running().into_iter().filter(is_ours).map(|client| client.process).collect()
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}
