//! Processes: their rights, and one that stays behind.

use crate::output::errno::reason;
use crate::sys::place;
use model::error::{Error, Result};
use nix::unistd::{ForkResult, fork};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The descriptor under which a process that was left behind finds the file that it was given.
pub const INHERITED: RawFd = 3;

/// The lowest number of a descriptor that QEMU gets from us: callers count theirs from 3.
const FIRST_OF_OURS: RawFd = 100;

/// All processes that are to be seen: the folder of each, and its number (proc(5)).
pub fn all() -> impl Iterator<Item = (PathBuf, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)))
}

/// The network namespace of a process, by the file that it is; `None` where the caller may not know.
pub fn network_of(process: &Path) -> Option<(u64, u64)> {
    fs::metadata(process.join("ns/net")).ok().map(|file| (file.dev(), file.ino()))
}

/// That of the calling thread.
pub fn own_network() -> Option<(u64, u64)> {
    network_of(Path::new("/proc/thread-self"))
}

/// Whether a device is there and this user may not use it, by its mode (faccessat(2) with the effective IDs).
pub fn is_kept_from(device: &Path) -> bool {
    use nix::unistd::AccessFlags;
    crate::sys::files::check_access(device, AccessFlags::R_OK | AccessFlags::W_OK) == Err(nix::Error::EACCES)
}

/// Whether this process may change the network of its namespace (capabilities(7)).
pub fn can_change_network() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Whether this process may watch interfaces with packet sockets.
pub fn can_watch() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_RAW))
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether nothing that this process executes gets more rights than it has (PR_SET_NO_NEW_PRIVS).
pub fn has_no_new_privs() -> bool {
    nix::sys::prctl::get_no_new_privs().unwrap_or_default()
}

/// Lets a descriptor live on through exec, under its number.
pub fn inherit(file: &impl AsFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
        .map(|_| ())
        .map_err(|error| Error::new(format!("cannot pass a descriptor on: {}", error.desc()), "Please report this."))
}

/// Moves a descriptor out of the way of those that the caller may name, though they are not open: it would be taken for
/// one of them. Where there is no room above, it stays.
pub fn move_up(file: OwnedFd) -> OwnedFd {
    above(&file, FIRST_OF_OURS).unwrap_or(file)
}

/// A copy of a descriptor, which has this number or a higher one and is closed by exec.
fn above(file: &impl AsFd, first: RawFd) -> nix::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, fcntl};
    fcntl(file, FcntlArg::F_DUPFD_CLOEXEC(first)).map(crate::sys::files::own)
}

/// Holds the places of standard files that the caller has closed, so that none of ours gets one of their numbers: an
/// error would be written into it, and QEMU would take it for its console. QEMU finds them closed, as the caller left
/// them.
pub fn hold_standard_places() -> Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    outlive_file_limit();
    for standard in 0..3 {
        // SAFETY: whether the descriptor is open is all that is asked.
        let place = unsafe { BorrowedFd::borrow_raw(standard) };
        if fcntl(place, FcntlArg::F_GETFD) == Err(nix::Error::EBADF) {
            // The lowest number that is free, and closed by exec.
            let null = open_null()?;
            let _ = null.into_raw_fd();
        }
    }
    Ok(())
}

/// Has a write beyond `ulimit -f` fail (EFBIG) and not end this process in the midst of its work. What is executed in its place
/// has the usual again, which it would not with a signal that is ignored.
pub fn outlive_file_limit() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    let _ = unsafe { sigaction(Signal::SIGXFSZ, &action) };
}

/// Raises the limits that its starter may have had, for a process that outlives that, as far as it may. One that has used up its
/// time is killed (SIGXCPU), and with it all that only it can undo.
pub fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    for resource in [Resource::Cpu, Resource::Fsize, Resource::As, Resource::Data, Resource::Nproc] {
        let none = Rlimit { current: None, maximum: None };
        if setrlimit(resource, none).is_err() {
            let most = getrlimit(resource).maximum;
            let _ = setrlimit(resource, Rlimit { current: most, maximum: most });
        }
    }
    const FILES: u64 = 4096;
    let files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|current| current < FILES) {
        let enough = Rlimit { current: Some(FILES), maximum: files.maximum.map(|most| most.max(FILES)) };
        if setrlimit(Resource::Nofile, enough).is_err() {
            let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
        }
    }
}

fn open_null() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| Error::new(format!("cannot open /dev/null: {}", reason(&error)), "A usual /dev is needed."))
}

/// The file that this process was left behind with; to be asked for once.
pub fn inherited() -> File {
    // SAFETY: `become_detached` has left it open, and nobody else knows of it.
    File::from(unsafe { OwnedFd::from_raw_fd(INHERITED) })
}

/// What a process that stays behind has for its stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// /dev/null, as for its other standard files.
    Null,
    /// The caller's.
    Callers,
}

/// Has /dev/null for stderr from here on: nobody waits for the end of this process.
pub fn let_go_of_stderr() {
    if let Ok(null) = open_null() {
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Starts this very program again, called `words`, as nobody's child: in a session of its own, in the root folder, with
/// /dev/null as its standard files (unless it is to have the caller's stderr), an empty environment, no signal blocked,
/// and no descriptor of ours but `file`, which it finds as `INHERITED`. Returns when it has been executed, or an error if
/// it has not.
pub fn leave_behind(words: &[&CStr], file: &impl AsFd, stderr: Stderr) -> Result<()> {
    let file = file.as_fd();
    let cannot = |error: nix::Error| {
        let what = format!("cannot start the process that tidies up: {}", error.desc());
        let remedy = match error {
            nix::Error::EMFILE | nix::Error::EINVAL => "See whether the limit on open files is reached: ulimit -n",
            _ => "See whether the limit on processes is reached: ulimit -u",
        };
        Error::new(what, remedy)
    };
    let null = open_null()?;
    let words: Vec<CString> = words.iter().map(|word| (*word).to_owned()).collect();
    let (notices, low) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(cannot)?;
    // It has to outlive what takes the place of `INHERITED`.
    let child_news = above(&low, INHERITED + 1).map_err(cannot)?;
    drop(low);
    // SAFETY: other threads only look at processes (sys::patience) and hold no lock of ours, and the C library's are free in the
    // child, so that it may do all that the parent may. It ends in exec or _exit.
    match unsafe { fork() }.map_err(cannot)? {
        ForkResult::Child => {
            let error = match become_detached(&words, file, stderr, &null) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let _ = nix::unistd::write(&child_news, &(error as i32).to_ne_bytes());
            // SAFETY: _exit may be called at any time.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => {
            drop(child_news);
            // Not there to be waited for, where the caller ignores SIGCHLD.
            let _ = nix::sys::wait::waitpid(child, None);
            // Executed, it has closed its end; or it says what went wrong.
            let mut failure = Vec::new();
            File::from(notices).read_to_end(&mut failure).map_err(|_| cannot(nix::Error::EIO))?;
            match <[u8; 4]>::try_from(failure.as_slice()) {
                Ok(errno) => Err(cannot(nix::Error::from_raw(i32::from_ne_bytes(errno)))),
                Err(_) => Ok(()),
            }
        }
    }
}

/// Does some work in a process of its own, whose exit status is what that returns, and tells its number.
pub fn fork_for(work: impl FnOnce() -> i32) -> nix::Result<nix::unistd::Pid> {
    // SAFETY: as in `leave_behind`. Neither the caller's destructors nor its output are the child's to run or to flush.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = work();
            // SAFETY: _exit may be called at any time.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Takes the standard output for itself; what is printed from now on goes nowhere, as for a process that stays.
pub fn take_stdout() -> io::Result<OwnedFd> {
    let own = above(&io::stdout(), INHERITED + 1)?;
    let null = open_null().map_err(|error| io::Error::other(error.to_string()))?;
    for standard in 0..3 {
        // SAFETY: a plain system call on descriptors that are open.
        nix::Error::result(unsafe { libc::dup2(null.as_raw_fd(), standard) })?;
    }
    Ok(own)
}

/// The child's part: forks once more and executes. Returns only when something failed.
fn become_detached(words: &[CString], file: BorrowedFd, stderr: Stderr, null: &File) -> nix::Result<Infallible> {
    nix::unistd::setsid()?;
    // SAFETY: as in `leave_behind`; the second child is no session leader and so can never have a terminal.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        // SAFETY: as in `leave_behind`.
        unsafe { libc::_exit(0) }
    }
    nix::unistd::chdir(c"/")?;
    // Both are moved above their final places first, so that neither overwrites the other; exec closes all the rest.
    let (file, null) = (above(&file, INHERITED + 1)?, above(null, INHERITED + 1)?);
    // SAFETY: plain system calls on descriptors of ours.
    unsafe {
        for standard in 0..if stderr == Stderr::Null { 3 } else { 2 } {
            nix::Error::result(libc::dup2(null.as_raw_fd(), standard))?;
        }
        nix::Error::result(libc::dup2(file.as_raw_fd(), INHERITED))?;
    }
    close_by_exec(INHERITED + 1);
    hear_all_signals()?;
    let own = place::user_network().into_iter().flat_map(place::environment);
    let own = own
        .filter_map(|(name, place)| CString::new([name.as_bytes(), b"=", place.as_os_str().as_bytes()].concat()).ok());
    nix::unistd::execve(c"/proc/self/exe", words, &own.collect::<Vec<CString>>())
}

/// Has exec close every descriptor from this one on. Not before: a failure of exec can still be told.
pub fn close_by_exec(first: RawFd) {
    // SAFETY: plain system calls on numbers; a kernel before 5.11 does not know the flag.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            for fd in first..4096 {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
    }
}

/// Every signal does what it does by default, and none is blocked: for a program that is about to be executed.
pub fn hear_all_signals() -> nix::Result<()> {
    for signal in nix::sys::signal::Signal::iterator() {
        // SAFETY: the default action is no function of ours. KILL and STOP can't be set, and need not.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// Lets the requests to end that are meant for QEMU, and reach a whole group of processes, pass; and a reader that has
/// gone.
pub fn ignore_requests_to_end() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    outlive_file_limit();
    for request in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        // SAFETY: to ignore it is no function of ours.
        let _ = unsafe { signal(request, SigHandler::SigIgn) };
    }
}
