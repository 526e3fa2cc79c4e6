//! Keeps the host on its interface while its keeper takes that over.
//!
//! NetworkManager and systemd-networkd begin with taking away what they find on an interface that is theirs again; some
//! thirty milliseconds later the same is there again. What goes in between is put back the moment that the kernel tells
//! of it; a lease with an end soon, so that it goes by itself if the keeper does not have it again.
#![forbid(unsafe_code)]

use crate::layer3::Layer3;
use crate::net::rtnl::Netlink;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long a lease that was put back lives without anybody who has it.
const SECONDS: u32 = 60;
/// How often something is put back: who takes it away more often than that means it.
const TIMES: usize = 20;
/// How long it goes unnoticed that it is over, in milliseconds.
const TICK: u16 = 20;

/// Does something while what is on this interface stays there. Without it there would be a gap, no more: nothing fails
/// for it.
pub(super) fn hold<T, E>(index: u32, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let Ok(held) = Held::of(index) else { return work() };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let keeping = std::thread::Builder::new().spawn_scoped(scope, || held.keep(&is_over));
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        if let Ok(keeping) = keeping
            && let Ok(Ok(mut held)) = keeping.join()
        {
            let _ = if done.is_ok() { held.leave() } else { held.give_back() };
        }
        done
    })
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
        let all = netlink.layer3(index)?;
        Ok(Self { index, all, news, netlink, times: 0 })
    }

    fn keep(mut self, is_over: &AtomicBool) -> io::Result<Self> {
        let short = self.all.clone().for_a_time(SECONDS);
        while !is_over.load(Ordering::Relaxed) && self.times < TIMES {
            let mut files = [PollFd::new(self.news.as_fd(), PollFlags::POLLIN)];
            if poll(&mut files, PollTimeout::from(TICK))? == 0 {
                continue;
            }
            self.news.drain()?;
            let lacking = short.lacking_in(&self.netlink.layer3(self.index)?);
            if !lacking.is_empty() {
                self.times += 1;
                self.netlink.change(lacking.arrivals())?;
            }
        }
        Ok(self)
    }

    /// All is the keeper's. What it has something else in place of goes.
    fn leave(&mut self) -> io::Result<()> {
        if self.times > 0 {
            let now = self.netlink.layer3(self.index)?;
            self.netlink.change(self.all.displaced_in(&now).departures())?;
        }
        Ok(())
    }

    /// Nobody is going to give it a time.
    fn give_back(&mut self) -> io::Result<()> {
        if self.times > 0 {
            self.netlink.change(self.all.arrivals())?;
        }
        Ok(())
    }
}
