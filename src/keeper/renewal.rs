//! Renews a lease on a bridge, where its keeper has no client that could: part of the reaper.
//!
//! The server that gave it is asked, and later any (RFC 2131, 4.4.5). A lease that is refused or over is asked for anew,
//! under the same identity; the address that is given then takes the place of the former one, with its routes. How long
//! a lease lasts is the address's own lifetime, so that the kernel ends it if nobody renews it.
#![forbid(unsafe_code)]

use crate::dhcp::message::{Kind, Message};
use crate::dhcp::{Answer, Request, Times, Wish};
use crate::error::reason;
use crate::layer3::{Given, Layer3};
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::rtnl::Netlink;
use crate::sys::packet::{BUFFER, Packets};
use crate::sys::random;
use crate::watch::frame::{self, Told};
use nix::sys::socket::{SetSockOpt, setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A lease that somebody else had from a DHCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The server.
    pub server: Ipv4Addr,
    /// How long it is given for.
    pub seconds: u32,
    /// The client identifier, in hexadecimal digits.
    pub client: Option<String>,
    /// The name that was told.
    pub host_name: Option<String>,
}

/// The times between two requests are no shorter than this.
const LEAST: Duration = Duration::from_secs(5);
/// Nor longer than this, where there is no lease.
const MOST: Duration = Duration::from_secs(64);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// A lease that is being kept.
#[derive(Debug)]
pub struct Renewal {
    lease: Lease,
    bridge: IfName,
    index: u32,
    mac: Mac,
    /// When something is to be asked next.
    next: Instant,
    /// When the lease is asked for of any server, and when it ends; `None` where that is not known.
    rebind: Option<Instant>,
    end: Option<Instant>,
    /// What the address has brought along.
    part: Layer3,
    /// How often another lease was asked for in vain; `None` while there is one.
    lost: Option<u32>,
    asked: Option<Asked>,
}

/// A question that waits for its answer.
#[derive(Debug)]
struct Asked {
    id: u32,
    until: Instant,
    by: By,
}

#[derive(Debug)]
enum By {
    /// To keep the lease: by a usual socket, since the address is there.
    Socket(UdpSocket),
    /// To have another one: what comes is seen before the kernel looks whether it has that address. `true` when an offer
    /// was taken.
    Packets(Packets, bool),
}

impl Renewal {
    /// Of the lease on a bridge, whose address is the client's.
    pub fn new(lease: &Lease, bridge: &IfName, index: u32, mac: Mac) -> Self {
        Self {
            lease: lease.clone(),
            bridge: bridge.clone(),
            index,
            mac,
            // At once: the server hears from it, and its own times are known.
            next: Instant::now(),
            rebind: None,
            end: None,
            part: Layer3::default(),
            lost: None,
            asked: None,
        }
    }

    /// The lease that there is.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The socket on which an answer may come.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.asked.as_ref().map(|asked| match &asked.by {
            By::Socket(socket) => socket.as_fd(),
            By::Packets(packets, _) => packets.as_fd(),
        })
    }

    /// How long there is nothing to do, unless an answer comes.
    pub fn idle(&self) -> Duration {
        let until = self.asked.as_ref().map_or(self.next, |asked| asked.until);
        until.saturating_duration_since(Instant::now())
    }

    /// Does what is due. What people should know of, if it fails.
    pub fn go_on(&mut self, netlink: &mut Netlink) -> Option<String> {
        if self.asked.is_some() {
            return self.hear(netlink);
        }
        if Instant::now() < self.next {
            return None;
        }
        let trouble = match (self.lost, self.end) {
            (None, Some(end)) if end <= Instant::now() => self.lose("no DHCP server has renewed"),
            _ => None,
        };
        let asked = match self.lost {
            None => self.ask_to_keep(netlink),
            Some(_) => self.ask_for_another(),
        };
        match asked {
            Ok(asked) => {
                self.asked = Some(asked);
                trouble
            }
            Err(error) => {
                self.next = Instant::now() + LEAST;
                Some(format!("cannot ask for {} to be renewed: {}", self.lease.address, reason(&error)))
            }
        }
    }

    /// Takes in what has come.
    fn hear(&mut self, netlink: &mut Netlink) -> Option<String> {
        let mut asked = self.asked.take()?;
        let outcome = match &mut asked.by {
            By::Socket(socket) => {
                let client = self.client();
                let answer = answer(socket, &self.request(asked.id, Wish::Keep, client.as_deref()));
                answer.map(|answer| match answer {
                    Answer::Kept(times) => self.keep(netlink, times),
                    Answer::Refused => self.lose("the DHCP server refuses to renew"),
                })
            }
            By::Packets(packets, is_taken) => match (heard(packets, asked.id, self.mac), *is_taken) {
                (Some(message), false) if message.kind == Kind::Offer => match self.take(&message, asked.id) {
                    Ok(()) => {
                        *is_taken = true;
                        None
                    }
                    Err(error) => Some(Some(format!("cannot ask for another lease: {}", reason(&error)))),
                },
                (Some(message), true) if message.kind == Kind::Ack => Some(self.change(netlink, &message)),
                (Some(message), true) if message.kind == Kind::Nak => Some(None),
                _ => None,
            },
        };
        if let Some(trouble) = outcome {
            return trouble;
        }
        if Instant::now() < asked.until {
            self.asked = Some(asked);
            return None;
        }
        self.miss(netlink)
    }

    /// Nobody has answered.
    fn miss(&mut self, netlink: &mut Netlink) -> Option<String> {
        if let Some(times) = self.lost {
            let wait = PATIENCE * 2_u32.saturating_pow(times.min(8));
            self.lost = Some(times + 1);
            self.next = Instant::now() + wait.min(MOST);
            // Who is refused has no right to it any more, and there is nothing else.
            return match self.give_up(netlink) {
                Ok(()) => Some(format!("{} is over, and no DHCP server answers", self.lease.address)),
                Err(error) => Some(format!("cannot take {} away: {}", self.lease.address, reason(&error))),
            };
        }
        let now = Instant::now();
        let end = self.end.or_else(|| Some(now + self.left(netlink)?));
        // Half of the time that is left to the next turn (RFC 2131, 4.4.5); to the end of it all in the end.
        let turn = self.rebind.filter(|rebind| *rebind > now).or(end).unwrap_or(now);
        let wait = turn.saturating_duration_since(now) / 2;
        match end.filter(|end| *end > now + LEAST) {
            Some(end) => self.next = (now + wait.max(LEAST)).min(end),
            None if end.is_some_and(|end| end > now) => self.next = end.unwrap_or(now),
            None => return self.lose("no DHCP server has renewed"),
        }
        Some(format!("no DHCP server answers to renew {}", self.lease.address))
    }

    /// The lease is over: another one is asked for, at once.
    fn lose(&mut self, why: &str) -> Option<String> {
        self.lost = Some(0);
        self.next = Instant::now();
        Some(format!("{why} {}; another address is asked for", self.lease.address))
    }

    fn keep(&mut self, netlink: &mut Netlink, times: Times) -> Option<String> {
        self.has_lease(times);
        let failed = |error: io::Error| format!("cannot prolong {}: {}", self.lease.address, reason(&error));
        let layer3 = match netlink.layer3(self.index) {
            Ok(layer3) => layer3,
            Err(error) => return Some(failed(error)),
        };
        let part = layer3.part_of(self.lease.address);
        let Some(request) = layer3.prolonging(self.lease.address.into(), times.whole) else {
            return Some(format!("{} is not on {} any more", self.lease.address, self.bridge));
        };
        self.part = part;
        netlink.change(vec![request]).and_then(all_done).map_err(failed).err()
    }

    fn has_lease(&mut self, times: Times) {
        let now = Instant::now();
        let after = |seconds: u32| now + Duration::from_secs(seconds.into());
        self.lease.seconds = times.whole;
        self.next = after(times.renew).max(now + LEAST);
        (self.rebind, self.end) = (Some(after(times.rebind)), Some(after(times.whole)));
        self.lost = None;
    }

    /// What was given takes the place of what was there, in one send.
    fn change(&mut self, netlink: &mut Netlink, message: &Message) -> Option<String> {
        let (Some(address), Some(seconds), Some(server)) = (message.address, message.lease, message.server) else {
            return Some("the DHCP server gives half a lease".to_owned());
        };
        let prefix = message.prefix.and_then(|prefix| prefix.try_into().ok()).unwrap_or(24);
        let given = Given { address, prefix, router: message.router, seconds };
        if self.part.is_empty() {
            // It was given another one already, and a kill came before the journal had it.
            let now = netlink.layer3(self.index).unwrap_or_default();
            self.part = now.leased().map(|leased| now.part_of(leased)).unwrap_or_default();
        }
        let new = self.part.with_given(&given);
        // The old one first: an address of the same network would go with it.
        let departures = self.part.departures();
        let before = departures.len();
        let requests = departures.into_iter().chain(new.arrivals()).collect();
        self.lease = Lease { address, server, seconds, ..self.lease.clone() };
        self.has_lease(Times::new(seconds, message.renew, message.rebind));
        self.part = new;
        match netlink.change(requests).and_then(|answers| all_done(answers.into_iter().skip(before))) {
            Ok(()) => None,
            Err(error) => Some(format!("cannot give {} to {}: {}", address, self.bridge, reason(&error))),
        }
    }

    fn give_up(&self, netlink: &mut Netlink) -> io::Result<()> {
        netlink.change(self.part.departures()).map(|_| ())
    }

    fn client(&self) -> Option<Vec<u8>> {
        let digits = self.lease.client.as_ref()?;
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
    }

    fn request<'a>(&'a self, id: u32, wish: Wish, client: Option<&'a [u8]>) -> Request<'a> {
        let (address, host_name) = (self.lease.address, self.lease.host_name.as_deref());
        Request { id, wish, address, mac: self.mac, client, host_name }
    }

    /// Asks the server that gave it, and when its time for that is over, any.
    fn ask_to_keep(&mut self, netlink: &mut Netlink) -> io::Result<Asked> {
        if self.part.is_empty() {
            self.part = netlink.layer3(self.index)?.part_of(self.lease.address);
        }
        let socket = client_socket(&self.bridge)?;
        let id = u32::from_ne_bytes(random::bytes()?);
        let eighth = Duration::from_secs(self.lease.seconds.into()) / 8;
        let is_late = match self.rebind {
            Some(rebind) => Instant::now() >= rebind,
            None => self.left(netlink).is_none_or(|left| left < eighth),
        };
        let to = if is_late { Ipv4Addr::BROADCAST } else { self.lease.server };
        let client = self.client();
        // Unreachable is as good as silent: the next time comes.
        match socket.send_to(&self.request(id, Wish::Keep, client.as_deref()).bytes(), (to, 67)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Err(error),
            _ => Ok(Asked { id, until: Instant::now() + PATIENCE, by: By::Socket(socket) }),
        }
    }

    fn ask_for_another(&self) -> io::Result<Asked> {
        let packets = Packets::open(self.index)?;
        let id = u32::from_ne_bytes(random::bytes()?);
        let client = self.client();
        self.say(&self.request(id, Wish::Find, client.as_deref()))?;
        Ok(Asked { id, until: Instant::now() + PATIENCE, by: By::Packets(packets, false) })
    }

    /// Takes an offer.
    fn take(&self, offer: &Message, id: u32) -> io::Result<()> {
        let (Some(address), Some(server)) = (offer.address, offer.server) else { return Ok(()) };
        let client = self.client();
        self.say(&Request { address, ..self.request(id, Wish::Take(server), client.as_deref()) })
    }

    fn say(&self, request: &Request) -> io::Result<()> {
        client_socket(&self.bridge)?.send_to(&request.bytes(), (Ipv4Addr::BROADCAST, 67)).map(|_| ())
    }

    /// How long the address still lives.
    fn left(&self, netlink: &mut Netlink) -> Option<Duration> {
        let seconds = netlink.layer3(self.index).ok()?.seconds_left(self.lease.address.into())?;
        Some(Duration::from_secs(seconds.into()))
    }
}

fn all_done(answers: impl IntoIterator<Item = io::Result<()>>) -> io::Result<()> {
    answers.into_iter().collect()
}

/// The first message of a server to this client in this exchange among what has come.
fn heard(packets: &Packets, id: u32, mac: Mac) -> Option<Message> {
    let mut buffer = [0; BUFFER];
    loop {
        let length = packets.receive(&mut buffer).ok()??;
        if let Some(Told::Dhcp(message)) = buffer.get(..length).and_then(frame::read)
            && (message.transaction, message.client) == (id, mac)
            && matches!(message.kind, Kind::Offer | Kind::Ack | Kind::Nak)
        {
            return Some(message);
        }
    }
}

/// A socket as DHCP clients have it, on one interface.
fn client_socket(bridge: &IfName) -> io::Result<UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    set(&socket, sockopt::ReuseAddr, &true)?;
    set(&socket, sockopt::Broadcast, &true)?;
    set(&socket, sockopt::BindToDevice, &bridge.as_str().into())?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::new(0, 0, 0, 0, 68))?;
    Ok(UdpSocket::from(socket))
}

fn set<O: SetSockOpt>(socket: &impl AsFd, option: O, value: &O::Val) -> io::Result<()> {
    Ok(setsockopt(socket, option, value)?)
}

/// The first answer to this request among what has come.
fn answer(socket: &UdpSocket, request: &Request) -> Option<Answer> {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => match request.answer(buffer.get(..length)?) {
                Some(answer) => return Some(answer),
                None => continue,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
