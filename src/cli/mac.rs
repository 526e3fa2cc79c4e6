//! `kvm-bridge mac`.

use crate::output;
use crate::output::errno::reason;
use crate::vm::{Listed, Record, Store};
use clap::{Args, Subcommand};
use model::error::{Error, Result, json_reason};
use model::text;
use model::text::shell::quote;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

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
  kvm-bridge mac get alice
  kvm-bridge mac set alice 52:54:00:12:34:57
  kvm-bridge mac export alice > alice.json
  kvm-bridge mac import alice.json
  kvm-bridge mac forget alice
Exit status: 0, or 125 if there is no such VM or the file of a VM is damaged.";

#[derive(Debug, Subcommand)]
enum Command {
    /// List VMs and their MAC addresses
    #[command(after_help = "Examples:\n  kvm-bridge mac list\n  kvm-bridge mac list --json")]
    List {
        /// Print JSON: an array of {vm, slots}; a slot is an array with the address of each network card
        #[arg(long)]
        json: bool,
    },
    /// Print the address that a VM has, or create the one that it is going to have
    #[command(
        after_help = "Examples:\n  kvm-bridge mac get alice\n  mac=$(kvm-bridge mac get alice --new) && echo \"device_add e1000,netdev=net1,mac=$mac\""
    )]
    Get {
        /// The VM: its name, or as 'kvm-bridge mac list' prints it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        vm: String,
        /// The position of the network card on the command line
        #[arg(long, default_value_t = 0, value_parser = place, allow_negative_numbers = true)]
        nic: u32,
        /// An address for one more network card: the first position without an address
        #[arg(long, conflicts_with = "nic")]
        new: bool,
        /// The run: 0 for the first, 1 for a second run at the same time, and so on
        #[arg(long, default_value_t = 0, value_parser = place, allow_negative_numbers = true)]
        slot: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Store an address for a VM
    #[command(
        after_help = "Examples:\n  kvm-bridge mac set alice 52:54:00:12:34:57\n  kvm-bridge mac set alice 52:54:00:12:34:58 --nic 1"
    )]
    Set {
        /// The VM: its name, or as 'kvm-bridge mac list' prints it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        vm: String,
        /// The address, for example 52:54:00:12:34:56
        mac: String,
        /// The position of the network card on the command line
        #[arg(long, default_value_t = 0, value_parser = place, allow_negative_numbers = true)]
        nic: u32,
        /// The run: 0 for the first, 1 for a second run at the same time, and so on
        #[arg(long, default_value_t = 0, value_parser = place, allow_negative_numbers = true)]
        slot: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print VMs and their addresses as JSON for 'kvm-bridge mac import'
    #[command(
        after_help = "Examples:\n  kvm-bridge mac export alice > alice.json\n  kvm-bridge mac export | ssh other kvm-bridge mac import"
    )]
    Export {
        /// The VMs, as 'kvm-bridge mac list' prints them; by default all
        vm: Vec<String>,
        /// Print JSON; this is the default
        #[arg(long)]
        json: bool,
    },
    /// Import the output of 'kvm-bridge mac export', all of it or nothing
    #[command(after_help = "Example:\n  kvm-bridge mac import alice.json")]
    Import {
        /// The file; by default, or for -, standard input
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a VM; its next start creates new addresses
    #[command(after_help = "Example:\n  kvm-bridge mac forget alice")]
    Forget {
        /// The VM, as 'kvm-bridge mac list' prints it
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
            Command::List { json: as_json } => print_records(&store, |records| match as_json {
                true => json(&records.into_iter().map(Listed::from).collect::<Vec<Listed>>()),
                false => Ok(table(&records)),
            }),
            Command::Get { vm, nic, new, slot, json } => {
                let (vm, nic, mac, is_new) = store.get(&vm, index(slot), (!new).then(|| index(nic)))?;
                if is_new && !new {
                    let (vm, forget) = (text::one_line(&vm), quote(&vm));
                    let said = format_args!(
                        "{vm} had no address yet: one is stored. If it was misspelt: kvm-bridge mac forget {forget}"
                    );
                    output::say("kvm-bridge", said);
                }
                Ok(match json {
                    true => crate::cli::json(&serde_json::json!({
                        "vm": vm, "slot": slot, "nic": nic, "mac": mac.to_string(), "new": is_new
                    })),
                    false => format!("{mac}\n"),
                })
            }
            Command::Set { vm, mac, nic, slot, json } => {
                let mac = mac.parse::<model::mac::Mac>()?.check_unicast()?;
                let which =
                    if nic == 0 && slot == 0 { String::new() } else { format!(" for NIC {nic} of slot {slot}") };
                store.set(&vm, index(slot), index(nic), mac).map(|vm| match json {
                    true => crate::cli::json(&serde_json::json!({ "vm": vm, "mac": mac.to_string() })),
                    false => format!("{} has {mac}{which}\n", text::one_line(&vm)),
                })
            }
            Command::Export { vm, .. } => print_records(&store, |records| export(records, &vm)),
            Command::Import { file, json } => {
                let records = read_export(file.as_deref())?;
                let all = records.len();
                let count = store.import(records)?;
                Ok(match json {
                    true => crate::cli::json(&serde_json::json!({ "imported": count })),
                    false if count == 0 && all > 0 => "nothing to import: all of it is here already\n".to_owned(),
                    false => format!("imported {count} {}\n", if count == 1 { "VM" } else { "VMs" }),
                })
            }
            Command::Forget { vm, json } => store.forget(&vm).map(|vm| match json {
                true => crate::cli::json(&serde_json::json!({ "forgot": vm })),
                false => format!("forgot {}\n", text::one_line(&vm)),
            }),
        }
    }
}

/// The place of a slot or of a network card, of which nobody has more.
fn place(text: &str) -> Result<u32> {
    crate::cli::usage::number(text, 0, 1023)
}

/// The same as a place in a list.
fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// What is made of all records. If one can't be read, the others are printed before it is said.
fn print_records(store: &Store, show: impl FnOnce(Vec<Record>) -> Result<String>) -> Result<String> {
    let (records, faults) = store.list()?;
    let text = show(records)?;
    match faults.into_iter().next() {
        None => Ok(text),
        Some(fault) => {
            output::print(&text)?;
            Err(fault)
        }
    }
}

/// What is exported, and imported for ever.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    version: u32,
    vms: Vec<Listed>,
}

const VERSION: u32 = 1;

fn export(records: Vec<Record>, wanted: &[String]) -> Result<String> {
    let mut vms: Vec<Listed> = records.into_iter().map(Listed::from).collect();
    let is_called =
        |vm: &Listed, name: &String| vm.vm == *name || vm.vm.split_once(':').is_some_and(|(_, text)| text == name);
    if let Some(missing) = wanted.iter().find(|name| !vms.iter().any(|vm| is_called(vm, name))) {
        let what = format!("no VM called {} has a MAC", text::one_line(missing));
        return Err(Error::new(what, "To see those that have: kvm-bridge mac list"));
    }
    vms.retain(|vm| wanted.is_empty() || wanted.iter().any(|name| is_called(vm, name)));
    json(&Export { version: VERSION, vms })
}

/// Reads what `export` printed, or `list --json`.
fn read_export(file: Option<&Path>) -> Result<Vec<Listed>> {
    let file = file.filter(|file| *file != Path::new("-"));
    let mut text = Vec::new();
    let (name, read) = match file {
        Some(file) => (file.display().to_string(), std::fs::read(file).map(|read| text = read)),
        None => ("standard input".to_owned(), std::io::stdin().read_to_end(&mut text).map(|_| ())),
    };
    read.map_err(|error| {
        Error::new(format!("cannot read {name}: {}", reason(&error)), "Name a file that can be read.")
    })?;
    let wrong = |why: String| {
        Error::new(format!("{name} is no export of MAC addresses: {why}"), "Make one with: kvm-bridge mac export")
    };
    if text.trim_ascii_start().starts_with(b"[") {
        return serde_json::from_slice(&text).map_err(|error| wrong(json_reason(&error)));
    }
    match serde_json::from_slice::<Export>(&text) {
        Ok(export) if export.version == VERSION => Ok(export.vms),
        Ok(export) => Err(wrong(format!("its version is {}, and this program reads {VERSION}", export.version))),
        Err(error) => Err(wrong(json_reason(&error))),
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Ok(text::json_for_terminals(&(text + "\n"))),
        Err(_) => Err(Error::new("cannot write JSON", "Please report this.")),
    }
}

fn table(records: &[Record]) -> String {
    let mut text = String::new();
    let names: Vec<_> = records.iter().map(|record| text::one_line(&record.vm)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max(2);
    if !records.is_empty() {
        let _ = writeln!(text, "{:<width$}  SLOT  NIC  MAC", "VM");
    }
    for (record, name) in records.iter().zip(&names) {
        for (slot, macs) in record.slots.iter().enumerate() {
            for (nic, mac) in macs.iter().enumerate() {
                if let Some(mac) = mac {
                    let _ = writeln!(text, "{name:<width$}  {slot:<4}  {nic:<3}  {mac}");
                }
            }
        }
    }
    text
}
