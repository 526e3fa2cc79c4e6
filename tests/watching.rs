//! `kvm-bridge monitor` and `kvm-bridge status --watch`: what happens is told when it does.

use crate::json::lines_are_as_documented;
use crate::support::command::Running;
use crate::support::guest::Guest;
use crate::support::processes::Process;
use crate::support::{Lab, have, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::io::{PipeWriter, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Waits for the first line that this one is.
#[track_caller]
fn line(monitor: &Running, what: &str, is_it: impl Fn(&str) -> bool) -> String {
    wait_for(&format!("{what} in:\n{}", monitor.out()), 20, || {
        let out = monitor.out();
        let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().find(|line| is_it(line)).map(str::to_owned)
    })
}

/// The same of JSON.
#[track_caller]
fn event(monitor: &Running, name: &str) -> Value {
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect("JSON on each line");
    parse(&line(monitor, name, |line| parse(line)["event"] == name))
}

#[test]
fn what_happens_on_a_bridge_is_told_line_by_line() {
    let Some(lab) = Lab::with_address() else { return };
    if !lab.lan.serve_dhcp() {
        return;
    }
    let json = lab.kvm_bridge("monitor --json --initial").start();
    let mut lines = lab.kvm_bridge("monitor br0").start();
    for monitor in [&json, &lines] {
        monitor.waits();
    }
    let go = lab.new_file("go");
    let mut guest = lab.shim("--bridge br0 -name alice").then(&format!("until:{},dhcp,hold", go.display())).start();
    let mac = guest.qemu().macs()[0].clone();
    let created = event(&json, "bridge-created");
    assert_eq!((&created["bridge"], &created["initial"]), (&"br0".into(), &false.into()));
    let connected = event(&json, "guest-connected");
    assert_eq!((&connected["vm"], &connected["port"]), (&"alice".into(), &"kvb0".into()), "{connected}");
    assert_eq!((&connected["mac"], &connected["pid"]), (&mac.as_str().into(), &guest.pid().into()), "{connected}");
    lab.reapers_rest();
    fs::write(&go, "").expect("write a file");
    let address = lab.lan.lease_of(&mac, 20);
    assert_eq!(event(&json, "guest-address")["address"], address.as_str());
    // By the file that its reaper leaves open until it dies.
    lab.reaper_of("br0").kill();
    let fault = event(&json, "fault");
    assert_eq!(fault["fault"], "its reaper does not run: kvm-bridge recover");
    line(&lines, "the fault", |line| line.starts_with("br0: fault: "));
    lab.kvm_bridge("recover").run().succeeds();
    assert_eq!(event(&json, "fault-fixed")["fault"], fault["fault"]);
    line(&lines, "the fault to be fixed", |line| line.starts_with("br0: fixed: "));
    // To another bridge, by hand, and back.
    lab.ip("link add name other type bridge");
    lab.ip("link set dev kvb0 master other");
    assert_eq!(event(&json, "guest-moved")["from"], "br0");
    line(&lines, "the move", |line| line.starts_with("other: ") && line.ends_with(" moved here from br0"));
    lab.ip("link set dev kvb0 master br0");
    // As it is where the guest goes on at another host.
    lab.lan.run(&format!("ip link add link lan0 name mv0 address {mac} type macvlan"));
    lab.lan.run("ip link set mv0 up");
    let guest_name = format!("alice (kvb0, {mac})");
    let behind = |line: &str| line.starts_with(&format!("br0: {guest_name} moved behind "));
    wait_for("the guest to be heard elsewhere", 20, || {
        lab.lan.command("ping -c 1 -W 1 -I mv0 10.77.0.2").output().expect("run ping");
        (lines.out().lines().any(behind) && json.out().contains("\"behind\":\"kvbp-br0\"")).then_some(())
    });
    line(&lines, "the way back", |line| line == format!("br0: {guest_name} moved here from other"));
    lab.ip("link del other");
    guest.kill();
    event(&json, "guest-disconnected");
    line(&lines, "the end of br0", |line| line == "br0: removed");
    let expected = [
        "br0: created".to_owned(),
        format!("br0: {guest_name} connected"),
        format!("br0: {guest_name} has the address {address}"),
        "br0: fault: its reaper does not run: kvm-bridge recover".to_owned(),
        "br0: fixed: its reaper does not run: kvm-bridge recover".to_owned(),
        format!("other: {guest_name} moved here from br0"),
        format!("br0: {guest_name} moved here from other"),
        format!("br0: {guest_name} moved behind kvbp-br0"),
        format!("br0: {guest_name} disconnected"),
        "br0: removed".to_owned(),
    ];
    let out = lines.out();
    let told: Vec<&str> = out.lines().collect();
    assert_eq!(told, expected, "{out}");
    assert!(lines.is_running() && lines.err().is_empty(), "{}", lines.err());
    lines.signal(Signal::SIGINT);
    assert_eq!(lines.end().signal(), Some(Signal::SIGINT as i32));
    let json = json.terminate().out;
    lines_are_as_documented("monitor", &json);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).expect("the page");
    let names =
        page.split("| `event` | string | ").nth(1).and_then(|rest| rest.split(" |").next()).expect("the events");
    let told = |name: &str| json.contains(&format!("\"event\":\"{}\"", name.trim_matches('`')));
    assert!(names.split(", ").all(told), "{names}: {json}");
}

#[test]
fn what_is_there_is_told_first_and_nothing_is_done_while_nothing_happens() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let _guest = lab.shim("--bridge br0 -name").arg("odd\u{1b}[2J\u{202e}\nname").boot();
    // Who has read enough is not waited for until something happens.
    let program = env!("CARGO_BIN_EXE_kvm-bridge");
    let said = lab.sh(&format!("{program} monitor --initial | head -n 2; echo end")).run().succeeds().out;
    let told: Vec<&str> = said.lines().collect();
    assert_eq!((told.len(), told[0], told[2]), (3, "br0: created", "end"), "{said}");
    assert!(told[1].starts_with("br0: odd") && told[1].contains("(kvb0, "), "{said}");
    for words in ["monitor --initial", "monitor --initial --json"] {
        let monitor = lab.kvm_bridge(words).start();
        line(&monitor, "the guest", |line| line.contains("kvb0"));
        let out = monitor.out();
        assert!(!out.contains(|c: char| c != '\n' && c.is_control()) && !out.contains('\u{202e}'), "{out:?}");
        assert_eq!(out.lines().count(), 2, "{out}");
        monitor.waits();
        let switches = || {
            let status = fs::read_to_string(format!("/proc/{}/status", monitor.pid())).expect("its status");
            status.lines().filter(|line| line.contains("ctxt_switches")).map(str::to_owned).collect::<Vec<_>>()
        };
        // Its last rest is over.
        wait_for("it to do nothing", 20, || {
            let before = switches();
            sleep(Duration::from_secs(1));
            (switches() == before).then_some(())
        });
        monitor.kill();
    }
    let refused = lab.kvm_bridge("monitor a/b").run().exits_with(125).err;
    assert!(refused.contains("a/b"), "{refused}");
}

#[test]
fn a_user_hears_of_it_too() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("setpriv") {
        return;
    }
    let monitor = lab.kvm_bridge("monitor").through("setpriv --reuid=65534 --regid=65534 --clear-groups").start();
    monitor.waits();
    let guest = lab.shim("--bridge br0 -name alice").boot();
    line(&monitor, "the guest", |line| line.starts_with("br0: alice (kvb0, ") && line.ends_with(" connected"));
    guest.kill();
    line(&monitor, "its end", |line| line.starts_with("br0: alice (kvb0, ") && line.ends_with(" disconnected"));
    monitor.kill();
}

/// A screen that somebody watches, and its keyboard.
fn at_a_terminal<'lab>(lab: &'lab Lab, words: &str) -> (Running<'lab>, PipeWriter) {
    let (keyboard, keys) = std::io::pipe().expect("a pipe");
    let program = env!("CARGO_BIN_EXE_kvm-bridge");
    let command = format!(
        "trap : INT; stty rows 40 cols 150; before=$(stty -g); {program} {words}; echo status $?; [ \"$before\" = \"$(stty -g)\" ] && echo as before"
    );
    let screen = lab.program("script").words("-q -e -f -c").arg(command).arg("/dev/null").env("TERM", "xterm");
    (screen.stdin(keyboard).start(), keys)
}

/// What is on the screen now.
fn shown(screen: &Running) -> String {
    screen.out().rsplit("\x1b[H").next().unwrap_or_default().to_owned()
}

#[test]
fn a_screen_follows_what_happens_and_leaves_the_terminal_as_it_was() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("script") {
        return;
    }
    lab.ip("address add 10.77.0.2/24 dev br0");
    let (screen, mut keys) = at_a_terminal(&lab, "status --watch");
    wait_for("the bridge", 20, || shown(&screen).contains("br0").then_some(()));
    let guest = Guest::boot(&lab, 7);
    wait_for("the guest", 20, || shown(&screen).contains("guest7").then_some(()));
    // What passes is counted.
    wait_for("its pings to be counted", 30, || {
        guest.run("ping -q -c 20 -i 0.05 10.77.0.2");
        let out = screen.out();
        out.split("\x1b[H").any(|shown| shown.contains("FROM GUEST") && shown.contains("B/s")).then_some(())
    });
    drop(guest);
    wait_for("the end of the guest", 20, || (!shown(&screen).contains("guest7")).then_some(()));
    let out = screen.out();
    assert!(out.contains("\x1b[?1049h\x1b[?25l\x1b[?7l") && !out.contains("\x1b[?1049l"), "{out}");
    keys.write_all(b"xq").expect("type");
    let out = screen.end().succeeds().out;
    let after = out.split("\x1b[?7h\x1b[?25h\x1b[?1049l").nth(1).unwrap_or_else(|| panic!("{out}"));
    assert_eq!(after.split_whitespace().collect::<Vec<_>>(), ["status", "0", "as", "before"]);
    // By ^C, and by a signal from elsewhere.
    let (screen, mut keys) = at_a_terminal(&lab, "status br0 --watch");
    wait_for("the bridge", 20, || shown(&screen).contains("br0").then_some(()));
    keys.write_all(b"\x03").expect("type");
    let out = screen.end().out;
    assert!(out.contains("status 0") && out.contains("as before"), "{out}");
    let (screen, _keys) = at_a_terminal(&lab, "status --watch");
    wait_for("the bridge", 20, || shown(&screen).contains("br0").then_some(()));
    let watches = |process: &Process| process.command.starts_with(env!("CARGO_BIN_EXE_kvm-bridge"));
    let watching = lab.all_processes().into_iter().find(watches).expect("it runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watching.pid), Signal::SIGTERM).expect("it runs");
    let out = screen.end().out;
    assert!(
        out.contains("\x1b[?7h\x1b[?25h\x1b[?1049l") && out.contains("status 143") && out.contains("as before"),
        "{out}"
    );
    // Where there is no terminal.
    for words in ["status --watch", "status --watch --json"] {
        let err = lab.kvm_bridge(words).run().exits_with(125).err;
        assert!(err.contains("kvm-bridge monitor"), "{err}");
    }
    assert!(at_a_terminal(&lab, "status nosuch --watch").0.end().out.contains("there is no bridge nosuch"));
}
