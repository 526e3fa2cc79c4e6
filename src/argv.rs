//! QEMU's command line: which words are ours, and what they become.
//!
//! A command line is bytes, not text, and QEMU's grammar decides what a word is: in `-append --bridge` the second word
//! is a value. Everything here is pure: it neither looks at the system nor changes it.
#![forbid(unsafe_code)]

pub mod rewrite;
pub mod scan;
pub mod table;

pub use rewrite::{Backend, Netdev, rewrite};
pub use scan::{Line, Mode, Part, scan};

use crate::mac::Mac;

/// The network cards of a line, put together from what its parts were given. A `-device` of the user's that names the
/// id of one is used in place of ours.
pub fn netdevs(
    line: &Line,
    default_model: Option<&str>,
    ids: Vec<String>,
    backends: Vec<Backend>,
    macs: &[Mac],
) -> Vec<Netdev> {
    let model = |own: &Option<String>| {
        let model = own.as_deref().or(default_model);
        model.unwrap_or(rewrite::DEFAULT_MODEL).to_owned()
    };
    let cards = line.nics.iter().zip(ids).zip(backends).zip(macs);
    let netdevs = cards.map(|(((nic, id), backend), mac)| {
        let has_device = line.devices_on.contains(id.as_bytes());
        Netdev { device: (!has_device).then(|| (model(&nic.model), *mac)), id, backend }
    });
    netdevs.collect()
}
