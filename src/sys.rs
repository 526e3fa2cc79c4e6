//! What the standard library and nix have no safe words for: the islands of unsafe code, each small enough to check.
#![allow(unsafe_code)]

pub mod entry;
pub mod files;
pub mod lock;
pub mod memory;
pub mod process;
pub mod sysctl;
pub mod tap;
