//! A kill at any moment, a failure of anything: the host is as it was, or becomes so.

use crate::support::{Lab, have, wait_for};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use std::process::Command;

/// The system calls at which a restore can be killed to any effect: between two of them a kill finds the same.
const CALLS: &str = "sendto,write,openat,flock,rename,unlink,rmdir,poll,close,recvfrom";

#[test]
fn the_shim_may_be_killed_at_every_system_call() {
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut nth = 1;
    while lab.shim("--bridge br0").dies_at("all", nth) {
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after a kill at step {nth}"), 15, || lab.is_as_before().then_some(()));
        nth += 1;
        assert!(nth < 1000, "it never ends");
    }
    // So many at the least lie before the first change.
    assert!(nth > 150, "only {nth} system calls");
    lab.becomes_as_before();
}

#[test]
fn the_restore_may_be_killed_at_every_step() {
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut nth = 1;
    loop {
        // Nobody is left to restore it but the one that is going to be killed at it.
        let guest = lab.shim("--bridge br0").boot();
        lab.reaper_of("br0").kill();
        guest.kill();
        wait_for("its TAP to go", 5, || (lab.ports("br0") == ["eth0"]).then_some(()));
        let is_killed = lab.kvm_bridge("recover").dies_at(CALLS, nth);
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after a kill at step {nth}"), 15, || lab.is_as_before().then_some(()));
        if !is_killed {
            break;
        }
        nth += 1;
        assert!(nth < 500, "it never ends");
    }
    assert!(nth > 10, "only {nth} steps");
}

#[test]
fn the_reaper_may_be_killed_at_every_step_of_the_restore() {
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut nth = 1;
    loop {
        let guest = lab.shim("--bridge br0").boot();
        let reaper = lab.reaper_of("br0");
        let attached = lab.new_file("attached");
        let mut tracer = Command::new("strace")
            .args(["-e", &format!("trace={CALLS}"), "-e", &format!("inject={CALLS}:signal=KILL:when={nth}")])
            .args(["-p", &reaper.pid.to_string(), "-o"])
            .arg(&attached)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("start strace");
        // It waits in poll, which is seen to be traced when it is.
        wait_for("strace to be there", 10, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", reaper.pid)).ok()?;
            status.contains(&format!("TracerPid:\t{}\n", tracer.id())).then_some(())
        });
        guest.kill();
        tracer.wait().expect("the tracer ends with the reaper");
        let is_killed = !lab.is_as_before();
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after a kill at step {nth}"), 15, || lab.is_as_before().then_some(()));
        if !is_killed {
            break;
        }
        nth += 1;
        assert!(nth < 200, "it never ends");
    }
    assert!(nth > 10, "only {nth} steps");
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
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let mut nth = 1;
    loop {
        let ended = lab.shim("--bridge br0").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        if !ended.err.contains("fails") {
            break;
        }
        // To be asked by the kernel for a gateway is not all that a launch is for.
        assert!(ended.status.success() || ended.status.code() == Some(125), "request {nth}: {}", ended.err);
        if ended.status.success() {
            lab.kvm_bridge("recover").run().succeeds();
        } else {
            assert!(lab.is_as_before(), "request {nth} failed, and not all was taken back at once: {}", ended.err);
        }
        nth += 1;
        assert!(nth < 1000, "it never ends");
    }
    assert!(nth > 40, "only {nth} requests");
}

#[test]
fn each_request_of_the_restore_may_fail_and_the_next_try_succeeds() {
    let Some(lab) = Lab::with_everything() else { return };
    lab.baseline();
    let mut nth = 1;
    loop {
        let guest = lab.shim("--bridge br0").boot();
        lab.reaper_of("br0").kill();
        guest.kill();
        wait_for("its TAP to go", 5, || (lab.ports("br0") == ["eth0"]).then_some(()));
        let ended = lab.kvm_bridge("recover").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        if !ended.err.contains("fails") {
            break;
        }
        assert!(!ended.status.success(), "request {nth} failed, and nobody said so");
        assert!(lab.lan.reaches("10.77.0.2"), "the host is lost: {}", ended.err);
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after request {nth} failed"), 15, || lab.is_as_before().then_some(()));
        nth += 1;
        assert!(nth < 500, "it never ends");
    }
    assert!(nth > 20, "only {nth} requests");
}

#[test]
fn sixteen_at_once_take_the_uplink_once() {
    let Some(lab) = Lab::with_everything() else { return };
    let mut guests: Vec<_> = (0..16).map(|_| lab.shim("--bridge br0 -name alice").then("hold").start()).collect();
    for guest in &mut guests {
        guest.qemu();
    }
    assert_eq!(lab.ports("br0").len(), 17);
    assert_eq!(lab.reapers().len(), 1);
    for (i, guest) in guests.into_iter().enumerate() {
        let signal = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT][i % 3];
        guest.signal(signal);
        guest.end();
    }
    lab.becomes_as_before();
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
    let Some(lab) = Lab::with_everything() else { return };
    if !have("strace") {
        return;
    }
    lab.baseline();
    let mut nth = 1;
    let mut refused = 0;
    loop {
        let record = lab.new_file("trace");
        let strace =
            format!("strace -qq -e trace=recvfrom -e inject=recvfrom:error=ENOBUFS:when={nth} -o {}", record.display());
        let ended = lab.shim("--bridge br0").through(&strace).run();
        let is_injected = std::fs::read_to_string(&record).expect("a trace").contains("INJECTED");
        refused += usize::from(ended.status.code() == Some(125));
        wait_for(&format!("a clean host after answer {nth} was lost"), 15, || lab.is_as_before().then_some(()));
        if !is_injected {
            break;
        }
        nth += 1;
        assert!(nth < 100, "it never ends");
    }
    assert!(refused > 5, "only {refused} of {nth} starts failed");
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
