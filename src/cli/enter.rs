//! `kvm-bridge enter`.

use crate::network::user_network;
use crate::network::user_network::Place;
use crate::network::user_network::names;
use crate::output::errno::reason;
use crate::sys::place;
use clap::Args;
use model::error::{CANNOT_EXECUTE, Error, NOT_FOUND, Result};
use model::ifname::IfName;
use model::text;
use model::text::shell::quote;
use nix::unistd::{User, geteuid};
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The arguments of `kvm-bridge enter`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Enter {
    /// The network: the name of its bridge
    bridge: String,
    /// The command and its arguments [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge enter lab -- ssh root@alice
  kvm-bridge enter lab -- ip neigh
  kvm-bridge enter lab -- ping -c 1 alice
The network is one of yours (--bridge lab,uplink=user) with a running guest. The command has root's
rights over that network and over nothing else. Exit status: that of the command; 125 there is no such
network, 126 the command cannot be executed, 127 it is not found.";

impl Enter {
    pub(super) fn run(self) -> Result<String> {
        let bridge = IfName::new(&self.bridge)?;
        if place::user_network().is_some() {
            return Err(Error::new("this is in a network of yours already", "Leave it first: exit."));
        }
        let user = User::from_uid(geteuid()).ok().flatten();
        if !user_network::enter(&bridge)? {
            return Err(missing(&self.bridge));
        }
        names::ask_there(&bridge, user.as_ref())?;
        let shell = || env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
        let mut words = self.command.into_iter();
        let program = words.next().unwrap_or_else(shell);
        let error = Command::new(&program).args(words).env(place::VARIABLE, place::run()).exec();
        let what = format!("cannot execute {}: {}", text::one_line(&program.to_string_lossy()), reason(&error));
        let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
        Err(Error::new(what, "Give a command that is on PATH, or a path.").with_status(status))
    }
}

fn missing(name: &str) -> Error {
    let places = Place::all();
    let running: Vec<&str> = places.iter().map(|place| place.bridge().as_str()).collect();
    let remedy = match running.as_slice() {
        [] => format!("It is there while a guest is on it: qemu-kvm --bridge {},uplink=user ...", quote(name)),
        running => format!("Those that run: {}.", running.join(", ")),
    };
    Error::new(format!("you have no network {} that runs", text::one_line(name)), remedy)
}
