//! A kill at any moment, a failure of anything: the host is as it was, or becomes so.

use crate::support::wait::patiently;
use crate::support::{Lab, have, wait_for};
use nix::mount::{MsFlags, mount};
use std::process::Command;
use std::time::Duration;

/// The system calls at which a restore can be killed to any effect: between two of them a kill finds the same.
const CALLS: &str = "sendto,write,openat,flock,rename,unlink,rmdir,poll,close,recvfrom";

/// A host with everything, from which each trial starts and to which it has to come back.
fn lab() -> Option<Lab> {
    let lab = Lab::with_everything()?;
    lab.baseline();
    Some(lab)
}

/// Tries the first step, the second one, and so on, until a trial says that there is none of that number any more. After
/// each the host is as it was, at once or soon. A sweep that finds fewer steps than there must be proves nothing.
#[track_caller]
fn sweep(lab: &Lab, at_least: usize, mut trial: impl FnMut(usize) -> bool) {
    let mut steps = 0;
    while trial(steps + 1) {
        steps += 1;
        wait_for(&format!("a clean host after step {steps}"), 15, || lab.is_as_before().then_some(()));
        assert!(steps < 1000, "it never ends");
    }
    assert!(steps >= at_least, "only {steps} steps");
    lab.becomes_as_before();
}

/// A bridge without guests, which nobody is left to take back but the next who comes.
fn leave_a_bridge(lab: &Lab) {
    let guest = lab.shim("--bridge br0").boot();
    lab.reaper_of("br0").kill();
    guest.kill();
    wait_for("its TAP to go", 5, || (lab.ports("br0") == ["eth0"]).then_some(()));
}

#[test]
fn the_shim_may_be_killed_at_every_system_call() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 150, |nth| {
        let is_killed = lab.shim("--bridge br0").dies_at("all", nth);
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn the_restore_may_be_killed_at_every_step() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 10, |nth| {
        leave_a_bridge(&lab);
        let is_killed = lab.kvm_bridge("recover").dies_at(CALLS, nth);
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn the_reaper_may_be_killed_at_every_step_of_the_restore() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 10, |nth| {
        let guest = lab.shim("--bridge br0").boot();
        let reaper = lab.reaper_of("br0");
        let mut tracer = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={CALLS}")])
            .args(["-e", &format!("inject={CALLS}:signal=KILL:when={nth}"), "-p", &reaper.pid.to_string()])
            .spawn()
            .expect("start strace");
        wait_for("strace to be there", 10, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", reaper.pid)).ok()?;
            status.contains(&format!("TracerPid:\t{}\n", tracer.id())).then_some(())
        });
        guest.kill();
        tracer.wait().expect("the tracer ends with the reaper");
        let is_killed = !lab.is_as_before();
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn a_setting_that_cannot_be_changed_brings_all_back() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let sysctl = |flags| mount(Some("/proc/sys"), "/proc/sys", None::<&str>, flags, None::<&str>).expect("mount");
    sysctl(MsFlags::MS_BIND);
    sysctl(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    let ended = lab.shim("--bridge br0").run().exits_with(125);
    assert!(ended.err.contains("cannot set ipv4/forwarding of br0"), "{}", ended.err);
    lab.becomes_as_before();
}

#[test]
fn each_request_to_the_kernel_may_fail() {
    let Some(lab) = lab() else { return };
    sweep(&lab, 40, |nth| {
        let ended = lab.shim("--bridge br0").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        // That a gateway can't be asked for is no reason to fail.
        assert!(ended.status.success() || ended.status.code() == Some(125), "request {nth}: {}", ended.err);
        if ended.status.success() {
            lab.kvm_bridge("recover").run().succeeds();
        }
        // The kernel has a task of its own put the local routes of IPv6 addresses there.
        let is_back = patiently(Duration::from_secs(1), || lab.network_difference().is_none().then_some(())).is_some();
        let left = lab.network_difference();
        assert!(is_back, "request {nth} failed, and not all was taken back at once: {}{left:?}", ended.err);
        ended.err.contains("fails")
    });
}

#[test]
fn each_request_of_the_restore_may_fail_and_the_next_try_succeeds() {
    let Some(lab) = lab() else { return };
    sweep(&lab, 20, |nth| {
        leave_a_bridge(&lab);
        let ended = lab.kvm_bridge("recover").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        let is_failed = ended.err.contains("fails");
        // What can't be taken off a bridge goes with it.
        assert!(ended.status.success() || is_failed, "request {nth}: {}", ended.err);
        assert!(lab.lan.reaches("10.77.0.2"), "the host is lost: {}", ended.err);
        lab.kvm_bridge("recover").run().succeeds();
        is_failed
    });
}

#[test]
fn a_guest_that_starts_while_the_uplink_is_given_back() {
    let Some(lab) = Lab::with_everything() else { return };
    for round in 0..6 {
        lab.shim("--bridge br0").run().succeeds();
        // Around the end of the grace time.
        std::thread::sleep(std::time::Duration::from_millis(1930 + round * 20));
        let mut next = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
        assert!(next.qemu().answer("bridge0").is_some());
        next.kill();
    }
    lab.becomes_as_before();
}

#[test]
fn answers_of_the_kernel_may_be_lost() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    let mut refused = 0;
    sweep(&lab, 10, |nth| {
        let trace = lab.new_file("trace");
        let strace =
            format!("strace -qq -e trace=recvfrom -e inject=recvfrom:error=ENOBUFS:when={nth} -o {}", trace.display());
        let ended = lab.shim("--bridge br0").through(&strace).run();
        refused += usize::from(ended.status.code() == Some(125));
        lab.kvm_bridge("recover").run().succeeds();
        std::fs::read_to_string(&trace).expect("a trace").contains("INJECTED")
    });
    assert!(refused > 5, "only {refused} starts failed");
}

#[test]
fn two_that_want_the_same_uplink_do_not_both_have_it() {
    let Some(lab) = Lab::new() else { return };
    for _ in 0..5 {
        let guests: Vec<_> = ["br0", "br1", "br2"]
            .map(|bridge| lab.shim(&format!("--bridge {bridge},uplink=eth0 -name {bridge}")).then("hold:500").start())
            .into();
        let ended: Vec<_> = guests.into_iter().map(|guest| guest.end()).collect();
        let winners = ended.iter().filter(|ended| ended.qemu_ran()).count();
        assert_eq!(winners, 1, "{:?}", ended.iter().map(|ended| &ended.err).collect::<Vec<_>>());
        lab.becomes_as_before();
    }
}
