//! What QEMU is certain to refuse, looked for before a bridge is made for nothing: see `argv::needs`. What can't be found out
//! is left to QEMU.

mod images;

use crate::launch::{QEMU, Qemu, architecture};
use crate::output::errno::reason;
use crate::sys::files;
use model::argv::lacks::Answers;
use model::argv::needs::{File, Kind};
use model::argv::{Line, lacks};
use model::error::{Error, Result};
use model::ifname::IfName;
use model::slips;
use nix::errno::Errno;
use nix::unistd::AccessFlags;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Checks a line for which bridges have to be made. It takes its time: never while a lock is held, for others may have made the way
/// to a file, and keep whoever goes it.
pub fn check(line: &Line, qemu: &Qemu, missing: &[&IfName]) -> Result<()> {
    missing.iter().try_for_each(|bridge| check_name(bridge))?;
    if let Some(option) = &line.needs.cut {
        let what = format!("-{} has no value", String::from_utf8_lossy(option));
        return Err(Error::new(what, "It is the last word, and QEMU wants one behind it."));
    }
    check_files(line, qemu)?;
    line.needs.files.iter().try_for_each(|file| images::check(line, file))?;
    lacks::check(line, qemu, architecture())
}

/// Checks the name of a bridge that is missing: it may be a file's, whose option or bridge was forgotten.
pub fn check_name(bridge: &IfName) -> Result<()> {
    let name = bridge.as_str();
    let is_file = Path::new(name).metadata().is_ok_and(|file| !file.is_dir());
    let fault = match is_file {
        true => Err(Error::new("there is no such bridge, and a file of that name", slips::forgotten(name))),
        false => slips::check_new_bridge(bridge),
    };
    fault.map_err(|error| error.of_request(name))
}

fn check_files(line: &Line, qemu: &Qemu) -> Result<()> {
    for file in &line.needs.files {
        let path = Path::new(OsStr::from_bytes(&file.path));
        let Some(why) = why_not(file.kind, path) else { continue };
        if file.behind.is_some() || !file.is_needed(line, images::is_bz_image) || is_in_folders(line, qemu, file) {
            continue;
        }
        let what = format!("{}: QEMU cannot open {}: {why}", file.shown, path.display());
        return Err(Error::new(what, "Nothing was made. Name a file that is there."));
    }
    Ok(())
}

/// Checks that a QEMU which is a wrapper hands on what it inherits; one that does not leaves QEMU without its TAP.
pub fn check_wrapper(qemu: &Qemu) -> Result<()> {
    if !qemu.may_be_wrapper() || qemu.passes_on() != Some(false) {
        return Ok(());
    }
    let what = format!("{} closes the files that it inherits, and the guest's TAP is one", qemu.path().display());
    Err(Error::new(
        what,
        format!(
            "Have it keep them (in Python: os.execv, or close_fds=False), or name QEMU itself: {QEMU}=/path/to/qemu"
        ),
    ))
}

/// Whether QEMU may find a file in one of its folders, as qemu_find_file() looks for it.
fn is_in_folders(line: &Line, qemu: &Qemu, file: &File) -> bool {
    if !matches!(file.kind, Kind::Firmware | Kind::Rom | Kind::DeviceTree) {
        return false;
    }
    let is_in = |folder: &Path| {
        let mut path = folder.as_os_str().as_bytes().to_vec();
        path.extend([b"/", &file.path[..]].concat());
        files::check_access(Path::new(OsStr::from_bytes(&path)), AccessFlags::R_OK) != Err(Errno::ENOENT)
    };
    let is_list = |said: &str| !said.is_empty() && said.lines().all(|line| line.contains('/'));
    let is_in_one = |said: &str| said.lines().any(|folder| is_in(Path::new(folder)));
    let own: Vec<PathBuf> = line.needs.folders.iter().map(|folder| OsStr::from_bytes(folder).into()).collect();
    let said = || qemu.text_of(&["-L", "help"], &|said| is_list(said) && is_in_one(said));
    own.iter().any(|folder| is_in(folder)) || said().is_none_or(|said| !is_list(&said) || is_in_one(&said))
}

/// Why a file can't be opened, if it is certain.
fn why_not(kind: Kind, path: &Path) -> Option<String> {
    // Not opened: who opens a pipe waits for whoever is at its other end.
    match files::check_access(path, AccessFlags::R_OK) {
        Err(error @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP)) => Some(reason(&error.into())),
        _ if kind != Kind::Folder && path.is_dir() => Some("it is a folder".to_owned()),
        _ => None,
    }
}
