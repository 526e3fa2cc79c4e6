//! What the standard library and nix have no safe words for: the islands of unsafe code, each small enough to check.
#![allow(unsafe_code)]

pub mod entry;
pub mod files;
pub mod lock;
pub mod process;
pub mod program;
pub mod sysctl;
pub mod tap;
