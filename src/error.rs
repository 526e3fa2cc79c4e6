//! What went wrong, and what to do about it.
//!
//! Nobody decides anything by looking into an error: it is made where the cause is known and printed at the end of
//! `main`. So there is one type for all layers, and it can't be made without a way out for the user.
#![forbid(unsafe_code)]

use kvm_bridge_helper::container;
use nix::errno::Errno;
use std::fmt;

/// The exit status of the shim and of `kvm-bridge` when the fault is ours or the caller's.
pub const FAILED: u8 = 125;
/// QEMU was found and cannot be executed (as `env`, `timeout` and `docker` have it).
pub const CANNOT_EXECUTE: u8 = 126;
/// QEMU was not found.
pub const NOT_FOUND: u8 = 127;

/// A sentence that says what is wrong, and one that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    what: String,
    remedy: String,
    status: u8,
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `what` names the thing and the cause without a full stop; `remedy` is a sentence or a command.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), status: FAILED }
    }

    /// The same error with another exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The same error, said of `subject`.
    pub fn of(mut self, subject: impl fmt::Display) -> Self {
        self.what = format!("{subject}: {}", self.what);
        self
    }

    /// The same error in other words.
    pub fn rephrased(mut self, say: impl Fn(&str) -> String) -> Self {
        self.what = say(&self.what);
        self.remedy = say(&self.remedy);
        self
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\n  {}", self.what, self.remedy)
    }
}

impl std::error::Error for Error {}

/// What an errno means, without Rust's `(os error N)`.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => words(Errno::from_raw(number)).to_owned(),
        None => error.to_string(),
    }
}

/// The C library's words, but for those that tell what the errno once meant, on other machines or for other things.
pub fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOTTY => "this is no device that knows the request",
        Errno::EBADF => "the file is not open",
        Errno::EBADFD => "the interface behind it is gone",
        Errno::EXFULL => "there is no room for one more",
        Errno::EUSERS => "there are too many users",
        Errno::ESRCH => "there is none",
        Errno::ENXIO => "there is no device behind it",
        Errno::ENOSYS => "this kernel does not know it",
        Errno::EOPNOTSUPP => "it is not supported here",
        Errno::EAFNOSUPPORT | Errno::EPFNOSUPPORT => "this kernel does not have the protocol",
        Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT => "this kernel does not have this kind of socket",
        Errno::ENFILE => "the whole system has as many files open as it can have",
        Errno::EMFILE => "this process has as many files open as it may have",
        Errno::ENOBUFS => "the kernel has no memory for it",
        Errno::EAGAIN => "it is not to be had at the moment",
        Errno::E2BIG => "arguments and environment are longer than the kernel takes",
        Errno::EFBIG => "a file may not become so large (ulimit -f)",
        Errno::ETXTBSY => "the program is being written",
        Errno::ENOEXEC => "this is no program for this machine",
        Errno::ELOOP => "links lead in a circle",
        Errno::EXDEV => "it is on another file system",
        Errno::ERANGE | Errno::EDOM => "the value is not one that is allowed",
        Errno::ENODATA => "it has no such attribute",
        Errno::ENOTCONN | Errno::EDESTADDRREQ | Errno::ESHUTDOWN => "nobody is at the other end",
        Errno::EDQUOT => "this user may use no more of the disk",
        Errno::ESTALE => "the file is gone from its server",
        other => other.desc(),
    }
}

/// What is to be done where a right is missing that root has: by root in a container, at the container's start.
pub fn as_root(command: &str) -> String {
    match nix::unistd::geteuid().is_root() {
        true if container::is_container() => format!("{}.", container::REMEDY),
        true => "This root has not the right: see whether 'capsh --print' lists cap_net_admin.".to_owned(),
        false => format!("Run it as root: {command}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_errno_is_told_in_the_words_of_another_age() {
        for number in 1..134 {
            let said = reason(&std::io::Error::from_raw_os_error(number));
            for old in ["typewriter", "Bad file", "bad state", "tables full", "overflow", "transport endpoint"] {
                assert!(!said.contains(old), "{number}: {said}");
            }
        }
        assert_eq!(reason(&std::io::Error::from_raw_os_error(libc::EPERM)), "Operation not permitted");
    }
}
