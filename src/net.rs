//! The kernel's network configuration: read and changed over rtnetlink.

pub mod apply;
pub mod late;
pub mod observe;
pub mod rtnl;
pub mod share;
pub mod undo;
