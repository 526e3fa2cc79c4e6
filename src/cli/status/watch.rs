//! `kvm-bridge status --watch`.

use crate::cli::status::{Seen, Status};
use crate::netlink::{Netlink, Stats};
use crate::network::inventory::Flows;
use crate::network::links::unreadable;
use crate::network::news::{News, Woken, look_patiently, rest};
use crate::output::errno::reason;
use crate::sys::terminal::{Screen, Wish};
use model::error::{Error, Result};
use model::text;
use nix::poll::PollFlags;
use nix::sys::signal::raise;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// So often what has passed is counted. All else is looked at when it has changed.
const SECOND: Duration = Duration::from_secs(1);

/// What has passed each port.
#[derive(Default)]
struct Counters {
    last: Option<(Instant, BTreeMap<u32, Stats>)>,
    flows: BTreeMap<u32, Flows>,
}

impl Counters {
    /// Reads the counters of all links.
    fn count(&mut self, netlink: &mut Netlink) -> Result<()> {
        let details = netlink.details().map_err(unreadable)?;
        let (now, stats) = (Instant::now(), details.iter().map(|detail| (detail.link.index, detail.stats)).collect());
        if let Some((time, before)) = self.last.replace((now, stats)) {
            let flows = |(index, stats): (&u32, &Stats)| {
                Some((*index, Flows::between(before.get(index)?, stats, now.duration_since(time))))
            };
            self.flows = self.last.iter().flat_map(|(_, stats)| stats).filter_map(flows).collect();
        }
        Ok(())
    }

    /// Shows them at the ports.
    fn show(&self, seen: &mut Seen) {
        let stats = self.last.as_ref().map(|(_, stats)| stats);
        for port in seen.bridges.iter_mut().flat_map(|(bridge, _)| &mut bridge.ports) {
            let index = port.detail.link.index;
            port.flows = Some(self.flows.get(&index).copied().unwrap_or_default());
            port.detail.stats = stats.and_then(|stats| stats.get(&index)).copied().unwrap_or(port.detail.stats);
        }
    }
}

impl Status {
    /// Shows it until somebody has seen enough.
    pub(super) fn watch(&self) -> Result<()> {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if self.json || !io::stdout().is_terminal() || is_dumb {
            let what =
                if self.json { "--watch is for people, --json for programs" } else { "--watch needs a terminal" };
            return Err(Error::new(what, "For scripts and logs: kvm-bridge monitor, kvm-bridge monitor --json"));
        }
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let mut news = News::open()?;
        news.begin_to_look()?;
        let mut seen: Result<Seen> = Ok(self.look(&mut netlink)?);
        let mut counters = Counters::default();
        counters.count(&mut netlink)?;
        let failed =
            |error: io::Error| Error::new(format!("cannot use the terminal: {}", reason(&error)), "Try another.");
        let screen = Screen::open().map_err(failed)?;
        let (mut next_count, mut next_look, mut is_stale) = (Instant::now() + SECOND, Instant::now(), false);
        let wish = loop {
            match &mut seen {
                Ok(seen) => {
                    counters.show(seen);
                    screen.draw(&seen.text([]));
                }
                Err(error) => screen.draw(&text::lines(&error.to_string())),
            }
            let until = if is_stale { next_count.min(next_look) } else { next_count };
            let others: Vec<_> = screen.sources().into_iter().map(|file| (file, PollFlags::POLLIN)).collect();
            let woken = news.wait(!is_stale, &others, Some(until))?;
            drop(others);
            match screen.wish().map_err(failed)? {
                None | Some(Wish::Redraw) => {}
                Some(wish) => break wish,
            }
            is_stale |= woken == Woken::ByNews;
            if is_stale && Instant::now() >= next_look {
                let start = Instant::now();
                news.begin_to_look()?;
                seen = look_patiently(|| self.look(&mut netlink));
                (is_stale, next_look) = (false, Instant::now() + rest(start.elapsed()));
            }
            if Instant::now() >= next_count {
                counters.count(&mut netlink)?;
                next_count = Instant::now() + SECOND;
            }
        };
        drop(screen);
        if let Wish::Signal(signal) = wish {
            // It is no longer blocked, and ends this process.
            let _ = raise(signal);
        }
        Ok(())
    }
}
