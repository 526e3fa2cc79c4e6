//! `kvm-bridge down`.

use crate::network::down::down;
use crate::output;
use crate::state::journal::Files;
use clap::Args;
use model::error::Result;
use model::ifname::IfName;
use model::report::json;
use serde_json::json;

/// The arguments of `kvm-bridge down`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Take {
    /// The bridge
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    bridge: Option<String>,
    /// All unused bridges that kvm-bridge created
    #[arg(long)]
    all: bool,
    /// Remove the bridge even if guests use it; they continue without a network
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge down br0
  kvm-bridge down br0 --force
  kvm-bridge down --all
Only bridges that kvm-bridge created are removed; any other bridge is not changed. Configuration
saved by 'up --save' stays. Exit status: 0 nothing of kvm-bridge is left on the host for this bridge,
1 guests are on the bridge and nothing was changed, 125 the command failed.";

impl Take {
    /// The one bridge that is meant.
    pub(super) fn bridge(&self) -> Option<&str> {
        self.bridge.as_deref()
    }

    pub(super) fn run(self) -> Result<String> {
        let Some(bridge) = &self.bridge else { return self.all() };
        let bridge = IfName::new(bridge)?;
        let done = down(&bridge, self.force)?;
        Ok(match self.json {
            true => json(&done.to_json(&bridge)),
            false => done.tell(&bridge),
        })
    }

    /// Goes on where one can't be taken back; the first error is the answer then.
    fn all(&self) -> Result<String> {
        let (mut text, mut values, mut first) = (String::new(), Vec::new(), None);
        for files in Files::all()?.into_iter().filter(Files::exist) {
            let bridge = files.bridge();
            match down(bridge, self.force) {
                Ok(done) => {
                    text += &done.tell(bridge);
                    values.push(done.to_json(bridge));
                }
                Err(error) => {
                    values.push(json!({ "bridge": bridge.as_str(), "error": error.to_json() }));
                    match first {
                        None => first = Some(error),
                        Some(_) => output::say("kvm-bridge", error),
                    }
                }
            }
        }
        if values.is_empty() && first.is_none() {
            text += "There is no bridge of kvm-bridge.\n";
        }
        let text = if self.json { json(&serde_json::Value::from(values)) } else { text };
        let Some(error) = first else { return Ok(text) };
        output::print(&text)?;
        Err(error)
    }
}
