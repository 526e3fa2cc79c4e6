//! Frames on an interface, as they pass: who gets which address, and how far somebody has got with it.
//! It may not change the network.
//!
//! What a DHCP server answers a guest is seen on the guest's own port only, with a packet socket, which needs CAP_NET_RAW.

use crate::output::errno::reason;
use crate::sys::packet::{AT_ONCE, BUFFER, Packets};
use model::error::{Error, Phrase, Result};
use model::packet::frame;
use model::packet::progress::Heard;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::Instant;

/// Some ports that are watched.
#[derive(Debug)]
pub struct Watch {
    ports: Vec<(u32, Packets)>,
}

impl Watch {
    /// Watches the ports of these indices from now on.
    pub fn open(ports: impl IntoIterator<Item = u32>) -> Result<Self> {
        let open = |index| Ok((index, Packets::open(index)?));
        let ports = ports.into_iter().map(open).collect::<std::io::Result<_>>().map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => "CAP_NET_RAW is needed: run it as root.".into(),
                Some(libc::ENODEV | libc::ENXIO) => "It went away in this moment. Try again.".into(),
                _ => Phrase::from("The kernel's packet sockets are needed").run_as_root("modprobe af_packet"),
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
            let hear =
                |(at, (index, packets)): (usize, &(u32, Packets))| Some((at, hear(*index, packets).transpose()?));
            match self.ports.iter().enumerate().find_map(hear) {
                Some((at, Ok(heard))) => {
                    // The others' turn: this one may have no end.
                    self.ports.rotate_left(at + 1);
                    return Ok(Some(heard));
                }
                // It has gone.
                Some((at, Err(_))) => drop(self.ports.remove(at)),
                None if self.ports.is_empty() => return Ok(None),
                None if !wait(self.ports.iter().map(|(_, packets)| packets), end)? => return Ok(None),
                None => {}
            }
        }
    }
}

/// What is told on a port, if it is among so many frames as are read at once.
fn hear(index: u32, packets: &Packets) -> std::io::Result<Option<Heard>> {
    let mut buffer = [0; BUFFER];
    for _ in 0..AT_ONCE {
        let Some((length, is_sent)) = packets.receive_from(&mut buffer)? else { break };
        if let Some(told) = buffer.get(..length).and_then(frame::read) {
            return Ok(Some(Heard { index, is_sent, told }));
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use super::*;
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
        let start = Instant::now();
        let heard = with_noise(|noise| Watch { ports: vec![(1, noise)] }.next(start + Duration::from_millis(200)));
        assert!(heard.unwrap().is_none());
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
