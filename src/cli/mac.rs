//! `kvm-bridge mac`.

use crate::error::Result;
use crate::lease::{Record, Store};
use crate::out;
use clap::{Args, Subcommand};
use std::fmt::Write;

/// The arguments of `kvm-bridge mac`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Mac {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge mac list
  kvm-bridge mac forget alice
Exit status: 0, or 125 where there is no such VM, or a file of one is damaged.";

#[derive(Debug, Subcommand)]
enum Command {
    /// List VMs and their MAC addresses
    List {
        /// Print JSON: an array of {vm, slots}, a slot being the addresses of its network cards
        #[arg(long)]
        json: bool,
    },
    /// Forget a VM; its next start makes new addresses
    Forget {
        /// The VM, as 'kvm-bridge mac list' calls it
        vm: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Mac {
    pub(super) fn run(self) -> Result<String> {
        let store = Store::open()?;
        match self.command {
            Command::List { json: as_json } => {
                let (records, faults) = store.list()?;
                let text = if as_json { json(&records) } else { table(&records) };
                match faults.into_iter().next() {
                    None => Ok(text),
                    Some(fault) => {
                        out::print(&text)?;
                        Err(fault)
                    }
                }
            }
            Command::Forget { vm, json } => store.forget(&vm).map(|vm| match json {
                true => super::json(&serde_json::json!({ "forgot": vm })),
                false => format!("forgot {vm}\n"),
            }),
        }
    }
}

fn json(records: &[Record]) -> String {
    let list: Vec<_> =
        records.iter().map(|record| serde_json::json!({ "vm": record.vm, "slots": record.slots })).collect();
    format!("{:#}\n", serde_json::Value::Array(list))
}

fn table(records: &[Record]) -> String {
    let mut text = String::new();
    let width = records.iter().map(|record| record.vm.chars().count()).max().unwrap_or_default().max(2);
    if !records.is_empty() {
        let _ = writeln!(text, "{:<width$}  SLOT  NIC  MAC", "VM");
    }
    for record in records {
        for (slot, macs) in record.slots.iter().enumerate() {
            for (nic, mac) in macs.iter().enumerate() {
                if let Some(mac) = mac {
                    let _ = writeln!(text, "{:<width$}  {slot:<4}  {nic:<3}  {mac}", record.vm);
                }
            }
        }
    }
    text
}
