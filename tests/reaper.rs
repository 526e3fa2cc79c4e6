//! The one process that stays behind, for the time that there is something to undo.

use crate::support::Lab;
use crate::support::processes::Process;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn there_is_one_reaper_for_each_bridge_that_we_made() {
    let Some(lab) = Lab::new() else { return };
    let _guests: Vec<_> = (0..4).map(|_| lab.shim("--bridge br0,uplink=none").boot()).collect();
    let _other = lab.shim("--bridge br1,uplink=none").boot();
    lab.reaper_of("br0");
    lab.reaper_of("br1");
    assert_eq!(lab.reapers().len(), 2);
}

#[test]
fn the_reaper_is_nobodys_child_and_has_a_session_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    let reaper = lab.reaper_of("br0");
    let stat = reaper.stat();
    assert_ne!(stat.parent, guest.pid());
    assert_ne!(stat.parent, std::process::id() as i32);
    let callers_session = Process { pid: std::process::id() as i32, command: String::new() }.stat().session;
    assert_ne!(stat.session, callers_session);
    assert_eq!(stat.terminal, 0);
}

#[test]
fn qemu_has_no_child() {
    let Some(lab) = Lab::new() else { return };
    let guest = lab.shim("--bridge br0,uplink=none").boot();
    let children: Vec<_> = lab.processes().into_iter().filter(|p| p.stat().parent == guest.pid()).collect();
    assert!(children.is_empty(), "{children:?}");
}

#[test]
fn without_a_reaper_no_guest_starts() {
    let Some(lab) = Lab::new() else { return };
    if !crate::support::have("strace") {
        return;
    }
    let no_exec = "strace -f -qq -o /dev/null -P /proc/self/exe -e trace=execve -e inject=execve:error=ENOMEM";
    let ended = lab.shim("--bridge br0,uplink=none").through(no_exec).run();
    assert!(!ended.qemu_ran(), "a guest runs on a bridge that nobody takes away");
    let err = ended.exits_with(125).err;
    assert!(err.contains("cannot start the process that tidies up"), "{err}");
}

#[test]
fn the_reaper_holds_neither_the_callers_descriptors_nor_the_tap() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none").through_sh(r#"exec "$0" "$@" 7</usr/bin/env"#).boot();
    let files = lab.reaper_of("br0").open_files();
    let own = lab.dir.path().display().to_string();
    for stranger in ["/dev/net/tun", "/usr/bin/env", "pipe:", "/dev/pts", "/dev/tty", &own] {
        assert!(!files.iter().any(|file| file.starts_with(stranger)), "{files:?}");
    }
}

#[test]
fn the_reaper_holds_no_folder() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none").boot();
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", lab.reaper_of("br0").pid)).expect("it runs");
    assert_eq!(cwd.to_string_lossy(), "/");
}

#[test]
fn a_caller_that_reads_our_output_to_its_end_does_not_wait_for_the_reaper() {
    let Some(lab) = Lab::new() else { return };
    let mut command = lab.shim("--bridge br0,uplink=none").into_command();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start the shim");
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("read it");
    child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("read it");
    assert!(child.wait().expect("its end").success());
    assert_eq!(lab.reapers().len(), 1, "it was there all the time");
}

#[test]
fn the_reaper_goes_within_a_few_seconds_of_the_last_guest() {
    let Some(lab) = Lab::new() else { return };
    lab.shim("--bridge br0,uplink=none").boot().terminate();
    lab.wait_at_most(Duration::from_secs(5));
    lab.becomes_as_before();
}

#[test]
fn the_reaper_ignores_the_hangup_of_the_callers_terminal() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none").boot();
    let reaper = lab.reaper_of("br0");
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(reaper.pid))).expect("it runs");
    assert_ne!(group, nix::unistd::getpgrp(), "a signal to the caller's process group does not reach it");
}

#[test]
fn the_reaper_sleeps_until_something_changes() {
    let Some(lab) = Lab::new() else { return };
    let _guest = lab.shim("--bridge br0,uplink=none").boot();
    let reaper = lab.reaper_of("br0");
    lab.reapers_rest();
    let before = reaper.ticks();
    assert!(lab.lan.reaches("10.77.0.1"));
    assert!(reaper.is_at_rest(), "frames are nothing that it hears of");
    assert!(reaper.ticks() - before <= 1, "it sleeps");
}
