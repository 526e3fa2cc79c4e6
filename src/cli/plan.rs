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
        let name = OsStr::new("qemu-kvm");
        let mut line = scan(&self.words, shim::Caller { name })?;
        if line.nics.is_empty() || line.mode == Mode::Help {
            let remedy = "Give qemu-kvm's arguments: kvm-bridge plan -- --bridge br0 disk.qcow2";
            return Err(Error::new("there is no --bridge to plan for", remedy));
        }
        let config = Config::load()?;
        let qemu = launch::find(name, &config)?;
        let news = shim::settle(&mut line, &config, &qemu)?;
        dry_run::tell(&line, &qemu, &config, &news)
    }
}
