//! What went wrong, and what to do about it.
#![forbid(unsafe_code)]

use std::io;

/// Why there is no TAP: a sentence without its full stop, and what to do, with the exact command where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub remedy: String,
}

impl Failure {
    /// Both of it.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// Why something failed, as the end of a sentence: the usual words for an errno where they say what is wrong here, and
/// others where they don't.
pub fn reason(error: &io::Error) -> String {
    use nix::errno::Errno;
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    match Errno::from_raw(number) {
        Errno::EBADF => "no such descriptor is open".to_owned(),
        Errno::ENOTTY => "it is not a device of the kind that is needed".to_owned(),
        Errno::ENOTSOCK => "it is no socket".to_owned(),
        Errno::EMFILE => "this process may not open more files (its limit is reached)".to_owned(),
        Errno::ENFILE => "the host has too many files open".to_owned(),
        Errno::ENOMEM => "there is not enough memory, or the process may not have more".to_owned(),
        Errno::ENOBUFS => "the kernel has not enough memory for it".to_owned(),
        Errno::EXFULL => "the bridge has no port left".to_owned(),
        Errno::ENODEV | Errno::ENXIO => "there is no such device".to_owned(),
        Errno::EPIPE | Errno::ECONNRESET => "nobody reads from the socket any more".to_owned(),
        Errno::ENOTCONN | Errno::EDESTADDRREQ => "the socket is not connected".to_owned(),
        Errno::EAGAIN => "the socket is full".to_owned(),
        Errno::EOPNOTSUPP => "this kernel or device can't do that".to_owned(),
        Errno::ELOOP => "symbolic links lead to each other".to_owned(),
        Errno::UnknownErrno => format!("error {number} of the kernel"),
        known => known.desc().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_errno_is_told_in_words_that_say_nothing() {
        for number in 1..200 {
            let said = reason(&io::Error::from_raw_os_error(number));
            for odd in ["typewriter", "Bad file", "Unknown", "Exchange full", "non-socket"] {
                assert!(!said.contains(odd), "{number}: {said}");
            }
        }
        assert_eq!(reason(&io::Error::from_raw_os_error(195)), "error 195 of the kernel");
    }
}
