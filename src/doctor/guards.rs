//! What the guards of ports have dropped.

use crate::doctor::Context;
use crate::network::inventory::Port;
use crate::sys::packet::{BUFFER, Packets};
use ::port::bpf::renewable;
use model::bpf;
use model::check::Check;
use model::check::guard::{GUARD, judge, kind_of};
use model::text;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// For so long a port is listened on that has dropped frames: what is sent over and over is heard within that.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many kinds are enough.
const KINDS: usize = 4;

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let ports = |bridge| {
        let bridge: &crate::network::inventory::Bridge = bridge;
        let guarded = bridge.ports.iter().filter(|port| !port.held.guard.is_empty());
        guarded.map(|port| (bridge.detail.link.name.as_str(), port)).collect::<Vec<_>>()
    };
    let is_quick = context.query.watch == Some(Duration::ZERO);
    let check = |(bridge, port): (&str, &Port)| {
        let is_listened = port.held.dropped > 0 && !is_quick;
        let heard = if is_listened { heard(port) } else { Ok(BTreeSet::new()) };
        let check = match heard {
            Ok(kinds) => judge(port.held.dropped, &kinds, bridge),
            Err(error) => GUARD.warning(
                format!("its port has dropped {} frames, and can't be listened on: {error}", port.held.dropped),
                "sudo kvm-bridge doctor",
            ),
        };
        check.of(port.vm.as_deref().map_or_else(|| port.detail.link.name.to_string(), text::name))
    };
    context.bridges.iter().flat_map(ports).map(check).collect()
}

/// The kinds of frames that are dropped on a port from now on.
fn heard(port: &Port) -> std::io::Result<BTreeSet<String>> {
    let packets = Packets::open_with(port.detail.link.index, &bpf::inverted(&port.held.guard))?;
    let (end, mut kinds) = (Instant::now() + PATIENCE, BTreeSet::new());
    let by_ip = renewable(&port.held.guard).is_some();
    let mut buffer = [0; BUFFER];
    while kinds.len() < KINDS {
        let left = end.saturating_duration_since(Instant::now());
        match packets.receive_from(&mut buffer)? {
            // What goes to the guest is not dropped.
            Some((length, true)) => {
                kinds.insert(kind_of(buffer.get(..length).unwrap_or_default(), port.mac, by_ip));
            }
            Some(_) => {}
            None if left.is_zero() => break,
            None => {
                let mut files = [PollFd::new(packets.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut files, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            }
        }
        if left.is_zero() {
            break;
        }
    }
    Ok(kinds)
}
