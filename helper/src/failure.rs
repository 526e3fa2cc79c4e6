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

/// The kernel's own words for an errno.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
