//! `kvm-bridge plan`.

use crate::argv::{Mode, scan};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::{dry_run, launch, shim};
use clap::Args;
use std::ffi::{OsStr, OsString};

/// The arguments of `kvm-bridge plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// The arguments that qemu-kvm would be given
    #[arg(last = true, value_name = "ARGS")]
    words: Vec<OsString>,
}

impl Plan {
    pub(super) fn run(self) -> Result<String> {
        let line = scan(&self.words, shim::nics_of_environment)?;
        if line.nics.is_empty() || line.mode == Mode::Help {
            let remedy = "Give qemu-kvm's arguments: kvm-bridge plan -- --bridge br0 disk.qcow2";
            return Err(Error::new("there is no --bridge to plan for", remedy));
        }
        let config = Config::load()?;
        let qemu = launch::find(OsStr::new("qemu-kvm"), &config)?;
        dry_run::tell(&line, &config, &qemu)
    }
}
