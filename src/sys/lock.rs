//! Lock files (flock(2)) that may be deleted while others wait for them.
#![forbid(unsafe_code)]

use super::files::create_folder_of;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Together with others of this kind (LOCK_SH).
    Shared,
    /// Alone (LOCK_EX).
    Alone,
}

/// Waits for the lock. The file and its folder are made where they are missing; the lock is free when the last copy of
/// the descriptor is closed.
pub fn wait(path: &Path, hold: Hold) -> io::Result<File> {
    loop {
        let file = open(path)?;
        match hold {
            Hold::Shared => file.lock_shared()?,
            Hold::Alone => file.lock()?,
        }
        if is_current(&file)? {
            return Ok(file);
        }
    }
}

/// Takes the lock alone if nobody has it.
pub fn try_alone(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) if is_current(&file)? => return Ok(Some(file)),
            Ok(()) => {}
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_folder_of(path)?,
            opened => return opened,
        }
    }
}

/// Waits for the lock on a folder alone, which is made where it is missing.
pub fn wait_for_folder(folder: &Path) -> io::Result<File> {
    loop {
        create_folder_of(&folder.join("file"))?;
        let file = match File::open(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        file.lock()?;
        if is_current(&file)? {
            return Ok(file);
        }
    }
}

/// Waits for the lock alone if there is such a file; makes none.
pub fn wait_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) => file.lock().map(|()| Some(file)),
    }
}

/// Whoever deletes a lock file holds it; who waited for it then holds a file that nobody else will find.
pub fn is_current(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}
