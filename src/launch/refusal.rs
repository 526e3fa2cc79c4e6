//! What QEMU is certain to refuse, looked for before a bridge is made for nothing: see `argv::needs`. What can't be found out
//! is left to QEMU.

use crate::launch::{QEMU, Qemu};
use crate::output::errno::reason;
use crate::sys::files;
use model::argv::Line;
use model::argv::needs::{File, Kind};
use model::argv::scan::OURS;
use model::argv::table;
use model::error::{Error, Result};
use model::slips;
use nix::errno::Errno;
use nix::unistd::AccessFlags;
use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Checks that QEMU can open the files that a line names. Others may have made the way to one, and keep whoever goes it:
/// never while a lock is held.
pub fn check_files(line: &Line) -> Result<()> {
    if let Some(option) = &line.needs.cut {
        let what = format!("-{} has no value", String::from_utf8_lossy(option));
        return Err(Error::new(what, "It is the last word, and QEMU wants one behind it."));
    }
    for nic in &line.nics {
        let name = nic.bridge.as_str();
        if Path::new(name).is_file() {
            let what = format!("--bridge {name}: there is no such bridge, and a file of that name");
            return Err(Error::new(what, format!("Nothing was made. Name a bridge before it: --bridge br0 {name}")));
        }
    }
    for file in &line.needs.files {
        if let Some(why) = why_not(file) {
            let what = format!(
                "{}: QEMU cannot open {}: {why}",
                file.shown,
                Path::new(OsStr::from_bytes(&file.path)).display()
            );
            return Err(Error::new(what, "Nothing was made. Name a file that is there."));
        }
    }
    Ok(())
}

/// Checks that QEMU has the options of a line: it is asked, so only where much is going to be made.
pub fn check_options(line: &Line, qemu: &Qemu) -> Result<()> {
    for option in &line.needs.unknown {
        if qemu.refuses(option) {
            let option = String::from_utf8_lossy(option);
            let known = table::names().chain(OURS);
            let near = slips::near(&option, known).map(|near| format!(" Is -{near} meant?")).unwrap_or_default();
            let what = format!("{} has no option -{option}", qemu.path().display());
            return Err(Error::new(what, format!("Nothing was made.{near}")));
        }
    }
    Ok(())
}

/// Checks that a QEMU which is a script hands on what it inherits; one that does not leaves QEMU without its TAP.
pub fn check_script(qemu: &Qemu, descriptor: RawFd) -> Result<()> {
    if !qemu.is_script() || qemu.passes_on(descriptor) != Some(false) {
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

/// Why a file can't be opened, if it is certain.
fn why_not(file: &File) -> Option<String> {
    let path = Path::new(OsStr::from_bytes(&file.path));
    let is_elsewhere = match file.kind {
        // QEMU looks for it in folders of its own.
        Kind::Firmware => !file.path.contains(&b'/'),
        // Several, or one with arguments.
        Kind::Initrd => file.path.iter().any(|byte| b", ".contains(byte)),
        _ => false,
    };
    if is_elsewhere || file.behind.is_some() {
        return None;
    }
    // Not opened: who opens a pipe waits for whoever is at its other end.
    match files::check_access(path, AccessFlags::R_OK) {
        Err(error @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP)) => Some(reason(&error.into())),
        _ if file.kind != Kind::Folder && path.is_dir() => Some("it is a folder".to_owned()),
        _ => None,
    }
}
