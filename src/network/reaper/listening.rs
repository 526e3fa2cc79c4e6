//! What a reaper hears of its guests' addresses: for whoever waits for them, for `kvm-bridge ip`, and for their guards.

use crate::netlink::Netlink;
use crate::network::announce::Announcer;
use crate::network::announce::inbox::Inbox;
use crate::network::sources::Sources;
use crate::state::dhcp_leases::Listeners;
use crate::state::journal::Files;
use crate::sys::process;
use model::ifname::IfName;
use model::mac::Mac;
use std::os::fd::{AsFd, BorrowedFd};

/// What a reaper hears of its guests' addresses.
pub(super) struct Listening {
    /// The cards whose addresses it was asked to announce, and that have not been looked for yet.
    pub(super) cards: Vec<Mac>,
    pub(super) announcers: Vec<Announcer>,
    /// Where guests that come later hand over their announcers.
    pub(super) inbox: Option<Inbox>,
    /// Those that are kept for `kvm-bridge ip`.
    pub(super) leases: Listeners,
    /// What guests may send from by these.
    pub(super) sources: Sources,
}

impl Listening {
    /// Begins to listen for what is announced. The lock was had once: the guest is plugged in, or it never will be.
    pub(super) fn begin(&mut self, netlink: &mut Netlink, bridge: &IfName, index: u32) {
        if !self.cards.is_empty() {
            let cards = std::mem::take(&mut self.cards);
            let announcer = |mac| Announcer::on_port(netlink, bridge, index, mac).ok().flatten();
            self.announcers.extend(cards.into_iter().filter_map(announcer));
            self.trim();
        }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let inbox = self.inbox.iter().map(Inbox::as_fd);
        self.announcers.iter().map(Announcer::as_fd).chain(inbox).chain(self.leases.sockets())
    }

    pub(super) fn hear(&mut self, files: &Files) {
        self.leases.hear(files);
        self.sources.renew(files);
        self.announcers.extend(self.inbox.iter().flat_map(|inbox| std::iter::from_fn(|| inbox.take())));
        if !self.announcers.is_empty() {
            self.announcers.retain(|announcer| !announcer.hear());
            self.trim();
        }
    }

    /// Each later guest's stderr is its announcer's; of this process's own, nobody needs to wait for the end when none of
    /// those that it was started for is left.
    fn trim(&self) {
        if self.cards.is_empty() && !self.announcers.iter().any(Announcer::tells_on_own_stderr) {
            process::let_go_of_stderr();
        }
    }
}
