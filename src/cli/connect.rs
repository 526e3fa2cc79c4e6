//! `kvm-bridge connect`.

use crate::cli::guest::{A_MOMENT, Guest, Listener, Search, in_order};
use crate::netlink::Netlink;
use crate::network::inventory::is_link_local;
use crate::network::links::unreadable;
use crate::output;
use crate::output::ProgressLine;
use crate::output::errno::reason;
use crate::sys::tcp;
use crate::sys::tcp::{End, Target};
use clap::Args;
use model::error::{Error, Result};
use model::inventory::Way;
use model::text::shell::quote;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::time::{Duration, Instant};

/// The arguments of `kvm-bridge connect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Connect {
    /// The VM, as for 'kvm-bridge ip'; '.vm' may follow the name
    #[arg(id = "guest", value_name = "VM")]
    vm: String,
    /// The TCP port
    #[arg(value_parser = port, allow_negative_numbers = true)]
    port: u16,
    /// Wait until the VM exists and the port is open, at most 60 seconds or so long
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WAIT,
        value_parser = crate::cli::seconds
    )]
    wait: Option<u32>,
}

/// How long a guest is waited for where nobody says.
pub(super) const WAIT: &str = "60";

const EXAMPLES: &str = "\
Examples:
  kvm-bridge connect alice 80
  ssh -o ProxyCommand='kvm-bridge connect %h %p' root@alice
  rsync -e \"ssh -o ProxyCommand='kvm-bridge connect --wait %h %p'\" files root@alice:
In ~/.ssh/config, for every tool that uses ssh:
  Host *.vm
      ProxyCommand kvm-bridge connect --wait %n %p
Standard input goes to the guest and what comes from there to standard output, until both have ended.
Exit status: 0, or 125 if the guest cannot be reached or ended.";

/// How long somebody who does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where it is tried again, by what is known by then.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often.
const AGAIN: Duration = Duration::from_millis(250);

/// Why there is no connection.
enum Failure {
    /// No address of the guest is known.
    Unknown,
    /// Those that are known, which lead nowhere from here.
    NoWay(Vec<IpAddr>),
    /// One of these, or all, did not let anybody in.
    Io(Vec<Way>, io::Error),
}

impl Connect {
    pub(super) fn run(self) -> Result<String> {
        let rest = format!(" {}", self.port);
        let search = Search { vm: &self.vm, command: ["connect", &rest], is_to_be_sure: true };
        let end = self.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let (mut netlink, mut guests) = search.find_in_time(end)?;
        let (stream, index) = self.reach(&search, &mut netlink, &mut guests, end)?;
        output::step(|| format!("connected to {} port {}", search.name(), self.port));
        let mut news = Netlink::open().map_err(unreadable)?;
        news.subscribe_to_links().map_err(unreadable)?;
        let is_gone = |netlink: &mut Netlink| matches!(netlink.link_at(index), Ok(None));
        let file = news.as_fd().try_clone_to_owned().map_err(unreadable)?;
        let is_over = || news.drain().is_err() || is_gone(&mut netlink);
        let ended = tcp::join(stream, std::os::fd::AsFd::as_fd(&file), is_over).map_err(|error| {
            Error::new(format!("cannot carry the connection: {}", reason(&error)), "See ulimit -n and ulimit -u.")
        })?;
        let name = search.name();
        match ended {
            End::Done => Ok(String::new()),
            End::Over => {
                Err(Error::new(format!("{name} ended, or lost its network card"), "Look at what its QEMU said."))
            }
            End::Broken(error) => {
                let what = format!("{name} broke the connection off: {}", reason(&error));
                Err(Error::new(what, "Look at what the service in the guest says."))
            }
            End::Unwritable(error) => {
                Err(Error::new(format!("cannot write: {}", reason(&error)), "See where stdout goes."))
            }
        }
    }

    /// Connects, and tells the TAP by which.
    fn reach(
        &self,
        search: &Search,
        netlink: &mut Netlink,
        guests: &mut [Guest],
        end: Option<Instant>,
    ) -> Result<(TcpStream, u32)> {
        let start = Instant::now();
        let mut line = ProgressLine::default();
        let mut listener = None;
        loop {
            let left = end.map_or(PATIENCE, |end| end.saturating_duration_since(Instant::now()).clamp(AGAIN, ATTEMPT));
            let failure = match self.attempt(guests, Instant::now() + left) {
                Ok(connected) => return Ok(connected),
                Err(failure) => failure,
            };
            // An address that the guest itself was heard to have takes a moment.
            let is_learning = search.is_strict() && !guests.iter().any(Guest::has_enough);
            let end = end.or_else(|| is_learning.then(|| start + A_MOMENT));
            if end.is_none_or(|end| Instant::now() >= end) {
                return Err(self.explain(search, guests, failure));
            }
            let why = match &failure {
                Failure::Io(_, error) => format!("port {}: {}", self.port, reason(error)),
                _ => guests.first().map(|guest| guest.progress.describe()).unwrap_or_default().to_owned(),
            };
            line.show(format_args!("waiting for {}: {} s, {why}", search.name(), start.elapsed().as_secs()));
            output::step(|| why);
            if listener.is_none() {
                listener = Some(Listener::open(guests)?);
            }
            let again = Instant::now() + AGAIN;
            while let Some(listener) = listener.as_mut().filter(|_| Instant::now() < again) {
                listener.listen(search, netlink, guests, again)?;
            }
        }
    }

    /// Tries all that is known by now.
    fn attempt(&self, guests: &[Guest], end: Instant) -> std::result::Result<(TcpStream, u32), Failure> {
        let ways = guests.iter().flat_map(|guest| {
            let known = in_order(std::slice::from_ref(guest));
            guest.bridge.ways(&guest.port, &known).into_iter().map(|way| (guest.index(), way))
        });
        let mut ways: Vec<(u32, Way)> = ways.collect();
        ways.sort_by_key(|(_, way)| is_link_local(&way.address));
        if ways.is_empty() {
            let known = in_order(guests);
            return Err(if known.is_empty() { Failure::Unknown } else { Failure::NoWay(known) });
        }
        let targets: Vec<Target> = ways.iter().map(|(_, way)| self.target(way)).collect();
        match tcp::connect(&targets, end) {
            Ok((at, stream)) => Ok((stream, ways[at].0)),
            Err(error) => Err(Failure::Io(ways.into_iter().map(|(_, way)| way).collect(), error)),
        }
    }

    fn target(&self, way: &Way) -> Target {
        let index = way.interface.as_ref().map_or(0, |(_, index)| *index);
        let address = match way.address {
            IpAddr::V6(ip) if is_link_local(&way.address) => SocketAddrV6::new(ip, self.port, 0, index).into(),
            ip => SocketAddr::new(ip, self.port),
        };
        Target { address, interface: way.interface.as_ref().map(|(name, _)| name.as_str().into()) }
    }

    fn explain(&self, search: &Search, guests: &[Guest], failure: Failure) -> Error {
        let (name, port) = (search.name(), self.port);
        let bridge = guests.first().map(Guest::bridge_name).unwrap_or_default();
        let wait = format!("{} --wait", search.command_for(&self.vm));
        let list = |ips: &mut dyn Iterator<Item = IpAddr>| ips.map(|ip| ip.to_string()).collect::<Vec<_>>().join(", ");
        let why = format!("To see why: kvm-bridge doctor {}", quote(bridge));
        match failure {
            Failure::Unknown if self.wait.is_some() => Error::new(format!("no address of {name} is known"), why),
            Failure::Unknown => {
                Error::new(format!("no address of {name} is known"), format!("To wait until it has one: {wait}"))
            }
            Failure::NoWay(known) => {
                let what = format!(
                    "this host has no address on {bridge} and no way to {name} ({})",
                    list(&mut known.into_iter())
                );
                Error::new(
                    what,
                    format!("Give it one of that network: ip address add ADDRESS/LENGTH dev {}", quote(bridge)),
                )
            }
            Failure::Io(ways, error) => {
                let ips = list(&mut ways.iter().map(|way| way.address));
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    let what = format!("{name} ({ips}) refuses connections to port {port}");
                    let remedy = "Start what is to listen there, in the guest.";
                    let more = format!("{remedy} To wait for it: {wait}");
                    return Error::new(what, if self.wait.is_some() { remedy.to_owned() } else { more });
                }
                Error::new(format!("{name} ({ips}) does not answer on port {port}: {}", reason(&error)), why)
            }
        }
    }
}

/// A port of TCP.
fn port(text: &str) -> Result<u16> {
    let number = crate::cli::usage::number(text, 1, u16::MAX.into())?;
    Ok(u16::try_from(number).unwrap_or(u16::MAX))
}
