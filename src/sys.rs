//! What the standard library and nix have no safe words for: the islands of unsafe code, each small enough to check.
#![allow(unsafe_code)]

pub use kvm_bridge_helper::entry;

pub mod bpf;
pub mod errno;
pub mod ethtool;
pub mod files;
pub mod filter;
pub mod journald;
pub mod lock;
pub mod memory;
pub mod netns;
pub mod packet;
pub mod patience;
pub mod process;
pub mod program;
pub mod random;
pub mod sysctl;
pub mod tap;
pub mod tap_owner;
