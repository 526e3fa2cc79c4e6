//! DHCP: what a client says to keep a lease (RFC 2131, 4.4.5), or to have another one when that is over, and what is
//! answered to the former; and all messages, as who listens reads them ([`message`]).
#![forbid(unsafe_code)]

pub mod message;

use crate::mac::Mac;
use message::{head, options};
use std::net::Ipv4Addr;

/// Options of RFC 2132.
const HOST_NAME: u8 = 12;
const WANTED: u8 = 50;
const LEASE_TIME: u8 = 51;
const MESSAGE_TYPE: u8 = 53;
const SERVER: u8 = 54;
const WISHES: u8 = 55;
const RENEWAL_TIME: u8 = 58;
const REBINDING_TIME: u8 = 59;
const CLIENT: u8 = 61;
const END: u8 = 255;
/// Kinds of messages.
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The address that one has.
    Keep,
    /// Any address, of any server.
    Find,
    /// The address that this server has offered.
    Take(Ipv4Addr),
}

/// A request for an address.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Random; the answer has it too.
    pub id: u32,
    /// What is asked for.
    pub wish: Wish,
    /// The address that is kept or taken.
    pub address: Ipv4Addr,
    /// Our Ethernet address.
    pub mac: Mac,
    /// The client identifier, if one was given when the lease was had.
    pub client: Option<&'a [u8]>,
    /// Our name, if it was told then.
    pub host_name: Option<&'a str>,
}

/// How long a lease is given for, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// To its end.
    pub whole: u32,
    /// Until it is to be asked for again.
    pub renew: u32,
    /// Until any server is asked.
    pub rebind: u32,
}

impl Times {
    /// Those that a server gives, or those that are usual (RFC 2131, 4.4.5).
    pub fn new(whole: u32, renew: Option<u32>, rebind: Option<u32>) -> Self {
        let rebind = rebind.unwrap_or(whole - whole / 8).min(whole);
        Self { whole, renew: renew.unwrap_or(whole / 2).min(rebind), rebind }
    }
}

/// A server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The address is ours for some time more.
    Kept(Times),
    /// It is ours no more.
    Refused,
}

impl Request<'_> {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = head(self.mac, self.id);
        match self.wish {
            Wish::Keep => bytes[12..16].copy_from_slice(&self.address.octets()),
            // Who has no address can only hear what is for all.
            Wish::Find | Wish::Take(_) => bytes[10] = 0x80,
        }
        bytes.extend([MESSAGE_TYPE, 1, if self.wish == Wish::Find { DISCOVER } else { REQUEST }]);
        if let Wish::Take(server) = self.wish {
            for (option, ip) in [(WANTED, self.address), (SERVER, server)] {
                bytes.extend([option, 4]);
                bytes.extend(ip.octets());
            }
        }
        for (option, value) in [(CLIENT, self.client), (HOST_NAME, self.host_name.map(str::as_bytes))] {
            if let Some(value) = value.filter(|value| (1..=255).contains(&value.len())) {
                bytes.extend([option, value.len() as u8]);
                bytes.extend(value);
            }
        }
        bytes.extend([WISHES, 6, 1, 3, 6, LEASE_TIME, RENEWAL_TIME, REBINDING_TIME, END]);
        // Some relays drop what is shorter than BOOTP was (RFC 1542, 2.1).
        bytes.resize(bytes.len().max(300), 0);
        bytes
    }

    /// What a message says to this request; `None` if it is no answer to it.
    pub fn answer(&self, message: &[u8]) -> Option<Answer> {
        let is_reply = message.first() == Some(&2);
        let is_ours = message.get(4..8)? == self.id.to_be_bytes() && message.get(28..34)? == self.mac.0;
        if !is_reply || !is_ours {
            return None;
        }
        let options = options(message)?;
        let option = |wanted| options.clone().find(|(code, _)| *code == wanted).map(|(_, value)| value);
        match *option(MESSAGE_TYPE)?.first()? {
            ACK if message.get(16..20)? == self.address.octets() => {
                let seconds = |wanted| Some(u32::from_be_bytes(option(wanted)?.try_into().ok()?));
                let whole = seconds(LEASE_TIME)?;
                Some(Answer::Kept(Times::new(whole, seconds(RENEWAL_TIME), seconds(REBINDING_TIME))))
            }
            NAK => Some(Answer::Refused),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::message::OPTIONS;
    use super::*;
    use proptest::prelude::*;

    fn request() -> Request<'static> {
        let address = Ipv4Addr::new(10, 77, 0, 9);
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        Request { id: 7, wish: Wish::Keep, address, mac, client: Some(&[1, 2, 3]), host_name: Some("lab") }
    }

    /// What a server would say to it.
    fn reply(kind: u8) -> Vec<u8> {
        let mut bytes = request().bytes();
        bytes[0] = 2;
        bytes.copy_within(12..16, 16);
        bytes.truncate(OPTIONS);
        bytes.extend([0, MESSAGE_TYPE, 1, kind, LEASE_TIME, 4, 0, 0, 0, 120, END]);
        bytes
    }

    #[test]
    fn an_answer_to_the_request_is_understood() {
        assert_eq!(request().answer(&reply(ACK)), Some(Answer::Kept(Times { whole: 120, renew: 60, rebind: 105 })));
        assert_eq!(request().answer(&reply(NAK)), Some(Answer::Refused));
        assert_eq!(request().answer(&reply(2)), None);
        assert_eq!(Request { id: 8, ..request() }.answer(&reply(ACK)), None);
        assert_eq!(Request { mac: Mac([2, 0, 0, 0, 0, 2]), ..request() }.answer(&reply(ACK)), None);
        assert_eq!(request().answer(&request().bytes()), None);
    }

    #[test]
    fn another_address_is_asked_for_as_by_any_client() {
        use super::message::{Kind, Message};
        let find = Request { wish: Wish::Find, ..request() }.bytes();
        assert_eq!(Message::parse(&find).unwrap().kind, Kind::Discover);
        assert_eq!(find[12..16], [0; 4], "it has none");
        let server = Ipv4Addr::new(10, 77, 0, 1);
        let take = Message::parse(&Request { wish: Wish::Take(server), ..request() }.bytes()).unwrap();
        assert_eq!((take.kind, take.server, take.transaction), (Kind::Request, Some(server), 7));
    }

    proptest! {
        #[test]
        fn no_message_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..260) {
            let _ = request().answer(&bytes);
            let whole = reply(ACK);
            let _ = request().answer(&whole[..cut.min(whole.len())]);
            let mut mixed = whole[..OPTIONS].to_vec();
            mixed.extend(bytes);
            let _ = request().answer(&mixed);
        }
    }
}
