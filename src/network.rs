//! Carries a plan out, keeps what it made, and takes it back: with root's rights, or by the helper.
//! It may not decide what is to be made.

pub mod announce;
pub mod apply;
pub mod bring_up;
pub mod create;
pub mod dhcp_probe;
pub mod down;
pub mod guard;
pub mod helper;
pub mod inventory;
pub mod links;
pub mod locks;
pub mod made;
pub mod managed;
pub mod news;
pub mod observe;
pub mod reaper;
pub mod rootless;
pub mod sources;
pub mod undo;
pub mod up;
pub mod uplink;
pub mod user;
pub mod user_network;

use std::ffi::OsString;

/// Runs as one of the processes that stay behind, where `words` are of one.
pub fn run_left_behind(words: &[OsString]) -> Option<i32> {
    match words.first()?.to_str()? {
        reaper::NAME => Some(reaper::main(words)),
        announce::NAME => Some(announce::main(words)),
        _ => user_network::main(words),
    }
}
