//! News of nftables: that somebody has changed rules. What has changed is to be looked at.
#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A socket that hears of it.
#[derive(Debug)]
pub struct FirewallNews(OwnedFd);

impl FirewallNews {
    /// Begins to listen.
    pub fn open() -> io::Result<Self> {
        // NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h, as a bit.
        const GROUPS: u32 = 1 << (7 - 1);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Reads away all that has come. Whether anything had.
    pub fn drain(&self) -> io::Result<bool> {
        let mut has_come = false;
        loop {
            // How long it is does not matter: the rest of it goes.
            match recv(self.0.as_raw_fd(), &mut [0; 16], MsgFlags::empty()) {
                // So much has come that some was lost.
                Ok(_) | Err(Errno::ENOBUFS) => has_come = true,
                Err(Errno::EAGAIN) => return Ok(has_come),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for FirewallNews {
    /// Readable when there is news; for `poll`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
