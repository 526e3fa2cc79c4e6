//! What is behind a bridge with `uplink=nat`.

use crate::netlink::Detail;
use crate::network::uplink::nat::{rules, server};
use crate::state::journal::Files;
use crate::state::networks;
use crate::sys::process;
use model::error::Result;
use model::journal::Journal;
use model::nat::Nat;
use model::nat::guest::Guest;

/// A network of the host's own behind a bridge.
#[derive(Debug, Clone)]
pub struct OwnNetwork {
    /// It.
    pub network: Nat,
    /// The guests that root has started on it and that run.
    pub guests: Vec<Guest>,
    /// How many connections of guests were masqueraded, where the rules are there; `None` for who may not ask.
    pub masqueraded: Option<Option<u64>>,
    /// Whether its dnsmasq runs; `None` before it was started first.
    pub has_server: Option<bool>,
}

impl OwnNetwork {
    pub(super) fn look(files: &Files, journal: &Journal, details: &[Detail]) -> Result<Option<Self>> {
        let Some(network) = journal.nat().map(|masquerade| masquerade.network.clone()) else { return Ok(None) };
        let is_port =
            |tap: u32| details.iter().any(|port| port.link.index == tap && port.link.controller == Some(journal.index));
        let may_ask = process::can_change_network();
        Ok(Some(Self {
            network,
            guests: networks::guests(files)?.behind(is_port),
            masqueraded: if may_ask { Some(rules::masqueraded(&journal.bridge)?) } else { None },
            has_server: server::runs(&files.nat(), &journal.bridge),
        }))
    }
}
