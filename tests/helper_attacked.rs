//! The helper, called by somebody who means harm: each class of hole that such programs have had is tried.

use crate::support::command::Running;
use crate::support::processes::Process;
use crate::support::user::{ALICE, BOB, Helper, QEMUS, Right, receive, socket_pair};
use crate::support::{Lab, have, record, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::SockType;
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A host with br0, which alice may use, and our helper.
fn lab() -> Option<(Lab, Helper)> {
    let lab = Lab::with_bridge("br0").and_then(Lab::with_users)?;
    let helper = lab.our_helper();
    lab.allow("allow br0\n");
    Some((lab, helper))
}

const WORDS: &str = "--use-vnet --fd=0 --br=br0";

// The command line and what is open.

#[test]
fn a_longer_name_is_not_cut_to_one_that_is_allowed() {
    // CVE-2019-13164.
    let Some((lab, helper)) = lab() else { return };
    lab.add_bridge("fifteen-bytes-x");
    for rules in ["allow fifteen-bytes-x\n", "allow all\ndeny fifteen-bytes-x\n", "allow fifteen-bytes-xy\n"] {
        lab.allow(rules);
        lab.call(&helper, "--fd=0 --br=fifteen-bytes-xy").refusal();
    }
}

#[test]
fn another_name_of_a_bridge_evades_no_rule() {
    let Some((lab, helper)) = lab() else { return };
    lab.ip("link property add dev br0 altname office");
    lab.allow("allow all\ndeny br0\n");
    let said = lab.call(&helper, "--fd=0 --br=office").refusal();
    assert!(said.contains("another name of br0"), "{said}");
}

#[test]
fn no_path_is_taken_from_the_caller() {
    // CVE-2018-6556, CVE-2022-47952: errors told what is there.
    let Some((lab, helper)) = lab() else { return };
    let said = |path: &str| lab.call(&helper, &format!("--fd=0 --br={path}")).refusal().replace(path, "PATH");
    assert_eq!(said("/root/.bashrc"), said("/root/missing"));
    assert_eq!(said("/etc/shadow"), said("/etc/shadowx"));
    for words in ["--acl=/etc/shadow --fd=0 --br=br0", "--config /etc/shadow --fd=0 --br=br0"] {
        assert!(lab.call(&helper, words).refusal().contains("Usage"));
    }
}

#[test]
fn names_of_any_bytes_are_refused_without_a_byte_for_the_terminal() {
    let Some((lab, helper)) = lab() else { return };
    lab.allow("allow all\n");
    for name in [&b"\x1b[2Jx"[..], b"br0\xff", b"br\n0", b"\xc3\x28", b"br0\x7f", b"%s%n", b"\xa0"] {
        let word = record::bytes(&[b"--br=", name].concat());
        let said = lab.call_by(lab.as_user(ALICE, &helper.path).arg(word).words("--fd=0")).refusal();
        assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said:?}");
    }
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let Some((lab, helper)) = lab() else { return };
    for (script, fd) in [
        (r#"exec "$0" "$@" </dev/null"#, "0"),
        (r#"exec "$0" "$@" <&-"#, "0"),
        (r#"exec "$0" "$@" 5<&-"#, "5"),
        (r#"exec "$0" "$@" 5</etc/passwd"#, "5"),
        (r#"exec "$0" "$@" </dev/null"#, "1"),
        (r#"exec "$0" "$@" </dev/null"#, "2147483647"),
        (r#"exec "$0" "$@" </dev/null"#, "2147483648"),
        (r#"exec "$0" "$@" </dev/null"#, "-1"),
        (r#"exec "$0" "$@" </dev/null"#, "18446744073709551616"),
    ] {
        let words = format!("--br=br0 --fd={fd}");
        lab.call_by(lab.as_user(ALICE, &helper.path).words(&words).through_sh(script)).refusal();
    }
    // One of another kind carries no descriptors.
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    lab.as_user(ALICE, &helper.path).words("--br=br0 --fd=0").stdin(OwnedFd::from(tcp)).run().exits_with(1);
    lab.becomes_as_before();
}

#[test]
fn closed_standard_files_are_no_place_for_the_tap() {
    let Some((lab, helper)) = lab() else { return };
    for closed in ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-", ">&-"] {
        let script = format!(r#"exec "$0" "$@" 5<&0 {closed}"#);
        let (ours, theirs) = socket_pair(SockType::Stream);
        let cmd = lab.as_user(ALICE, &helper.path).words("--br=br0 --fd=5").through_sh(&script);
        cmd.stdin(theirs).run().succeeds();
        assert_eq!(receive(&ours).descriptors.len(), 1, "{closed}");
    }
}

/// A helper that waits to send, because nobody reads from its socket, which is full: all that it has is to be seen.
fn stopped_at_the_end<'lab>(lab: &'lab Lab, helper: &Helper, script: &str) -> (Running<'lab>, OwnedFd) {
    let (ours, theirs) = socket_pair(SockType::Stream);
    let mut writer = std::os::unix::net::UnixStream::from(theirs.try_clone().expect("a copy"));
    writer.set_nonblocking(true).expect("not to wait");
    while writer.write(&[1; 4096]).is_ok() {}
    while writer.write(&[1]).is_ok() {}
    writer.set_nonblocking(false).expect("to wait");
    let running = lab.as_user(ALICE, &helper.path).words("--br=br0 --fd=9").through_sh(script).stdin(theirs).start();
    let path = format!("/proc/{}/syscall", running.pid());
    wait_for("the helper to send", 10, || {
        // The number of sendmsg, which differs from machine to machine.
        let call = fs::read_to_string(&path).ok()?;
        call.starts_with(&format!("{} ", nix::libc::SYS_sendmsg)).then_some(())
    });
    (running, ours)
}

#[test]
fn stray_descriptors_are_closed_and_every_right_is_given_up() {
    // CVE-2016-8649.
    for right in [Right::Capability, Right::Setuid] {
        let Some((lab, _)) = lab() else { return };
        let helper = lab.install_helper(&crate::support::user::our_helper(), true, right);
        let script = r#"exec "$0" "$@" 9<&0 </dev/null 3</etc/passwd 4>&1 7</ 8<&9"#;
        let (running, _socket) = stopped_at_the_end(&lab, &helper, script);
        let process = lab.processes().into_iter().find(|process| process.pid == running.pid()).expect("it runs");
        let mut files = process.open_files();
        files.retain(|file| !file.starts_with("socket:") && file != "/dev/net/tun" && file != "/dev/null");
        assert!(files.iter().all(|file| file.ends_with(".out") || file.ends_with(".err")), "{files:?}");
        assert_eq!(process.open_files().len(), 5, "{:?}", process.open_files());
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("its status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.expect("a field").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(field("Uid"), ["1000"; 4]);
        assert_eq!(field("Gid"), ["1000"; 4]);
        assert_eq!(field("Groups"), ["104", "1000"]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(set), ["0000000000000000"], "{set}");
        }
        assert_eq!(field("NoNewPrivs"), ["1"]);
        running.kill();
        lab.becomes_as_before();
    }
}

#[test]
fn the_helpers_caller_can_neither_trace_it_nor_look_into_it() {
    let Some((lab, helper)) = lab() else { return };
    if !have("strace") {
        return;
    }
    // Traced from its start it has no right at all.
    let traced = lab.program(&helper.path).words(WORDS).through("strace -o /dev/null");
    let said = lab.call_by(traced.through(&format!("setpriv {ALICE}"))).refusal();
    assert!(said.contains("debugger"), "{said}");
    let (running, _socket) = stopped_at_the_end(&lab, &helper, r#"exec "$0" "$@" 9<&0 </dev/null"#);
    let pid = running.pid();
    let ended = lab.as_user(ALICE, "/usr/bin/strace").words(&format!("-p {pid}")).run();
    assert!(!ended.status.success() && ended.err.contains("not permitted"), "{}", ended.err);
    for file in ["mem", "environ", "maps", "fd/0"] {
        let ended = lab.as_user(ALICE, "/usr/bin/head").words("-c 1").arg(format!("/proc/{pid}/{file}")).run();
        assert!(!ended.status.success(), "{file}: {}", ended.out);
    }
    running.kill();
    lab.becomes_as_before();
}

#[test]
fn no_file_is_read_before_rights_are_given_up() {
    let Some((lab, _)) = lab() else { return };
    if !have("strace") {
        return;
    }
    for right in [Right::Capability, Right::Setuid] {
        let helper = lab.install_helper(&crate::support::user::our_helper(), true, right);
        let log = lab.new_file("strace");
        let cmd = lab.program(&helper.path).words(WORDS).through(&format!("strace -qq -u alice -o {}", log.display()));
        lab.call_by(cmd).gives_a_tap();
        let log = fs::read_to_string(log).expect("the log");
        let calls: Vec<&str> = log.lines().collect();
        let dropped = calls.iter().position(|call| call.starts_with("capset(")).expect("capset");
        // What the dynamic linker opens is not ours to change.
        let is_file = |call: &&&str| call.starts_with("open") && !call.contains("/lib") && !call.contains("ld.so");
        let early: Vec<_> = calls[..dropped].iter().filter(is_file).collect();
        assert!(early.is_empty(), "{early:?}");
        assert!(calls[dropped..].iter().any(|call| call.contains("/etc/qemu/bridge.conf")));
        assert!(!log.contains("CAP_SYS_ADMIN, permitted=1<<CAP_NET_ADMIN, inheritable=1"));
    }
}

#[test]
fn a_hostile_environment_changes_nothing() {
    for right in [Right::Capability, Right::Setuid] {
        let Some((lab, _)) = lab() else { return };
        let helper = lab.install_helper(&crate::support::user::our_helper(), true, right);
        let mark = lab.new_file("mark");
        let env = [
            ("LD_PRELOAD", "/run/alice/evil.so"),
            ("LD_LIBRARY_PATH", "/run/alice"),
            ("LD_AUDIT", "/run/alice/evil.so"),
            ("GCONV_PATH", "/run/alice"),
            ("LD_DEBUG", "all"),
            ("PATH", "/run/alice"),
            ("RUST_BACKTRACE", "full"),
            ("RUST_MIN_STACK", "1"),
            ("RUST_LOG", "trace"),
            ("MALLOC_TRACE", "/run/alice/trace"),
            ("HOME", "/run/alice"),
            ("TMPDIR", "/run/alice"),
        ];
        build_evil_library(&mark);
        // Set behind setpriv and the shell, which they would hit first.
        let set: String = env.iter().map(|(name, value)| format!("export {name}={value}; ")).collect();
        let script = format!(r#"{set} exec "$0" "$@""#);
        let cmd = lab.program(&helper.path).words(WORDS).through_sh(&script).through(&format!("setpriv {ALICE}"));
        lab.call_by(cmd).gives_a_tap();
        assert!(!mark.exists(), "a library of the caller's was loaded");
        assert!(!Path::new("/run/alice/trace").exists());
    }
}

/// A library that leaves a mark wherever it is loaded.
fn build_evil_library(mark: &Path) {
    let source = Path::new("/run/alice/evil.c");
    let text = format!(
        "#include <fcntl.h>\n__attribute__((constructor)) void go(void) {{ open(\"{}\", O_CREAT, 0666); }}\n",
        mark.display()
    );
    fs::write(source, text).expect("write the library");
    let library = "/run/alice/evil.so";
    let built = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o", library]).arg(source).status();
    assert!(built.is_ok_and(|status| status.success()), "cc");
    let ended = std::process::Command::new("/bin/true").env("LD_PRELOAD", library).status();
    assert!(ended.is_ok_and(|status| status.success()) && mark.exists(), "the library is loaded elsewhere");
    fs::remove_file(mark).expect("remove the mark");
}

#[test]
fn the_callers_limits_can_only_make_the_helper_refuse() {
    let Some((lab, helper)) = lab() else { return };
    // An included rule that denies is not passed over because no file can be opened.
    lab.allow("allow br0\ninclude /etc/qemu/deny.conf\n");
    crate::support::user::write_rules("/etc/qemu/deny.conf", "deny br0\n");
    for files in 3..12 {
        let script = format!(r#"ulimit -n {files}; exec "$0" "$@""#);
        let cmd = lab.program(&helper.path).words(WORDS).through_sh(&script).through(&format!("setpriv {ALICE}"));
        let called = lab.call_by(cmd);
        assert!(called.received.descriptors.is_empty() && !called.ended.status.success(), "{files}");
    }
    lab.allow("allow br0\n");
    let cmd = |limit: &str| {
        let script = format!(r#"ulimit {limit}; exec "$0" "$@""#);
        lab.program(&helper.path).words(WORDS).through_sh(&script).through(&format!("setpriv {ALICE}"))
    };
    for limit in ["-f 0", "-c 0", "-p 1"] {
        lab.call_by(cmd(limit)).gives_a_tap();
    }
    for limit in ["-n 3", "-n 4", "-v 4000", "-d 1"] {
        let called = lab.call_by(cmd(limit));
        let is_tap = called.ended.status.success();
        assert_eq!(called.received.descriptors.len(), usize::from(is_tap), "{limit}");
    }
    lab.becomes_as_before();
}

/// Alice has the one TAP that her own rule allows; a wider one would allow another, if hers could be made unreadable.
fn lab_with_a_full_quota() -> Option<(Lab, Helper, OwnedFd)> {
    let (lab, helper) = lab()?;
    lab.add_bridge("br1");
    lab.allow_more("allow br0 user alice max 1\n");
    let tap = lab.call(&helper, WORDS).gives_a_tap();
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("bridge.conf, line 1 allows: 1"), "{said}");
    Some((lab, helper, tap))
}

#[test]
fn no_limit_of_the_callers_widens_what_is_granted() {
    let Some((lab, helper, _tap)) = lab_with_a_full_quota() else { return };
    // As on a large site: more than the memory that the caller leaves it.
    let others: String = (0..100_000).map(|user| format!("user{user}:x:{}:100::/:/bin/sh\n", 10_000 + user)).collect();
    let large = format!("{others}{}", fs::read_to_string("/etc/passwd").expect("the accounts"));
    fs::write("/etc/passwd", large).expect("write the accounts");
    let kibibytes = (0..30).map(|step| 100 + 16 * step).chain((6..14).map(|power| 1 << power));
    let limits = ["d", "v", "s", "m", "l"].into_iter().flat_map(|limit| {
        let values = kibibytes.clone().chain([3000, 3500, 5000, 6000, 7000]);
        values.map(move |value| format!("-{limit} {value}"))
    });
    let limits = limits.chain((0..12).map(|files| format!("-n {files}"))).chain(["-f 0".into(), "-t 1".into()]);
    for limit in limits {
        let script = format!(r#"ulimit {limit}; exec "$0" "$@""#);
        let cmd = lab.program(&helper.path).words(WORDS).through_sh(&script).through(&format!("setpriv {ALICE}"));
        let called = lab.call_by(cmd);
        assert!(called.received.descriptors.is_empty() && !called.ended.status.success(), "{limit}");
    }
    lab.waits_until_gone("kvb1");
}

/// Its user lowers its limits for one system call, and raises them again, so that it can do all the rest.
#[test]
fn no_limit_that_is_set_while_it_runs_widens_what_is_granted() {
    let Some((lab, helper, _tap)) = lab_with_a_full_quota() else { return };
    if !have("strace") || !have("prlimit") {
        return;
    }
    let limits = |lowered: bool, pid: i32| {
        let kinds = ["nofile", "data", "as", "fsize", "memlock"];
        let limits = kinds.map(|kind| match (lowered, kind) {
            (true, "nofile") => "--nofile=3:".to_owned(),
            (true, _) => format!("--{kind}=0:"),
            (false, "nofile") => "--nofile=64:".to_owned(),
            (false, "memlock") => "--memlock=4096:".to_owned(),
            (false, _) => format!("--{kind}=unlimited:"),
        });
        lab.as_user(ALICE, "/usr/bin/prlimit").words(&limits.join(" ")).words("--pid").arg(pid.to_string()).run()
    };
    let calls = calls_of(&lab, &helper, false);
    let from = calls.iter().position(|(call, _)| call == "capset").expect("capset");
    for pair in calls[from..].windows(2) {
        let [(one, nth), (next, its_nth)] = pair else { unreachable!() };
        let stops = match one == next {
            true => vec![format!("{one}:signal=STOP:when={nth}..{its_nth}")],
            false => vec![format!("{one}:signal=STOP:when={nth}"), format!("{next}:signal=STOP:when={its_nth}")],
        };
        let (ours, mut running) = struck(&lab, &helper, &stops);
        if let Some(stopped) = wait_until_stopped(&lab, &mut running, &[]) {
            // What it does between the two is the second call, which comes to nothing if it needs what it may not have.
            limits(true, stopped.pid).succeeds();
            let before = schedstat(stopped.pid);
            // The tracer may stop it once more for the signal that it has just delivered: it is told until it runs.
            wait_for("it to go on", 10, || {
                let has_gone_on = schedstat(stopped.pid) != before;
                if !has_gone_on {
                    let _ = kill(Pid::from_raw(stopped.pid), Signal::SIGCONT);
                }
                has_gone_on.then_some(())
            });
            if wait_until_stopped(&lab, &mut running, &[]).is_some() {
                limits(false, stopped.pid).succeeds();
                goes_on(&mut running, stopped.pid);
            }
        }
        let ended = running.end();
        assert!(receive(&ours).descriptors.is_empty() && !ended.status.success(), "{one} {nth}, {next} {its_nth}");
    }
    lab.waits_until_gone("kvb1");
}

#[test]
fn no_error_of_any_system_call_widens_what_is_granted() {
    let Some((lab, helper, _tap)) = lab_with_a_full_quota() else { return };
    if !have("strace") {
        return;
    }
    // A rule that denies in a file that is included, which is not passed over either.
    lab.allow("allow br0\nallow br1\ninclude /etc/qemu/deny.conf\n");
    crate::support::user::write_rules("/etc/qemu/deny.conf", "deny br1\n");
    for (call, nth) in calls_of(&lab, &helper, false) {
        for (errno, bridge) in [("EMFILE", "br0"), ("EIO", "br0"), ("ENOMEM", "br1"), ("EPERM", "br1")] {
            let inject = format!("strace -f -qq -u alice -e inject={call}:error={errno}:when={nth} -o /dev/null");
            let words = format!("--fd=0 --br={bridge}");
            let called = lab.call_by(lab.program(&helper.path).words(&words).through(&inject));
            let is_tap = !called.received.descriptors.is_empty() || called.ended.status.success();
            assert!(!is_tap, "{call} {nth}: {errno}");
        }
    }
}

// Its namespaces and its files.

#[test]
fn a_network_of_another_user_namespace_is_left_alone() {
    // CVE-2017-5985.
    let Some((lab, helper)) = lab() else { return };
    let Ok(mut owner) = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c"])
        .arg("ip link add br0 type bridge && echo ready && exec sleep 60")
        .stdout(std::process::Stdio::piped())
        .spawn()
    else {
        return;
    };
    let mut line = String::new();
    use std::io::BufRead;
    let out = owner.stdout.take().expect("its output");
    std::io::BufReader::new(out).read_line(&mut line).expect("read");
    if line.trim() != "ready" {
        let _ = (owner.kill(), owner.wait());
        return crate::support::skip("user namespaces cannot be made here");
    }
    let enter = format!("nsenter --net=/proc/{}/ns/net setpriv {ALICE}", owner.id());
    let said = lab.call_by(lab.program(&helper.path).words(WORDS).through(&enter)).refusal();
    // A user namespace of the caller's own over the host's network: the capability is one in there alone.
    let own_users = format!("setpriv {ALICE} unshare --user --map-root-user --mount");
    lab.call_by(lab.program(&helper.path).words(WORDS).through(&own_users)).refusal();
    let inside = format!("nsenter --user --net --preserve-credentials --target {}", owner.id());
    let own = lab.call_by(lab.program(&helper.path).words(WORDS).through(&inside));
    let _ = (owner.kill(), owner.wait());
    assert!(said.contains("another user namespace"), "{said}");
    // In the user namespace itself the file's capability is none; its root has that right anyway.
    assert!(own.received.descriptors.len() <= 1);
}

#[test]
fn rules_that_others_can_write_are_not_gone_by() {
    // CVE-2015-1331.
    let Some((lab, helper)) = lab() else { return };
    let rules = "/etc/qemu/bridge.conf";
    for (mode, owner, group) in [(0o666, 0, 0), (0o646, 0, 0), (0o664, 0, 104), (0o644, 1000, 1000)] {
        fs::set_permissions(rules, fs::Permissions::from_mode(mode)).expect("set the mode");
        std::os::unix::fs::chown(rules, Some(owner), Some(group)).expect("give it away");
        let said = lab.call(&helper, WORDS).refusal();
        assert!(said.contains("sudo ch"), "{mode:o}: {said}");
    }
}

/// An ACL as `setfacl -m u:alice:rw` makes it; false where the file system has none.
pub(crate) fn alice_may_write_by_an_acl(path: &str) -> bool {
    // linux/posix_acl_xattr.h: a version, and for each entry its tag, its rights, and whose it is.
    let entries =
        [(0x01u16, 7u16, u32::MAX), (0x02, 7, 1000), (0x04, 5, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let path = std::ffi::CString::new(path).expect("a path");
    let name = c"system.posix_acl_access";
    // SAFETY: two strings that end with a NUL, and so many bytes.
    #[allow(unsafe_code)]
    let set = unsafe { nix::libc::setxattr(path.as_ptr(), name.as_ptr(), acl.as_ptr().cast(), acl.len(), 0) };
    if set != 0 {
        crate::support::skip("this file system has no ACLs");
    }
    set == 0
}

#[test]
fn rules_that_an_acl_lets_others_write_are_not_gone_by() {
    let Some((lab, helper)) = lab() else { return };
    let rules = "/etc/qemu/bridge.conf";
    if !alice_may_write_by_an_acl(rules) {
        return;
    }
    let written = lab.as_user(ALICE, "/bin/sh").words("-c").arg(format!("echo 'allow all' >>{rules}")).run();
    assert!(written.status.success(), "{}", written.err);
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("ACL") && said.contains(&format!("sudo setfacl -b {rules}")), "{said}");
    // As the mask has it nobody else can write.
    fs::set_permissions(rules, fs::Permissions::from_mode(0o644)).expect("set the mode");
    lab.call(&helper, WORDS).gives_a_tap();
    // A group of root's that may write, and no ACL.
    lab.allow("allow br0\n");
    fs::remove_file(rules).and_then(|()| fs::write(rules, "allow br0\n")).expect("write the rules anew");
    fs::set_permissions(rules, fs::Permissions::from_mode(0o664)).expect("set the mode");
    lab.call(&helper, WORDS).gives_a_tap();
    assert!(alice_may_write_by_an_acl("/etc/qemu"));
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("is in /etc/qemu, which has an ACL"), "{said}");
}

#[test]
fn rules_in_a_folder_that_others_can_write_are_not_gone_by() {
    let Some((lab, helper)) = lab() else { return };
    let (folder, rules) = ("/etc/qemu", "/etc/qemu/bridge.conf");
    let becomes = |mode: u32, owner: u32, group: u32| {
        std::os::unix::fs::chown(folder, Some(owner), Some(group)).expect("give it away");
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("set the mode");
    };
    for (mode, owner, group) in [(0o777, 0, 0), (0o775, 0, 104), (0o755, 1000, 1000), (0o1777, 1000, 0)] {
        becomes(mode, owner, group);
        let said = lab.call(&helper, WORDS).refusal();
        assert!(said.contains("is in /etc/qemu, which can be written"), "{mode:o}: {said}");
        // A rule that denies may have been taken away.
        fs::rename(rules, "/etc/kept").expect("take it away");
        lab.allow_more("allow br0\n");
        let said = lab.call(&helper, WORDS).refusal();
        assert!(said.contains("is in /etc/qemu"), "{mode:o}: {said}");
        fs::rename("/etc/kept", rules).expect("put it back");
        fs::remove_file("/etc/kvm-bridge/bridge.conf").expect("remove");
    }
    for mode in [0o1777, 0o755] {
        becomes(mode, 0, 0);
        lab.call(&helper, WORDS).gives_a_tap();
    }
    // Root's own file, which alice can replace by another.
    fs::remove_file(rules).expect("remove");
    fs::write("/run/alice/rules", "allow br0\n").expect("write the rules");
    std::os::unix::fs::symlink("/run/alice/rules", rules).expect("link");
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("is in /run/alice, which can be written"), "{said}");
}

#[test]
fn in_a_user_namespace_of_the_callers_own_the_reason_is_that() {
    let Some((lab, helper)) = lab() else { return };
    let call = |unshare: &str| {
        let through = format!("setpriv {ALICE} unshare {unshare}");
        lab.call_by(lab.program(&helper.path).words(WORDS).through(&through))
    };
    let able = lab.program("/bin/true").through(&format!("setpriv {ALICE} unshare --user --map-root-user --net")).run();
    if !able.status.success() {
        return crate::support::skip("users cannot make user namespaces here");
    }
    // With the host's network, as its root and as alice.
    for users in ["--map-root-user", "--map-current-user"] {
        let said = call(&format!("--user {users}")).refusal();
        assert!(said.contains("another user namespace"), "{said}");
        // With a network of its own.
        let said = call(&format!("--user {users} --net")).refusal();
        assert!(said.contains("in this user namespace") && said.contains("outside of this user namespace"), "{said}");
        assert!(!said.contains("chown") && !said.contains("install"), "{said}");
    }
}

#[test]
fn in_a_container_the_remedy_is_one_for_containers() {
    let Some((lab, helper)) = lab() else { return };
    let call = |through: &str| lab.call_by(lab.program(&helper.path).words(WORDS).through(through)).refusal();
    fs::write("/run/.containerenv", "").expect("the mark of a container");
    // One that was a container's image, and one that is a container.
    let said = call("setpriv --bounding-set=-net_admin");
    assert!(said.contains("no program here may have CAP_NET_ADMIN") && said.contains("systemd"), "{said}");
    let said = call("unshare --uts setpriv --bounding-set=-net_admin");
    assert!(said.contains("--cap-add NET_ADMIN --device /dev/net/tun"), "{said}");
    fs::remove_file("/dev/net/tun").expect("remove the device");
    let said = call("unshare --uts");
    assert!(said.contains("--device /dev/net/tun") && !said.contains("modprobe"), "{said}");
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("modprobe tun"), "{said}");
    let said = lab.call(&helper, "--br=br0 --fd=7").refusal();
    assert!(said.contains("--fd=7: no such descriptor is open"), "{said}");
}

#[test]
fn rules_that_are_no_plain_file_are_refused_at_once() {
    let Some((lab, helper)) = lab() else { return };
    let rules = Path::new("/etc/qemu/bridge.conf");
    let odd = Path::new("/etc/qemu/odd");
    let fifo = || assert!(std::process::Command::new("mkfifo").arg(odd).status().expect("mkfifo").success());
    let huge = || File::create(odd).and_then(|file| file.set_len(1 << 30)).expect("a file of 1 GiB");
    let makers: [(&str, &dyn Fn()); 5] = [
        ("a folder", &|| fs::create_dir(odd).expect("make a folder")),
        ("a FIFO", &fifo),
        ("a device", &|| std::os::unix::fs::symlink("/dev/zero", odd).expect("link")),
        ("1 GiB", &huge),
        ("a loop", &|| fs::write(odd, format!("include {}\n", odd.display())).expect("write")),
    ];
    for (what, make) in makers {
        make();
        fs::write(rules, format!("allow br0\ninclude {}\n", odd.display())).expect("write the rules");
        let said = lab.call(&helper, WORDS).refusal();
        let is_told = said.contains("/etc/qemu/bridge.conf, line 2") || said.contains("odd, line 1");
        assert!(is_told, "{what}: {said}");
        // And as the file of rules itself.
        fs::remove_file(rules).expect("remove");
        fs::rename(odd, rules).expect("rename");
        lab.call(&helper, WORDS).refusal();
        let _ = fs::remove_dir(rules);
        let _ = fs::remove_file(rules);
        let _ = fs::remove_file(odd);
    }
}

#[test]
fn a_refusal_tells_the_line_and_the_command_and_nothing_of_what_is_not_for_the_caller() {
    let Some((lab, helper)) = lab() else { return };
    lab.allow("allow br0\n# not the office\ndeny br0\n");
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("/etc/qemu/bridge.conf, line 3 denies br0 to alice"), "{said}");
    lab.allow("allow br1\n");
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("sudo kvm-bridge install --allow br0:alice"), "{said}");
    // A file for others: the same words whether it denies, allows, is nonsense or missing.
    lab.allow("include /etc/qemu/secret\n");
    let mut answers = Vec::new();
    for text in ["deny br0\n", "allow br0\n", "nonsense\n"] {
        crate::support::user::write_rules("/etc/qemu/secret", text);
        fs::set_permissions("/etc/qemu/secret", fs::Permissions::from_mode(0o600)).expect("set the mode");
        answers.push(lab.call(&helper, WORDS).refusal());
    }
    fs::remove_file("/etc/qemu/secret").expect("remove");
    answers.push(lab.call(&helper, WORDS).refusal());
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

// At any moment, and many at once.

/// Its system calls, each with how many there were of that kind before it and with it, where it gives a TAP or refuses.
fn calls_of(lab: &Lab, helper: &Helper, gives: bool) -> Vec<(String, usize)> {
    let log = lab.new_file("strace");
    let cmd = lab.program(&helper.path).words(WORDS).through(&format!("strace -qq -u alice -o {}", log.display()));
    let called = lab.call_by(cmd);
    if gives {
        called.gives_a_tap();
    } else {
        called.refusal();
    }
    let mut counts = std::collections::BTreeMap::new();
    let log = fs::read_to_string(log).expect("the log");
    let calls = log.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name.to_owned());
    let calls = calls.filter(|name| name != "execve" && name != "exit_group");
    calls
        .map(|name| {
            let count = counts.entry(name.clone()).or_insert(0);
            *count += 1;
            (name, *count)
        })
        .collect()
}

/// What is done to it at each of its system calls.
fn struck_at_every_call(signal: &str, after: impl Fn(&Lab, &mut Running)) {
    let Some((lab, helper)) = lab() else { return };
    if !have("strace") {
        return;
    }
    let calls = calls_of(&lab, &helper, true);
    assert!(calls.len() > 60, "{calls:?}");
    let sent = calls.iter().position(|(call, _)| call == "sendmsg").expect("sendmsg");
    for (at, (call, nth)) in calls.into_iter().enumerate() {
        let (ours, mut running) = struck(&lab, &helper, &[format!("{call}:signal={signal}:when={nth}")]);
        after(&lab, &mut running);
        let ended = running.end();
        let received = receive(&ours);
        assert!(at >= sent || received.descriptors.is_empty(), "{call} {nth}");
        assert!(!ended.status.success(), "{call} {nth} was not struck");
    }
    lab.becomes_as_before();
}

#[test]
fn a_helper_killed_at_any_system_call_leaves_nothing() {
    struck_at_every_call("KILL", |_, _| {});
}

#[test]
fn a_helper_stopped_and_killed_at_any_system_call_leaves_nothing() {
    struck_at_every_call("STOP", |lab, running| {
        if let Some(stopped) = wait_until_stopped(lab, running, &[]) {
            stopped.kill();
        }
    });
}

/// The helper that `running` traces, once it is stopped; `None` if it ends. `others` have been stopped before.
fn wait_until_stopped(lab: &Lab, running: &mut Running, others: &[i32]) -> Option<Process> {
    let mut before = HashMap::new();
    wait_for("it to stop or end", 10, || {
        let stopped = lab.processes().into_iter().find(|process| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
            process.command.contains("kvm-bridge-helper")
                && !process.command.contains("strace")
                && !others.contains(&process.pid)
                && status.contains("State:\tt")
                // A tracer stops a process at each call for a moment: since the last look it has not moved.
                && before.insert(process.pid, schedstat(process.pid)) == Some(schedstat(process.pid))
        });
        match stopped {
            Some(process) => Some(Some(process)),
            None => (!running.is_running()).then_some(None),
        }
    })
}

/// Calls it as alice, and does this to it (`-e inject=` of strace).
fn struck<'lab>(lab: &'lab Lab, helper: &Helper, blows: &[String]) -> (OwnedFd, Running<'lab>) {
    let mut strace = "strace -f -qq -u alice -o /dev/null".to_owned();
    for blow in blows {
        strace += &format!(" -e inject={blow}");
    }
    let (ours, theirs) = socket_pair(SockType::Stream);
    (ours, lab.program(&helper.path).words(WORDS).through(&strace).stdin(theirs).start())
}

/// Has a helper that was stopped, or is about to be, go on to its end.
fn goes_on(running: &mut Running, pid: i32) {
    wait_for("it to end", 30, || {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        (!running.is_running()).then_some(())
    });
}

/// How much a process has run; empty when it is gone.
fn schedstat(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default()
}

#[test]
fn a_helper_stopped_at_any_system_call_holds_no_port_that_is_not_counted() {
    let Some((lab, helper)) = lab() else { return };
    if !have("strace") {
        return;
    }
    let calls = calls_of(&lab, &helper, true);
    lab.allow("");
    lab.allow_more("allow br0 max 1\n");
    let before = lab.ports("br0").len();
    for (call, nth) in calls {
        let (first, mut running) = struck(&lab, &helper, &[format!("{call}:signal=STOP:when={nth}")]);
        let stopped = wait_until_stopped(&lab, &mut running, &[]);
        let ports = lab.ports("br0").len() - before;
        // Others of hers come while it is stopped, and it goes on.
        let mut second = lab.call(&helper, WORDS);
        let held = lab.ports("br0").len() - before;
        assert!(held <= 1, "{call} {nth}: {held} ports");
        assert!(ports == 0 || second.received.descriptors.is_empty(), "{call} {nth}");
        // It keeps nobody else waiting.
        lab.call_by(lab.as_user(BOB, &helper.path).words(WORDS)).gives_a_tap();
        if let Some(stopped) = stopped {
            goes_on(&mut running, stopped.pid);
        }
        let ended = running.end();
        let mut taps = receive(&first).descriptors;
        taps.append(&mut second.received.descriptors);
        assert_eq!(taps.len(), 1, "{call} {nth}: {}{}", ended.err, second.ended.err);
        drop(taps);
        wait_for("the TAP to go", 5, || (lab.ports("br0").len() == before).then_some(()));
    }
}

#[test]
fn however_many_helpers_are_stopped_they_fill_no_bridge() {
    let Some((lab, helper)) = lab() else { return };
    if !have("strace") {
        return;
    }
    let calls = calls_of(&lab, &helper, true);
    lab.allow("");
    lab.allow_more("allow br0 max 1\n");
    let before = lab.ports("br0").len();
    let mut held = Vec::new();
    let mut pids = Vec::new();
    // From where it may join on, and all that are stopped stay so.
    let from = calls.iter().position(|(call, _)| call == "ioctl").expect("an ioctl");
    for (call, nth) in &calls[from..] {
        let (ours, mut running) = struck(&lab, &helper, &[format!("{call}:signal=STOP:when={nth}")]);
        pids.extend(wait_until_stopped(&lab, &mut running, &pids).map(|process| process.pid));
        held.push((running, ours));
    }
    let ports = lab.ports("br0").len() - before;
    for pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(held);
    assert!(ports <= 1, "{ports} ports with max 1");
    lab.becomes_as_before();
}

#[test]
fn a_hundred_at_once_get_no_more_than_the_quota_and_no_less() {
    let Some((lab, helper)) = lab() else { return };
    lab.allow("");
    lab.allow_more("allow br0 max 7\n");
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (ours, theirs) = socket_pair(SockType::Stream);
            (lab.as_user(ALICE, &helper.path).words(WORDS).stdin(theirs).start(), ours)
        })
        .collect();
    let mut taps = Vec::new();
    let mut refusals = Vec::new();
    for (running, socket) in calls {
        let ended = running.end_within(60);
        let received = receive(&socket);
        assert_eq!(received.descriptors.len(), usize::from(ended.status.success()));
        taps.extend(received.descriptors);
        refusals.extend((!ended.status.success()).then_some(ended.err));
    }
    assert_eq!(taps.len(), 7);
    assert!(refusals.iter().all(|said| said.contains("line 1 allows")), "{refusals:?}");
    // Another user has a quota of their own; what is given back can be had again.
    lab.call_by(lab.as_user(BOB, &helper.path).words(WORDS)).gives_a_tap();
    drop(taps.pop());
    wait_for("one of seven to go", 5, || (lab.ports("br0").len() <= 7).then_some(()));
    taps.push(lab.call(&helper, WORDS).gives_a_tap());
    lab.call(&helper, WORDS).refusal();
}

#[test]
fn rules_behind_a_link_that_leads_nowhere_refuse() {
    let Some((lab, helper)) = lab() else { return };
    // The wide rule would grant it.
    lab.allow("allow br0\n");
    lab.call(&helper, WORDS).gives_a_tap();
    lab.waits_until_gone("kvb0");
    std::fs::create_dir_all("/etc/kvm-bridge").expect("make the folder");
    let ours = "/etc/kvm-bridge/bridge.conf";
    let _ = std::fs::remove_file(ours);
    std::os::unix::fs::symlink("/etc/kvm-bridge/elsewhere.conf", ours).expect("make a link");
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("is a link that leads nowhere"), "{said}");
    std::fs::remove_file(ours).expect("remove it");
    lab.call(&helper, WORDS).gives_a_tap();
    lab.waits_until_gone("kvb0");
}

#[test]
fn the_quota_is_not_evaded_with_the_descriptor() {
    let Some((lab, helper)) = lab() else { return };
    lab.allow("");
    lab.allow_more("allow br0 user alice max 1\n");
    let tap = lab.call(&helper, WORDS).gives_a_tap();
    assert_eq!(lab.a_link("kvb0")["linkinfo"]["info_data"]["user"], "alice");
    // The owner and whether it persists are the holder's to change; the mark that is counted is not.
    // SAFETY: numbers only, for a descriptor of this test's.
    #[allow(unsafe_code)]
    unsafe {
        set_persistent(tap.as_raw_fd(), 1).expect("make it persistent");
        set_owner(tap.as_raw_fd(), 1001).expect("give it to bob");
    }
    drop(tap);
    assert!(lab.link("kvb0").is_some(), "it was to stay");
    let said = lab.call(&helper, WORDS).refusal();
    assert!(said.contains("allows: 1"), "{said}");
    for command in ["ip link set dev kvb0 alias x", "ip link set dev kvb0 nomaster", "ip link del kvb0"] {
        let ended = lab.as_user(ALICE, "/bin/sh").words("-c").arg(command).run();
        assert!(!ended.status.success(), "{command}");
    }
    lab.ip("tuntap del dev kvb0 mode tap");
    lab.call(&helper, WORDS).gives_a_tap();
}

pub(crate) mod request {
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, 4));
    nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, 4));
}
use request::{set_owner, set_persistent};

// Two parsers of one file.

#[test]
fn whatever_the_rules_are_qemus_helper_allows_what_ours_does() {
    if !Path::new(QEMUS).exists() {
        return crate::support::skip(&format!("{QEMUS} is not installed"));
    }
    let Some((lab, helper)) = lab() else { return };
    let theirs = lab.install_helper(Path::new(QEMUS), false, Right::Setuid);
    let lines = ["allow br0\n", "allow all\n", "deny br1\n", "allow br1\n", "# a\n", "\n", "include /etc/qemu/more\n"];
    let odd = [
        "allow",
        "deny ",
        "deny br0",
        "br0",
        "all",
        " ",
        "\t",
        "#",
        "# lan",
        "\r\n",
        "user alice",
        "max 1",
        "\x0b",
        "\x0c",
        "\0",
        "\n",
        "deny br0\n",
        "deny all\n",
        "allow\tbr0",
        "allow br0 ",
        "include more\n",
    ];
    let pieces: Vec<&str> = lines.iter().cycle().take(4 * lines.len()).chain(&odd).copied().collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut text = |most: usize| (0..random(most)).map(|_| pieces[random(pieces.len())]).collect::<String>();
        let (rules, more) = (text(7), text(5));
        lab.allow(&rules);
        crate::support::user::write_rules("/etc/qemu/more", &more);
        let ours = lab.call(&helper, WORDS).ended.status.success();
        if ours {
            allowed += 1;
            assert!(lab.call(&theirs, WORDS).ended.status.success(), "only ours allows {rules:?} with {more:?}");
        } else {
            refused += 1;
        }
    }
    assert!(allowed > 20 && refused > 20, "{allowed} allowed, {refused} refused");
}
