//! Large receive offload of a network card (ethtool's old ioctl, linux/ethtool.h): the one setting that the kernel switches
//! off on a port of a bridge, and that netlink of the routing family does not know.

use crate::sys::tap::ifreq;
use model::ifname::IfName;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::os::fd::AsRawFd;

const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// SIOCETHTOOL of linux/sockios.h.
mod ioctl {
    #![allow(missing_docs)]
    nix::ioctl_readwrite_bad!(ethtool, 0x8946, libc::ifreq);
}

/// struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether it is on. A link whose driver knows nothing of it has none.
pub fn has_lro(link: &IfName) -> io::Result<bool> {
    match ask(link, Value { command: ETHTOOL_GFLAGS, data: 0 }) {
        Ok(flags) => Ok(flags & ETH_FLAG_LRO != 0),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Switches it on or off.
pub fn set_lro(link: &IfName, on: bool) -> io::Result<()> {
    let flags = ask(link, Value { command: ETHTOOL_GFLAGS, data: 0 })?;
    let data = if on { flags | ETH_FLAG_LRO } else { flags & !ETH_FLAG_LRO };
    ask(link, Value { command: ETHTOOL_SFLAGS, data }).map(|_| ())
}

fn ask(link: &IfName, mut value: Value) -> io::Result<u32> {
    let mut request = ifreq(link.as_str());
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the kernel reads the request and writes one ethtool_value.
    unsafe { ioctl::ethtool(socket.as_raw_fd(), &raw mut request) }?;
    Ok(value.data)
}
