//! What a user without rights does to have root's commands wait, refuse, believe or write: each way was found by trying.

use crate::support::command::{Cmd, fake_qemu};
use crate::support::user::{ALICE, BOB, Right};
use crate::support::wait::patiently;
use crate::support::{Lab, have, wait_for};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// The system calls of a command, by strace.
fn traced(lab: &Lab, words: &str, calls: &str) -> String {
    let log = lab.new_file("trace");
    lab.kvm_bridge(words).through(&format!("strace -f -qq -y -e trace={calls} -o {}", log.display())).run();
    fs::read_to_string(&log).expect("the trace")
}

/// Whoever reads the fdinfo of an epoll waits for its owner: of other processes' descriptors, those of TAPs alone are read.
#[test]
fn no_other_descriptor_than_a_taps_is_looked_into() {
    let Some(lab) = Lab::new().filter(|_| have("strace") && have("python3")) else { return };
    lab.kvm_bridge("up lab --uplink none --tap tap0 --user root").run().succeeds();
    let script = "import select, time; e = select.epoll(); print('ready', flush=True); time.sleep(60)";
    let epoll = lab.program("python3").words("-c").arg(script).start();
    wait_for("its epoll", 10, || epoll.out().contains("ready").then_some(()));
    let guest = lab.shim("--bridge lab,ifname=tap0").boot();
    let trace = traced(&lab, "down lab", "openat");
    assert!(trace.contains(&format!("/proc/{}/fdinfo/", guest.pid())), "{trace}");
    assert!(!trace.contains(&format!("/proc/{}/fdinfo", epoll.pid())), "{trace}");
    epoll.kill();
    guest.kill();
    lab.kvm_bridge("down lab").run().succeeds();
    lab.becomes_as_before();
}

/// The way to a disk can be a user's, who keeps whoever goes it: no lock is held meanwhile.
#[test]
fn the_way_to_a_disk_is_gone_before_any_lock_is_held() {
    let Some(lab) = Lab::new().filter(|_| have("strace")) else { return };
    let disk = lab.new_file("disk.img");
    fs::write(&disk, "disk").expect("write a disk");
    let log = lab.new_file("trace");
    for _ in 0..2 {
        let strace = format!("strace -qq -y -e trace=file,flock -o {}", log.display());
        let line = format!("--bridge br0,uplink=none -hda {}", disk.display());
        lab.shim(&line).through(&strace).run().succeeds();
        let trace = fs::read_to_string(&log).expect("the trace");
        let name = disk.file_name().expect("a name").to_str().expect("UTF-8");
        let begins = trace.lines().position(|line| line.starts_with("flock(")).expect("a lock");
        let ours = trace.lines().skip(begins).take_while(|line| !line.starts_with("execve("));
        let on_the_way: Vec<&str> = ours.filter(|line| line.contains(&format!("/{name}\""))).collect();
        assert!(on_the_way.is_empty(), "{on_the_way:#?}");
    }
}

/// With the user's own ID in one of its threads, root's process would be theirs to stop and to end.
#[test]
fn doctor_that_looks_as_a_user_does_not_become_a_process_of_theirs() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users).filter(|_| have("strace")) else { return };
    lab.allow("allow br0\n");
    let trace = traced(&lab, "doctor --quick --user alice", "setresuid,setreuid,setuid,setfsuid");
    assert!(trace.contains("setfsuid("), "{trace}");
    assert!(!["setresuid(", "setreuid(", "setuid("].iter().any(|call| trace.contains(call)), "{trace}");
}

/// On a bridge without an uplink every router is a guest.
#[test]
fn no_guest_is_the_hosts_router() {
    let Some(lab) = Lab::new() else { return };
    let setting = Path::new("/proc/sys/net/ipv6/conf/lab/accept_ra");
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return;
    }
    let guest = lab.shim("--bridge lab,uplink=none").boot();
    assert_eq!(fs::read_to_string(setting).expect("the setting").trim(), "0");
    guest.kill();
    lab.becomes_as_before();
}

/// Who may open a TAP can give it away.
#[test]
fn a_tap_that_its_user_gave_away_keeps_no_other_from_being_made() {
    let Some(lab) = Lab::new().and_then(Lab::with_users) else { return };
    lab.configure("[bridge.lab]\nuplink = \"none\"\ntaps = { tap0 = \"root\", tap1 = \"bob\" }\n");
    lab.ip("tuntap add dev tap0 mode tap user alice");
    let done = lab.kvm_bridge("up lab").run().succeeds();
    assert!(done.err.contains("tap0 is there and belongs to"), "{}", done.err);
    assert!(lab.ports("lab").contains(&"tap1".to_owned()));
    // Named on the command line it is refused, before anything is made.
    lab.kvm_bridge("down lab").run().succeeds();
    lab.configure("");
    lab.kvm_bridge("up lab --uplink none --tap tap0 --user root").run().exits_with(125);
    assert!(lab.link("lab").is_none());
    lab.ip("link del tap0");
    lab.ends_here();
}

/// QEMU holds a slot by its lock, and may have been broken out of.
#[test]
fn what_qemu_inherits_of_a_slot_cannot_be_written() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    guest.qemu();
    let descriptors = fs::read_dir(format!("/proc/{}/fd", guest.pid())).expect("its descriptors").flatten();
    let is_slot = |path: &Path| fs::read_link(path).is_ok_and(|file| file.to_string_lossy().contains("/vms/"));
    let slots: Vec<_> = descriptors.map(|entry| entry.path()).filter(|path| is_slot(path)).collect();
    assert_eq!(slots.len(), 1, "{slots:?}");
    let number = slots[0].file_name().expect("a number").to_string_lossy().into_owned();
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", guest.pid())).expect("its fdinfo");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t")).expect("flags");
    assert_eq!(i32::from_str_radix(flags.trim(), 8).expect("octal") & libc::O_ACCMODE, libc::O_RDONLY, "{info}");
    // It is held all the same.
    let second = lab.shim("--bridge br0 -name alice").run().succeeds();
    assert!(lab.kvm_bridge("mac list").run().out.lines().count() > 2, "{}", second.err);
    drop(guest);
}

/// Anybody can call a process like a reaper.
#[test]
fn a_process_that_is_called_like_a_reaper_is_none() {
    let Some(lab) = Lab::with_address() else { return };
    lab.kvm_bridge("up br0").run().succeeds();
    lab.reaper_of("br0").kill();
    let script = "exec -a kvm-bridge-reaper sleep 30 br0";
    let liar = lab.program("bash").words("-c").arg(script).start();
    let found = lab.kvm_bridge("doctor br0 --quick").run();
    assert!(found.out.contains("br0 was created by kvm-bridge, and its reaper was killed"), "{}", found.out);
    liar.kill();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

/// To open a device can be an order to it, and a terminal becomes that of who opens it.
#[test]
fn a_guests_kernel_is_opened_only_if_it_is_a_file() {
    let Some(lab) = Lab::with_bridge("br0").filter(|_| have("strace")) else { return };
    let words = "--bridge br0 -name alice -kernel /dev/ptmx";
    let guest = lab.shim(words).boot();
    let trace = traced(&lab, "doctor br0 --watch 1", "openat");
    let opened: Vec<&str> = trace.lines().filter(|line| line.contains("/dev/ptmx\"")).collect();
    assert!(!opened.is_empty() && opened.iter().all(|line| line.contains("O_PATH")), "{opened:#?}");
    guest.kill();
}

/// A guest that root calls alice is not what another user calls so.
#[test]
fn a_name_that_a_user_gives_leads_root_nowhere() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users).filter(|_| have("qemu-system-x86_64")) else {
        return;
    };
    lab.ip("tuntap add dev tap7 mode tap user alice");
    lab.ip("link set dev tap7 master br0 up");
    let words = "-accel tcg -display none -S -name alice -netdev tap,id=n,ifname=tap7,script=no,downscript=no \
                 -device e1000,netdev=n,mac=02:00:00:00:00:07";
    let hers = lab.as_user(ALICE, "/usr/bin/qemu-system-x86_64").words(words).start();
    let mac = "02:00:00:00:00:07";
    wait_for("her guest", 20, || lab.kvm_bridge("status br0").run().out.contains(mac).then_some(()));
    lab.ip(&format!("neigh add 10.66.6.6 lladdr {mac} dev br0"));
    let refused = lab.kvm_bridge("ip alice --first").run().exits_with(125);
    assert!(refused.out.is_empty() && refused.err.contains("kvm-bridge ip tap7"), "{}", refused.err);
    assert_eq!(lab.kvm_bridge("ip tap7").run().succeeds().out, "10.66.6.6\n");
    // And keeps root from none of root's own.
    let mut roots = lab.shim("--bridge br0 -name alice").boot();
    let mac = roots.qemu().macs()[0].clone();
    lab.ip(&format!("neigh add 10.77.0.60 lladdr {mac} dev br0"));
    assert_eq!(lab.kvm_bridge("ip alice").run().succeeds().out, "10.77.0.60\n");
    roots.kill();
    hers.kill();
    lab.ip("link del tap7");
    lab.ends_here();
}

/// JSON at a terminal is text, too.
#[test]
fn json_commands_no_terminal() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let guest = lab.shim("--bridge br0 -name").arg("a\u{9b}31m\u{202e}b").boot();
    let text = lab.kvm_bridge("status br0 --json").run().succeeds().out;
    assert!(text.contains(r"a\u009b31m\u202eb"), "{text}");
    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(read.to_string().contains("a\u{9b}31m\u{202e}b"), "{read}");
    guest.kill();
}

/// Root's completions keep nothing in, and believe nothing of, a folder that HOME names.
#[test]
fn roots_completions_have_a_cache_of_roots() {
    let Some(lab) = Lab::new() else { return };
    let home = lab.new_file("home");
    fs::create_dir(&home).expect("make a folder");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).expect("open it");
    lab.program(env!("CARGO_BIN_EXE_kvm-bridge"))
        .words("complete --shell bash --index 2 -- qemu-kvm -device e10")
        .env("HOME", home.to_str().expect("UTF-8"))
        .env("KVM_BRIDGE_QEMU", crate::support::real::QEMU)
        .run();
    assert_eq!(fs::read_dir(&home).expect("the folder").count(), 0);
}

/// A user's process can keep whoever reads its command line: that is not waited for.
#[test]
fn a_large_command_line_is_read_in_part() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let word = "x".repeat(100_000);
    let guest = lab.shim("--bridge br0 -name alice").arg("-append").arg(&word).arg("-append").arg(&word).boot();
    assert!(lab.kvm_bridge("status br0").start().end_within(20).succeeds().out.contains("alice"));
    let cmdline = fs::metadata(format!("/proc/{}/cmdline", guest.pid())).expect("its command line");
    assert_eq!(cmdline.uid(), 0);
    guest.kill();
}

/// A link's own news are heard at a pace: whose TAP it is can make as many as they like.
#[test]
fn a_tap_that_changes_all_the_time_keeps_no_reaper_busy() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = lab.shim("--bridge br0 -name alice").boot();
    let reaper = wait_for("the reaper", 5, || lab.reapers().pop());
    lab.ip("tuntap add dev noise mode tap");
    let before = reaper.ticks();
    let batch: String = (0..50).map(|number| format!("link set dev noise mtu {}\n", 1400 + number)).collect();
    let file = lab.new_file("batch");
    fs::write(&file, batch).expect("write the batch");
    const CHANGES: usize = 20_000;
    for _ in 0..CHANGES / 50 {
        lab.ip(&format!("-batch {}", file.display()));
    }
    let ticks = reaper.ticks() - before;
    assert!(ticks < 100, "the reaper was busy for {ticks} hundredths of a second, for {CHANGES} changes");
    lab.ip("link del noise");
    guest.kill();
    lab.becomes_as_before();
}

/// Users' TAPs come and go as they like.
#[test]
fn taps_that_come_and_go_keep_no_bridge() {
    let Some(lab) = Lab::new() else { return };
    lab.kvm_bridge("up lab --uplink none").run().succeeds();
    let churn = "for i in $(seq 2000); do ip tuntap add dev churn0 mode tap && ip link set dev churn0 master lab up; \
                 ip link del churn0; done 2>/dev/null";
    let churning = lab.program("sh").words("-c").arg(churn).start();
    patiently(Duration::from_secs(10), || lab.link("churn0").map(|_| ()));
    lab.kvm_bridge("down lab --force").start().end_within(30).succeeds();
    assert!(lab.link("lab").is_none());
    churning.kill();
    // What it was about to do when it was killed may still come to an end.
    lab.sh("ip link del churn0").run();
    lab.ends_here();
}

/// An address can be claimed by anybody who has a TAP.
#[test]
fn a_guest_that_several_users_can_have_is_not_guessed() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users).filter(|_| have("qemu-system-x86_64")) else {
        return;
    };
    let start = |tap: &str, user: &str, by: &str| {
        lab.ip(&format!("tuntap add dev {tap} mode tap user {user}"));
        lab.ip(&format!("link set dev {tap} master br0 up"));
        let words = format!(
            "-accel tcg -display none -S -name twin -netdev tap,id=n,ifname={tap},script=no,downscript=no -device \
             e1000,netdev=n"
        );
        lab.as_user(by, "/usr/bin/qemu-system-x86_64").words(&words).start()
    };
    let guests = [start("tap7", "alice", ALICE), start("tap8", "bob", BOB)];
    wait_for("both", 20, || (lab.kvm_bridge("status br0").run().out.matches("twin").count() == 2).then_some(()));
    let refused = lab.kvm_bridge("ip twin").run().exits_with(125);
    assert!(refused.out.is_empty() && refused.err.contains("kvm-bridge ip tap7"), "{}", refused.err);
    guests.into_iter().for_each(|guest| drop(guest.kill()));
    lab.ip("link del tap7");
    lab.ip("link del tap8");
    lab.ends_here();
}

/// Of the same name anybody can have a TAP in a network namespace of their own, and bring it here.
#[test]
fn a_tap_of_another_namespace_is_no_guest_here() {
    let Some(lab) = Lab::new().filter(|_| have("python3")) else { return };
    lab.kvm_bridge("up lab --uplink none --tap tap0 --user root").run().succeeds();
    let script = "import ctypes, fcntl, os, socket, struct, time
ours, theirs = socket.socketpair()
if os.fork() == 0:
    assert ctypes.CDLL(None).unshare(0x40000000) == 0
    tun = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'tap0', 0x1002))
    ours.close()
    socket.send_fds(theirs, [b'x'], [tun])
    theirs.recv(1)
    os._exit(0)
theirs.close()
tun = socket.recv_fds(ours, 1, 1)[1]
print('ready', flush=True)
time.sleep(60)
";
    let liar = lab.program("python3").words("-c").arg(script).start();
    wait_for("its TAP", 10, || liar.out().contains("ready").then_some(()));
    let shown = lab.kvm_bridge("status lab").run().succeeds().out;
    assert!(shown.contains("not in use") && !shown.contains("python3"), "{shown}");
    lab.kvm_bridge("down lab").run().succeeds();
    liar.kill();
    lab.becomes_as_before();
}

/// How many processes there are, and how many descriptors each has, users decide: nobody waits for the end of that, least of all
/// with a lock.
#[test]
fn processes_without_number_keep_nobody() {
    let Some(lab) = Lab::new().and_then(Lab::with_users).filter(|_| have("python3") && have("strace")) else { return };
    lab.kvm_bridge("up lab --uplink none --tap tap0 --user alice").run().succeeds();
    let script = "import fcntl, os, resource, struct, time
most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 10000)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
file = os.open('/run/alice/tun', os.O_RDWR | os.O_CREAT)
ends, end = os.pipe()
for number in range(end + 1, most - 1): os.dup2(file, number)
for _ in range(2000000 // most):
    if os.fork() == 0:
        os.close(end)
        os.read(ends, 1)
        os._exit(0)
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'tap0', 0x1002))
print('ready', flush=True)
time.sleep(300)
";
    let bomb = lab.as_user(ALICE, "python3").words("-c").arg(script).start();
    wait_for("all processes", 60, || bomb.out().contains("ready").then_some(()));
    let status = lab.kvm_bridge("status lab").start().end_within(30).succeeds();
    let why = "not found out: looking at processes took too long";
    assert!(status.out.contains("not found out") && status.err.contains(why), "{}{}", status.out, status.err);
    let refused = lab.shim("--bridge lab,ifname=tap0").start().end_within(30).exits_with(125);
    assert!(refused.err.contains("tap0 is in use") && refused.err.contains(why), "{}", refused.err);
    let log = lab.new_file("trace");
    let strace = format!("strace -f -qq -e trace=openat,flock -o {}", log.display());
    let refused = lab.kvm_bridge("down lab").through(&strace).start().end_within(60).exits_with(1);
    assert!(refused.err.contains(&format!("tap0: {why}")), "{}", refused.err);
    let trace = fs::read_to_string(&log).expect("the trace");
    let (pid, _) = trace.split_once(' ').expect("a PID");
    let own: Vec<&str> = trace.lines().filter(|line| line.starts_with(pid)).collect();
    assert!(own.iter().any(|line| line.contains("flock(")), "{own:#?}");
    assert!(!own.iter().any(|line| line.contains("/fd\"")), "{own:#?}");
    bomb.kill();
    wait_for("the end of all", 60, || lab.processes().iter().all(|it| !it.command.contains("RLIMIT")).then_some(()));
    lab.kvm_bridge("down lab").run().succeeds();
    lab.becomes_as_before();
}

/// Anybody can have locks without number, and the kernel lists those of all.
#[test]
fn whether_a_reaper_runs_is_asked_of_its_lock_alone() {
    let Some(lab) = Lab::with_address().filter(|_| have("strace")) else { return };
    lab.kvm_bridge("up br0").run().succeeds();
    let trace = traced(&lab, "status br0", "openat,fcntl");
    assert!(trace.contains("F_OFD_GETLK") && !trace.contains("/proc/locks"), "{trace}");
    lab.reaper_of("br0").kill();
    let status = lab.kvm_bridge("status br0").run().exits_with(1);
    assert!(status.out.contains("its reaper does not run"), "{}", status.out);
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

/// A guest of alice's on a TAP of the helper's, which is its standard input.
fn hers<'a>(lab: &'a Lab, program: &Path, name: &str) -> Cmd<'a> {
    let helper = lab.our_helper();
    let tap = lab.call(&helper, "--fd=0 --br=br0").gives_a_tap();
    let words = "-netdev tap,id=n,fd=0 -device e1000,netdev=n,mac=02:00:00:00:00:66 -kernel vmlinuz -name";
    lab.as_user(ALICE, program).words(words).arg(name).stdin(tap).then("hold")
}

/// Whoever starts a setuid program chooses its words and its name.
#[test]
fn a_setuid_program_is_no_guest_of_roots() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users).filter(|_| have("strace")) else { return };
    lab.allow("allow br0\n");
    let program = lab.install(&fake_qemu(), Right::Setuid);
    let guest = hers(&lab, &program, "payroll").start();
    let status = wait_for("her guest", 10, || {
        let status = lab.kvm_bridge("status br0").run().out;
        status.contains("payroll").then_some(status)
    });
    let ids = fs::read_to_string(format!("/proc/{}/status", guest.pid())).expect("its status");
    assert!(ids.contains("Uid:\t1000\t0\t0\t0\n"), "{ids}");
    assert!(status.contains("alice") && !status.contains("root"), "{status}");
    lab.ip("neigh add 10.66.6.6 lladdr 02:00:00:00:00:66 dev br0");
    let refused = lab.kvm_bridge("ip payroll --first").run().exits_with(125);
    assert!(refused.out.is_empty() && refused.err.contains("what alice calls a guest"), "{}", refused.err);
    lab.ip("neigh del 10.66.6.6 dev br0");
    let trace = traced(&lab, "doctor br0 --watch 1", "file");
    assert!(!trace.contains("vmlinuz"), "{trace}");
    guest.kill();
    lab.ends_here();
}

/// What gets the right to change the network is root's own, or of who has built all of it.
#[test]
fn no_helper_that_a_user_can_write_gets_its_right() {
    let Some(lab) = crate::install::lab() else { return };
    let copy = Path::new("/usr/local/libexec/kvm-bridge-helper");
    let install = || lab.program("/run/bin/kvm-bridge").words("install").run();
    let give = |path: &str, uid| std::os::unix::fs::chown(path, Some(uid), None).expect("give it away");
    let is_refused = |part: &str| {
        let refused = install().exits_with(125);
        assert!(refused.err.contains(&format!("others than root can write to {part}, ")), "{}", refused.err);
        assert!(!copy.exists());
    };
    let helper = "/run/bin/kvm-bridge-helper";
    if crate::helper_attacked::alice_may_write_by_an_acl("/run/bin") {
        is_refused("/run/bin");
        fs::set_permissions("/run/bin", fs::Permissions::from_mode(0o755)).expect("close it");
    }
    give(helper, 1000);
    is_refused(helper);
    give("/run/bin/kvm-bridge", 1000);
    install().succeeds();
    assert!(copy.exists());
    lab.program("/run/bin/kvm-bridge").words("install --uninstall").run().succeeds();
}

/// Anybody can call a process QEMU, and say that it has a card.
#[test]
fn strangers_change_no_result_of_doctors() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users).filter(|_| have("python3")) else { return };
    let mac = || {
        let checks: serde_json::Value =
            serde_json::from_str(&lab.kvm_bridge("doctor br0 --quick --json").run().out).expect("JSON");
        let is_mac = |check: &&serde_json::Value| check["name"] == "mac";
        checks["checks"].as_array().expect("a list").iter().filter(is_mac).cloned().collect::<Vec<_>>()
    };
    let before = mac();
    assert!(!before.is_empty());
    let script =
        "import ctypes, time\nctypes.CDLL(None).prctl(15, b'qemu-kvm')\nprint('ready', flush=True)\ntime.sleep(60)";
    let start = || {
        let python = lab.as_user(ALICE, "python3").words("-c").arg(script);
        python.words("-netdev tap,id=n -device e1000,netdev=n").start()
    };
    let strangers = [start(), start()];
    wait_for("both", 10, || strangers.iter().all(|it| it.out().contains("ready")).then_some(()));
    assert_eq!(mac(), before);
    strangers.into_iter().for_each(|stranger| drop(stranger.kill()));
}

/// What others call their guests takes no more of a table than a name needs, and looks like no other column.
#[test]
fn a_name_stays_in_its_column() {
    let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
    lab.allow("allow br0\n");
    let program = lab.install(&fake_qemu(), Right::None);
    let long = "x".repeat(100_000);
    let odd = "y\u{2067}z\u{e0041}\u{3164}\u{ad}\u{fff9} kvb9  root ";
    let guests = [hers(&lab, &program, &long).start(), hers(&lab, &program, odd).start()];
    let status = wait_for("her guests", 10, || {
        let status = lab.kvm_bridge("status br0").run().succeeds().out;
        (status.contains("xxx") && status.contains("kvb9")).then_some(status)
    });
    assert!(status.lines().all(|line| line.chars().count() < 300), "{}", status.len());
    assert!(status.contains(&format!("  {}…  ", "x".repeat(63))), "{status}");
    assert!(!status.contains("kvb9  root") && !status.chars().any(|c| odd.contains(c) && !c.is_ascii()), "{status}");
    let json: serde_json::Value = serde_json::from_str(&lab.kvm_bridge("status br0 --json").run().out).expect("JSON");
    let names: Vec<&str> =
        json["bridges"][0]["ports"].as_array().expect("a list").iter().filter_map(|port| port["vm"].as_str()).collect();
    assert!(names.contains(&odd) && names.iter().any(|name| (1000..=4096).contains(&name.len())), "{}", names.len());
    guests.into_iter().for_each(|guest| drop(guest.kill()));
    lab.ends_here();
}
