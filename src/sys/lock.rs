//! Lock files that may be deleted while others wait for them: flock(2), and of a process for all its life fcntl(2).
//!
//! A lock can be taken by whoever can open the file, and be held for ever. So these are files that nobody else can open,
//! never folders; and who waits for one says after a moment for whom, and does not wait for ever.
#![forbid(unsafe_code)]

use crate::output;
use crate::sys::files::{create_folder_of, if_there};
use crate::sys::patience::within;
use libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};
use model::error::{Error, Result};
use model::{proc, text};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::FlockOperation;
use std::fs::{self, File, Metadata, OpenOptions};
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
    wait_for(path, Hold::Alone, LIMIT, &cannot, || if_there(File::open(path)))
}

/// Waits for the lock alone, however long that takes: for a process that nobody waits for.
pub fn wait_for_ever(path: &Path) -> io::Result<File> {
    loop {
        let file = open(path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        if is_current(&file)? {
            return Ok(file);
        }
    }
}

/// Takes the lock on a file if nobody is in the way, and tells whether it did. (As `File::try_lock` of later compilers.)
pub fn try_lock(file: &File, hold: Hold) -> io::Result<bool> {
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a process holds the lock that `try_for_life` takes; nobody is kept from taking it meanwhile. Who may not open the
/// file goes by the kernel's list; what that does not tell in time counts as held.
pub fn is_held(path: &Path) -> bool {
    match File::open(path) {
        Ok(file) => is_in_the_way(&file, whole_file()).unwrap_or(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => path.metadata().map_or(true, |file| locks().is_none_or(|locks| holder_in(&locks, &file).is_some())),
    }
}

/// Takes the lock alone, for as long as a process lives, if nobody has it: one of the open file (F_OFD_SETLK of fcntl(2)), since
/// of these the kernel tells whether they are held.
pub fn try_for_life(path: &Path) -> io::Result<Option<File>> {
    try_with(path, open, |file| match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    })
}

fn whole_file() -> flock {
    to_write(0, 0)
}

/// A lock alone of so many bytes; 0: all that there will ever be.
fn to_write(start: libc::off_t, length: libc::off_t) -> flock {
    flock { l_type: F_WRLCK as _, l_whence: SEEK_SET as _, l_start: start, l_len: length, l_pid: 0 }
}

/// Whether another open file has a lock that is in the way of this one; it is not taken.
fn is_in_the_way(file: &File, mut lock: flock) -> nix::Result<bool> {
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != F_UNLCK)
}

/// Takes the lock alone if nobody has it.
pub fn try_alone(path: &Path) -> io::Result<Option<File>> {
    try_with(path, open, |file| try_lock(file, Hold::Alone))
}

/// The same, by a descriptor that nothing can be written with: for one that another program is going to hold. On file systems
/// that let only writers lock alone (NFS) it can be written with.
pub fn try_alone_read_only(path: &Path) -> io::Result<Option<File>> {
    let open = |path: &Path| open_with(path, OpenOptions::new().read(true).custom_flags(libc::O_CREAT));
    match try_with(path, open, |file| try_lock(file, Hold::Alone)) {
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => try_alone(path),
        tried => tried,
    }
}

fn try_with(
    path: &Path,
    open: impl Fn(&Path) -> io::Result<File>,
    lock: impl Fn(&File) -> io::Result<bool>,
) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        if !lock(&file)? {
            return Ok(None);
        }
        if is_current(&file)? {
            return Ok(Some(file));
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
            if try_lock(&file, hold).map_err(failed)? {
                if is_current(&file).map_err(failed)? {
                    return Ok(Some(file));
                }
                // It was deleted by who had it: there may be another by now.
                break;
            }
            if start.elapsed() >= limit {
                let (path, limit) = (path.display(), limit.as_secs());
                let what = format!("{} has held {path} for {limit} seconds", holder(&file));
                return Err(Error::new(what, "End that process if it hangs, and try again."));
            }
            if !has_told && start.elapsed() >= SILENCE {
                let own = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
                let own = own.file_name().unwrap_or_default().to_string_lossy();
                output::say(&own, format_args!("waits for {}, which holds {}", holder(&file), path.display()));
                has_told = true;
            }
            std::thread::sleep(STEP);
        }
    }
    Ok(None)
}

/// Whether another process has locked a byte of a file (F_OFD_SETLK, as QEMU does); the lock is not taken.
pub fn is_byte_locked(file: &File, byte: u64) -> bool {
    is_in_the_way(file, to_write(libc::off_t::try_from(byte).unwrap_or_default(), 1)).unwrap_or_default()
}

/// Who holds the lock on a file, for people, as far as the kernel tells in time.
fn holder(file: &File) -> String {
    let pid = || holder_in(&locks()?, &file.metadata().ok()?)?.parse::<u32>().ok();
    let Some(pid) = pid() else { return "another process".to_owned() };
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.map_or(format!("process {pid}"), |name| format!("{} (PID {pid})", text::name(name.trim_end())))
}

/// The kernel's list of all locks (`/proc/locks` of proc(5)). Users decide how long it is: nobody waits for it long.
fn locks() -> Option<String> {
    within(Duration::from_secs(1), || fs::read_to_string("/proc/locks").ok()).flatten()
}

/// The process that holds a lock on a file.
fn holder_in<'a>(locks: &'a str, file: &Metadata) -> Option<&'a str> {
    let (major, minor) = (nix::sys::stat::major(file.dev()), nix::sys::stat::minor(file.dev()));
    proc::holder(locks, (major, minor), file.ino())
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
    fn whether_a_process_has_it_for_life_is_asked_without_taking_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_held(&path));
        let held = try_for_life(&path).unwrap().unwrap();
        assert!(is_held(&path) && try_for_life(&path).unwrap().is_none());
        let file = held.metadata().unwrap();
        assert_eq!(holder_in(&locks().unwrap(), &file), Some("-1"));
        let copy = held.try_clone().unwrap();
        drop(held);
        assert!(is_held(&path));
        drop(copy);
        // A child of another test has a copy until it executes its program.
        let end = Instant::now() + LIMIT;
        while is_held(&path) && Instant::now() < end {
            std::thread::sleep(STEP);
        }
        assert!(!is_held(&path) && try_for_life(&path).unwrap().is_some());
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
