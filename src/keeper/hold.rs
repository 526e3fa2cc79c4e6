//! Keeps the host on its interface while its keeper takes that over.
//!
//! NetworkManager and systemd-networkd begin with taking away what they find on an interface that is theirs again; some
//! thirty milliseconds later the same is there again. For what goes in between there is a stand-in the moment that the
//! kernel tells of it. It goes when the keeper has done its work; what a kill leaves of it has an end, or a mark.
#![forbid(unsafe_code)]

use crate::layer3::Layer3;
use crate::net::rtnl::Netlink;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long the addresses of a stand-in live without us.
const SECONDS: u32 = 5;
/// How often there is one: who takes it away more often than that means it.
const TIMES: usize = 40;
/// How long it goes unnoticed that it is over, in milliseconds.
const TICK: u16 = 20;

/// Does something while the host stays on this interface. Without that there would be a gap, no more: nothing fails for
/// it.
pub(super) fn hold<T, E>(index: u32, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let Ok(held) = Held::of(index) else { return work() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let keeping = std::thread::Builder::new().spawn_scoped(scope, || held.keep(&is_over));
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        if let Ok(Ok(Ok(mut held))) = keeping.map(|keeping| keeping.join()) {
            // Who failed does not give it back.
            if done.is_err() {
                let _ = held.give_back();
            }
            let _ = clear(&mut held.netlink, index);
        }
        done
    })
}

/// Takes a stand-in away, as a kill may have left one.
pub(super) fn clear(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let left = netlink.layer3(index)?.stand_ins(SECONDS);
    netlink.change(left.departures()).map(|_| ())
}

struct Held {
    index: u32,
    all: Layer3,
    news: Netlink,
    netlink: Netlink,
    times: usize,
}

impl Held {
    fn of(index: u32) -> io::Result<Self> {
        let (mut news, mut netlink) = (Netlink::open()?, Netlink::open()?);
        news.subscribe_to_layer3()?;
        clear(&mut netlink, index)?;
        let all = netlink.layer3(index)?;
        Ok(Self { index, all, news, netlink, times: 0 })
    }

    fn keep(mut self, is_over: &AtomicBool) -> io::Result<Self> {
        // A gap is as long as this takes: before all others, where that may be had.
        let _ = rustix::process::nice(-20);
        let stand_in = self.all.stand_in(self.index, SECONDS);
        while !is_over.load(Ordering::Relaxed) && self.times < TIMES {
            let mut files = [PollFd::new(self.news.as_fd(), PollFlags::POLLIN)];
            if poll(&mut files, PollTimeout::from(TICK))? == 0 {
                continue;
            }
            self.news.drain()?;
            let needed = stand_in.needed_in(&self.netlink.layer3(self.index)?);
            if !needed.is_empty() {
                self.times += 1;
                self.netlink.change(needed.arrivals())?;
            }
        }
        Ok(self)
    }

    fn give_back(&mut self) -> io::Result<()> {
        if self.times > 0 {
            self.netlink.change(self.all.arrivals())?;
        }
        Ok(())
    }
}
