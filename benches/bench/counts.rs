//! What does not depend on the machine's mood: instructions, system calls, memory, wake-ups, sizes.

use super::host::Host;
use super::report::Report;
use super::timing::{Ready, start};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The system calls of a program until it executes another, as strace tells them (with `-s 0` it would tell no message).
fn calls(host: &Host, words: &str) -> Vec<String> {
    let file = host.lab.new_file("strace");
    let mut command = host.command("strace", &format!("-s 1 -o {} {} {words}", file.display(), host.shim.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("run strace").success(), "strace {words}");
    let trace = fs::read_to_string(&file).expect("read what strace wrote");
    let own = trace.lines().skip(1).take_while(|line| !line.starts_with("execve("));
    own.map(str::to_owned).collect()
}

/// Our own instructions in user space. What is executed is no program, so that callgrind sees our end: the words of that
/// error are counted too, always the same.
fn instructions(host: &Host, words: &str) -> u64 {
    let (file, no_program) = (host.lab.new_file("callgrind"), host.folder.join("no-program"));
    // A small one would be asked whether it is a wrapper, which a QEMU is not.
    let large = fs::File::create(&no_program).and_then(|file| file.set_len(1 << 26));
    large.expect("write what is no program");
    fs::set_permissions(&no_program, fs::Permissions::from_mode(0o755)).expect("set a mode");
    let tool = format!("-q --tool=callgrind --callgrind-out-file={} {} {words}", file.display(), host.shim.display());
    let mut command = host.command("valgrind", &tool);
    command.env("KVM_BRIDGE_QEMU", no_program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(command.status().expect("run valgrind").code(), Some(126), "{words}");
    let text = fs::read_to_string(&file).expect("read what callgrind wrote");
    let total = text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    total.and_then(|total| total.trim().parse().ok()).expect("a total")
}

pub fn of_pass_through(host: &Host, report: &mut Report) {
    let seen = calls(host, "-nographic");
    report.count("system calls, no bridge", seen.len(), "fewer than 60");
    report.count("instructions, no bridge", instructions(host, "-nographic"), "");
}

pub fn of_join(host: &Host, report: &mut Report, when: &str) {
    of_join_of(host, report, "--bridge br0 -name counted", when);
}

fn of_join_of(host: &Host, report: &mut Report, words: &str, when: &str) {
    // Once, so that the lease is there.
    start(host.shim(words)).end();
    let seen = calls(host, words);
    let dumps = seen.iter().filter(|call| call.contains("NLM_F_DUMP") || call.starts_with("getdents")).count();
    // Else there are no dumps because strace does not know one.
    assert!(seen.iter().any(|call| call.contains("RTM_GETLINK")), "strace does not tell netlink: {seen:?}");
    report.count(&format!("system calls, join, {when}"), seen.len(), "");
    report.count(&format!("dumps and listed folders, join, {when}"), dumps, "0");
    report.count(&format!("instructions, join, {when}"), instructions(host, words), "at most 1.1 of those at port 1");
}

/// Who stays while a guest runs, and what that costs.
pub fn of_reaper(host: &Host, report: &mut Report, seconds: u64, target: &Path) {
    let ours = |guest: &Ready| {
        let others = host.lab.processes().into_iter().filter(|one| one.pid != guest.pid() as i32);
        others.map(|one| one.pid).collect::<Vec<i32>>()
    };
    let guest = start(host.shim("--bridge br0 -name bench"));
    report.count("processes of ours beside a guest on a bridge that was there", ours(&guest).len(), "0");
    guest.end();
    // One of whose guest's addresses it is to tell: nobody asks for one, so that it goes on listening.
    // The program is a file on a disk, as where it is installed: of one in memory the kernel maps more at once.
    let installed = target.join("release/qemu-kvm");
    let guest = start(host.command(&installed, "--bridge made1,uplink=none,announce=on -name bench"));
    sleep(Duration::from_secs(3));
    let reapers = ours(&guest);
    report.count("processes of ours behind a bridge that we made", reapers.len(), "1");
    if let [reaper] = reapers[..] {
        report.count("its PSS, KiB", of_file(reaper, "smaps_rollup", "Pss:"), "at most 1024");
        report.count("of which its own (anonymous), KiB", of_file(reaper, "smaps_rollup", "Pss_Anon:"), "");
        let woken = || of_file(reaper, "status", "voluntary_ctxt_switches:");
        let before = woken();
        sleep(Duration::from_secs(seconds));
        report.count(&format!("its wake-ups in {seconds} quiet seconds"), woken() - before, "0");
    }
    // Another guest of a bridge of ours, which has a lock and a journal.
    of_join_of(host, report, "--bridge made1 -name counted", "a bridge of ours");
    guest.end();
    host.run(host.command(&host.kvm_bridge, "recover"));
    // Where systemd-networkd runs its files are read: one of them may be for TAPs too.
    networkd_is_there();
    of_join(host, report, "where systemd-networkd has three files");
}

/// As systemd-networkd leaves it on a usual host.
fn networkd_is_there() {
    for folder in ["/run/systemd/netif", "/run/systemd/network"] {
        fs::create_dir_all(folder).expect("make a folder");
    }
    for name in ["eth0", "en*", "wl*"] {
        let path = format!("/run/systemd/network/50-{}.network", name.trim_end_matches('*'));
        fs::write(path, format!("[Match]\nName={name}\n\n[Network]\nDHCP=yes\n")).expect("write a file");
    }
}

fn of_file(pid: i32, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(field)).expect("such a field");
    value.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sizes of what is installed, and the crates that each could have in it.
pub fn of_programs(target: &Path, report: &mut Report) {
    for (program, package, bound) in [
        ("qemu-kvm", "kvm-bridge", ""),
        ("kvm-bridge", "kvm-bridge", ""),
        ("kvm-bridge-helper", "kvm-bridge-helper", "under 500 KiB"),
    ] {
        let Ok(metadata) = fs::metadata(target.join("release").join(program)) else {
            report.count(&format!("{program}, KiB"), "not built", bound);
            continue;
        };
        report.count(&format!("{program}, KiB"), metadata.len().div_ceil(1024), bound);
        let tree = Command::new("cargo")
            .args(["tree", "--locked", "--offline", "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}"])
            .args(["--package", package])
            .output();
        let Some(tree) = tree.ok().filter(|tree| tree.status.success()) else { continue };
        let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
        let mut crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        crates.sort_unstable();
        crates.dedup();
        crates.retain(|name| *name != package);
        report.count(&format!("crates behind the package of {program}"), crates.len(), "");
        report.set("crates", program, serde_json::json!(crates));
    }
}
