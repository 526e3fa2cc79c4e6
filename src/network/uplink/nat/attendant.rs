//! What a reaper does for a network of the host's own: it has dnsmasq, and keeps the rest as it should be.

use crate::netlink::Netlink;
use crate::network::uplink::nat::server;
use crate::network::uplink::nat::server::Server;
use crate::network::uplink::nat::{guests, keep_forwarding, keep_unblocked, rules};
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
/// A dnsmasq that ends sooner than this fails for a reason.
const WELL: Duration = Duration::from_secs(2);

/// It.
#[derive(Debug, Default)]
pub struct Attendant {
    server: Option<(Server, Instant)>,
    news: Option<FirewallNews>,
    /// When others' rules were looked at.
    looked: Option<Instant>,
    /// Whether they have changed since.
    is_news: bool,
    complaint: Option<Error>,
}

impl Attendant {
    /// Does what is missing; for who holds the bridge's lock alone.
    pub fn attend(
        &mut self,
        netlink: &mut Netlink,
        files: &Files,
        journal: &mut Journal,
        ports: &[Link],
    ) -> Result<()> {
        let Some(network) = journal.nat().map(|masquerade| masquerade.network.clone()) else { return Ok(()) };
        self.listen()?;
        self.serve(files, journal, &network)?;
        guests::close(files, journal, ports)?;
        let is_to_be_looked_at = self.is_news && self.pause().is_none_or(|pause| pause.is_zero());
        if is_to_be_looked_at {
            (self.is_news, self.looked) = (false, Some(Instant::now()));
            if rules::masqueraded(&journal.bridge)?.is_none() {
                let guests = networks::guests(files)?.all();
                rules::apply(&journal.bridge, journal.index, &network, &guests)?;
            }
        }
        let is_gone = is_to_be_looked_at && !rules::guards_what_is_lent()?;
        keep_forwarding(netlink, journal, &network, is_gone)?;
        if is_to_be_looked_at {
            self.complaint = keep_unblocked(files, journal)?;
            // What was changed now was changed by us.
            self.listen()?;
            self.is_news = false;
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        let deaf = |error: std::io::Error| {
            let what = format!("cannot hear of changes of the host's rules: {}", reason(&error));
            Error::new(what, "The kernel's nfnetlink is needed.")
        };
        match &self.news {
            Some(news) => self.is_news |= news.drain().map_err(deaf)?,
            // Nobody has heard of what was before.
            None => (self.news, self.is_news) = (Some(FirewallNews::open().map_err(deaf)?), true),
        }
        Ok(())
    }

    /// Sees to it that dnsmasq runs.
    fn serve(&mut self, files: &Files, journal: &Journal, network: &model::nat::Nat) -> Result<()> {
        if let Some((server, since)) = &mut self.server {
            let Some(why) = server.end() else { return Ok(()) };
            let was_well = since.elapsed() >= WELL;
            self.server = None;
            if !was_well {
                return Err(why);
            }
            files.complain(&why);
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
    pub fn complaint(&self) -> Option<&Error> {
        self.complaint.as_ref()
    }

    /// How long until others' rules may be looked at again, where they have changed.
    pub fn pause(&self) -> Option<Duration> {
        let looked = self.looked.filter(|_| self.is_news)?;
        Some(REST.saturating_sub(looked.elapsed()))
    }

    /// Readable when something is to be done.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        // While a look is due nothing more has to be heard.
        let news = self.news.as_ref().filter(|_| !self.is_news).map(AsFd::as_fd);
        self.server.as_ref().map(|(server, _)| server.as_fd()).into_iter().chain(news)
    }
}
