//! What the guards of ports have dropped.

use crate::doctor::Context;
use crate::network::helper::NAME;
use crate::network::inventory::{Bridge, Port};
use crate::sys::packet::{BUFFER, Packets};
use ::port::bpf::renewable;
use model::bpf;
use model::check::Check;
use model::check::guard::{GUARD, judge, kind_of, unheard};
use model::journal::Journal;
use model::text;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// For so long ports are listened on that have dropped frames: what is sent over and over is heard within that.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many of them, all at once: a user may have any number.
const PORTS: usize = 64;
/// So many kinds are enough.
const KINDS: usize = 4;

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let of_bridge = |bridge| {
        let bridge: &Bridge = bridge;
        bridge.ports.iter().filter(|port| !port.held.guard.is_empty()).map(move |port| (bridge, port))
    };
    let ports: Vec<(&Bridge, &Port)> = context.bridges.iter().flat_map(of_bridge).collect();
    let is_quick = context.query.watch == Some(Duration::ZERO);
    let listened = ports.iter().map(|(_, port)| *port).filter(|port| port.held.dropped > 0 && !is_quick);
    let heard: BTreeMap<u32, io::Result<Ear>> =
        listened.take(PORTS).map(|port| (port.detail.link.index, Ear::open(port))).collect();
    let heard = listen(heard);
    let check = |(bridge, port): (&Bridge, &Port)| {
        let (name, nothing) = (bridge.detail.link.name.as_str(), BTreeSet::new());
        let is_heard = bridge.journal.as_ref().is_some_and(Journal::needs_reaper);
        // What our helper has made is held to the rules.
        let is_by_rules = port.detail.link.alias.as_deref().is_some_and(|alias| alias.starts_with(NAME));
        let user = port.user.as_deref().filter(|_| is_by_rules);
        let check = match heard.get(&port.detail.link.index) {
            Some(Err(error)) => GUARD.warning(
                format!("its port has dropped {} frames, and can't be listened on: {error}", port.held.dropped),
                "sudo kvm-bridge doctor",
            ),
            _ if renewable(&port.held.guard).is_some() && !is_heard => unheard(name),
            Some(Ok(ear)) => judge(port.held.dropped, &ear.kinds, name, user),
            None => judge(port.held.dropped, &nothing, name, user),
        };
        check.of(port.vm.as_deref().map_or_else(|| port.detail.link.name.to_string(), text::name))
    };
    ports.into_iter().map(check).collect()
}

/// What is listened on, and the kinds of frames that have been dropped there since.
struct Ear<'a> {
    port: &'a Port,
    packets: Packets,
    kinds: BTreeSet<String>,
}

impl<'a> Ear<'a> {
    fn open(port: &'a Port) -> io::Result<Self> {
        let packets = Packets::open_with(port.detail.link.index, &bpf::inverted(&port.held.guard))?;
        Ok(Self { port, packets, kinds: BTreeSet::new() })
    }

    /// Hears one frame, if there is one.
    fn hear(&mut self, buffer: &mut [u8; BUFFER]) -> io::Result<()> {
        // What goes to the guest is not dropped.
        if let Some((length, true)) = self.packets.receive_from(buffer)? {
            let by_ip = renewable(&self.port.held.guard).is_some();
            let frame = buffer.get(..length).unwrap_or_default();
            self.kinds.insert(kind_of(frame, self.port.mac, by_ip));
        }
        Ok(())
    }
}

/// Listens on all of them for a while.
fn listen(mut ears: BTreeMap<u32, io::Result<Ear>>) -> BTreeMap<u32, io::Result<Ear>> {
    let (end, mut buffer) = (Instant::now() + PATIENCE, [0; BUFFER]);
    loop {
        let wait = end.saturating_duration_since(Instant::now());
        let listening = ears.values().flatten().filter(|ear| ear.kinds.len() < KINDS);
        let mut files: Vec<PollFd> = listening.map(|ear| PollFd::new(ear.packets.as_fd(), PollFlags::POLLIN)).collect();
        if wait.is_zero() || files.is_empty() {
            return ears;
        }
        let _ = poll(&mut files, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
        for ear in ears.values_mut() {
            let failed = ear.as_mut().ok().and_then(|ear| ear.hear(&mut buffer).err());
            if let Some(error) = failed {
                *ear = Err(error);
            }
        }
    }
}
