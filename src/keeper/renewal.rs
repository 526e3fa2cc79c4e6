//! Renews a lease on a bridge, where its keeper has no client that could: part of the reaper.
//!
//! Nothing is remembered but what the journal has: how long the lease lasts is seen at the address itself, whose lifetime
//! each renewal sets anew. The address is there, so that usual sockets will do.
#![forbid(unsafe_code)]

use crate::dhcp::{Answer, Request};
use crate::error::reason;
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::rtnl::Netlink;
use nix::sys::socket::{SetSockOpt, setsockopt, sockopt};
use rand::TryRng;
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
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// A lease that is being kept.
#[derive(Debug)]
pub struct Renewal {
    lease: Lease,
    bridge: IfName,
    index: u32,
    mac: Mac,
    next: Instant,
    asked: Option<(UdpSocket, u32, Instant)>,
}

impl Renewal {
    /// Of the lease on a bridge, whose address is the client's.
    pub fn new(lease: &Lease, bridge: &IfName, index: u32, mac: Mac) -> Self {
        // At once: the server hears from it, and its own times are known.
        Self { lease: lease.clone(), bridge: bridge.clone(), index, mac, next: Instant::now(), asked: None }
    }

    /// The socket on which an answer may come.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.asked.as_ref().map(|(socket, ..)| socket.as_fd())
    }

    /// How long there is nothing to do, unless an answer comes.
    pub fn idle(&self) -> Duration {
        let until = self.asked.as_ref().map_or(self.next, |(.., end)| *end);
        until.saturating_duration_since(Instant::now())
    }

    /// Does what is due. What people should know of, if it fails.
    pub fn go_on(&mut self, netlink: &mut Netlink) -> Option<String> {
        if let Some((socket, id, end)) = &self.asked {
            let client = self.client();
            let request = self.request(*id, client.as_deref());
            match answer(socket, &request) {
                Some(Answer::Kept(times)) => {
                    self.lease.seconds = times.whole;
                    self.asked = None;
                    self.next = Instant::now() + Duration::from_secs(times.renew.into()).max(LEAST);
                    return self.prolong(netlink, times.whole).err();
                }
                Some(Answer::Refused) => {
                    self.asked = None;
                    self.next = Instant::now() + self.half();
                    return Some(format!("the DHCP server does not renew {}: it refuses", self.lease.address));
                }
                None if Instant::now() < *end => return None,
                None => {
                    self.asked = None;
                    let wait = self.left(netlink).unwrap_or_default() / 2;
                    self.next = Instant::now() + wait.min(self.half()).max(LEAST);
                    return Some(format!("no DHCP server answers to renew {}", self.lease.address));
                }
            }
        }
        if Instant::now() < self.next {
            return None;
        }
        match self.ask(netlink) {
            Ok(asked) => {
                self.asked = Some(asked);
                None
            }
            Err(error) => {
                self.next = Instant::now() + LEAST;
                Some(format!("cannot ask for {} to be renewed: {}", self.lease.address, reason(&error)))
            }
        }
    }

    fn half(&self) -> Duration {
        (Duration::from_secs(self.lease.seconds.into()) / 2).max(LEAST)
    }

    fn client(&self) -> Option<Vec<u8>> {
        let digits = self.lease.client.as_ref()?;
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
    }

    fn request<'a>(&'a self, id: u32, client: Option<&'a [u8]>) -> Request<'a> {
        Request { id, address: self.lease.address, mac: self.mac, client, host_name: self.lease.host_name.as_deref() }
    }

    /// Asks the server that gave it, and when that has let seven eighths of the time go by, any.
    fn ask(&self, netlink: &mut Netlink) -> io::Result<(UdpSocket, u32, Instant)> {
        let socket = client_socket(&self.bridge)?;
        let mut random = [0; 4];
        rand::rngs::SysRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
        let id = u32::from_ne_bytes(random);
        let eighth = Duration::from_secs(self.lease.seconds.into()) / 8;
        let is_late = self.left(netlink).is_none_or(|left| left < eighth);
        let to = if is_late { Ipv4Addr::BROADCAST } else { self.lease.server };
        let client = self.client();
        socket.send_to(&self.request(id, client.as_deref()).bytes(), (to, 67))?;
        Ok((socket, id, Instant::now() + PATIENCE))
    }

    /// How long the address still lives.
    fn left(&self, netlink: &mut Netlink) -> Option<Duration> {
        let seconds = netlink.layer3(self.index).ok()?.seconds_left(self.lease.address.into())?;
        Some(Duration::from_secs(seconds.into()))
    }

    fn prolong(&self, netlink: &mut Netlink, seconds: u32) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot prolong {}: {}", self.lease.address, reason(&error));
        let layer3 = netlink.layer3(self.index).map_err(failed)?;
        let Some(request) = layer3.prolonging(self.lease.address.into(), seconds) else {
            return Err(format!("{} is not on {} any more", self.lease.address, self.bridge));
        };
        netlink.change(vec![request]).map_err(failed)?.into_iter().collect::<io::Result<Vec<()>>>().map_err(failed)?;
        Ok(())
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
