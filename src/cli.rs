//! `kvm-bridge`: its commands, a file for each.
//! It may not hold what another program needs.

mod attach;
mod complete;
mod connect;
mod detach;
mod doctor;
mod down;
mod enter;
mod fabric;
mod guest;
mod hosts;
mod install;
mod ip;
mod mac;
mod monitor;
mod plan;
mod recover;
mod ssh;
mod status;
mod up;
mod usage;

use crate::network;
use crate::network::user_network;
use crate::output;
use crate::sys::{place, process};
use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use model::error::{Error, FAILED, Result};
use model::ifname::IfName;
use model::report::json;
use std::ffi::OsString;
use std::process::ExitCode;

/// Puts QEMU/KVM guests on the host's network.
#[derive(Debug, Parser)]
#[command(name = "kvm-bridge", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    /// Print each step with the time since the start; with doctor, also print the checks that are ok
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge doctor br0
  kvm-bridge status
  kvm-bridge up br0 --uplink eth1 --save
  kvm-bridge plan -- --bridge br0,uplink=eth1 disk.qcow2
  kvm-bridge mac list
  kvm-bridge recover

To start a guest: qemu-kvm --bridge br0 ... (see qemu-kvm --bridge-help)
For help on a command: kvm-bridge help COMMAND";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the bridges and what is on them
    Status(status::Status),
    /// Print what happens on bridges, a line for each event
    Monitor(monitor::Monitor),
    /// Print the addresses of a guest
    Ip(ip::Ip),
    /// Log in to a guest by ssh
    Ssh(ssh::Ssh),
    /// Connect standard input and output to a TCP port of a guest
    Connect(connect::Connect),
    /// Print the names and addresses of guests for /etc/hosts
    Hosts(hosts::Hosts),
    /// Add a network card to a guest that runs
    Attach(attach::Attach),
    /// Remove a network card from a guest that runs
    Detach(detach::Detach),
    /// Find out what keeps guests off the network
    Doctor(doctor::Doctor),
    /// Create a persistent bridge, and persistent TAP devices for users on it
    Up(up::Bring),
    /// Remove a bridge that kvm-bridge created
    Down(down::Take),
    /// Run a command in a network of your own (uplink=user)
    Enter(enter::Enter),
    /// Print what 'qemu-kvm ARGS' would do, as commands; change nothing
    Plan(plan::Plan),
    /// Set up what users without root need; run it once
    Install(install::Install),
    /// Clean up after killed processes, in this network namespace
    Recover(recover::Recover),
    /// Print what FRR needs for a network of many hosts
    Fabric(fabric::Fabrics),
    /// Manage the MAC addresses of VMs
    Mac(mac::Mac),
    /// Print candidates for the completions of shells
    #[command(hide = true)]
    Complete(complete::Complete),
}

/// The whole program.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    place::find_out();
    if let Some(status) = network::run_left_behind(&words) {
        return ExitCode::from(status as u8);
    }
    process::outlive_file_limit();
    let is_json = words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json" || word.as_encoded_bytes().starts_with(b"--json="));
    let words = with_help(words);
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
        Err(error) => return fail(&usage::explain(&error, &words), is_json),
    };
    if cli.verbose > 0 {
        output::tell_steps("kvm-bridge");
    }
    match cli.command.run().and_then(|(text, status)| output::print(&text).map(|()| status)) {
        Ok(status) => status,
        Err(error) => fail(&error, is_json),
    }
}

/// Says what is wrong. A program reads one value, whatever it tells.
fn fail(error: &Error, is_json: bool) -> ExitCode {
    if is_json && !output::has_printed() {
        let _ = output::print(&json(&serde_json::json!({ "error": error.to_json() })));
    }
    output::say("kvm-bridge", error);
    ExitCode::from(error.status())
}

/// `kvm-bridge help up` means `kvm-bridge up --help`, and `kvm-bridge help help` is a question too.
fn with_help(mut words: Vec<OsString>) -> Vec<OsString> {
    let is_help = |words: &[OsString]| words.get(1).is_some_and(|word| word == "help");
    if is_help(&words) {
        while is_help(&words) {
            words.remove(1);
        }
        words.push("--help".into());
    }
    words
}

/// A number of seconds of the command line.
fn seconds(text: &str) -> Result<u32> {
    usage::number(text, 0, u32::MAX)
}

impl Command {
    /// Goes into a network of the user's own of the name that is given: all is as on the host there.
    fn go_there(&self) -> Result<()> {
        let bridge = match self {
            Self::Status(status) => status.bridge.as_deref(),
            Self::Monitor(monitor) => monitor.bridge.as_deref(),
            Self::Doctor(doctor) => doctor.bridge(),
            Self::Down(down) => down.bridge(),
            _ => None,
        };
        match bridge.filter(|_| !process::is_root()).map(IfName::new) {
            Some(Ok(bridge)) if user_network::is_there(&bridge) => user_network::enter(&bridge).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// What is to be printed, and the exit status that goes with it.
    fn run(self) -> Result<(String, ExitCode)> {
        self.go_there()?;
        let text = match self {
            Self::Ip(ip) => return ip.run(),
            Self::Doctor(doctor) => return doctor.run(),
            Self::Status(status) => return status.run(),
            Self::Monitor(monitor) => monitor.run(),
            Self::Ssh(ssh) => ssh.run(),
            Self::Connect(connect) => connect.run(),
            Self::Hosts(hosts) => hosts.run(),
            Self::Attach(attach) => attach.run(),
            Self::Detach(detach) => detach.run(),
            Self::Up(up) => up.run(),
            Self::Down(down) => down.run(),
            Self::Enter(enter) => enter.run(),
            Self::Plan(plan) => plan.run(),
            Self::Install(install) => install.run(),
            Self::Recover(recover) => recover.run(),
            Self::Fabric(fabric) => fabric.run(),
            Self::Mac(mac) => mac.run(),
            Self::Complete(complete) => complete.run(),
        };
        Ok((text?, ExitCode::SUCCESS))
    }
}

/// The command line's definition, for the tests that hold completions and man pages against it.
pub fn definition() -> clap::Command {
    Cli::command()
}

fn definition_built() -> clap::Command {
    let mut definition = definition();
    definition.build();
    definition
}
