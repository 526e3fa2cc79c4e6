//! Processes: their rights, and one that stays behind.

use crate::error::{Error, Result, reason};
use nix::unistd::{ForkResult, fork};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// The descriptor under which a process that was left behind finds the file that it was given.
pub const INHERITED: RawFd = 3;

/// Whether this process may change the network of its namespace (capabilities(7)).
pub fn can_change_network() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Lets a descriptor live on through exec, under its number.
pub fn inherit(file: &impl AsFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
        .map(|_| ())
        .map_err(|error| Error::new(format!("cannot pass a descriptor on: {}", error.desc()), "Please report this."))
}

/// Starts this very program again, called `words`, as nobody's child: in a session of its own, in the root folder,
/// with /dev/null as its three standard files, an empty environment, no signal blocked, and no descriptor of ours but
/// `file`, which it finds as `INHERITED`.
pub fn leave_behind(words: &[&CStr], file: &File) -> Result<()> {
    let cannot = |what: &str, error: nix::Error| {
        let what = format!("cannot start the process that tidies up: {what}: {}", error.desc());
        Error::new(what, "See whether the limit on processes is reached: ulimit -u")
    };
    let null =
        File::options().read(true).write(true).open("/dev/null").map_err(|error| {
            Error::new(format!("cannot open /dev/null: {}", reason(&error)), "A usual /dev is needed.")
        })?;
    let words: Vec<CString> = words.iter().map(|word| (*word).to_owned()).collect();
    // SAFETY: the child calls nothing but functions that are safe after fork, and ends in exec or _exit. The process
    // has one thread.
    match unsafe { fork() }.map_err(|error| cannot("fork", error))? {
        ForkResult::Child => {
            become_detached(&words, file, &null);
            // SAFETY: _exit may be called at any time.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => {
            let ended = nix::sys::wait::waitpid(child, None).map_err(|error| cannot("wait", error))?;
            match ended {
                nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
                _ => Err(cannot("it ended early", nix::Error::UnknownErrno)),
            }
        }
    }
}

/// The child's part. Returns only when something failed.
fn become_detached(words: &[CString], file: &File, null: &File) -> Option<()> {
    nix::unistd::setsid().ok()?;
    // SAFETY: as in `leave_behind`; the second child is no session leader and so can never have a terminal.
    if let ForkResult::Parent { .. } = unsafe { fork() }.ok()? {
        // SAFETY: as in `leave_behind`.
        unsafe { libc::_exit(0) }
    }
    nix::unistd::chdir(c"/").ok()?;
    // SAFETY: plain system calls on descriptors of ours. `file` is moved above the three standard ones first, so that
    // none of these overwrites it; those and INHERITED are then open, and everything above is closed.
    unsafe {
        let file = libc::fcntl(file.as_raw_fd(), libc::F_DUPFD, 10);
        let null = libc::fcntl(null.as_raw_fd(), libc::F_DUPFD, 10);
        for standard in 0..3 {
            libc::dup2(null, standard);
        }
        if libc::dup2(file, INHERITED) != INHERITED {
            return None;
        }
        libc::syscall(libc::SYS_close_range, INHERITED + 1, libc::c_uint::MAX, 0);
    }
    for signal in nix::sys::signal::Signal::iterator() {
        // SAFETY: the default action is no function of ours. KILL and STOP can't be set, and need not.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask().ok()?;
    let _ = nix::unistd::execve(c"/proc/self/exe", words, &[] as &[&CStr]);
    None
}
