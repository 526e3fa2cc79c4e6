//! `kvm-bridge install`.

use crate::install;
use crate::install::{Allow, Finding};
use crate::output;
use clap::Args;
use model::error::Result;
use model::report::json;
use serde_json::json;

/// The arguments of `kvm-bridge install`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Install {
    /// Allow a bridge (all: every bridge) to everybody, or to one user
    #[arg(long, value_name = "BRIDGE[:USER]")]
    allow: Vec<Allow>,
    /// Create a link to qemu-kvm in /usr/local/bin, called qemu-kvm or NAME
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "qemu-kvm")]
    link: Vec<String>,
    /// Remove what install created, and nothing else
    #[arg(long, conflicts_with_all = ["allow", "link", "check"])]
    uninstall: bool,
    /// Print what is set up and what is missing; change nothing
    #[arg(long, conflicts_with = "link")]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  sudo kvm-bridge install --allow br0:alice
  sudo kvm-bridge install --allow all --link
  kvm-bridge install --check
  sudo kvm-bridge install --uninstall";

impl Install {
    pub(super) fn run(self) -> Result<String> {
        if self.check {
            return self.check();
        }
        let text = if self.uninstall { install::uninstall() } else { install::install(&self.allow, &self.link) }?;
        Ok(match self.json {
            true => json(&json!({ "told": lines(&text) })),
            false => text,
        })
    }

    /// What is missing is an error, and what a program asks for as well.
    fn check(&self) -> Result<String> {
        let checked = install::check(&self.allow)?;
        let error = checked.error();
        if self.json {
            let findings: Vec<_> = checked.findings.iter().map(Finding::to_json).collect();
            let mut value = json!({ "told": lines(&checked.there), "findings": findings });
            if let Some(error) = &error {
                value["error"] = error.to_json();
            }
            output::print(&json(&value))?;
        }
        match error {
            Some(error) => Err(error),
            None => Ok(if self.json { String::new() } else { checked.there }),
        }
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}
