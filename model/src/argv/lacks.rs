//! Whether QEMU has the options, machine, CPU, accelerators, devices, screen and window that a line names.
//!
//! What is on QEMU's list is there; of what is not QEMU is asked once more, by its name, where it can be.
#![forbid(unsafe_code)]

use crate::argv::Line;
use crate::argv::board::COMMANDS;
use crate::argv::needs::Model;
use crate::argv::scan::OURS;
use crate::error::{Error, Result};
use crate::options;
use crate::slips;
use crate::text::shell::quote;
use std::path::Path;

/// What each QEMU has that can have it: it is not asked.
const USUAL: &str = "e1000 e1000e virtio-net virtio-net-pci virtio-net-device virtio-net-ccw virtio-blk virtio-blk-pci virtio-scsi \
    virtio-scsi-pci virtio-rng-pci virtio-serial virtio-serial-pci scsi-hd scsi-cd ide-hd ide-cd usb-tablet usb-kbd qemu-xhci";
/// CPUs that are not asked about where QEMU is that for this machine.
const USUAL_CPUS: [&str; 2] = ["host", "max"];
/// Machines of this kind of QEMU that are not asked about.
const USUAL_MACHINES: [(&str, &[&str]); 6] = [
    ("x86_64", &["pc", "q35", "microvm"]),
    ("i386", &["pc", "q35"]),
    ("aarch64", &["virt"]),
    ("arm", &["virt"]),
    ("riscv64", &["virt"]),
    ("ppc64", &["pseries"]),
];

/// A QEMU that can be asked. It answers nothing where it does not answer.
pub trait Answers {
    /// Where it is.
    fn path(&self) -> &Path;

    /// What it prints when it is called with these words: what was kept of that if it will do, else what it prints now.
    fn text_of(&self, words: &[&str], will_do: &dyn Fn(&str) -> bool) -> Option<String>;

    /// What it says on stderr when it is told this on its stdin.
    fn error_of(&self, words: &[&str], text: &str) -> Option<String>;
}

/// Checks all of it, on a host of this architecture.
pub fn check(line: &Line, qemu: &dyn Answers, architecture: &str) -> Result<()> {
    check_options(line, qemu)?;
    let system = line.system.as_deref().unwrap_or_default();
    let is_native = system == architecture || (system, architecture) == ("i386", "x86_64");
    if let Some(machine) = line.machine.as_deref().and_then(plain) {
        let is_usual = USUAL_MACHINES.iter().any(|(of, names)| *of == system && names.contains(&machine));
        if !is_usual {
            of_list(qemu, "machine", &[machine], |said| names_of(said, "Supported machines are:"))?;
        }
    }
    check_accels(line, qemu, is_native)?;
    for (model, name) in &line.needs.models {
        let Some(name) = plain(name.as_bytes()).filter(|name| !is_usual(*model, name, is_native)) else { continue };
        match model {
            Model::Device => check_device(qemu, name)?,
            Model::Cpu => check_cpu(qemu, name)?,
            Model::Vga => of_list(qemu, "vga", &[name], |said| {
                Some(first_words(said.lines())).filter(|names| names.contains(&"none"))
            })?,
            Model::Display => {
                of_list(qemu, "display", &[name], |said| names_of(said, "Available display backend types:"))?
            }
        }
    }
    Ok(())
}

/// QEMU looks at all of its options before it obeys `-version`.
fn check_options(line: &Line, qemu: &dyn Answers) -> Result<()> {
    let rare = line.needs.options.iter().filter(|option| !options::is_in_every_qemu(option));
    for option in rare.map(|option| String::from_utf8_lossy(option)) {
        let is_known = |said: &str| !said.contains("invalid option");
        let said = qemu.text_of(&["-version", &format!("-{option}")], &is_known);
        if said.is_some_and(|said| !is_known(&said)) {
            let known = options::names().chain(OURS).filter(|known| *known != option);
            let near = slips::near(&option, known).map(|near| format!(" Is -{near} meant?")).unwrap_or_default();
            let what = format!("{} has no option -{option}", qemu.path().display());
            return Err(Error::new(what, format!("Nothing was made.{near}")));
        }
    }
    Ok(())
}

fn is_usual(model: Model, name: &str, is_native: bool) -> bool {
    match model {
        Model::Device => USUAL.split_ascii_whitespace().any(|usual| usual == name),
        Model::Cpu => USUAL_CPUS.contains(&name) && is_native,
        Model::Vga => name == "none",
        // The latter are on no list.
        Model::Display => ["none", "default", "vnc"].contains(&name),
    }
}

/// A name without anything that has to be escaped.
fn plain(name: &[u8]) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.chars().all(is_plain))
}

/// The first words of the lines behind a heading; `None` without it.
fn names_of<'a>(said: &'a str, heading: &str) -> Option<Vec<&'a str>> {
    let lines = said.lines().skip_while(|line| line.trim() != heading).skip(1);
    Some(first_words(lines)).filter(|names| !names.is_empty())
}

fn first_words<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines.filter_map(|line| line.split_whitespace().next()).collect()
}

/// Checks that one of these names is on the list of all that QEMU answers with; what is no list says nothing against them.
fn of_list(qemu: &dyn Answers, option: &str, names: &[&str], read: impl Fn(&str) -> Option<Vec<&str>>) -> Result<()> {
    let has_one = |known: &[&str]| known.iter().any(|known| names.contains(known));
    let words = [&format!("-{option}"), "help"];
    let Some(said) = qemu.text_of(&words, &|said| read(said).is_some_and(|known| has_one(&known))) else {
        return Ok(());
    };
    match read(&said) {
        Some(known) if !has_one(&known) => Err(refused(qemu, option, names[0], &known)),
        _ => Ok(()),
    }
}

/// QEMU goes on to the next accelerator where it does not have one.
fn check_accels(line: &Line, qemu: &dyn Answers, is_native: bool) -> Result<()> {
    // QEMU's own tests are on no list.
    let is_usual = |accel: &str| ["tcg", "qtest"].contains(&accel) || accel == "kvm" && is_native;
    let accels: Vec<&str> = line.needs.accels.iter().map(String::as_str).collect();
    if accels.is_empty() || accels.iter().any(|accel| is_usual(accel) || plain(accel.as_bytes()).is_none()) {
        return Ok(());
    }
    of_list(qemu, "accel", &accels, |said| names_of(said, "Accelerators supported in QEMU binary:"))
}

fn check_device(qemu: &dyn Answers, name: &str) -> Result<()> {
    let is_listed = |said: &str| said.contains(&format!("\"{name}\""));
    let Some(list) = qemu.text_of(&["-device", "help"], &is_listed) else { return Ok(()) };
    let is_there = |said: &str| !said.contains("not found") && !said.contains("is not a valid device model name");
    let said = || qemu.text_of(&["-device", &format!("{name},help")], &is_there);
    if is_listed(&list) || said().is_none_or(|said| is_there(&said)) {
        return Ok(());
    }
    let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    Err(refused(qemu, "device", name, &names))
}

fn check_cpu(qemu: &dyn Answers, name: &str) -> Result<()> {
    fn words(said: &str) -> Vec<&str> {
        said.split(|c: char| c.is_whitespace() || "'(),".contains(c)).collect()
    }
    let is_listed = |said: &str| words(said).contains(&name);
    let Some(list) = qemu.text_of(&["-cpu", "help"], &is_listed) else { return Ok(()) };
    // It makes a CPU of this model, and runs nothing.
    let making =
        ["-M", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio", "-cpu", name];
    let said = || qemu.error_of(&making, COMMANDS);
    if is_listed(&list) || !said().is_some_and(|said| said.contains("unable to find CPU model")) {
        return Ok(());
    }
    Err(refused(qemu, "cpu", name, &words(&list)))
}

fn refused(qemu: &dyn Answers, option: &str, name: &str, known: &[&str]) -> Error {
    let path = qemu.path();
    let what = format!("{} has no -{option} {name}", path.display());
    let near = slips::near(name, known.iter().copied()).map(|near| format!("Is {near} meant? ")).unwrap_or_default();
    Error::new(what, format!("Nothing was made. {near}All that it has: {} -{option} help", quote(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::scan;
    use std::ffi::OsString;

    /// A QEMU with few things of each kind.
    struct Few;

    impl Answers for Few {
        fn path(&self) -> &Path {
            Path::new("/usr/bin/qemu")
        }

        fn text_of(&self, words: &[&str], _: &dyn Fn(&str) -> bool) -> Option<String> {
            let text = match words {
                ["-version", "-nosuch"] => "invalid option",
                ["-version", _] => "requires an argument",
                ["-machine", "help"] => "Supported machines are:\nmps2-an385  ARM MPS2",
                ["-accel", "help"] => "Accelerators supported in QEMU binary:\nkvm\nxen",
                ["-device", "help"] => "name \"igb\", bus PCI",
                ["-device", "hidden,help"] => "hidden options:",
                ["-device", _] => "Device 'x' not found",
                ["-cpu", "help"] => "Available CPUs:\n  qemu64 (alias max)",
                ["-vga", "help"] => "none\nstd  standard",
                _ => return None,
            };
            Some(text.to_owned())
        }

        fn error_of(&self, _: &[&str], _: &str) -> Option<String> {
            Some("unable to find CPU model".to_owned())
        }
    }

    #[test]
    fn what_is_on_no_list_and_not_there_by_name_is_missing() {
        let found = |words: &str| {
            let mut line = scan(&words.split(' ').map(OsString::from).collect::<Vec<_>>(), || Ok(Vec::new())).unwrap();
            line.system = Some("x86_64".to_owned());
            check(&line, &Few, "aarch64").map_err(|error| error.to_string())
        };
        let good = "-machine mps2-an385|-machine q35|-accel kvm|-accel xen -accel tcg|-device e1000|-device igb|-device hidden|\
            -cpu qemu64|-vga std|-vga none|-display gtk|-device 'x";
        for words in good.split('|') {
            assert_eq!(found(words), Ok(()), "{words}");
        }
        let bad = [
            ("-nosuch", "has no option -nosuch"),
            ("-machine mps2", "has no -machine mps2"),
            ("-accel hvf", "has no -accel hvf"),
            ("-device igx", "has no -device igx\n  Nothing was made. Is igb meant? "),
            ("-cpu host", "has no -cpu host"),
            ("-vga qxl", "has no -vga qxl"),
        ];
        for (words, said) in bad {
            assert!(found(words).unwrap_err().contains(said), "{words}: {:?}", found(words));
        }
    }
}
