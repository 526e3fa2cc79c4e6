//! What happens to bridges of ours, told to the host's log: docs/logs.md lists it.
#![forbid(unsafe_code)]

use crate::sys::system_log::{self, Entry};
use model::ifname::IfName;

/// In whose name: `journalctl -t kvm-bridge`.
pub const PROGRAM: &str = "kvm-bridge";

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A bridge was created.
    BridgeCreated,
    /// A bridge of ours was removed, with all that was changed for it.
    BridgeRemoved,
    /// Something is wrong with a bridge, and is tried again.
    Fault,
    /// What was wrong is so no longer.
    FaultOver,
}

impl Event {
    /// Its MESSAGE_ID (systemd.journal-fields(7)), a random number that stays.
    pub fn id(self) -> &'static str {
        match self {
            Self::BridgeCreated => "1240532aae7c43b2baa99b38550720fb",
            Self::BridgeRemoved => "922f4e5da0c44c409be26b13f52455e4",
            Self::Fault => "4b63379236404b5fb82d92f47769c415",
            Self::FaultOver => "310fa4571d154b58af066bc2c9b0cda5",
        }
    }
}

/// Tells it.
pub fn tell(event: Event, bridge: &IfName, text: &str) {
    let fields = [("MESSAGE_ID", event.id()), ("KVM_BRIDGE", bridge.as_str())];
    // LOG_WARNING and LOG_INFO.
    let priority = if event == Event::Fault { 4 } else { 6 };
    system_log::write(&Entry { program: PROGRAM, priority, fields: &fields, text });
}
