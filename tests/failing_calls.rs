//! Whatever a system call answers, at any moment: what was begun can be ended or taken back, and nothing hangs.
//!
//! Each program is traced once, for the calls that it makes; then each of these is answered with each error, by strace. `make
//! check` tries a sample, another each day; `make check-sweeps` (KVM_BRIDGE_TEST_SWEEP=all) all of it, which takes most of an
//! hour. A kill at each call is in `sharing_kills`, `up_down` and `lives`.

use crate::support::command::{Cmd, Ended};
use crate::support::wait::patiently;
use crate::support::{Lab, have, wait_for};
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

const ERRORS: [&str; 6] = ["EIO", "ENOMEM", "ENOSPC", "EMFILE", "EPERM", "EINTR"];
/// What the C library and the kernel do at the start and the end of any program, and what can't fail or is not looked at.
const NOT_OURS: &str = "execve brk mmap munmap mprotect mremap madvise arch_prctl set_tid_address set_robust_list rseq \
                        prlimit64 rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack exit exit_group close getpid \
                        gettid geteuid getuid getegid getgid sched_getaffinity sched_yield futex";

/// The calls of a run, each with its number among those of its name, up to the execution of another program.
fn calls(log: &Path) -> Vec<(String, usize)> {
    let text = std::fs::read_to_string(log).expect("the trace");
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        if name == "execve" && *count > 1 {
            break;
        }
        if !NOT_OURS.split_whitespace().any(|other| other == name) {
            calls.push((name.to_owned(), *count));
        }
    }
    calls
}

/// Which of so many trials are made now: all, or about `sample` of them, others tomorrow.
fn is_chosen(number: usize, all: usize, sample: usize) -> bool {
    if std::env::var_os("KVM_BRIDGE_TEST_SWEEP").is_some_and(|wanted| wanted == "all") {
        return true;
    }
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs() / 86_400;
    let stride = all.div_ceil(sample).max(1);
    number % stride == day as usize % stride
}

/// Ends with a status of ours or of QEMU's, soon and without a panic.
#[track_caller]
fn ends_well(ended: &Ended, when: &str) {
    // The standard library gives up without random numbers, and where it can't look at descriptors 0 to 2 at the start: for
    // what is left that is a kill.
    let gives_up = when.contains(" getrandom ") || when.ends_with(" poll number 1");
    if gives_up && (ended.signal() == Some(Signal::SIGABRT as i32) || ended.err.contains("random data")) {
        return;
    }
    // It has come so far that QEMU runs, whose stand-in got the error.
    if ended.err.contains("support/fake_qemu.rs") {
        return;
    }
    assert!(!ended.err.contains("panicked"), "{when}: {}", ended.err);
    assert!(ended.status.code().is_some(), "{when}: {:?} {}", ended.status, ended.err);
    let code = ended.status.code().unwrap_or_default();
    if code != 0 && !ended.qemu_ran() {
        assert!(!ended.err.trim().is_empty(), "{when}: it says nothing, and ends with {code}");
    }
}

/// Answers each call of a program with each error. `before` leads to where it starts, `after` back from wherever it ended.
#[track_caller]
fn sweep(
    lab: &Lab,
    sample: usize,
    before: impl Fn(&Lab),
    program: impl Fn(&Lab) -> Cmd<'_>,
    after: impl Fn(&Lab, &str),
) {
    let log = lab.new_file("trace");
    before(lab);
    let trace = format!("strace -qq -o {}", log.display());
    program(lab).through(&trace).run();
    after(lab, "untouched");
    let calls = calls(&log);
    assert!(calls.len() > 10, "{calls:?}");
    let all = calls.len() * ERRORS.len();
    let trials = calls.iter().flat_map(|call| ERRORS.iter().map(move |error| (call, error)));
    for (_, ((name, nth), error)) in trials.enumerate().filter(|(number, _)| is_chosen(*number, all, sample)) {
        let when = format!("{error} at {name} number {nth}");
        before(lab);
        let inject = format!("strace -qq -o /dev/null -e trace={name} -e inject={name}:error={error}:when={nth}");
        let ended = program(lab).through(&inject).start().end_within(30);
        ends_well(&ended, &when);
        after(lab, &when);
    }
}

/// The host works at once, and after `recover` is as it was.
#[track_caller]
fn recovers(lab: &Lab, when: &str) {
    assert!(lab.lan.reaches("10.77.0.2"), "{when}: the host is lost");
    let recovered = lab.kvm_bridge("recover").run();
    assert!(recovered.status.success(), "{when}: {}{}", recovered.out, recovered.err);
    let is_clean = patiently(Duration::from_secs(15), || lab.is_as_before().then_some(()));
    assert!(is_clean.is_some(), "{when}: {:?}", lab.network_difference());
}

fn lab() -> Option<Lab> {
    let lab = Lab::with_address().filter(|_| have("strace"))?;
    lab.baseline();
    Some(lab)
}

#[test]
fn a_bridge_is_made_or_taken_back() {
    let Some(lab) = lab() else { return };
    sweep(&lab, 16, |_| (), |lab| lab.shim("--bridge br0 -name alice"), recovers);
}

#[test]
fn a_bridge_is_joined_or_left() {
    let Some(lab) = lab() else { return };
    let guest = lab.shim("--bridge br0 -name first").boot();
    sweep(
        &lab,
        12,
        |_| (),
        |lab| lab.shim("--bridge br0 -name alice"),
        |lab, when| {
            wait_for(&format!("its TAP to go ({when})"), 10, || {
                (lab.ports("br0").iter().filter(|port| port.starts_with("kvb")).count() == 2).then_some(())
            });
            assert!(lab.lan.reaches("10.77.0.2"), "{when}");
        },
    );
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn a_lasting_bridge_is_made_or_not_there() {
    let Some(lab) = lab() else { return };
    sweep(
        &lab,
        12,
        |_| (),
        |lab| lab.kvm_bridge("up br0 --tap tap0 --user root"),
        |lab, when| {
            let down = lab.kvm_bridge("down br0").run();
            assert!(down.status.success(), "{when}: {}{}", down.out, down.err);
            recovers(lab, when);
        },
    );
}

#[test]
fn a_lasting_bridge_is_removed_now_or_by_the_next_try() {
    let Some(lab) = lab() else { return };
    sweep(
        &lab,
        8,
        |lab| {
            lab.kvm_bridge("up br0").run().succeeds();
        },
        |lab| lab.kvm_bridge("down br0"),
        |lab, when| {
            let down = lab.kvm_bridge("down br0").run();
            assert!(down.status.success(), "{when}: {}{}", down.out, down.err);
            recovers(lab, when);
        },
    );
}

#[test]
fn what_a_kill_left_is_recovered_now_or_by_the_next_try() {
    let Some(lab) = lab() else { return };
    sweep(
        &lab,
        8,
        |lab| {
            let guest = lab.shim("--bridge br0").boot();
            lab.reaper_of("br0").kill();
            guest.kill();
            wait_for("its TAP to go", 5, || (lab.ports("br0") == ["kvbp-br0"]).then_some(()));
        },
        |lab| lab.kvm_bridge("recover"),
        recovers,
    );
}

#[test]
fn a_mac_is_kept_whole_or_as_it_was() {
    let Some(lab) = lab() else { return };
    let (old, new) = ("02:00:5e:00:00:01", "02:00:5e:00:00:02");
    sweep(
        &lab,
        8,
        |lab| {
            lab.kvm_bridge(&format!("mac set alice {old}")).run().succeeds();
        },
        |lab| lab.kvm_bridge(&format!("mac set alice {new}")),
        |lab, when| {
            let listed = lab.kvm_bridge("mac list").run().succeeds().out;
            assert!(listed.contains(old) != listed.contains(new), "{when}: {listed}");
            lab.kvm_bridge("mac forget alice").run().succeeds();
            let claims = std::fs::read_dir("/var/lib/kvm-bridge/macs").expect("the claims").count();
            assert_eq!(claims, 0, "{when}: claims are left");
        },
    );
}

#[test]
fn an_installation_is_whole_or_made_so_by_the_next_try() {
    let Some(lab) = crate::install::lab().filter(|_| have("strace")) else { return };
    let kvm_bridge = |words: &str| lab.program("/run/bin/kvm-bridge").words(&format!("install {words}"));
    // The folder of records stays, empty.
    let files = || {
        let mut files = crate::install::files();
        files.retain(|file| !file.starts_with("/var/lib/kvm-bridge 4"));
        files
    };
    let before = files();
    sweep(
        &lab,
        8,
        |_| (),
        |lab| lab.program("/run/bin/kvm-bridge").words("install --allow br0:alice"),
        |_, when| {
            // What it began is ended, and taken back.
            for words in ["--allow br0:alice", "--uninstall"] {
                let ended = kvm_bridge(words).run();
                assert!(ended.status.success(), "{when}: {words}: {}{}", ended.out, ended.err);
            }
            assert_eq!(files(), before, "{when}");
        },
    );
}

/// Starts a guest whose reaper is traced, ends the guest, and waits until the reaper has ended or has had its time.
fn with_a_traced_reaper(lab: &Lab, trace: &[&str]) {
    let guest = lab.shim("--bridge br0").boot();
    let reaper = lab.reaper_of("br0").pid;
    let mut tracer = std::process::Command::new("strace");
    let mut tracer = tracer.args(["-qq"]).args(trace).args(["-p", &reaper.to_string()]).spawn().expect("start strace");
    wait_for("strace to be there", 10, || {
        let status = std::fs::read_to_string(format!("/proc/{reaper}/status")).ok()?;
        status.contains(&format!("TracerPid:\t{}\n", tracer.id())).then_some(())
    });
    guest.kill();
    patiently(Duration::from_secs(10), || tracer.try_wait().expect("wait"));
    let _ = tracer.kill();
    let _ = tracer.wait();
}

#[test]
fn a_reaper_does_its_work_or_leaves_it_to_recover() {
    let Some(lab) = lab() else { return };
    let log = lab.new_file("trace");
    with_a_traced_reaper(&lab, &["-o", &log.display().to_string()]);
    recovers(&lab, "untouched");
    let calls = calls(&log);
    assert!(calls.len() > 10, "{calls:?}");
    let all = calls.len() * ERRORS.len();
    let trials = calls.iter().flat_map(|call| ERRORS.iter().map(move |error| (call, error)));
    for (_, ((name, nth), error)) in trials.enumerate().filter(|(number, _)| is_chosen(*number, all, 3)) {
        let inject = format!("inject={name}:error={error}:when={nth}");
        with_a_traced_reaper(&lab, &["-o", "/dev/null", "-e", &format!("trace={name}"), "-e", &inject]);
        recovers(&lab, &format!("{error} at {name} number {nth} of the reaper"));
    }
}
