//! Lock files (flock(2)) that may be deleted while others wait for them.
//!
//! A lock can be taken by whoever can open the file, and be held for ever. So these are files that nobody else can open,
//! never folders; and who waits for one says after a moment for whom, and does not wait for ever.
#![forbid(unsafe_code)]

use super::files::create_folder_of;
use super::process;
use crate::error::{Error, Result};
use crate::out;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a lock is waited for. Nobody holds one for longer than a few seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// After this time it is said who has it.
const SILENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether it is free.
const STEP: Duration = Duration::from_millis(5);

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Together with others of this kind (LOCK_SH).
    Shared,
    /// Alone (LOCK_EX).
    Alone,
}

/// Waits for the lock. The file and its folder are made where they are missing; the lock is free when the last copy of
/// the descriptor is closed. `cannot` has the words for a file that can't be used.
pub fn wait(path: &Path, hold: Hold, cannot: impl Fn(&io::Error) -> Error) -> Result<File> {
    loop {
        if let Some(file) = wait_for(path, hold, LIMIT, &cannot, || open(path).map(Some))? {
            return Ok(file);
        }
    }
}

/// Waits for the lock alone if there is such a file; makes none.
pub fn wait_if_there(path: &Path, cannot: impl Fn(&io::Error) -> Error) -> Result<Option<File>> {
    wait_for(path, Hold::Alone, LIMIT, &cannot, || match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    })
}

/// Waits for the lock alone, however long that takes: for a process that nobody waits for.
pub fn wait_for_ever(path: &Path) -> io::Result<File> {
    loop {
        let file = open(path)?;
        file.lock()?;
        if is_current(&file)? {
            return Ok(file);
        }
    }
}

/// Whether somebody holds a lock, as far as can be seen; nobody is kept from taking it meanwhile.
pub fn is_held(path: &Path) -> bool {
    let Ok(file) = path.metadata() else { return false };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // In a PID namespace, one whose taker has ended is not shown.
    let is_shown = || fs::metadata("/proc/self/ns/pid").is_ok_and(|own| own.ino() == FIRST_PID_NAMESPACE);
    holder_in(&locks, file.dev(), file.ino()).is_some() || !is_shown()
}

/// PROC_PID_INIT_INO of the kernel's linux/proc_ns.h.
const FIRST_PID_NAMESPACE: u64 = 0xeffffffc;

/// Takes the lock alone if nobody has it.
pub fn try_alone(path: &Path) -> io::Result<Option<File>> {
    try_with(path, open)
}

/// The same, by a descriptor that nothing can be written with: for one that another program is going to hold. On file systems
/// that let only writers lock alone (NFS) it can be written with.
pub fn try_alone_read_only(path: &Path) -> io::Result<Option<File>> {
    match try_with(path, |path| open_with(path, OpenOptions::new().read(true).custom_flags(libc::O_CREAT))) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => try_alone(path),
        tried => tried,
    }
}

fn try_with(path: &Path, open: impl Fn(&Path) -> io::Result<File>) -> io::Result<Option<File>> {
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

/// A lock whose file goes with it, and the folders above the file that are empty then.
#[derive(Debug)]
pub struct Passing {
    file: File,
    path: PathBuf,
    folders: usize,
}

impl Passing {
    /// Waits for the lock alone. So many of the folders above it are its own.
    pub fn wait(path: PathBuf, folders: usize, cannot: impl Fn(&io::Error) -> Error) -> Result<Self> {
        Ok(Self { file: wait(&path, Hold::Alone, cannot)?, path, folders })
    }

    /// Takes it if nobody has it.
    pub fn try_alone(path: PathBuf, folders: usize) -> io::Result<Option<Self>> {
        Ok(try_alone(&path)?.map(|file| Self { file, path, folders }))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Else the file of this name is another's by now.
        if is_current(&self.file).unwrap_or_default() {
            let _ = fs::remove_file(&self.path);
        }
        for folder in self.path.ancestors().skip(1).take(self.folders) {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    open_with(path, OpenOptions::new().read(true).write(true).create(true).truncate(false))
}

fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    loop {
        match options.mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_folder_of(path)?,
            opened => return opened,
        }
    }
}

/// Waits for the lock on what `open` opens.
fn wait_for(
    path: &Path,
    hold: Hold,
    limit: Duration,
    cannot: &impl Fn(&io::Error) -> Error,
    mut open: impl FnMut() -> io::Result<Option<File>>,
) -> Result<Option<File>> {
    let failed = |error: io::Error| cannot(&error);
    let start = Instant::now();
    let mut has_told = false;
    while let Some(file) = open().map_err(failed)? {
        loop {
            let locked = match hold {
                Hold::Shared => file.try_lock_shared(),
                Hold::Alone => file.try_lock(),
            };
            match locked {
                Ok(()) if is_current(&file).map_err(failed)? => return Ok(Some(file)),
                // It was deleted by who had it: there may be another by now.
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if start.elapsed() >= limit => {
                    let (path, limit) = (path.display(), limit.as_secs());
                    let what = format!("{} has held {path} for {limit} seconds", holder(&file));
                    return Err(Error::new(what, "End that process if it hangs, and try again."));
                }
                Err(TryLockError::WouldBlock) => {
                    if !has_told && start.elapsed() >= SILENCE {
                        let own = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
                        let own = own.file_name().unwrap_or_default().to_string_lossy();
                        out::say(&own, format_args!("waits for {}, which holds {}", holder(&file), path.display()));
                        has_told = true;
                    }
                    std::thread::sleep(STEP);
                }
            }
        }
    }
    Ok(None)
}

/// Who holds the lock on a file, for people, as far as the kernel tells (`/proc/locks` of proc(5)).
fn holder(file: &File) -> String {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = file.metadata().ok().and_then(|file| holder_in(&locks, file.dev(), file.ino()));
    let Some(pid) = pid else { return "another process".to_owned() };
    let name = process::program(&Path::new("/proc").join(pid.to_string()));
    name.map_or(format!("process {pid}"), |name| format!("{name} (PID {pid})"))
}

/// `1: FLOCK  ADVISORY  WRITE 3562 00:16:1043 0 EOF`; one that waits has an arrow behind the number.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let wanted = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [_, "FLOCK", _, _, pid, file, ..] if *file == wanted => pid.parse().ok(),
        _ => None,
    })
}

/// Whoever deletes a lock file holds it; who waited for it then holds a file that nobody else will find.
pub fn is_current(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cannot(error: &io::Error) -> Error {
        Error::new(error.to_string(), "")
    }

    #[test]
    fn waiting_has_an_end_which_tells_whom_it_was_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/lock");
        let _held = wait(&path, Hold::Shared, cannot).unwrap();
        let wait = |hold| wait_for(&path, hold, Duration::ZERO, &cannot, || open(&path).map(Some));
        assert!(wait(Hold::Shared).is_ok());
        let text = wait(Hold::Alone).unwrap_err().to_string();
        assert!(text.contains(&format!("(PID {}) has held", std::process::id())), "{text}");
    }

    #[test]
    fn who_waits_does_not_hold() {
        let locks = "1: -> FLOCK  ADVISORY  WRITE 3 00:16:1043 0 EOF\n2: POSIX  ADVISORY  WRITE 4 00:16:1043 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 5 00:16:1044 0 EOF\n4: FLOCK  ADVISORY  READ 6 00:16:1043 0 EOF\n";
        assert_eq!(holder_in(locks, 0x16, 1043), Some(6));
        assert_eq!(holder_in(locks, 0x16, 1045), None);
    }

    #[test]
    fn one_that_passes_leaves_nothing_and_waits_for_nobody_who_has_deleted_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/lock");
        let first = Passing::wait(path.clone(), 2, cannot).unwrap();
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || drop(Passing::wait(path, 2, cannot).unwrap())
        });
        drop(first);
        waiter.join().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
