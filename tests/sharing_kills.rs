//! A kill at any moment, a refusal of anything: the host works all the time, and becomes as it was.

use crate::sharing::{entries, host};
use crate::support::command::Running;
use crate::support::guest::Guest;
use crate::support::processes::is_alive;
use crate::support::wait::patiently;
use crate::support::{Lab, have, wait_for};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

/// The system calls at which a kill can make a difference: between two of them it finds the same.
const CALLS: &str = "sendto,write,openat,flock,rename,unlink,rmdir,execve,vfork,clone,clone3,ioctl";

/// A host with everything, from which each trial starts and to which it has to come back.
fn lab() -> Option<Lab> {
    let lab = Lab::with_everything()?;
    lab.baseline();
    Some(lab)
}

/// Whatever was killed, the host has its network: at once, and by no help of ours.
#[track_caller]
fn is_on_the_network(lab: &Lab, when: &str) {
    assert!(lab.lan.reaches("10.77.0.2"), "the host is lost {when}");
    assert!(lab.addresses("eth0").contains(&"10.77.0.2/24".to_owned()), "{when}");
    assert_eq!(lab.ip_json("route show default").as_array().map(Vec::len), Some(2), "{when}");
}

/// Tries the first step, the second one, and so on, until a trial says that there is none of that number any more. After
/// each the host is as it was, at once or soon. A sweep that finds fewer steps than there must be proves nothing.
#[track_caller]
fn sweep(lab: &Lab, stride: usize, at_least: usize, mut trial: impl FnMut(usize) -> bool) {
    let (mut step, mut steps) = (1, 0);
    while trial(step) {
        wait_for(&format!("a clean host after step {step}"), 15, || lab.is_as_before().then_some(()));
        assert!(step < 1000, "it never ends");
        step += stride;
        steps += 1;
    }
    assert!(steps >= at_least, "only {steps} steps");
    lab.becomes_as_before();
}

/// A bridge without guests, which nobody is left to take back but the next who comes.
fn leave_a_bridge(lab: &Lab) {
    let guest = lab.shim("--bridge br0").boot();
    lab.reaper_of("br0").kill();
    guest.kill();
    wait_for("its TAP to go", 5, || (lab.ports("br0") == ["kvbp-br0"]).then_some(()));
}

#[test]
fn the_shim_may_be_killed_at_every_system_call() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 1, 30, |nth| {
        let is_killed = lab.shim("--bridge br0").dies_at(CALLS, nth);
        is_on_the_network(&lab, &format!("after a kill at call {nth}"));
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn the_reaper_undoes_what_a_killed_shim_began() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    // Before the first request there is nothing to undo, and perhaps a file of the lock.
    sweep(&lab, 2, 5, |nth| {
        let is_killed = lab.shim("--bridge br0").dies_at("sendto", nth);
        if patiently(Duration::from_secs(8), || lab.is_as_before().then_some(())).is_none() {
            assert!(lab.network_difference().is_none(), "after send {nth}: {:?}", lab.network_difference());
            lab.kvm_bridge("recover").run().succeeds();
        }
        is_killed
    });
}

#[test]
fn the_next_start_completes_what_a_killed_start_began() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 1, 10, |nth| {
        let is_killed = lab.shim("--bridge br0").dies_at("sendto,write,rename,unlink,vfork,clone,clone3", nth);
        let mut guest = lab.shim("--bridge br0").then("arp:10.77.0.1,arp:10.77.0.2,hold").start();
        assert!(guest.qemu().answer("bridge0").is_some(), "the host answers after a kill at call {nth}");
        guest.kill();
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn recover_may_be_killed_at_every_step() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 1, 10, |nth| {
        leave_a_bridge(&lab);
        let is_killed = lab.kvm_bridge("recover").dies_at(CALLS, nth);
        is_on_the_network(&lab, &format!("after a kill at step {nth}"));
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn the_reaper_may_be_killed_at_every_step() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    sweep(&lab, 2, 5, |nth| {
        let guest = lab.shim("--bridge br0").boot();
        let reaper = lab.reaper_of("br0");
        let mut tracer = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={CALLS}")])
            .args(["-e", &format!("inject={CALLS}:signal=KILL:when={nth}"), "-p", &reaper.pid.to_string()])
            .spawn()
            .expect("start strace");
        wait_for("strace to be there", 10, || {
            // An event may have woken the reaper already, to its end.
            if !is_alive(reaper.pid) {
                return Some(());
            }
            let status = std::fs::read_to_string(format!("/proc/{}/status", reaper.pid)).ok()?;
            status.contains(&format!("TracerPid:\t{}\n", tracer.id())).then_some(())
        });
        guest.kill();
        wait_for("the tracer to end with the reaper", 30, || tracer.try_wait().expect("wait"));
        let is_killed = !lab.is_as_before();
        is_on_the_network(&lab, &format!("after a kill of the reaper at step {nth}"));
        lab.kvm_bridge("recover").run().succeeds();
        is_killed
    });
}

#[test]
fn each_request_to_the_kernel_may_be_refused() {
    let Some(lab) = lab() else { return };
    let mut needed = BTreeSet::new();
    sweep(&lab, 1, 15, |nth| {
        let ended = lab.shim("--bridge br0").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        assert!(ended.status.success() || ended.status.code() == Some(125), "request {nth}: {}", ended.err);
        let is_failed = ended.err.contains("fails");
        if ended.status.success() {
            lab.kvm_bridge("recover").run().succeeds();
        } else {
            // A sentence that says what is wrong, and a line that says what to do.
            let said: Vec<&str> = ended.err.lines().filter(|line| !line.contains("fails")).collect();
            assert!(said.len() >= 2 && said[1].starts_with("  "), "request {nth}: {}", ended.err);
            needed.extend(
                ended.err.split(['(', ')', ' ', ':']).filter(|word| word.starts_with("CONFIG_")).map(str::to_owned),
            );
            assert!(!ended.qemu_ran());
        }
        let left = patiently(Duration::from_secs(1), || lab.network_difference().is_none().then_some(()));
        assert!(
            left.is_some(),
            "request {nth} was refused, and not all was taken back: {:?}",
            lab.network_difference()
        );
        is_failed
    });
    for option in ["CONFIG_VETH", "CONFIG_BRIDGE", "CONFIG_NET_SCH_INGRESS", "CONFIG_NET_CLS_BPF", "CONFIG_NET_CLS_U32"]
    {
        assert!(needed.contains(option), "{option} is not among what is named: {needed:?}");
    }
}

#[test]
fn each_request_for_a_second_guest_may_be_refused() {
    let Some(lab) = host() else { return };
    let first = Guest::boot(&lab, 11);
    let before = (lab.ports("br0"), entries("eth0"));
    for nth in 1..200 {
        let ended = lab.shim("--bridge br0").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        assert!(ended.status.success() || ended.status.code() == Some(125), "request {nth}: {}", ended.err);
        wait_for("its rule and TAP to go", 10, || ((lab.ports("br0"), entries("eth0")) == before).then_some(()));
        if !ended.err.contains("fails") {
            assert!(nth > 3, "only {nth} requests");
            break;
        }
    }
    assert!(first.reaches("10.77.0.1") && first.reaches("10.77.0.2"));
}

#[test]
fn each_request_of_recover_may_be_refused_and_the_next_try_succeeds() {
    let Some(lab) = lab() else { return };
    sweep(&lab, 1, 6, |nth| {
        leave_a_bridge(&lab);
        let ended = lab.kvm_bridge("recover").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        let is_failed = ended.err.contains("fails");
        assert!(ended.status.success() || is_failed, "request {nth}: {}", ended.err);
        is_on_the_network(&lab, &format!("request {nth}: {}", ended.err));
        lab.kvm_bridge("recover").run().succeeds();
        is_failed
    });
}

#[test]
fn a_port_that_becomes_shared_may_be_refused_anything_and_the_next_try_finishes_it() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("link set eth0 down");
    lab.baseline();
    sweep(&lab, 1, 6, |nth| {
        let guest = lab.shim("--bridge br0,uplink=eth0").boot();
        lab.reaper_of("br0").kill();
        lab.ip("addr add 10.77.0.2/24 dev eth0 nodad");
        let ended = lab.kvm_bridge("recover").env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        let is_failed = ended.err.contains("fails");
        assert!(ended.status.success() || is_failed, "request {nth}: {}", ended.err);
        lab.kvm_bridge("recover").run().succeeds();
        let ports = lab.ports("br0");
        assert!(ports.contains(&"kvbp-br0".to_owned()) && !ports.contains(&"eth0".to_owned()), "{nth}: {ports:?}");
        assert!(lab.lan.reaches("10.77.0.2"), "the host is lost after request {nth}");
        guest.kill();
        lab.waits_until_gone("br0");
        lab.ip("addr flush dev eth0");
        lab.ip("link set eth0 down");
        is_failed
    });
}

#[test]
fn answers_of_the_kernel_may_be_lost() {
    let Some(lab) = lab() else { return };
    if !have("strace") {
        return;
    }
    let mut refused = 0;
    sweep(&lab, 1, 10, |nth| {
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
fn a_guest_that_starts_while_the_bridge_is_taken_back_is_on_the_network() {
    let Some(lab) = lab() else { return };
    for round in 0..6 {
        lab.shim("--bridge br0").run().succeeds();
        lab.is_taken_back("br0", round);
        let mut next = lab.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
        assert!(next.qemu().answer("bridge0").is_some());
        next.kill();
    }
    lab.becomes_as_before();
}

#[test]
fn of_those_that_want_the_same_uplink_one_has_it() {
    let Some(lab) = host() else { return };
    for _ in 0..5 {
        let mut guests: Vec<_> = ["br0", "br1", "br2"]
            .map(|bridge| lab.shim(&format!("--bridge {bridge},uplink=eth0 -name {bridge}")).then("hold").start())
            .into();
        wait_for("the two others to be refused", 30, || {
            (guests.iter_mut().map(|guest| usize::from(!guest.is_running())).sum::<usize>() == 2).then_some(())
        });
        let end = |mut guest: Running| match guest.is_running() {
            true => (guest.qemu().pid(), guest.kill()).1,
            false => guest.end(),
        };
        let ended: Vec<_> = guests.into_iter().map(end).collect();
        let winners = ended.iter().filter(|ended| ended.qemu_ran()).count();
        assert_eq!(winners, 1, "{:?}", ended.iter().map(|ended| &ended.err).collect::<Vec<_>>());
        lab.becomes_as_before();
    }
}

#[test]
fn a_kernel_that_cannot_mark_frames_is_told_so_before_anything_is_made() {
    let Some(lab) = lab() else { return };
    // Where the kernel has skbedit, it needs no program.
    let dry = lab.shim("--bridge-dry-run --bridge br0").run().succeeds().out;
    if !dry.contains("\nnft ") {
        return;
    }
    let line = "exec strace -f -qq -o /dev/null -e trace=bpf -e inject=bpf:error=ENOSYS";
    let shim = env!("CARGO_BIN_EXE_qemu-kvm");
    let ended = lab.sh(&format!("{line} {shim} --bridge br0")).run();
    assert_eq!(ended.status.code(), Some(125), "{}", ended.err);
    assert!(ended.err.contains("CONFIG_NET_ACT_SKBEDIT") && ended.err.contains("eBPF"), "{}", ended.err);
    lab.becomes_as_before();
}
