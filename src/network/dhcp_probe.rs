//! Asks who gives addresses on a network, as a guest would: with a DHCPDISCOVER. Nothing is taken: an OFFER that nobody
//! requests is forgotten by its server.
//!
//! On a bridge the question comes from a TAP that is plugged in for it. So it goes the way of a guest's frames, through the
//! ports and the filters of the bridge, and reaches a server on the host itself.

use crate::capture::wait;
use crate::netlink::Netlink;
use crate::network::apply::{self, Identity};
use crate::output::errno::reason;
use crate::sys::packet::{AT_ONCE, BUFFER, Packets};
use crate::sys::{files, random, tap};
use model::error::{Error, Result};
use model::host::Link;
use model::mac::Mac;
use model::packet::dhcp::{Kind, Offer, discover};
use model::packet::frame;
use model::packet::frame::Told;
use model::step::Tap;
use port::{Policy, Vlans};
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The alias of the TAP that is plugged in to ask: it is nobody's guest, and keeps no bridge.
const PROBE: &str = "kvm-bridge-doctor";

/// Whether a link is such a TAP.
pub fn is_probe(link: &Link) -> bool {
    link.alias.as_deref() == Some(PROBE)
}

/// How long answers are waited for: a server that first looks whether an address is free takes two or three seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// When the question is repeated.
const AGAIN: Duration = Duration::from_millis(1500);

/// Somebody who asks on one network.
#[derive(Debug)]
pub struct Asker {
    way: Way,
    client: Mac,
    frame: Vec<u8>,
    transaction: u32,
    /// When the next question is due; at last, when answers are waited for no more.
    moments: VecDeque<Instant>,
    offers: Vec<Offer>,
}

impl Asker {
    /// One on a bridge that has a carrier, in this VLAN or the bridge's default one, whose new ports forward after `delay`. The TAP has the highest address of all
    /// ports, so that the bridge does not take it for its own.
    pub fn on_bridge(netlink: &mut Netlink, bridge: &Link, vlan: Option<u16>, delay: Duration) -> Result<Self> {
        let client = random::mac()?;
        let [.., a, b, c] = client.0;
        let (tap, name) = tap::open_one(tap::open_device()?, None).map_err(|error| cannot(&error))?;
        let wanted = Tap {
            name: None,
            bridge: bridge.name.clone(),
            mtu: bridge.mtu,
            queues: 1,
            policy: Policy { vlans: vlan.map(Vlans::untagged), ..Policy::default() },
            found: None,
        };
        let highest = Mac([0xfe, 0xff, 0xff, a, b, c]);
        let index = tap::index_of(&tap, &name).map_err(|error| cannot(&error))?;
        let identity = Identity { mac: highest, alias: PROBE, guest: None };
        apply::plug(netlink, &wanted, (&name, index), &identity, bridge.index, None)?;
        let tap = File::from(tap);
        files::do_not_block(&tap).map_err(|error| cannot(&error))?;
        Ok(Self::new(Way::Tap(tap), client, delay))
    }

    /// One on an interface that is no port yet.
    pub fn on_interface(index: u32, client: Option<Mac>) -> Result<Self> {
        let packets = Packets::open(index).map_err(|error| cannot(&error))?;
        packets.hear_all(index).map_err(|error| cannot(&error))?;
        let client = client.map_or_else(random::mac, Ok)?;
        Ok(Self::new(Way::Interface(packets), client, Duration::ZERO))
    }

    /// One whose port forwards after `delay`.
    fn new(way: Way, client: Mac, delay: Duration) -> Self {
        let transaction = u32::from_ne_bytes(random::bytes().unwrap_or_default());
        let ready = Instant::now() + delay;
        let moments = [Duration::ZERO, AGAIN, PATIENCE].map(|time| ready + time);
        let frame = discover(client, transaction);
        Self { way, client, frame, transaction, moments: moments.into(), offers: Vec::new() }
    }

    /// Hears what has come, and asks if it is time.
    fn go_on(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; BUFFER];
        for _ in 0..AT_ONCE {
            let Some(bytes) = self.way.receive(&mut buffer)? else { break };
            self.hear(&bytes);
        }
        while self.moments.front().is_some_and(|moment| *moment <= Instant::now()) {
            self.moments.pop_front();
            if !self.moments.is_empty() && self.offers.is_empty() {
                self.way.send(&self.frame)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, bytes: &[u8]) {
        let Some(Told::Dhcp(message)) = frame::read(bytes) else { return };
        if (message.kind, message.transaction, message.client) != (Kind::Offer, self.transaction, self.client) {
            return;
        }
        if let (Some(address), Some(mac)) = (message.address, bytes.get(6..12)) {
            let mac = Mac(mac.try_into().unwrap_or_default());
            let (server, prefix, router) = (message.server, message.prefix, message.router);
            if self.offers.len() < MOST_OFFERS
                && self.offers.iter().all(|known| (known.server, known.mac) != (server, mac))
            {
                self.offers.push(Offer { server, mac, address, prefix, router });
            }
        }
    }
}

fn cannot(error: &std::io::Error) -> Error {
    Error::new(format!("cannot ask for DHCP servers: {}", reason(error)), "Run it as root.")
}

#[derive(Debug)]
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

/// Somebody may answer under as many names as they like.
const MOST_OFFERS: usize = 16;

/// All ask at once, each twice; who answered each of them.
pub fn ask(askers: Vec<Asker>) -> Vec<Result<Vec<Offer>>> {
    let mut all: Vec<Result<Asker>> = askers.into_iter().map(Ok).collect();
    loop {
        for asker in &mut all {
            if let Ok(Err(error)) = asker.as_mut().map(Asker::go_on) {
                *asker = Err(cannot(&error));
            }
        }
        let running = || all.iter().flatten().filter(|asker| !asker.moments.is_empty());
        let Some(next) = running().filter_map(|asker| asker.moments.front()).min() else { break };
        if let Err(error) = wait(running().map(|asker| &asker.way), *next) {
            return vec![Err(error)];
        }
    }
    all.into_iter().map(|asker| asker.map(|asker| asker.offers)).collect()
}
