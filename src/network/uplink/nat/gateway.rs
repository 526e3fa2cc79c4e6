//! What the host has of the network: its addresses on the bridge, and the ports that lead to guests.

use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::output::errno::reason;
use crate::sys::sysctl;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::nat::Nat;
use model::nat::forward::{Forward, Protocol};
use model::nat::guest::Guest;
use model::nat::subnet::Ipv4Net;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// The networks that others have, for `subnet::choose` and `subnet::is_free`; those of the bridge itself are not others'.
pub fn taken(netlink: &mut Netlink, bridge: Option<u32>) -> Result<Vec<Ipv4Net>> {
    netlink.networks(bridge).map_err(unreadable)
}

/// Gives the bridge the host's addresses.
pub fn give(netlink: &mut Netlink, bridge: &IfName, index: u32, nat: &Nat) -> Result<()> {
    for (ip, prefix) in addresses(nat) {
        let cannot = |error: io::Error| failed(bridge, &format!("make {ip} an address"), &error);
        netlink.add_address(index, ip, prefix).map_err(cannot)?;
    }
    Ok(())
}

/// Lets what leaves the host's loopback for a forwarded port leave by the bridge, as long as a guest has such a port: with that
/// setting the rules alone keep guests from the host's loopback, which have to be there before, and which somebody can flush.
pub fn open_loopback(bridge: &IfName, guests: &[Guest]) -> Result<()> {
    const SETTING: &str = "ipv4/route_localnet";
    let mut ports = guests.iter().flat_map(|guest| &guest.forwards).map(|forward| forward.on);
    let wanted = if ports.any(|on| on.is_ipv4() && (on.is_loopback() || on.is_unspecified())) { "1" } else { "0" };
    if sysctl::read(bridge.as_str(), SETTING).as_deref() == Some(wanted) {
        return Ok(());
    }
    let cannot = |error: io::Error| failed(bridge, "set route_localnet", &error);
    sysctl::write(bridge.as_str(), SETTING, wanted).map_err(cannot)
}

/// The host's addresses on the bridge.
pub fn addresses(nat: &Nat) -> impl Iterator<Item = (IpAddr, u8)> {
    let ipv4 = (IpAddr::from(nat.gateway()), nat.subnet.prefix());
    std::iter::once(ipv4).chain(nat.gateway6().map(|ip| (ip.into(), 64)))
}

fn failed(bridge: &IfName, what: &str, error: &io::Error) -> Error {
    let what = format!("cannot {what} of {bridge}: {}", reason(error));
    Error::new(what, "Nobody else may change the bridge meanwhile.")
}

/// Takes a port for as long as the descriptor is open: nobody else gets it, and one that somebody has is an error. Nobody listens
/// on it: what comes for it is led to the guest before it gets here.
pub fn reserve(forward: &Forward) -> Result<OwnedFd> {
    take(forward, false).map_err(|error| refused(forward, error))
}

/// The same for who is going to accept connections there: they may come at once, and from before nothing keeps the port.
pub fn listen_on(forward: &Forward) -> Result<OwnedFd> {
    take(forward, true).map_err(|error| refused(forward, error))
}

fn refused(Forward { protocol, on, port, .. }: &Forward, error: Errno) -> Error {
    let name = protocol.as_str();
    let what = format!("cannot forward {name} port {port} of {on}: {}", error.desc());
    let listens = if *protocol == Protocol::Tcp { "ss -ltnp" } else { "ss -lunp" };
    let remedy = match error {
        Errno::EADDRINUSE => format!("See who has it: {listens} sport = {port}; or give another one."),
        Errno::EACCES => "Ports below 1024 are root's: give another one.".to_owned(),
        Errno::EADDRNOTAVAIL => "Give an address that the host has: ip address.".to_owned(),
        _ => "Give another port.".to_owned(),
    };
    Error::new(what, remedy)
}

fn take(forward: &Forward, listens: bool) -> nix::Result<OwnedFd> {
    let family = if forward.on.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match forward.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    if forward.on.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    let listens = listens && forward.protocol == Protocol::Tcp;
    if listens {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    let address = SockaddrStorage::from(SocketAddr::new(forward.on, forward.port));
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
    if listens {
        // At once: until then somebody else who reuses it could.
        listen(&socket, Backlog::MAXCONN)?;
    }
    Ok(socket)
}
