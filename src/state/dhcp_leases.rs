//! The DHCP leases that guests were seen to get, kept beside the bridge's journal until they end: a host that never talks to
//! a guest knows of none by itself.
//!
//! The reaper listens on the ports of its bridge; elsewhere `kvm-bridge ip --wait` keeps what it saw. Frames are anybody's:
//! leases are shown, and a guest that is guarded by IP address may send from them; nothing else rests on them.
#![forbid(unsafe_code)]

use crate::state::journal::Files;
use crate::sys::packet::{AT_ONCE, BUFFER, Packets};
use crate::sys::{files, netns};
use model::host::{Kind as LinkKind, Link};
use model::packet::frame;
use model::packet::frame::Told;
use model::packet::lease::{Asked, DhcpLease, merged};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// After a lease was heard, for so long nothing is.
const PAUSE: Duration = Duration::from_secs(1);
/// After anything else.
const SHORT: Duration = Duration::from_millis(200);
/// So many descriptors are not used.
const RESERVE: u64 = 24;

/// Seconds since the machine was started, suspended or not: CLOCK_BOOTTIME of clock_gettime(2).
pub fn now() -> u64 {
    clock_gettime(ClockId::Boottime).tv_sec.unsigned_abs()
}

/// What is written down.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// The network namespace (SO_NETNS_COOKIE): a folder's name can be that of another one before.
    namespace: Option<u64>,
    leases: Vec<DhcpLease>,
}

/// The leases on a bridge that are known and are not over.
pub fn of(files: &Files) -> Vec<DhcpLease> {
    let mut kept = read(&files.leases());
    kept.retain(|lease| lease.left(now()) != Some(0));
    kept
}

fn read(path: &Path) -> Vec<DhcpLease> {
    let Some(kept) = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok()) else {
        return Vec::new();
    };
    if netns::cookie().ok() == Some(kept.namespace) { kept.leases } else { Vec::new() }
}

/// Writes leases down, with those that are known of these ports. Not to have them is no fault that anybody needs to hear of.
/// On a bridge that is not ours they may be all that there is.
pub fn keep(files: &Files, new: &[DhcpLease], is_port: impl Fn(u32) -> bool) {
    let before = read(&files.leases());
    let after = merged(before.clone(), new, now(), is_port);
    if after == before {
        return;
    }
    let Ok(namespace) = netns::cookie() else { return };
    if let Ok(text) = serde_json::to_vec(&Kept { namespace, leases: after }) {
        let path = files.leases();
        let _ = files::create_folder_of(&path);
        let _ = files::replace(&path, &path.with_extension("leases-new"), &text, false);
    }
}

/// A port that is listened on.
#[derive(Debug)]
struct Ear {
    packets: Packets,
    asked: Asked,
}

/// Listens on the ports of a bridge.
#[derive(Debug, Default)]
pub struct Listeners {
    ports: BTreeMap<u32, Ear>,
    /// When it listens again.
    pauses_until: Option<Instant>,
}

impl Listeners {
    /// Listens on these of the bridge's ports that are TAPs, and on no other from now on. Some descriptors are left for all
    /// else that this process does.
    pub fn follow(&mut self, files: &Files, ports: &[Link]) {
        let taps = || ports.iter().filter(|port| matches!(port.kind, LinkKind::Tap { .. }));
        let (there, before): (BTreeSet<u32>, usize) = (taps().map(|tap| tap.index).collect(), self.ports.len());
        self.ports.retain(|index, _| there.contains(index));
        if self.ports.len() < before {
            keep(files, &[], |port| self.ports.contains_key(&port));
        }
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let room = usize::try_from(most.saturating_sub(RESERVE) / 2).unwrap_or(usize::MAX);
        for tap in taps() {
            if self.ports.len() >= room || self.ports.contains_key(&tap.index) {
                continue;
            }
            if let Ok(packets) = Packets::open_for_all_of_dhcp(tap.index) {
                let is_guests = matches!(tap.kind, LinkKind::Tap { is_persistent: false, .. }) && tap.vm().is_some();
                let ear = Ear { packets, asked: Asked::by_nobody(tap.mac.filter(|_| is_guests)) };
                self.ports.insert(tap.index, ear);
            }
        }
    }

    /// How long nothing is to be heard.
    pub fn pause(&self) -> Option<Duration> {
        let left = self.pauses_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// What to wait for.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listens = self.pause().is_none();
        self.ports.values().filter(move |_| listens).map(|ear| ear.packets.as_fd())
    }

    /// Reads what has come, and writes it down.
    pub fn hear(&mut self, files: &Files) {
        if self.pause().is_some() {
            return;
        }
        let (mut leases, mut has_heard) = (Vec::new(), false);
        // A port that is gone is let go of.
        self.ports.retain(|index, ear| {
            let heard = ear.hear(*index, &mut leases);
            has_heard |= heard.as_ref().is_ok_and(|count| *count > 0);
            heard.is_ok()
        });
        // Anybody can send what is heard here, as often as they like.
        if has_heard {
            self.pauses_until = Some(Instant::now() + if leases.is_empty() { SHORT } else { PAUSE });
        }
        if !leases.is_empty() {
            keep(files, &leases, |port| self.ports.contains_key(&port));
        }
    }
}

impl Ear {
    /// Reads what has come on a port; how many frames.
    fn hear(&mut self, port: u32, leases: &mut Vec<DhcpLease>) -> std::io::Result<usize> {
        let mut buffer = [0; BUFFER];
        for count in 0..AT_ONCE {
            let Some((length, is_sent)) = self.packets.receive_from(&mut buffer)? else { return Ok(count) };
            let Some(Told::Dhcp(message)) = buffer.get(..length).and_then(frame::read) else { continue };
            if self.asked.hear(&message, is_sent) {
                leases.extend(DhcpLease::of(port, &message, now()));
            }
            if is_sent {
                leases.extend(DhcpLease::given_back(port, &message, now()));
            }
        }
        Ok(AT_ONCE)
    }
}
