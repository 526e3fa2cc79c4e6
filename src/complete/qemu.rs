//! QEMU's command line, ours among its options.

mod values;

use crate::complete::ask::Asker;
use crate::complete::ours;
use crate::complete::ours::Context;
use crate::complete::{Answer, Candidate, given, host};
use model::options;
use model::options::Arity;
use model::options::help;
use model::options::help::Opt;
use std::cell::OnceCell;

/// Our options on QEMU's command line.
const OURS: [(&str, &str); 5] = [
    ("bridge", "a network card on a bridge of the host"),
    ("bridge-dry-run", "print the commands that would do the same, change nothing"),
    ("bridge-verbose", "tell of each step"),
    ("bridge-help", "print help on --bridge"),
    ("bridge-version", "print the version of kvm-bridge"),
];

/// Options whose value is the name of a file and nothing else.
const FILES: &str = "kernel initrd bios dtb pflash hda hdb hdc hdd fda fdb cdrom sd mtdblock option-rom pidfile D readconfig \
    writeconfig mem-path dump-vmstate L chroot";

/// A half-typed command line, and the QEMU that it is for.
struct Line {
    asker: Asker,
    /// Whether it is not the shim that is called, which alone has our options.
    is_foreign: bool,
    options: OnceCell<Vec<Opt>>,
    /// QEMU's options with their values, as far as they are complete.
    values: Vec<(String, String)>,
}

/// Completes `name WORDS... typed`.
pub(super) fn complete(name: &str, before: &[String], typed: &str) -> Answer {
    let is_foreign = crate::launch::is_foreign(name.as_ref());
    let mut line = Line { asker: Asker::of(name), is_foreign, options: OnceCell::new(), values: Vec::new() };
    let mut pending: Option<&str> = None;
    for word in before {
        match (pending.take(), option_name(word)) {
            (Some(option), _) => line.values.push((option.to_owned(), word.clone())),
            (None, Some(option)) if line.takes_value(option) => pending = Some(option),
            _ => {}
        }
    }
    match (pending, option_name(typed)) {
        (Some("bridge"), _) if !is_foreign => line.bridge(typed),
        (Some(option), _) if FILES.split_whitespace().any(|name| name == option) => Answer::files(),
        (Some(option), _) => line.value(option, typed),
        (None, Some(option)) => match option.strip_prefix("bridge=").filter(|_| !is_foreign) {
            Some(value) => line.bridge(value).behind(&typed[..typed.len() - value.len()]),
            None => line.options(typed),
        },
        // A disk image.
        (None, None) => Answer::files(),
    }
}

/// An option's name without its one or two dashes.
fn option_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

impl Line {
    fn takes_value(&self, option: &str) -> bool {
        match options::arity(option.as_bytes()) {
            Arity::Alone => false,
            Arity::Value => true,
            Arity::Unknown if option.starts_with("bridge") => option == "bridge",
            Arity::Unknown => self.option(option).is_some_and(|option| !option.forms.is_empty()),
        }
    }

    /// What the installed QEMU says of its options.
    fn help(&self) -> &[Opt] {
        self.options.get_or_init(|| help::options(&self.asker.ask(&["-help"])))
    }

    /// The options that it has and does not show. To ask for each costs a process: only where all options are wanted.
    fn hidden(&self) -> Vec<Candidate> {
        let shown = self.help();
        let unknown =
            options::names().filter(|name| !shown.is_empty() && !shown.iter().any(|option| option.name == *name));
        unknown.filter(|name| self.asker.has_option(name)).map(Candidate::bare).collect()
    }

    fn option(&self, name: &str) -> Option<&Opt> {
        // The same option, and only one of the two is explained.
        let name = if name == "M" { "machine" } else { name };
        self.help().iter().find(|option| option.name == name)
    }

    /// All options, with as many dashes as were typed; ours have two, unless somebody is at one with one.
    fn options(&self, typed: &str) -> Answer {
        let theirs = if typed.starts_with("--") { "--" } else { "-" };
        let own = if typed == "-" { "--" } else { theirs };
        let ours = OURS.iter().filter(|_| !self.is_foreign);
        let ours = ours.map(|(name, about)| Candidate::bare(format!("{own}{name}")).with(*about));
        let options = self.help().iter();
        let options =
            options.map(|option| Candidate::bare(format!("{theirs}{}", option.name)).with(option.about.as_str()));
        let hidden = self.hidden().into_iter().map(|option| Candidate::bare(format!("{theirs}{}", option.text)));
        Answer::of(ours.chain(options).chain(hidden))
    }

    fn bridge(&self, typed: &str) -> Answer {
        let models =
            || self.devices().into_iter().filter(|(_, is_network)| *is_network).map(|(device, _)| device).collect();
        ours::complete(typed, &Context { models: &models, netdevs: self.named_by("device", "netdev") })
    }

    /// The devices, and whether they are network cards.
    fn devices(&self) -> Vec<(Candidate, bool)> {
        let devices = help::devices(&self.asker.ask(&["-device", "help"]));
        devices.into_iter().map(|device| (Candidate::bare(device.name).with(device.about), device.is_network)).collect()
    }

    /// What the values of an option on the line have for a key: `-netdev user,id=net0` names net0.
    fn named_by(&self, option: &str, key: &str) -> Vec<String> {
        let values = self.values.iter().filter(|(name, _)| name == option);
        values
            .filter_map(|(_, value)| given(value).into_iter().rev().find(|(known, _)| known == key))
            .map(|(_, id)| id)
            .collect()
    }
}
