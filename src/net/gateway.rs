//! Whether gateways answer. The kernel itself is told to ask (ARP or neighbour discovery), and tells what it heard.

use super::rtnl::Netlink;
use crate::layer3::probe;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Those of the gateways that answer on an interface within a time. What has been confirmed lately (NUD_REACHABLE) is
/// believed, unless it is to be asked `anew`. One whose address an admin has set is never asked: it need not answer, and
/// asking would take the admin's word away.
pub fn answering(
    netlink: &mut Netlink,
    gateways: &[IpAddr],
    index: u32,
    anew: bool,
    within: Duration,
) -> io::Result<Vec<IpAddr>> {
    let mut news = Netlink::open()?;
    news.subscribe_to_neighbours()?;
    let mut asked = Vec::new();
    for gateway in gateways {
        let known = netlink.neighbour(question(*gateway, index))?;
        let is_set = |state| matches!(state, NeighbourState::Permanent | NeighbourState::Noarp);
        if known.as_ref().is_some_and(|known| is_set(known.header.state)) {
            continue;
        }
        asked.push(*gateway);
        let is_confirmed = known.as_ref().is_some_and(|known| known.header.state == NeighbourState::Reachable);
        if anew || !is_confirmed {
            let flags = NLM_F_CREATE | NLM_F_REPLACE;
            let probe = probe(*gateway, known.as_ref(), index);
            netlink.change(vec![(RouteNetlinkMessage::NewNeighbour(probe), flags, &[])])?;
        }
    }
    let mut silent = asked.clone();
    let start = Instant::now();
    loop {
        news.drain()?;
        let mut still = Vec::new();
        for gateway in silent {
            let known = netlink.neighbour(question(gateway, index))?;
            if known.is_none_or(|known| known.header.state != NeighbourState::Reachable) {
                still.push(gateway);
            }
        }
        silent = still;
        let left = within.saturating_sub(start.elapsed());
        if silent.is_empty() || left.is_zero() {
            asked.retain(|gateway| !silent.contains(gateway));
            return Ok(asked);
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The message that names a neighbour and asks for nothing.
fn question(gateway: IpAddr, index: u32) -> rtnetlink::packet_route::neighbour::NeighbourMessage {
    let mut message = probe(gateway, None, index);
    message.header.flags = NeighbourFlags::empty();
    message
}
