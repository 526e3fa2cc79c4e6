//! What went wrong, and what to do about it.
//! It may not know where an error is shown.
//!
//! Nobody decides anything by looking into an error: it is made where the cause is known and printed at the end of
//! `main`. So there is one type for all layers, and it can't be made without a way out for the user.
#![forbid(unsafe_code)]

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
