//! Takes back what was made, and only that.

use super::{HEADER, Made, RECORD, Record, cannot, lock_record};
use crate::error::{Error, Result};
use crate::helper;
use crate::sys::files;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Takes it back, the last first, and tells what it did. What has been changed since is left, and told of.
pub fn uninstall() -> Result<String> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new(
            "install: only root can take this back",
            "Run it as root: sudo kvm-bridge install --uninstall",
        ));
    }
    let lock = lock_record()?;
    let mut record = Record::read()?;
    let mut told = String::new();
    while let Some(made) = record.made.last() {
        if let Some(what) = take_back(made)? {
            told += &format!("{what}\n");
        }
        record.made.pop();
        record.write()?;
    }
    let record = Path::new(RECORD);
    for path in [record.with_extension("new"), record.to_owned(), record.with_extension("lock")] {
        let path = &path;
        fs::remove_file(path).or_else(gone).map_err(|error| cannot("remove", path, &error))?;
    }
    drop(lock);
    Ok(if told.is_empty() { "There is nothing to take back.\n".to_owned() } else { told })
}

fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn take_back(made: &Made) -> Result<Option<String>> {
    let removed = |path: &Path| Some(format!("removed {}", path.display()));
    match made {
        Made::Folder(path) => match fs::remove_dir(path) {
            Ok(()) => Ok(removed(path)),
            // Somebody else's things are in it, or it is gone.
            Err(_) => Ok(None),
        },
        Made::Helper(path) => {
            remove(&path.with_extension("new"))?;
            remove(path)
        }
        Made::Right(path) => take_right(path),
        Made::Link { path, target } => match fs::read_link(path) {
            Ok(found) if found == *target => remove(path),
            _ => Ok(None),
        },
        Made::Rules(path) => match fs::read(path) {
            // A kill may have left a part of it.
            Ok(text) if HEADER.as_bytes().starts_with(&text) => remove(path),
            _ => Ok(None),
        },
        Made::Rule { file, line } => take_rule(file, line),
    }
}

fn remove(path: &Path) -> Result<Option<String>> {
    match fs::remove_file(path) {
        Ok(()) => Ok(Some(format!("removed {}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("remove", path, &error)),
    }
}

fn take_right(path: &Path) -> Result<Option<String>> {
    let Ok(metadata) = path.metadata() else { return Ok(None) };
    let mut was_there = false;
    match rustix::fs::removexattr(path, helper::ATTRIBUTE) {
        Ok(()) => was_there = true,
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(cannot("take the capability of", path, &error.into())),
    }
    if metadata.mode() & 0o4000 != 0 {
        let mode = fs::Permissions::from_mode(metadata.mode() & 0o755);
        fs::set_permissions(path, mode).map_err(|error| cannot("take setuid of", path, &error))?;
        was_there = true;
    }
    Ok(was_there.then(|| format!("took the right of {}", path.display())))
}

/// Takes a line out of a file whose other lines, mode and owner stay.
fn take_rule(file: &Path, line: &str) -> Result<Option<String>> {
    let Ok(path) = file.canonicalize() else { return Ok(None) };
    let new = path.with_extension("new");
    let taken = (|| {
        // What a kill left there.
        fs::remove_file(&new).or_else(gone)?;
        let text = fs::read(&path)?;
        let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let Some(at) = lines.iter().rposition(|other| other.trim_ascii() == line.as_bytes()) else { return Ok(false) };
        lines.remove(at);
        let metadata = path.metadata()?;
        files::write_new(&new, &lines.concat())?;
        chown(&new, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::set_permissions(&new, metadata.permissions())?;
        fs::rename(&new, &path)?;
        Ok(true)
    })();
    match taken {
        Ok(true) => Ok(Some(format!("took '{line}' out of {}", file.display()))),
        Ok(false) => Ok(None),
        Err(error) => Err(cannot("change", file, &error)),
    }
}
