//! `kvm-bridge plan`.

use crate::launch::environment::Caller;
use crate::shim::dry_run;
use crate::state::config;
use crate::{launch, output, shim};
use clap::Args;
use model::argv::{Mode, scan};
use model::error::{Error, Result};
use model::report::json;
use std::ffi::{OsStr, OsString};

/// The arguments of `kvm-bridge plan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Plan {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The arguments of qemu-kvm
    #[arg(last = true, value_name = "ARGS")]
    words: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge plan -- --bridge br0,uplink=eth1 disk.qcow2
The command changes nothing and needs no privileges. Exit status: 0 the start would succeed, if
necessary as root, 125 it would fail, 126 QEMU cannot be executed, 127 QEMU was not found.";

impl Plan {
    pub(super) fn run(self) -> Result<String> {
        let name = OsStr::new("qemu-kvm");
        let mut line = scan(&self.words, Caller { name })?;
        if line.nics.is_empty() || line.mode == Mode::Help {
            let remedy = "Give qemu-kvm's arguments: kvm-bridge plan -- --bridge br0 disk.qcow2";
            return Err(Error::new("there is no --bridge to plan for", remedy));
        }
        let config = config::load()?;
        let qemu = launch::find(name, &config)?;
        output::step(|| format!("QEMU is {}: {}", qemu.path().display(), qemu.why()));
        let notices = shim::settle(&mut line, &config, &qemu)?;
        let launch = dry_run::launch(&line, &qemu, &config, &notices)?;
        Ok(if self.json { json(&launch.to_json()) } else { launch.text() })
    }
}
