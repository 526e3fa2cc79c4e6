//! QEMU's command line: which words are ours, and what they become.
//! It may not know the host.
//!
//! A command line is bytes, not text, and QEMU's grammar decides what a word is: in `-append --bridge` the second word
//! is a value. Everything here is pure: it neither looks at the system nor changes it.
#![forbid(unsafe_code)]

pub mod board;
pub mod devices;
pub mod image;
pub mod inspect;
pub mod json;
pub mod lacks;
pub mod masked;
pub mod models;
pub mod needs;
pub mod qcow2;
pub mod readconfig;
mod replace;
pub mod rewrite;
pub mod scan;
pub mod settle;
mod values;

pub use rewrite::{Backend, Card, Netdev, rewrite};
pub use scan::{Environment, Line, Mode, Part, scan, without_ours};
pub use values::Params;

use crate::mac::Mac;

/// The network cards of a settled line, put together from what its parts were given. A `-device` of the user's that
/// names the id of one is used in place of ours, and gets the address if it has none.
pub fn netdevs(line: &Line, ids: Vec<String>, backends: Vec<Backend>, macs: &[Mac]) -> Vec<Netdev> {
    let cards = line.nics.iter().zip(ids).zip(backends).zip(macs);
    let netdevs = cards.map(|(((nic, id), backend), mac)| {
        let has_device = line.devices_on.contains_key(id.as_bytes());
        let model = nic.model.as_deref().unwrap_or(settle::DEFAULT_MODEL).to_owned();
        let card = match has_device {
            true => Card::Own,
            false if nic.is_on_board => Card::OnBoard,
            false => Card::Device(model),
        };
        Netdev { card, mac: *mac, id, backend }
    });
    netdevs.collect()
}
