//! System calls, processes, files, locks and /proc: the islands of unsafe code, each small enough to check.
//! It may not know bridges or VMs.
#![allow(unsafe_code)]

pub mod bpf;
pub mod companion;
pub mod descriptors;
pub mod ethtool;
pub mod files;
pub mod filter;
pub mod firewall_news;
pub mod linux;
pub mod lock;
pub mod memory;
pub mod netns;
pub mod packet;
pub mod patience;
pub mod place;
pub mod process;
pub mod program;
pub mod random;
pub mod sysctl;
pub mod system_log;
pub mod tap;
pub mod tap_users;
pub mod tcp;
pub mod terminal;
pub mod userns;

pub use kvm_bridge_helper::entry;
