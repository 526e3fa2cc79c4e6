//! `kvm-bridge`: looking at and after what the shim does.

mod complete;
mod mac;
mod plan;
mod recover;

use crate::error::FAILED;
use crate::{out, reaper};
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Puts QEMU/KVM guests on the host's own network.
#[derive(Debug, Parser)]
#[command(name = "kvm-bridge", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge plan -- --bridge br0,uplink=eth1 disk.qcow2
  kvm-bridge mac list
  kvm-bridge recover

Guests are started with: qemu-kvm --bridge br0 ... (see qemu-kvm --bridge-help)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what 'qemu-kvm ARGS' would do, as commands; change nothing
    Plan(plan::Plan),
    /// Take back what a killed run left behind, in this network namespace
    Recover(recover::Recover),
    /// The MAC addresses that VMs keep
    Mac(mac::Mac),
    /// Tell the completions of shells what can come next
    #[command(hide = true)]
    Complete(complete::Complete),
}

/// The whole program.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words.first().is_some_and(|name| name == reaper::NAME) {
        return ExitCode::from(reaper::main(&words) as u8);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let text = match cli.command {
        Command::Plan(plan) => plan.run(),
        Command::Recover(recover) => recover.run(),
        Command::Mac(mac) => mac.run(),
        Command::Complete(complete) => complete.run(),
    };
    match text.and_then(|text| out::print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::say("kvm-bridge", &error);
            ExitCode::from(error.status())
        }
    }
}

/// The command line's definition, for the tests that hold completions and man pages against it.
pub fn definition() -> clap::Command {
    Cli::command()
}
