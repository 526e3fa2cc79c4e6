//! `kvm-bridge`: looking at and after what the shim does.

mod mac;
mod plan;

use crate::error::{Error, FAILED};
use clap::{CommandFactory, Parser, Subcommand};
use std::io::Write;
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

Guests are started with: qemu-kvm --bridge br0 ... (see qemu-kvm --bridge-help)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what 'qemu-kvm ARGS' would do, as commands; change nothing
    Plan(plan::Plan),
    /// The MAC addresses that VMs keep
    Mac(mac::Mac),
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
    };
    let text = match cli.command {
        Command::Plan(plan) => plan.run(),
        Command::Mac(mac) => mac.run(),
    };
    match text {
        Ok(text) => print(&text),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "kvm-bridge: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Prints a result; a reader that has gone is no fault, a full disk is.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let error = Error::new(format!("cannot write: {}", crate::error::reason(&error)), "See where stdout goes.");
            let _ = writeln!(std::io::stderr(), "kvm-bridge: {error}");
            ExitCode::from(FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// The command line's definition, for the tests that hold completions and man pages against it.
pub fn definition() -> clap::Command {
    Cli::command()
}
