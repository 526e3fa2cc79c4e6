//! `kvm-bridge monitor`.

use crate::netlink::Netlink;
use crate::network::inventory;
use crate::network::inventory::events::Watched;
use crate::network::links::unreadable;
use crate::network::news::{News, Woken, look_patiently, rest};
use crate::output;
use crate::sys::place;
use clap::Args;
use model::error::Result;
use model::ifname::IfName;
use model::report;
use nix::poll::PollFlags;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The arguments of `kvm-bridge monitor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Monitor {
    /// Print only what happens on this bridge, which need not exist yet
    pub(super) bridge: Option<String>,
    /// First print what is there already, as events
    #[arg(long)]
    initial: bool,
    /// Print JSON, one value on each line
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge monitor br0
  kvm-bridge monitor --json | jq --unbuffered -r 'select(.event == \"guest-address\") | .vm + \" \" + .address'
  systemd-run --unit=kvm-bridge-monitor kvm-bridge monitor
It ends with ^C, or when nobody reads any more. The command needs no privileges; only root sees the processes of other users.";

/// A fault that is there for so long is told.
const SETTLE: Duration = Duration::from_secs(2);

impl Monitor {
    pub(super) fn run(self) -> Result<String> {
        let bridge = self.bridge.as_deref().map(IfName::new).transpose()?;
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let mut news = News::open()?;
        let (mut watched, mut is_first) = (Watched::default(), true);
        let stdout = io::stdout();
        // What is not asked for is told of a reader that has gone (poll(2)).
        let reader = [(stdout.as_fd(), PollFlags::empty())];
        loop {
            let start = Instant::now();
            news.begin_to_look()?;
            let found = look_patiently(|| inventory::look(&mut netlink))?;
            let rest = rest(start.elapsed());
            let events = watched.look(&found);
            let wanted = events.iter().filter(|event| bridge.as_ref().is_none_or(|own| event.is_about(own.as_str())));
            let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
            let line = |event: &inventory::events::Event| match self.json {
                true => report::json_line(&event.to_json((time * 1e3).round() / 1e3, is_first)),
                false => format!("{event}\n"),
            };
            let text: String = wanted.filter(|_| !is_first || self.initial).map(line).collect();
            if !text.is_empty() && !output::print_to_reader(&text)? {
                return Ok(String::new());
            }
            is_first = false;
            // A network of the user's own ends with its bridge.
            if place::user_network().is_some() && !watched.has_bridges() {
                return Ok(String::new());
            }
            let again = watched.is_unsure().then(|| Instant::now() + SETTLE);
            let woken = match news.wait(true, &reader, again)? {
                // What belongs to it follows.
                Woken::ByNews => news.wait(false, &reader, Some(Instant::now() + rest))?,
                woken => woken,
            };
            if woken == Woken::ByOther {
                return Ok(String::new());
            }
        }
    }
}
