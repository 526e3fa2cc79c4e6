//! What is behind a bridge with `uplink=nat`.

use crate::netlink::Detail;
use crate::network::uplink::nat::{rules, server};
use crate::state::journal::Files;
use crate::state::networks;
use crate::sys::process;
use model::error::Result;
use model::inventory::OwnNetwork;
use model::journal::Journal;

pub(super) fn look(files: &Files, journal: &Journal, details: &[Detail]) -> Result<Option<OwnNetwork>> {
    let Some(network) = journal.nat().map(|masquerade| masquerade.network.clone()) else { return Ok(None) };
    let is_port =
        |tap: u32| details.iter().any(|port| port.link.index == tap && port.link.controller == Some(journal.index));
    let may_ask = process::can_change_network();
    Ok(Some(OwnNetwork {
        network,
        guests: networks::guests(files)?.behind(is_port),
        masqueraded: if may_ask { Some(rules::masqueraded(&journal.bridge)?) } else { None },
        has_server: server::runs(&files.nat(), &journal.bridge),
    }))
}
