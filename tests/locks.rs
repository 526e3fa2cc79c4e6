//! Locks: those that others may take keep nobody, and every wait says for whom it is.

use crate::support::processes::Process;
use crate::support::user::ALICE;
use crate::support::{Lab, have, wait_for};
use std::fs;
use std::path::Path;

/// A user can lock whatever she can open, and hold it for ever.
#[test]
fn locks_of_a_user_keep_nobody_waiting() {
    let Some(lab) = Lab::new().and_then(Lab::with_users) else { return };
    if !have("flock") {
        return;
    }
    lab.configure("");
    let _guest = lab.shim("--bridge br0,uplink=none").boot();
    let run = lab.run_dir();
    let mut open = Vec::new();
    for folder in [&run, Path::new("/run/kvm-bridge"), Path::new("/etc/kvm-bridge"), Path::new("/etc")] {
        let files = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
        open.extend(files.filter(|path| path.starts_with("/run/kvm-bridge") || path.starts_with("/etc/kvm-bridge")));
        open.push(folder.to_owned());
    }
    let lockers: Vec<_> = open
        .iter()
        .map(|path| lab.as_user(ALICE, "flock").arg(path).words("-c").arg("echo locked; exec sleep 300").start())
        .collect();
    let count = || lockers.iter().filter(|locker| locker.out().contains("locked")).count();
    wait_for("alice's locks on the four folders", 10, || (count() >= 4).then_some(()));

    lab.shim("--bridge br1,uplink=none").run().succeeds();
    lab.shim("--bridge br0 -name second").run().succeeds();
    lab.kvm_bridge("up br2 --uplink none --save").run().succeeds();
    lab.kvm_bridge("down br2").run().succeeds();
    lab.kvm_bridge("recover").run().succeeds();
    drop(lockers);
    lab.processes().iter().filter(|process| process.command == "sleep 300").for_each(Process::kill);
}

#[test]
fn who_waits_for_a_lock_says_who_has_it() {
    let Some(lab) = Lab::new() else { return };
    if !have("flock") {
        return;
    }
    let lock = lab.run_dir().join("br0.lock");
    fs::create_dir_all(lab.run_dir()).expect("make a folder");
    let holder = lab.program("flock").arg(&lock).words("-c").arg("echo locked; exec sleep 300").start();
    wait_for("the lock", 10, || holder.out().contains("locked").then_some(()));
    let waits = lab.shim("--bridge br0,uplink=none").start();
    wait_for("it to say so", 10, || waits.err().contains("waits for flock").then_some(()));
    let expected = format!("qemu-kvm: waits for flock (PID {}), which holds {}\n", holder.pid(), lock.display());
    holder.kill();
    lab.processes().iter().filter(|process| process.command == "sleep 300").for_each(Process::kill);
    assert_eq!(waits.end().succeeds().err, expected);
}
