//! Whether QEMU has the machine, CPU, accelerators, devices, screen and window that a line names.
//!
//! What is on QEMU's list is there; of what is not QEMU is asked once more, by its name, where it can be.

use crate::launch::architecture;
use crate::launch::refusal::Qemu;
use model::argv::Line;
use model::argv::needs::Model;
use model::error::{Error, Result};
use model::slips;
use model::text::shell::quote;

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

/// Checks all of it.
pub(super) fn check(line: &Line, qemu: &Qemu) -> Result<()> {
    let system = line.system.clone().unwrap_or_default();
    if let Some(machine) = line.machine.as_deref().and_then(plain) {
        let is_usual = USUAL_MACHINES.iter().any(|(of, names)| *of == system && names.contains(&machine));
        if !is_usual {
            of_list(qemu, "machine", machine, |said| names_of(said, "Supported machines are:"))?;
        }
    }
    check_accels(line, qemu, &system)?;
    for (model, name) in &line.needs.models {
        let Some(name) = plain(name.as_bytes()).filter(|name| !is_usual(*model, name, &system)) else { continue };
        match model {
            Model::Device => check_device(qemu, name)?,
            Model::Cpu => check_cpu(qemu, name)?,
            Model::Vga => of_list(qemu, "vga", name, |said| all_names(said).filter(|names| names.contains(&"none")))?,
            Model::Display => {
                of_list(qemu, "display", name, |said| names_of(said, "Available display backend types:"))?
            }
        }
    }
    Ok(())
}

fn is_usual(model: Model, name: &str, system: &str) -> bool {
    match model {
        Model::Device => USUAL.split_ascii_whitespace().any(|usual| usual == name),
        Model::Cpu => USUAL_CPUS.contains(&name) && is_native(system),
        Model::Vga => name == "none",
        // The latter are on no list.
        Model::Display => ["none", "default", "vnc"].contains(&name),
    }
}

/// Whether a QEMU is that for this very machine.
fn is_native(system: &str) -> bool {
    system == architecture() || (system, architecture()) == ("i386", "x86_64")
}

/// A name without anything that has to be escaped.
fn plain(name: &[u8]) -> Option<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.chars().all(is_plain))
}

/// The first words of the lines behind a heading; `None` without it.
fn names_of<'a>(said: &'a str, heading: &str) -> Option<Vec<&'a str>> {
    let lines = said.lines().skip_while(|line| line.trim() != heading).skip(1);
    Some(lines.filter_map(|line| line.split_whitespace().next()).collect())
        .filter(|names: &Vec<&str>| !names.is_empty())
}

fn all_names(said: &str) -> Option<Vec<&str>> {
    Some(said.lines().filter_map(|line| line.split_whitespace().next()).collect())
}

/// Checks a name against the list of all that QEMU answers with; what is no list says nothing against it.
fn of_list(qemu: &Qemu, option: &str, name: &str, read: impl Fn(&str) -> Option<Vec<&str>>) -> Result<()> {
    let has = |said: &str| read(said).is_some_and(|names| names.contains(&name));
    let Some(said) = qemu.text_of(&[&format!("-{option}"), "help"], has) else { return Ok(()) };
    match read(&said) {
        Some(names) if !names.contains(&name) => Err(refused(qemu, option, name, &names)),
        _ => Ok(()),
    }
}

/// QEMU goes on to the next accelerator where it does not have one.
fn check_accels(line: &Line, qemu: &Qemu, system: &str) -> Result<()> {
    // QEMU's own tests are on no list.
    let is_usual = |accel: &str| ["tcg", "qtest"].contains(&accel) || accel == "kvm" && is_native(system);
    let accels = &line.needs.accels;
    let [first, ..] = accels.as_slice() else { return Ok(()) };
    if accels.iter().any(|accel| is_usual(accel) || plain(accel.as_bytes()).is_none()) {
        return Ok(());
    }
    let read = |said: &str| names_of(said, "Accelerators supported in QEMU binary:").map(|names| names.join(" "));
    let has_one = |said: &str| {
        read(said).is_some_and(|names| names.split(' ').any(|name| accels.iter().any(|accel| accel == name)))
    };
    let Some(said) = qemu.text_of(&["-accel", "help"], has_one) else { return Ok(()) };
    match read(&said) {
        Some(names) if !has_one(&said) => Err(refused(qemu, "accel", first, &names.split(' ').collect::<Vec<_>>())),
        _ => Ok(()),
    }
}

fn check_device(qemu: &Qemu, name: &str) -> Result<()> {
    let is_listed = |said: &str| said.contains(&format!("\"{name}\""));
    let Some(list) = qemu.text_of(&["-device", "help"], is_listed) else { return Ok(()) };
    let is_missing = |said: &str| said.contains("not found") || said.contains("is not a valid device model name");
    let said = |said: &str| !is_missing(said);
    if is_listed(&list) || qemu.answers(&["-device", &format!("{name},help")], said) != Some(false) {
        return Ok(());
    }
    let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    Err(refused(qemu, "device", name, &names))
}

fn check_cpu(qemu: &Qemu, name: &str) -> Result<()> {
    let words = |said: &str| -> Vec<String> {
        let words = said.split(|c: char| c.is_whitespace() || "'(),".contains(c));
        words.map(str::to_owned).collect()
    };
    let is_listed = |said: &str| words(said).iter().any(|word| word == name);
    let Some(list) = qemu.text_of(&["-cpu", "help"], is_listed) else { return Ok(()) };
    if is_listed(&list) || !qemu.refuses_cpu(name) {
        return Ok(());
    }
    let words = words(&list);
    Err(refused(qemu, "cpu", name, &words.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn refused(qemu: &Qemu, option: &str, name: &str, known: &[&str]) -> Error {
    let path = qemu.path();
    let what = format!("{} has no -{option} {name}", path.display());
    let near = slips::near(name, known.iter().copied()).map(|near| format!("Is {near} meant? ")).unwrap_or_default();
    Error::new(what, format!("Nothing was made. {near}All that it has: {} -{option} help", quote(path)))
}
