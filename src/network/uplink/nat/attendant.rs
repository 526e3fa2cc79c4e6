//! What a reaper does for a network of the host's own: it has dnsmasq, and keeps the rest as it should be.

use crate::netlink::Netlink;
use crate::network::uplink::nat::server;
use crate::network::uplink::nat::server::Server;
use crate::network::uplink::nat::{forwarding, guests, keep_forwarding, keep_unblocked, rules};
use crate::output::errno::reason;
use crate::state::journal::Files;
use crate::state::networks;
use crate::sys::firewall_news::FirewallNews;
use model::error::{Error, Result};
use model::host::Link;
use model::journal::Journal;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Rules of others that change all the time are not looked at all the time.
const REST: Duration = Duration::from_secs(2);
/// A dnsmasq that ends sooner than this fails for a reason, and is tried again after the other time.
const WELL: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(5);

/// It.
#[derive(Debug, Default)]
pub struct Attendant {
    server: Option<(Server, Instant)>,
    /// Why there is no server, and since when.
    unserved: Option<(Error, Instant)>,
    notices: Option<FirewallNews>,
    /// When others' rules were looked at.
    looked: Option<Instant>,
    /// Whether they have changed since.
    is_news: bool,
    failure: Option<Error>,
}

impl Attendant {
    /// Does what is missing, what guards the host first; for who holds the bridge's lock alone.
    pub fn attend(
        &mut self,
        netlink: &mut Netlink,
        files: &Files,
        journal: &mut Journal,
        ports: &[Link],
    ) -> Result<()> {
        let Some(network) = journal.nat().map(|masquerade| masquerade.network.clone()) else { return Ok(()) };
        let is_new = self.listen()?;
        guests::close(files, journal, ports)?;
        let guests = networks::guests(files)?.all();
        // Our own are looked at whenever any have changed.
        if is_new && !rules::are_whole(&journal.bridge, journal.link(), &network, &guests)? {
            rules::apply(&journal.bridge, journal.link(), &network, &guests)?;
        }
        let is_gone = is_new && !forwarding::is_guarded()?;
        keep_forwarding(netlink, journal, &network, &guests, is_gone)?;
        if self.is_news && self.rest().is_none_or(|rest| rest.is_zero()) {
            self.looked = Some(Instant::now());
            self.failure = keep_unblocked(files, journal)?;
            // What was changed now was changed by us.
            self.listen()?;
            self.is_news = false;
        }
        self.serve_again(files, journal, &network);
        Ok(())
    }

    /// Whether rules have changed since the last time; at first nobody has heard of what was before.
    fn listen(&mut self) -> Result<bool> {
        let deaf = |error: std::io::Error| {
            let what = format!("cannot hear of changes of the host's rules: {}", reason(&error));
            Error::new(what, "The kernel's nfnetlink is needed.")
        };
        let is_new = match &self.notices {
            Some(notices) => notices.drain().map_err(deaf)?,
            None => {
                self.notices = Some(FirewallNews::open().map_err(deaf)?);
                true
            }
        };
        self.is_news |= is_new;
        Ok(is_new)
    }

    /// Sees to it that dnsmasq runs. One that can't is no reason to leave the rest undone.
    fn serve_again(&mut self, files: &Files, journal: &Journal, network: &model::nat::Nat) {
        if self.retry().is_some_and(|left| !left.is_zero()) {
            return;
        }
        let served = self.serve(files, journal, network);
        self.unserved = served.err().map(|error| (error, Instant::now()));
    }

    fn serve(&mut self, files: &Files, journal: &Journal, network: &model::nat::Nat) -> Result<()> {
        if let Some((server, since)) = &mut self.server {
            let Some(why) = server.end() else { return Ok(()) };
            let was_well = since.elapsed() >= WELL;
            self.server = None;
            if !was_well {
                return Err(why);
            }
            files.report_failure(&why);
        }
        let server = Server::start(network, &journal.bridge, &files.nat())?;
        server::note(&files.nat(), &server)?;
        self.server = Some((server, Instant::now()));
        Ok(())
    }

    /// Ends dnsmasq: the bridge goes.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// What is to be told for as long as it is so.
    pub fn failure(&self) -> Option<&Error> {
        self.unserved.as_ref().map(|(error, _)| error).or(self.failure.as_ref())
    }

    /// How long until something is due again: a look at others' rules, where they have changed, or another try with dnsmasq.
    pub fn pause(&self) -> Option<Duration> {
        self.rest().into_iter().chain(self.retry()).min()
    }

    fn rest(&self) -> Option<Duration> {
        let looked = self.looked.filter(|_| self.is_news)?;
        Some(REST.saturating_sub(looked.elapsed()))
    }

    fn retry(&self) -> Option<Duration> {
        self.unserved.as_ref().map(|(_, since)| RETRY.saturating_sub(since.elapsed()))
    }

    /// Readable when something is to be done.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let notices = self.notices.as_ref().map(AsFd::as_fd);
        self.server.as_ref().map(|(server, _)| server.as_fd()).into_iter().chain(notices)
    }
}
