//! Asks who gives addresses on a network, as a guest would: with a DHCPDISCOVER. Nothing is taken: an OFFER that nobody
//! requests is forgotten by its server.
//!
//! On a bridge the question comes from a TAP that is plugged in for it. So it goes the way of a guest's frames, through the
//! ports and the filters of the bridge, and reaches a server on the host itself.

use super::dhcp::{Kind, discover};
use super::frame::{self, Told};
use super::wait;
use crate::error::{Error, Result, reason};
use crate::host::Link;
use crate::mac::Mac;
use crate::net::apply;
use crate::net::rtnl::Netlink;
use crate::step::Tap;
use crate::sys::packet::{BUFFER, Packets};
use crate::sys::{files, tap};
use rand::TryRng;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who offers.
    pub server: Option<Ipv4Addr>,
    /// Its Ethernet address, or that of a relay.
    pub mac: Mac,
    /// What is offered.
    pub address: Ipv4Addr,
    /// The length of the network's prefix.
    pub prefix: Option<u32>,
    /// The way out that it names.
    pub router: Option<Ipv4Addr>,
}

/// How long answers are waited for: a server that first looks whether an address is free takes two or three seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// When the question is repeated.
const AGAIN: Duration = Duration::from_millis(1500);

/// Asks on a bridge.
pub fn on_bridge(netlink: &mut Netlink, bridge: &Link) -> Result<Vec<Offer>> {
    let client = Mac::generate()?;
    let (tap, name) = tap::open_one(tap::open_device()?, None).map_err(|error| cannot(&error))?;
    let wanted = Tap { name: None, bridge: bridge.name.clone(), mtu: bridge.mtu, queues: 1, found: None };
    apply::plug(netlink, &wanted, &name, client.of_tap(), "kvm-bridge doctor", bridge.index)?;
    let tap = File::from(tap);
    files::do_not_block(&tap).map_err(|error| cannot(&error))?;
    ask(&Way::Tap(tap), client)
}

/// Asks on an interface that is no port yet.
pub fn on_interface(index: u32) -> Result<Vec<Offer>> {
    let packets = Packets::open(index).map_err(|error| cannot(&error))?;
    packets.hear_all(index).map_err(|error| cannot(&error))?;
    ask(&Way::Interface(packets), Mac::generate()?)
}

fn cannot(error: &std::io::Error) -> Error {
    Error::new(format!("cannot ask for DHCP servers: {}", reason(error)), "Run it as root.")
}

enum Way {
    Tap(File),
    Interface(Packets),
}

/// What stands before each frame of a TAP with IFF_VNET_HDR (struct virtio_net_hdr): zeroes are "nothing special".
const VNET_HEADER: usize = 10;

impl Way {
    fn send(&self, frame: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tap(tap) => {
                use std::io::Write;
                let mut bytes = vec![0; VNET_HEADER];
                bytes.extend(frame);
                (&*tap).write(&bytes).map(|_| ())
            }
            Self::Interface(packets) => packets.send(frame),
        }
    }

    fn receive(&self, buffer: &mut [u8; BUFFER]) -> std::io::Result<Option<Vec<u8>>> {
        let length = match self {
            Self::Tap(tap) => match std::io::Read::read(&mut &*tap, buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                read => Some(read?),
            },
            Self::Interface(packets) => packets.receive(buffer)?,
        };
        let skip = if matches!(self, Self::Tap(_)) { VNET_HEADER } else { 0 };
        Ok(length.map(|length| buffer.get(skip..length).unwrap_or_default().to_vec()))
    }
}

impl AsFd for Way {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tap(tap) => tap.as_fd(),
            Self::Interface(packets) => packets.as_fd(),
        }
    }
}

/// Asks, twice, and tells who answered.
fn ask(way: &Way, client: Mac) -> Result<Vec<Offer>> {
    let mut random = [0; 4];
    let _ = rand::rngs::SysRng.try_fill_bytes(&mut random);
    let (frame, transaction) = (discover(client, u32::from_ne_bytes(random)), u32::from_ne_bytes(random));
    let start = Instant::now();
    let mut offers: Vec<Offer> = Vec::new();
    let mut buffer = [0; BUFFER];
    for end in [start + AGAIN, start + PATIENCE] {
        if offers.is_empty() {
            way.send(&frame).map_err(|error| cannot(&error))?;
        }
        loop {
            while let Some(bytes) = way.receive(&mut buffer).map_err(|error| cannot(&error))? {
                if let Some(Told::Dhcp(message)) = frame::read(&bytes)
                    && (message.kind, message.transaction, message.client) == (Kind::Offer, transaction, client)
                    && let (Some(address), Some(mac)) = (message.address, bytes.get(6..12))
                {
                    let mac = Mac(mac.try_into().unwrap_or_default());
                    let (server, prefix, router) = (message.server, message.prefix, message.router);
                    let offer = Offer { server, mac, address, prefix, router };
                    if offers.iter().all(|known| (known.server, known.mac) != (server, mac)) {
                        offers.push(offer);
                    }
                }
            }
            if !wait([way], end)? {
                break;
            }
        }
    }
    Ok(offers)
}
