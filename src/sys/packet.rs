//! Packet sockets (packet(7)): every frame that passes an interface, in either direction.

use crate::sys::filter::attach;
use model::bpf::{Instruction, OF_ADDRESSES, OF_DHCP, OF_DHCP_SERVERS};
use model::proc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A socket that hears what of DHCP, ARP and neighbour discovery passes one interface. All other frames stay in the kernel:
/// a guest may be busy.
#[derive(Debug)]
pub struct Packets(OwnedFd);

/// For frames of a few hundred bytes; of longer ones the beginning is enough.
pub const BUFFER: usize = 2048;

/// So many frames are read in a row at the most: who sends them as fast as they are read is not to keep the reader from all
/// else.
pub const AT_ONCE: usize = 64;

impl Packets {
    /// Opens the socket on an interface. It hears nothing before it has its filter.
    pub fn open(index: u32) -> io::Result<Self> {
        Self::open_with(index, &OF_ADDRESSES)
    }

    /// The same, of DHCP servers' answers alone.
    pub fn open_for_dhcp(index: u32) -> io::Result<Self> {
        Self::open_with(index, &OF_DHCP_SERVERS)
    }

    /// The same, of DHCP alone, in both directions.
    pub fn open_for_all_of_dhcp(index: u32) -> io::Result<Self> {
        Self::open_with(index, &OF_DHCP)
    }

    /// The same, of what a program of one's own returns more than nothing for.
    pub fn open_with(index: u32, filter: &[Instruction]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        attach(socket.as_fd(), filter)?;
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as libc::c_int;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads the address.
        checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
        Ok(Self(socket))
    }

    /// Hears what is for others, too, for as long as the socket is open.
    pub fn hear_all(&self, index: u32) -> io::Result<()> {
        // SAFETY: all zeroes is a valid packet_mreq.
        let mut request: libc::packet_mreq = unsafe { std::mem::zeroed() };
        request.mr_ifindex = index as libc::c_int;
        request.mr_type = libc::PACKET_MR_PROMISC as libc::c_ushort;
        let size = size_of::<libc::packet_mreq>() as libc::socklen_t;
        let (fd, option) = (self.0.as_raw_fd(), (&raw const request).cast());
        // SAFETY: the kernel reads the request.
        checked(unsafe { libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, option, size) })?;
        Ok(())
    }

    /// The next frame, or what its beginning is; `None` if there is none now. When the interface has gone this is an error,
    /// once.
    pub fn receive(&self, buffer: &mut [u8; BUFFER]) -> io::Result<Option<usize>> {
        Ok(self.receive_from(buffer)?.map(|(length, _)| length))
    }

    /// The same, and whether it came in by the interface: what the host sends out of it is heard too.
    pub fn receive_from(&self, buffer: &mut [u8; BUFFER]) -> io::Result<Option<(usize, bool)>> {
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let (fd, place, address) = (self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), (&raw mut from).cast());
        // SAFETY: the kernel writes no more than BUFFER bytes into the buffer, and one sockaddr_ll.
        let length = unsafe { libc::recvfrom(fd, place, BUFFER, 0, address, &raw mut size) };
        match usize::try_from(length) {
            Ok(length) => Ok(Some((length, from.sll_pkttype != libc::PACKET_OUTGOING))),
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.0, frame)?;
        Ok(())
    }
}

/// Whether any program has a packet socket bound to this interface: /proc/net/packet, of the calling thread's network namespace.
pub fn are_bound_to(index: u32) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/thread-self/net/packet")?;
    Ok(proc::is_bound(&table, index))
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Packets {
    /// One that `open` made, and another process has inherited.
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
