//! Many at once, as when a host boots all its guests.

use crate::support::{Lab, have, wait_for};
use nix::sys::signal::Signal;
use std::collections::HashSet;

#[test]
fn sixteen_guests_that_start_at_once_share_one_bridge_and_the_last_one_restores() {
    let Some(lab) = Lab::with_everything() else { return };
    let mut guests: Vec<_> = (0..16).map(|_| lab.shim("--bridge br0 -name alice").then("hold").start()).collect();
    let records: Vec<_> = guests.iter_mut().map(|guest| guest.qemu().clone()).collect();

    let taps: HashSet<String> = records.iter().map(|record| record.tap().name).collect();
    let macs: HashSet<String> = records.iter().map(|record| record.mac()).collect();
    assert_eq!((taps.len(), macs.len()), (16, 16));
    assert_eq!(lab.ports("br0").len(), 17);
    wait_for("exactly one reaper", 3, || (lab.reapers().len() == 1).then_some(()));

    for (i, guest) in guests.into_iter().enumerate() {
        let signal = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT][i % 3];
        guest.signal(signal);
        guest.end();
    }
    lab.becomes_as_before();
}

#[test]
fn guests_that_come_and_go_never_find_half_a_bridge() {
    let Some(lab) = Lab::new() else { return };
    for round in 0..4 {
        let guests: Vec<_> = (0..6)
            .map(|i| {
                lab.shim(&format!("--bridge br0,uplink=none -name vm{i}")).then(&format!("hold:{}", i * 30)).start()
            })
            .collect();
        for guest in guests {
            guest.end().succeeds();
        }
        // A start meets the reaper at its work.
        lab.is_taken_back("br0", round);
    }
    lab.becomes_as_before();
}

#[test]
fn a_shim_that_is_killed_among_others_harms_none_of_them() {
    let Some(lab) = Lab::new() else { return };
    if !have("strace") {
        return;
    }
    let start = |i: usize| {
        let cmd = lab.shim("--bridge br0,uplink=eth0").then("hold");
        // Each at another moment.
        let strace = format!("strace -D -qq -e trace=sendto -e inject=sendto:signal=KILL:when={} -o /dev/null", 1 + i);
        if i.is_multiple_of(3) { cmd.through(&strace).start() } else { cmd.start() }
    };
    let mut guests: Vec<_> = (0..12).map(start).collect();
    for (_, guest) in guests.iter_mut().enumerate().filter(|(i, _)| i % 3 != 0) {
        let tap = guest.qemu().tap().name;
        assert_eq!(lab.a_link(&tap)["master"], "br0");
    }
    drop(guests);
    // If all were killed before there was a reaper, the next start cleans up.
    lab.shim("--bridge br0,uplink=eth0").run().succeeds();
    lab.becomes_as_before();
}
