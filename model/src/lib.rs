//! What kvm-bridge thinks: from a command line, a configuration and what the kernel has now to the steps that are missing.
//!
//! Nothing here can act: there is no file, no socket, no process and no clock. So the same input has the same plan, for a
//! launch, a dry run, `kvm-bridge up` and doctor, and all of it can be tested without a network. docs/rooms.md has the
//! modules from the top floor to the lowest.
#![forbid(unsafe_code)]

pub mod anonymous;
pub mod argv;
pub mod bpf;
pub mod chain;
pub mod check;
pub mod complete;
pub mod config;
pub mod error;
pub mod fabric;
pub mod firewall;
pub mod host;
pub mod ifname;
pub mod inventory;
pub mod journal;
pub mod kernel;
pub mod layout;
pub mod mac;
pub mod manager;
pub mod nat;
pub mod options;
pub mod optstr;
pub mod packet;
pub mod plan;
pub mod proc;
pub mod properties;
pub mod report;
pub mod request;
pub mod rtnl;
pub mod share;
pub mod slips;
pub mod step;
pub mod text;
pub mod unprivileged;
pub mod uplink;
pub mod vm;
