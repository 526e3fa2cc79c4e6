//! Writes what `kvm-bridge up --save` did into the system's configuration.

use crate::output::errno::reason;
use crate::state::config::SYSTEM;
use crate::sys::files::{self, if_there};
use crate::sys::lock::Passing;
use model::config::save::{Saved, changed, check};
use model::error::{Error, Result};
use model::ifname::IfName;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// The system's configuration, about to be changed.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    text: String,
}

impl File {
    /// Reads it, before anything else is done: what can't be read can't be changed.
    pub fn open() -> Result<Self> {
        let path = path();
        let text = if_there(fs::read_to_string(&path)).map_err(|error| failed(&path, "read", &error))?;
        let file = Self { path, text: text.unwrap_or_default() };
        check(&file.text).map_err(|error| file.cannot_change(error))?;
        Ok(file)
    }

    /// Writes what is to be kept of a bridge, and tells where. Nobody else does meanwhile, and what others have written since
    /// the file was opened is in it.
    pub fn save(self, bridge: &IfName, saved: &Saved) -> Result<PathBuf> {
        let _lock = lock(&self.path)?;
        let file = Self::open()?;
        let text = changed(&file.text, bridge, saved).map_err(|error| file.cannot_change(error))?;
        replace(&file.path, text.as_bytes()).map_err(|error| failed(&file.path, "write", &error))?;
        Ok(file.path)
    }

    fn cannot_change(&self, error: Error) -> Error {
        error.of(format_args!("cannot change {}", self.path.display()))
    }
}

/// Where it is: a link to it stays one.
fn path() -> PathBuf {
    fs::canonicalize(SYSTEM).unwrap_or_else(|_| SYSTEM.into())
}

/// Where it is written before it takes the old one's place.
fn new_path(path: &Path) -> PathBuf {
    path.with_extension("toml.new")
}

fn lock(path: &Path) -> Result<Passing> {
    Passing::wait(path.with_extension("toml.lock"), 0, |error| failed(path, "write", error))
}

/// Removes what a kill has left.
pub fn tidy() -> Result<()> {
    let path = path();
    let new = new_path(&path);
    if new.exists() {
        let _lock = lock(&path)?;
        if_there(fs::remove_file(&new)).map_err(|error| failed(&new, "remove", &error))?;
    }
    Ok(())
}

/// Writes the file whole. It stays whose it is, with its mode; a new one is for all users to read, whatever the umask.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = new_path(path);
    // What a kill left there.
    if_there(fs::remove_file(&new))?;
    let mut file = files::create(&new)?;
    let before = if_there(path.metadata())?;
    if let Some(before) = &before {
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(before.map_or(Permissions::from_mode(0o644), |before| before.permissions()))?;
    file.write_all(text)?;
    file.sync_all()?;
    files::rename_to_last(&new, path)
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let what = format!("cannot {what} {}: {}", path.display(), reason(error));
    Error::new(what, "Make it writable, or leave --save out and write it yourself: man qemu-kvm-bridge")
}
