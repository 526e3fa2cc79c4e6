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
