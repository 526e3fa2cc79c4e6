//! DHCP messages (RFC 2131), as far as it takes to know what a guest was told: a header of fixed places, and options.
#![forbid(unsafe_code)]

use crate::mac::Mac;
use std::fmt;
use std::net::Ipv4Addr;

/// What a message is (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Discover,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The number that question and answer share.
    pub transaction: u32,
    /// The client that asks or is answered.
    pub client: Mac,
    /// The address that the client gets, in answers.
    pub address: Option<Ipv4Addr>,
    /// The length of the network's prefix.
    pub prefix: Option<u32>,
    /// Who answers.
    pub server: Option<Ipv4Addr>,
    /// The way out that it names.
    pub router: Option<Ipv4Addr>,
    /// For how long the address is given, in seconds.
    pub lease: Option<u32>,
    /// After how many seconds it is to be asked for again.
    pub renew: Option<u32>,
    /// And after how many of any server.
    pub rebind: Option<u32>,
}

/// A server's answer to `discover`.
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

impl fmt::Display for Offer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server.map_or("a server without a name".to_owned(), |server| server.to_string());
        let prefix = self.prefix.map(|prefix| format!("/{prefix}")).unwrap_or_default();
        let router = self.router.map_or(", and no router".to_owned(), |router| format!(" with the router {router}"));
        write!(out, "{server} ({}) offers {}{prefix}{router}", self.mac, self.address)
    }
}

/// The magic cookie, behind BOOTP's fixed fields.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where options begin.
pub(super) const OPTIONS: usize = 240;

impl Message {
    /// Reads what a UDP datagram to port 67 or 68 carries.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let options = options(bytes)?;
        let four = |at: usize| bytes.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok());
        let ip = |four: [u8; 4]| Some(Ipv4Addr::from(four)).filter(|ip| !ip.is_unspecified());
        let option = |wanted: u8| options.clone().find(|(code, _)| *code == wanted).map(|(_, value)| value);
        let number = |wanted: u8| option(wanted).and_then(|value| value.get(..4)?.try_into().ok());
        let kind = match option(53)?.first()? {
            1 => Kind::Discover,
            2 => Kind::Offer,
            3 => Kind::Request,
            4 => Kind::Decline,
            5 => Kind::Ack,
            6 => Kind::Nak,
            7 => Kind::Release,
            8 => Kind::Inform,
            _ => return None,
        };
        Some(Self {
            kind,
            transaction: four(4).map(u32::from_be_bytes)?,
            client: bytes.get(28..34)?.try_into().ok().map(Mac)?,
            address: four(16).and_then(ip),
            prefix: number(1).map(|mask| u32::from_be_bytes(mask).leading_ones()),
            server: number(54).and_then(ip),
            router: number(3).and_then(ip),
            lease: number(51).map(u32::from_be_bytes),
            renew: number(58).map(u32::from_be_bytes),
            rebind: number(59).map(u32::from_be_bytes),
        })
    }
}

/// The options of a message, each a code and its value; `None` for what is no such message. Of one that is cut off nothing
/// is told.
pub(super) fn options(bytes: &[u8]) -> Option<impl Iterator<Item = (u8, &[u8])> + Clone> {
    const PAD: u8 = 0;
    const END: u8 = 255;
    let mut rest = bytes.get(OPTIONS..).filter(|_| bytes.get(236..OPTIONS) == Some(&COOKIE))?;
    Some(std::iter::from_fn(move || {
        while let Some((&PAD, after)) = rest.split_first() {
            rest = after;
        }
        let (&code, after) = rest.split_first()?;
        if code == END {
            return None;
        }
        let (&length, after) = after.split_first()?;
        let value = after.get(..length.into())?;
        rest = &after[length.into()..];
        Some((code, value))
    }))
}

/// What stands before the options of a client's message.
pub(super) fn head(client: Mac, transaction: u32) -> Vec<u8> {
    let mut message = vec![0; OPTIONS];
    // A request over Ethernet, whose addresses have six bytes.
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(&transaction.to_be_bytes());
    message[28..34].copy_from_slice(&client.0);
    message[236..].copy_from_slice(&COOKIE);
    message
}

/// A frame with which a client asks for an address, to everybody: DHCPDISCOVER, as a guest's first one.
pub fn discover(client: Mac, transaction: u32) -> Vec<u8> {
    let mut message = head(client, transaction);
    // What it is; what it wants to know: mask, router, name servers, lease, server; the end.
    message.extend([53, 1, 1, 55, 5, 1, 3, 6, 51, 54, 255]);
    // BOOTP's length, below which some servers and relays do not answer.
    message.resize(300, 0);
    let packet = etherparse::PacketBuilder::ethernet2(client.0, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    let mut frame = Vec::with_capacity(packet.size(message.len()));
    // Into memory, and with a length that fits: there is nothing to fail.
    let _ = packet.write(&mut frame, &message);
    frame
}
