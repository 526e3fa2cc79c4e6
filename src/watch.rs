//! Watches ports: who gets which address, and how far somebody has got with it.
//!
//! What a DHCP server answers a guest is seen on the guest's own port only, with a packet socket, which needs CAP_NET_RAW.

pub mod ask;
pub mod frame;
pub mod probe;

use crate::dhcp::{Kind, Message};
use crate::error::{Error, Result, reason};
use crate::mac::Mac;
use crate::sys::packet::{AT_ONCE, BUFFER, Packets, Traffic};
use frame::Told;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Instant;

/// Some ports that are watched.
#[derive(Debug)]
pub struct Watch {
    ports: VecDeque<(u32, Packets)>,
}

/// What was heard on a port.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// The port.
    pub index: u32,
    /// Whether who is behind the port sent it.
    pub is_sent: bool,
    /// What it tells.
    pub told: Told,
}

impl Heard {
    /// Whose doings are told, on the port of a guest whose address is not known: who sends from behind the port, or talks
    /// to a DHCP server, is the guest.
    pub fn client(&self) -> Option<Mac> {
        match self.told {
            Told::Dhcp(message) => Some(message.client),
            Told::Address { mac, .. } => self.is_sent.then_some(mac),
        }
    }
}

impl Watch {
    /// Watches the ports of these indices from now on.
    pub fn open(ports: impl IntoIterator<Item = u32>) -> Result<Self> {
        let open = |index| Ok((index, Packets::open(index, Traffic::All)?));
        let ports = ports.into_iter().map(open).collect::<std::io::Result<_>>().map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => "CAP_NET_RAW is needed: run it as root.",
                Some(libc::ENODEV | libc::ENXIO) => "It went away in this moment. Try again.",
                _ => "The kernel's packet sockets are needed: modprobe af_packet",
            };
            Error::new(format!("cannot watch a port: {}", reason(&error)), remedy)
        })?;
        Ok(Self { ports })
    }

    /// Whether there is a port left that is watched.
    pub fn is_watching(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Sends frames out of a port, to who is behind it. What can't be sent is not asked: there is the next time.
    pub fn send(&self, index: u32, frames: &[Vec<u8>]) {
        for (_, packets) in self.ports.iter().filter(|(port, _)| *port == index) {
            frames.iter().for_each(|frame| drop(packets.send(frame)));
        }
    }

    /// What is told next; `None` when the time is over or no port is left.
    pub fn next(&mut self, end: Instant) -> Result<Option<Heard>> {
        loop {
            for _ in 0..self.ports.len() {
                let Some((index, packets)) = self.ports.pop_front() else { break };
                let mut heard = None;
                let read = hear(&packets, |told, is_sent| {
                    heard = Some(Heard { index, is_sent, told });
                    true
                });
                // The others' turn, as this one may have no end. One that is gone has none any more.
                if read.is_ok() {
                    self.ports.push_back((index, packets));
                }
                if heard.is_some() {
                    return Ok(heard);
                }
            }
            if self.ports.is_empty() || !wait(self.ports.iter().map(|(_, packets)| packets), end)? {
                return Ok(None);
            }
        }
    }
}

/// Reads what has come, until `each` has had enough of what it tells and of whether who is behind the port sent it; so many frames
/// at the most, of which it returns the number: whoever sends them as fast as they are read keeps nobody from all else.
pub fn hear(packets: &Packets, mut each: impl FnMut(Told, bool) -> bool) -> std::io::Result<usize> {
    let mut buffer = [0; BUFFER];
    for count in 0..AT_ONCE {
        let Some((length, is_sent)) = packets.receive(&mut buffer)? else { return Ok(count) };
        if buffer.get(..length).and_then(frame::read).is_some_and(|told| each(told, is_sent)) {
            return Ok(count + 1);
        }
    }
    Ok(AT_ONCE)
}

/// Sleeps until one of these can be read or the time is over; whether there may be something.
pub fn wait<'a>(files: impl IntoIterator<Item = &'a (impl AsFd + 'a)>, end: Instant) -> Result<bool> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    // Rounded up, so that the time is over when the waiting is.
    let timeout = PollTimeout::try_from(left + std::time::Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let mut files: Vec<PollFd> = files.into_iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
    match poll(&mut files, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(Error::new(format!("cannot wait: {}", error.desc()), "Try again.")),
    }
}

/// No guest is believed to have more.
const MOST_ADDRESSES: usize = 64;

/// How far a guest has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// It asked whether there is a server.
    pub discover: bool,
    /// Servers answered.
    pub offer: bool,
    /// It asked for one of the addresses.
    pub request: bool,
    /// It was refused.
    pub nak: bool,
    /// It has an address.
    pub ack: Option<Message>,
    /// The addresses that it uses, however it came by them.
    pub addresses: BTreeSet<IpAddr>,
}

impl Progress {
    /// Takes in what is told, of this guest.
    pub fn hear(&mut self, told: Told, guest: Mac) {
        match told {
            Told::Dhcp(message) if message.client == guest => match message.kind {
                Kind::Discover => self.discover = true,
                Kind::Offer => self.offer = true,
                Kind::Request => self.request = true,
                Kind::Nak => self.nak = true,
                Kind::Ack if message.address.is_some() => {
                    self.note(message.address.map(IpAddr::from));
                    self.ack = Some(message);
                }
                _ => {}
            },
            Told::Address { mac, ip } if mac == guest => self.note([ip]),
            _ => {}
        }
    }

    /// A guest may say that it has as many as it likes.
    fn note(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let room = MOST_ADDRESSES.saturating_sub(self.addresses.len());
        self.addresses.extend(addresses.into_iter().take(room));
    }

    /// In a few words.
    pub fn describe(&self) -> &'static str {
        match self {
            _ if self.ack.is_some() => "ACK: it has its address",
            _ if self.nak => "its REQUEST was refused (NAK)",
            _ if self.request => "REQUEST without ACK",
            _ if self.offer => "OFFER without REQUEST",
            _ if self.discover => "DISCOVER without OFFER",
            _ => "no DHCP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::patience::within;
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// A stand-in for a port, on which there is always one more frame.
    fn with_noise<R>(do_it: impl FnOnce(Packets) -> R) -> R {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let (address, ends) = (socket.local_addr().unwrap(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
                    while !ends.load(Ordering::Relaxed) {
                        let _ = sender.send_to(b"noise", address);
                    }
                });
            }
            let result = do_it(OwnedFd::from(socket).into());
            ends.store(true, Ordering::Relaxed);
            result
        })
    }

    #[test]
    fn noise_without_end_ends_with_the_time() {
        let end = Instant::now() + Duration::from_millis(200);
        let listen = move |noise| Watch { ports: [(1, noise)].into() }.next(end).is_ok_and(|heard| heard.is_none());
        assert_eq!(within(Duration::from_secs(60), move || with_noise(listen)), Some(true));
    }

    #[test]
    fn a_guest_that_claims_all_addresses_has_some() {
        let (mut progress, mac) = (Progress::default(), Mac([2; 6]));
        for last in 0..=255 {
            progress.hear(Told::Address { mac, ip: IpAddr::from([10, 0, 0, last]) }, mac);
        }
        assert_eq!(progress.addresses.len(), MOST_ADDRESSES);
    }
}
