//! What only people ask about: a port's counters, a bridge's settings, its forwarding database, the host's neighbours.
//! All of them are dumps, and none is ever on the launch path.

use crate::netlink::Netlink;
use crate::netlink::read::{whole, whole_or_some};
use model::rtnl::detail::{self, Detail};
use model::rtnl::network::{FdbEntry, Neighbour, fdb_entry, neighbour};
use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;

impl Netlink {
    /// All links, in detail.
    pub fn details(&mut self) -> io::Result<Vec<Detail>> {
        whole_or_some(|found| {
            self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP, |answer| {
                found.extend(detail::parse(answer.body));
            })
        })
    }

    /// The forwarding database of a bridge.
    pub fn fdb(&mut self, bridge: u32) -> io::Result<Vec<FdbEntry>> {
        self.dump_neighbours(&[AddressFamily::Bridge], |body| fdb_entry(body, bridge))
    }

    /// The neighbours that the host knows on a link, by their Ethernet addresses.
    pub fn neighbours(&mut self, index: u32) -> io::Result<Vec<Neighbour>> {
        self.dump_neighbours(&[AddressFamily::Inet, AddressFamily::Inet6], |body| neighbour(body, index))
    }

    fn dump_neighbours<T>(
        &mut self,
        families: &[AddressFamily],
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        whole(|| {
            let mut found = Vec::new();
            for family in families {
                let mut message = NeighbourMessage::default();
                message.header.family = *family;
                self.ask(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP, |answer| {
                    found.extend(wanted(answer.body));
                })?;
            }
            Ok(found)
        })
    }
}
