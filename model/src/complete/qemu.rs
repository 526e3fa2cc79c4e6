//! QEMU's command line, ours among its options.

mod values;

use crate::complete::ours;
use crate::complete::{Answer, Candidate, Source, given};
use crate::options;
use crate::options::Arity;
use crate::options::help;
use crate::options::help::{Device, Opt};
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

/// A half-typed command line, and who knows the QEMU that it is for.
pub(super) struct Line<'a> {
    pub(super) source: &'a dyn Source,
    /// Whether it is not the shim that is called, which alone has our options.
    is_foreign: bool,
    options: OnceCell<Vec<Opt>>,
    /// QEMU's options with their values, as far as they are complete.
    values: Vec<(String, String)>,
}

/// Completes `qemu-kvm WORDS... typed`; a foreign one is not the shim.
pub fn complete(source: &dyn Source, is_foreign: bool, before: &[String], typed: &str) -> Answer {
    let mut line = Line { source, is_foreign, options: OnceCell::new(), values: Vec::new() };
    let mut pending: Option<&str> = None;
    for word in before {
        match (pending.take(), option_name(word)) {
            (Some(option), _) => line.values.push((option.to_owned(), word.clone())),
            (None, Some(option)) if line.takes_value(option) => pending = Some(option),
            _ => {}
        }
    }
    match (pending, option_name(typed)) {
        (Some("bridge"), _) if !is_foreign => ours::complete(&line, typed),
        (Some(option), _) if FILES.split_whitespace().any(|name| name == option) => Answer::files(),
        (Some(option), _) => line.value(option, typed),
        (None, Some(option)) => match option.strip_prefix("bridge=").filter(|_| !is_foreign) {
            Some(value) => ours::complete(&line, value).behind(&typed[..typed.len() - value.len()]),
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

impl Line<'_> {
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
        self.options.get_or_init(|| help::options(&self.source.ask(&["-help"])))
    }

    /// The options that it has and does not show. To ask for each costs a process: only where all options are wanted.
    fn hidden(&self) -> Vec<Candidate> {
        let shown = self.help();
        let unknown =
            options::names().filter(|name| !shown.is_empty() && !shown.iter().any(|option| option.name == *name));
        unknown.filter(|name| self.source.has_option(name)).map(Candidate::bare).collect()
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
        let ours = ours.map(|(name, about)| Candidate::new(format!("{own}{name}"), *about));
        let options = self.help().iter();
        let options = options.map(|option| Candidate::new(format!("{theirs}{}", option.name), option.about.as_str()));
        let hidden = self.hidden().into_iter().map(|option| Candidate::bare(format!("{theirs}{}", option.text)));
        Answer::of(ours.chain(options).chain(hidden))
    }

    /// The devices.
    fn devices(&self) -> Vec<Candidate> {
        self.devices_that(|_| true)
    }

    /// The network cards.
    pub(super) fn cards(&self) -> Vec<Candidate> {
        self.devices_that(|device| device.is_network)
    }

    fn devices_that(&self, are_wanted: impl Fn(&Device) -> bool) -> Vec<Candidate> {
        let devices = help::devices(&self.source.ask(&["-device", "help"])).into_iter().filter(are_wanted);
        devices.map(|device| Candidate::new(device.name, device.about)).collect()
    }

    /// What the values of an option on the line have for a key: `-netdev user,id=net0` names net0.
    pub(super) fn named_by(&self, option: &str, key: &str) -> Vec<String> {
        let values = self.values.iter().filter(|(name, _)| name == option);
        values
            .filter_map(|(_, value)| given(value).into_iter().rev().find(|(known, _)| known == key))
            .map(|(_, id)| id)
            .collect()
    }
}
