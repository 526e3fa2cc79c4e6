//! Without `--bridge` QEMU can't tell that it was not called directly.

use crate::support::command::{Cmd, fake_qemu};
use crate::support::record::{Record, bytes};
use crate::support::{Lab, have};
use nix::sys::signal::Signal;
use proptest::collection::vec;
use proptest::prelude::*;
use std::ffi::OsString;
use std::fs;

const ODD_WORDS: [&[u8]; 13] = [
    b"-append",
    b"--bridge",
    b"",
    b"\xff\xfe",
    b"-name",
    b"-bridge=br0",
    b"a b",
    b"x,,y=\"z\" '$HOME'",
    b" --",
    b"new\nline",
    b"-",
    b"--",
    b"\xe2\x82",
];

#[test]
fn every_word_reaches_qemu_byte_for_byte() {
    let Some(lab) = Lab::new() else { return };
    let odd: Vec<OsString> = ODD_WORDS.map(bytes).to_vec();
    let ended = odd.iter().fold(lab.shim(""), Cmd::arg).run().succeeds();
    assert_eq!(ended.qemu().argv[1..], odd);
}

#[test]
fn random_words_reach_qemu_byte_for_byte() {
    let Some(lab) = Lab::new() else { return };
    let word = vec(1..=255u8, 0..12).prop_map(|word| bytes(&word));
    let asks_for_us = |word: &OsString| word.to_string_lossy().trim_start_matches('-').starts_with("bridge");
    let line = vec(word.prop_filter("our own option", move |word| !asks_for_us(word)), 0..8);
    proptest!(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() }, |(line in line)| {
        let ended = line.iter().fold(lab.shim(""), Cmd::arg).run().succeeds();
        prop_assert_eq!(&ended.qemu().argv[1..], &line[..]);
    });
}

#[test]
fn the_name_ends_in_kvm_so_that_qemu_prefers_kvm() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("-m 64").run().succeeds();
    assert!(ended.qemu().argv[0].to_string_lossy().ends_with("kvm"), "{:?}", ended.qemu().argv);
}

#[test]
fn nothing_is_read_or_written_but_what_finding_qemu_takes() {
    let Some(lab) = Lab::new() else { return };
    if !have("strace") {
        return;
    }
    let trace = lab.new_file("trace");
    let launcher = format!("strace -f -e trace=%file,%desc,%network,%process -o {}", trace.display());
    lab.shim("-name alice -m 64").through(&launcher).run().succeeds();

    let trace = fs::read_to_string(trace).expect("strace writes a file");
    let ours = trace.lines().skip(1).take_while(|line| !line.contains("fake-qemu\", ["));
    let unwanted =
        ["/run", "/var", "/dev/net", "socket(", "O_CREAT", "O_WRONLY", "O_RDWR", "clone(", "clone3(", "fork("];
    let found: Vec<&str> = ours.filter(|line| unwanted.iter().any(|word| line.contains(word))).collect();
    assert!(trace.contains("fake-qemu\", ["), "QEMU was not executed:\n{trace}");
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_shim_prints_nothing_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    for probe in ["-version", "-help", "-device ?", "-machine none,accel=kvm:tcg -qmp stdio", "-net nic,model=?"] {
        let ended = lab.shim(probe).run().succeeds();
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""), "{probe}");
    }
}

#[test]
fn the_pid_is_the_callers_child() {
    let Some(lab) = Lab::new() else { return };
    let ended = lab.shim("").run().succeeds();
    assert_eq!(ended.qemu().pid(), ended.pid);
    assert_eq!(ended.qemu().number("ppid"), u64::from(std::process::id()));
}

#[test]
fn the_exit_status_is_qemus() {
    let Some(lab) = Lab::new() else { return };
    for code in [0, 1, 3, 125, 255] {
        lab.shim("").then(&format!("exit:{code}")).run().exits_with(code);
    }
}

#[test]
fn a_signal_that_ends_qemu_is_what_the_caller_sees() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.shim("").boot().terminate().signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(lab.shim("").boot().kill().signal(), Some(Signal::SIGKILL as i32));
}

/// What the fake QEMU says of itself when it is called directly and when the shim calls it.
fn directly_and_through_us(lab: &Lab, script: &str) -> (Record, Record) {
    let run = |cmd: Cmd| cmd.through_sh(script).run().succeeds().qemu().clone();
    (run(lab.program(fake_qemu())), run(lab.shim("")))
}

#[test]
fn signals_are_as_the_caller_left_them() {
    let Some(lab) = Lab::new() else { return };
    for script in [
        r#"exec "$0" "$@""#,
        r#"exec env --ignore-signal=PIPE "$0" "$@""#,
        r#"exec env --ignore-signal=INT,HUP,CHLD "$0" "$@""#,
        r#"exec env --block-signal=USR1,TERM "$0" "$@""#,
    ] {
        let (direct, ours) = directly_and_through_us(&lab, script);
        for field in ["blocked", "ignored", "caught"] {
            assert_eq!(ours.number(field), direct.number(field), "{field} signals of: {script}");
        }
    }
}

#[test]
fn descriptors_are_as_the_caller_left_them() {
    let Some(lab) = Lab::new() else { return };
    for script in
        [r#"exec "$0" "$@" <&-"#, r#"exec "$0" "$@" <&- >&- 2>&-"#, r#"exec "$0" "$@" 5</dev/null 7>/dev/null 9<&0"#]
    {
        let (direct, ours) = directly_and_through_us(&lab, script);
        // Each run has output files of its own.
        let tidy = |record: &Record| -> Vec<(i64, String)> {
            let fds = record.fds().into_iter();
            fds.map(|(fd, link)| (fd, if link.contains("/run") { "output".to_owned() } else { link })).collect()
        };
        assert_eq!(tidy(&ours), tidy(&direct), "{script}");
    }
}

#[test]
fn the_environment_and_the_folder_stay() {
    let Some(lab) = Lab::new() else { return };
    let (direct, ours) = directly_and_through_us(&lab, r#"cd /usr; ODD=$(printf '\377') exec "$0" "$@""#);
    // The record's file is the run's own; the depth is how a loop of wrappers is found out.
    let tidy = |record: &Record| -> Vec<OsString> {
        let own = |pair: &OsString| {
            let pair = pair.to_string_lossy();
            pair.starts_with("FAKE_QEMU_RECORD") || pair.starts_with("KVM_BRIDGE_DEPTH=1 ")
        };
        record.environment.iter().filter(|pair| !own(pair)).cloned().collect()
    };
    assert_eq!(tidy(&ours), tidy(&direct));
    assert_eq!(ours.variable("PWD"), Some("/usr".into()));
}
