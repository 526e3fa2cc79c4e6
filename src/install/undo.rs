//! Takes back what was made, and only that.

use crate::install::record::{Identity, Made, RECORD, Record, draft_of};
use crate::install::{HEADER, cannot, lock_record};
use crate::network::helper;
use crate::output::errno::again_as_root;
use crate::sys::files::{self, if_there};
use model::error::{Error, Result};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// Takes it back, the last first, and tells what it did. What has been changed since is left, and told of.
pub fn uninstall() -> Result<String> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new("install: only root can take this back", again_as_root()));
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
        if_there(fs::remove_file(path)).map_err(|error| cannot("remove", path, &error))?;
    }
    drop(lock);
    Ok(if told.is_empty() { "There is nothing to take back.\n".to_owned() } else { told })
}

fn take_back(made: &Made) -> Result<Option<String>> {
    match made {
        Made::Folder(path) => match fs::remove_dir(path) {
            Ok(()) => Ok(Some(format!("removed {}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Ok(Some(left(path, "there is something in it")))
            }
            // It is gone.
            Err(_) => Ok(None),
        },
        Made::Helper { path, copies } => {
            remove(&draft_of(path))?;
            match Identity::of(path)? {
                Some(found) if !copies.contains(&found) => Ok(Some(left(path, "it is another than was made"))),
                _ => remove(path),
            }
        }
        Made::Right { path, file } => match Identity::of(path)? {
            Some(found) if found != *file => Ok(Some(left(path, "it is another than was given its right"))),
            Some(_) => take_right(path),
            None => Ok(None),
        },
        Made::Link { path, target } => match if_there(fs::read_link(path)) {
            Ok(Some(found)) if found == *target => remove(path),
            Ok(None) => Ok(None),
            _ => Ok(Some(left(path, &format!("it is no link to {} any more", target.display())))),
        },
        Made::Rules(path) => {
            remove(&draft_of(path))?;
            match if_there(fs::read(path)) {
                Ok(Some(text)) if text == HEADER.as_bytes() => remove(path),
                Ok(None) => Ok(None),
                _ => Ok(Some(left(path, "it says more than was written into it"))),
            }
        }
        Made::Rule { file, line } => take_rule(file, line),
    }
}

fn left(path: &Path, why: &str) -> String {
    format!("left {}: {why}", path.display())
}

fn remove(path: &Path) -> Result<Option<String>> {
    let removed = if_there(fs::remove_file(path)).map_err(|error| cannot("remove", path, &error))?;
    Ok(removed.map(|()| format!("removed {}", path.display())))
}

/// Takes the right that was given: a capability, or setuid where the file system has none. One that has been given since
/// is another.
fn take_right(path: &Path) -> Result<Option<String>> {
    let taken = format!("took the right of {}", path.display());
    let mut value = [0; 24];
    match rustix::fs::getxattr(path, helper::ATTRIBUTE, &mut value) {
        Ok(size) if value.get(..size) == Some(&helper::capability()) => {
            let removed = rustix::fs::removexattr(path, helper::ATTRIBUTE);
            removed.map_err(|error| cannot("take the capability of", path, &error.into()))?;
            Ok(Some(taken))
        }
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let mode = path.metadata().map_err(|error| cannot("read", path, &error))?.mode();
            if mode & 0o4000 == 0 {
                return Ok(None);
            }
            let without = fs::Permissions::from_mode(mode & 0o3777);
            fs::set_permissions(path, without).map_err(|error| cannot("take setuid of", path, &error))?;
            Ok(Some(taken))
        }
        // Somebody has taken it.
        Err(rustix::io::Errno::NODATA) if !helper::right_of(path).is_there() => Ok(None),
        _ => Ok(Some(left(path, "it has another right than was given to it"))),
    }
}

/// Takes a line out of a file whose other lines, mode and owner stay.
fn take_rule(file: &Path, line: &str) -> Result<Option<String>> {
    let Ok(path) = file.canonicalize() else { return Ok(None) };
    let new = draft_of(&path);
    let taken = (|| {
        // What a kill left there.
        if_there(fs::remove_file(&new))?;
        let text = fs::read(&path)?;
        let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let Some(at) = lines.iter().rposition(|other| other.trim_ascii() == line.as_bytes()) else { return Ok(false) };
        lines.remove(at);
        let metadata = path.metadata()?;
        let mode = metadata.mode() & 0o7777;
        let written = files::write_new(&new, &lines.concat(), mode)?;
        fchown(&written, Some(metadata.uid()), Some(metadata.gid()))?;
        fs::rename(&new, &path)?;
        Ok(true)
    })();
    match taken {
        Ok(true) => Ok(Some(format!("took '{line}' out of {}", file.display()))),
        Ok(false) => Ok(Some(left(file, &format!("'{line}' is not in it any more")))),
        Err(error) => Err(cannot("change", file, &error)),
    }
}
