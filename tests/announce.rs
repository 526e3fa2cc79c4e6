//! `announce=on`: the address that the guest gets, told on the caller's stderr.

use crate::guests::{boot_linux, mac_of};
use crate::support::{Lab, frames, wait_for};
use std::fs;

fn announcers(lab: &Lab) -> usize {
    lab.processes().iter().filter(|process| process.command.starts_with("kvm-bridge-announcer")).count()
}

fn stderr_of(pid: i32) -> String {
    fs::read_link(format!("/proc/{pid}/fd/2")).expect("it has a stderr").display().to_string()
}

#[test]
fn on_a_bridge_that_is_made_the_reaper_tells() {
    let Some(lab) = Lab::with_address() else { return };
    let Some(guest) = boot_linux(&lab, "br0,announce=on,vm=alice") else { return };
    let reaper = wait_for("the reaper", 3, || lab.reapers().pop());
    assert!(stderr_of(reaper.pid).ends_with(".err"), "{}", stderr_of(reaper.pid));
    let others =
        |lab: &Lab| lab.processes().into_iter().filter(|p| p.pid != guest.pid() && p.pid != reaper.pid).count();
    assert_eq!(others(&lab), 0, "{:?}", lab.processes());
    let address = lab.lan.lease_of(&mac_of(&guest), 90);
    let expected = format!("qemu-kvm: alice has {address}/24 on br0, from 10.77.0.1 for 1 h 0 min\n");
    wait_for("the announcement", 5, || guest.err().contains(&expected).then_some(()));
    wait_for("the reaper to let go of stderr", 5, || (stderr_of(reaper.pid) == "/dev/null").then_some(()));
    assert_eq!(others(&lab), 0);
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn on_a_bridge_that_was_there_one_process_tells_and_ends() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let Some(guest) = boot_linux(&lab, "br0,announce=on,vm=alice") else { return };
    assert_eq!(announcers(&lab), 1);
    let address = lab.lan.lease_of(&mac_of(&guest), 90);
    let expected = format!("qemu-kvm: alice has {address}/24 on br0, from 10.77.0.1 for 1 h 0 min\n");
    wait_for("the announcement", 5, || guest.err().contains(&expected).then_some(()));
    wait_for("the announcer's end", 5, || (announcers(&lab) == 0).then_some(()));
    guest.kill();
}

#[test]
fn nobody_listens_when_the_guest_has_gone() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guest = lab.shim("--bridge br0,announce=on").boot();
    assert_eq!(announcers(&lab), 1);
    let ended = guest.kill();
    wait_for("the announcer's end", 5, || (announcers(&lab) == 0).then_some(()));
    assert_eq!(ended.err, "");
}

#[test]
fn guests_that_come_later_are_announced_by_the_same_reaper() {
    let Some(lab) = Lab::with_address() else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let first = lab.shim("--bridge br0,vm=first").boot();
    let reaper = lab.reaper_of("br0");
    let holds_one = || reaper.open_files().iter().any(|file| file.ends_with(".err"));
    assert!(!holds_one());
    // A REQUEST at once, as a client that has had this address before: init-reboot (RFC 2131, 3.2).
    let request = frames::dhcp(3, &[50, 4, 10, 77, 0, 150]);
    let second = format!("--bridge br0,announce=on,mac={},vm=second", frames::MAC);
    let mut second = lab.shim(&second).then(&format!("send:{request},hold")).start();
    second.qemu();
    assert_eq!(announcers(&lab), 0, "the reaper listens");
    wait_for("the announcement", 10, || {
        second.err().contains("qemu-kvm: second has 10.77.0.150/24 on br0").then_some(())
    });
    wait_for("the reaper to let go of its stderr", 5, || (!holds_one()).then_some(()));
    let answers = || lab.lan.dhcp_log().matches("DHCPACK(").count();
    let before = answers();
    wait_for("more answers", 10, || (answers() > before + 1).then_some(()));
    assert_eq!(second.err().matches("has 10.77.0.150").count(), 1, "{}", second.err());
    assert!(!first.err().contains(" has 10.77.0.150"), "{}", first.err());

    // One that gets none, and ends.
    let third = lab.shim("--bridge br0,announce=on,vm=third").boot();
    assert_eq!(announcers(&lab), 0);
    wait_for("the reaper to listen", 5, || holds_one().then_some(()));
    third.kill();
    wait_for("the reaper to let go of its stderr", 5, || (!holds_one()).then_some(()));
    assert_eq!((lab.reapers().len(), lab.reaper_of("br0").pid), (1, reaper.pid));
    drop((first, second));
    lab.becomes_as_before();
}

#[test]
fn a_reaper_that_was_killed_is_followed_by_one_that_announces() {
    let Some(lab) = Lab::with_address() else { return };
    let first = lab.shim("--bridge br0,vm=first").boot();
    let old = lab.reaper_of("br0");
    old.kill();
    wait_for("the reaper's end", 5, || lab.reapers().is_empty().then_some(()));
    let second = lab.shim("--bridge br0,vm=second").boot();
    // A guest that comes before the new one is ready has a process of its own.
    let is_ready = || fs::read_to_string("/proc/thread-self/net/unix").is_ok_and(|all| all.contains("/br0.inbox"));
    wait_for("the new reaper to be ready", 5, || is_ready().then_some(()));
    let guests = ["third", "fourth"].map(|vm| lab.shim(&format!("--bridge br0,announce=on,vm={vm}")).boot());
    assert_eq!(announcers(&lab), 0);
    let reaper = lab.reaper_of("br0");
    let held = || reaper.open_files().iter().filter(|file| file.ends_with(".err")).count();
    wait_for("the reaper to listen for both", 5, || (held() == 2).then_some(()));
    drop(guests);
    wait_for("the reaper to let go of both", 5, || (held() == 0).then_some(()));
    drop((first, second));
    lab.becomes_as_before();
}

#[test]
fn announcing_needs_the_right_to_listen() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let refused = lab.shim("--bridge br0,announce=on").through("setpriv --bounding-set=-net_raw").run().exits_with(125);
    assert!(refused.err.contains("CAP_NET_RAW") && refused.err.contains("leave announce= out"), "{}", refused.err);
    assert!(!refused.qemu_ran());
    lab.shim("--bridge br0,announce=off").through("setpriv --bounding-set=-net_raw").run().succeeds();
    let refused = lab.shim("--bridge br0,announce=yes").run().exits_with(125);
    assert!(refused.err.contains("announce cannot be 'yes'"), "{}", refused.err);
}
