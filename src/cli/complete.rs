//! `kvm-bridge complete`, which the completions of the shells ask.

use crate::complete;
use clap::Args;
use model::error::Result;
use std::ffi::OsString;

/// The arguments of `kvm-bridge complete`.
#[derive(Debug, Args)]
pub(super) struct Complete {
    /// The words of the command line up to the cursor, starting with the program
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<OsString>,
}

impl Complete {
    pub(super) fn run(self) -> Result<String> {
        Ok(complete::complete(&self.words, super::definition()))
    }
}
