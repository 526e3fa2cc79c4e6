//! `kvm-bridge connect`, `ssh` and `hosts`: into guests that run.

use crate::guests::boot_linux_by;
use crate::support::command::Cmd;
use crate::support::guest::Guest;
use crate::support::real::GuestShell;
use crate::support::{Lab, have, wait_for};
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// A server in a guest.
fn listen(guest: &Guest, on: &'static str) -> TcpListener {
    guest.stack.thread(move || TcpListener::bind(on).expect("a server")).join().expect("a thread")
}

/// Serves one client.
fn serve(listener: TcpListener, work: impl FnOnce(TcpStream) + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || work(listener.accept().expect("a client").0))
}

/// A text that no two parts of are alike.
fn long_text(lines: u32) -> String {
    (0..lines).map(|line| format!("{:08x} {line}\n", line.wrapping_mul(2_654_435_761))).collect()
}

#[test]
fn a_port_is_joined_with_the_standard_files_and_the_end_of_each_direction_is_told() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = Guest::boot(&lab, 5);
    let text = long_text(200_000);
    let file = lab.dir.path().join("text");
    fs::write(&file, &text).expect("write a file");
    // The guest answers when it has all of it, with all of it.
    let server = serve(listen(&guest, "0.0.0.0:80"), |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("read to the end");
        stream.write_all(&all).expect("write");
    });
    let connect = |words: &str| lab.kvm_bridge(&format!("connect {words}"));
    let ended = connect("guest5 80").stdin(File::open(&file).expect("open")).run().succeeds();
    assert_eq!((ended.out.len(), ended.err.as_str()), (text.len(), ""));
    assert!(ended.out == text, "it is another text");
    server.join().expect("the server");
    // One that is done with speaking first, and hears all the same; by another name.
    let (told, hears) = std::sync::mpsc::channel();
    let server = serve(listen(&guest, "0.0.0.0:80"), move |mut stream| {
        stream.write_all(b"welcome\n").expect("write");
        stream.shutdown(Shutdown::Write).expect("end");
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("read to the end");
        told.send(all).expect("somebody asks");
    });
    let (from, mut into) = std::io::pipe().expect("a pipe");
    let running = connect("guest5.vm 80").stdin(from).start();
    wait_for("the welcome", 20, || (running.out() == "welcome\n").then_some(()));
    into.write_all(b"thanks\n").expect("it reads");
    drop(into);
    running.end().succeeds();
    assert_eq!(hears.recv().expect("an answer"), "thanks\n");
    server.join().expect("the server");
    // With nothing to say, and with nobody who listens any more.
    let server = serve(listen(&guest, "0.0.0.0:80"), |mut stream| {
        let mut all = Vec::new();
        assert_eq!(stream.read_to_end(&mut all).expect("read"), 0);
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let script = "\"$0\" \"$@\" <&- | head -c 3; exit 7";
    assert_eq!(connect("guest5 80").through_sh(script).run().exits_with(7).out, "xxx");
    server.join().expect("the server");
    guest.terminate();
}

#[test]
fn who_cannot_be_reached_is_named_with_what_to_do() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = Guest::boot(&lab, 5);
    for (words, what, remedy) in [
        ("nobody 22", "there is no guest nobody on a bridge", "kvm-bridge status"),
        ("guest5 81", "guest5 (10.77.0.5", "To wait for it: kvm-bridge connect guest5 81 --wait"),
        ("guest5 0", "PORT cannot be '0'", "from 1 to 65535"),
        ("guest5 65536", "PORT cannot be '65536'", "from 1 to 65535"),
        ("guest5 -1", "PORT cannot be '-1'", "from 1 to 65535"),
        ("guest5 ssh", "PORT cannot be 'ssh'", "from 1 to 65535"),
        ("guest5", "PORT is required", "connect"),
        (".vm 22", "there is no guest .vm", "status"),
        ("--wait 3 guest5 22", "is a word too many", ""),
    ] {
        let err = lab.kvm_bridge(&format!("connect {words}")).run().exits_with(125).err;
        assert!(err.contains(what) && err.contains(remedy), "{words}: {err}");
    }
    for odd in ["", "a\nb", "$(reboot)", "\u{1b}[31m", "../../etc"] {
        let err = lab.kvm_bridge("connect").arg(odd).arg("22").run().exits_with(125).err;
        assert!(err.contains("there is no guest") && !err.contains('\u{1b}'), "{err:?}");
    }
    // It may be there in a moment.
    let waiting = lab.kvm_bridge("-v connect guest5 82 --wait=30").start();
    wait_for("a refusal", 20, || waiting.err().contains("port 82: Connection refused").then_some(()));
    let server = serve(listen(&guest, "0.0.0.0:82"), |mut stream| stream.write_all(b"late\n").expect("write"));
    assert_eq!(waiting.end().succeeds().out, "late\n");
    server.join().expect("the server");
    let waiting = lab.kvm_bridge("-v connect guest6 83 --wait").start();
    wait_for("it to look", 20, || waiting.err().contains("asked the kernel for its links").then_some(()));
    let late = Guest::boot(&lab, 6);
    let server = serve(listen(&late, "0.0.0.0:83"), |mut stream| stream.write_all(b"later\n").expect("write"));
    assert_eq!(waiting.end().succeeds().out, "later\n");
    server.join().expect("the server");
    let err = lab.kvm_bridge("connect guest6 84 --wait=1").run().exits_with(125).err;
    assert!(err.contains("refuses connections to port 84") && !err.contains("--wait"), "{err}");
    late.terminate();
    guest.terminate();
}

#[test]
fn a_guest_that_dies_ends_the_connection_and_one_that_breaks_it_off_is_told() {
    let Some(lab) = Lab::with_address() else { return };
    let guest = Guest::boot(&lab, 5);
    let server = serve(listen(&guest, "0.0.0.0:80"), |stream| {
        // Without the usual farewell.
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("set linger");
    });
    let (from, _open) = std::io::pipe().expect("a pipe");
    let err = lab.kvm_bridge("connect guest5 80").stdin(from).run().exits_with(125).err;
    // As it comes, also before this end knows that there is a connection.
    assert!(err.contains("guest5") && err.contains("Connection reset"), "{err}");
    server.join().expect("the server");
    let (told, hears) = std::sync::mpsc::channel::<()>();
    let server = serve(listen(&guest, "0.0.0.0:80"), move |mut stream| {
        stream.write_all(b"begin\n").expect("write");
        let _ = hears.recv();
    });
    let (from, _open) = std::io::pipe().expect("a pipe");
    let running = lab.kvm_bridge("connect guest5 80").stdin(from).start();
    wait_for("the connection", 20, || (running.out() == "begin\n").then_some(()));
    guest.terminate();
    let err = running.end_within(20).exits_with(125).err;
    assert!(err.contains("guest5 ended, or lost its network card"), "{err}");
    drop(told);
    server.join().expect("the server");
}

#[test]
fn a_guest_without_an_address_is_reached_by_its_link_local_one() {
    let Some(lab) = Lab::with_address() else { return };
    // Isolated from all but the host.
    let guest = Guest::boot_silent(&lab, "lonely", "--bridge lab,uplink=none");
    guest.stack.run("ip link set eth0 up");
    let server = serve(listen(&guest, "[::]:80"), |mut stream| stream.write_all(b"here\n").expect("write"));
    assert_eq!(lab.kvm_bridge("connect lonely 80 --wait=20").run().succeeds().out, "here\n");
    server.join().expect("the server");
    // It has one that the host has no way to: that of another network, where somebody else may have it.
    guest.stack.run("ip addr add 10.77.0.1/24 dev eth0");
    lab.ip(&format!("neigh add 10.77.0.1 lladdr {} dev lab", guest.mac));
    let other = lab.lan.thread(|| TcpListener::bind("10.77.0.1:81").expect("a server")).join().expect("a thread");
    let nobody = "setpriv --reuid nobody --clear-groups --inh-caps=-all";
    let err = lab.kvm_bridge("connect lonely 81").through(nobody).run().exits_with(125).err;
    assert!(err.contains("refuses connections to port 81"), "{err}");
    other.set_nonblocking(true).expect("no waiting");
    assert!(other.accept().is_err(), "it went to somebody else");
    guest.terminate();
}

#[test]
fn ssh_is_run_with_this_program_as_its_way_and_the_name_of_the_vm_for_the_host_key() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("ssh") {
        return;
    }
    // A place with all that a shell and ssh mind.
    let folder = lab.dir.path().join("a %h $(x) 'b'");
    fs::create_dir(&folder).expect("make a folder");
    let program = folder.join("kvm-bridge");
    fs::copy(env!("CARGO_BIN_EXE_kvm-bridge"), &program).expect("copy");
    let guest = Guest::boot(&lab, 5);
    for (words, name) in [("--wait=20 root@guest5", "guest5.vm"), ("guest5.vm", "guest5.vm")] {
        let server = serve(listen(&guest, "0.0.0.0:2200"), |mut stream| {
            stream.write_all(b"SSH-2.0-our_banner\r\n").expect("write");
            let mut hello = [0; 8];
            stream.read_exact(&mut hello).expect("its banner");
            assert_eq!(&hello, b"SSH-2.0-");
        });
        let ended = lab.program(&program).words("ssh").words(words).words("-- -v -p 2200 -o BatchMode=yes true").run();
        assert_eq!(ended.status.code(), Some(255), "{}", ended.err);
        assert!(ended.err.contains("remote software version our_banner"), "{}", ended.err);
        assert!(ended.err.contains(&format!("[{name}]:2200")) || ended.err.contains(name), "{}", ended.err);
        server.join().expect("the server");
    }
    // What it is called with.
    let fake = lab.dir.path().join("bin");
    fs::create_dir(&fake).expect("make a folder");
    let script = fake.join("ssh");
    fs::write(&script, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 9\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("make it a program");
    let path = format!("{}:/usr/bin:/bin", fake.display());
    let run = |vm: &str| lab.kvm_bridge("ssh").arg(vm).words("-- -A uptime").env("PATH", &path).run();
    let said = run("root@my vm").exits_with(9).out;
    let lines: Vec<&str> = said.lines().collect();
    let [o, proxy, o2, alias, l, user, host, rest @ ..] = lines.as_slice() else { panic!("{said}") };
    assert_eq!((*o, *o2, *l, *user, rest), ("-o", "-o", "-l", "root", &["-A", "uptime"][..]));
    assert!(proxy.ends_with(" connect -- 'my vm' %p"), "{proxy}");
    assert_eq!(*alias, format!("HostKeyAlias={host}"));
    assert!(host.starts_with("myvm-") && host.ends_with(".vm"), "{host}");
    assert!(run("-oProxyCommand=x").exits_with(125).err.contains("there is no option"));
    for odd in ["@alice", "root@", ""] {
        assert!(run(odd).exits_with(125).err.contains("names no VM"), "{odd}");
    }
    assert!(lab.kvm_bridge("ssh").run().exits_with(125).err.contains("[USER@]VM is required"));
    let ended = lab.kvm_bridge("ssh alice").env("PATH", "/nowhere").run().exits_with(127);
    assert!(ended.err.contains("openssh-client"), "{}", ended.err);
    guest.terminate();
}

#[test]
fn hosts_are_those_that_run_by_names_that_a_host_can_have() {
    let Some(lab) = Lab::with_address() else { return };
    assert_eq!(lab.kvm_bridge("hosts").run().succeeds().out, "");
    let mut guests = Vec::new();
    for (name, number) in [("alice", 5), ("My_VM.2", 6), ("localhost", 7), ("alice", 8)] {
        let mut guest = lab.shim(&format!("--bridge br0 -name {name}")).boot();
        let mac = guest.qemu().macs()[0].clone();
        lab.ip(&format!("neigh add 10.77.0.{number} lladdr {mac} dev eth0"));
        lab.ip(&format!("neigh add fe80::{number} lladdr {mac} dev eth0"));
        guests.push(guest);
    }
    let lines = "10.77.0.6\tmy-vm-2.vm my-vm-2\t# kvm-bridge\n10.77.0.5\talice.vm alice\t# kvm-bridge\n\
                 10.77.0.8\talice-2.vm alice-2\t# kvm-bridge\n10.77.0.7\tlocalhost-2.vm localhost-2\t# kvm-bridge\n";
    assert_eq!(lab.kvm_bridge("hosts").run().succeeds().out, lines);
    let json: Value = serde_json::from_str(&lab.kvm_bridge("hosts --json").run().succeeds().out).expect("JSON");
    assert_eq!(json["hosts"][0], serde_json::json!({ "address": "10.77.0.6", "name": "my-vm-2", "vm": "My_VM.2" }));
    // Those that run are what is completed.
    for line in ["ssh root@al", "ssh --wait root@al", "connect --wait=3 al", "attach al", "detach al"] {
        let said = lab.kvm_bridge(&format!("complete -- kvm-bridge {line}")).run().succeeds().out;
        assert!(said.contains("root@") == line.contains('@') && said.contains("alice\ton br0"), "{line}: {said:?}");
    }
    guests.into_iter().for_each(|guest| drop(guest.kill()));
}

/// What a netcat in a guest says that ends as soon as nobody speaks to it any more: all of it has come when `is_all` says so.
#[track_caller]
pub(crate) fn hear(cmd: Cmd, is_all: impl Fn(&str) -> bool) -> String {
    let (from, into) = std::io::pipe().expect("a pipe");
    let mut running = cmd.stdin(from).start();
    wait_for("what the guest says", 90, || {
        assert!(running.is_running(), "it ended: {}", running.err());
        is_all(&running.out()).then_some(())
    });
    drop(into);
    running.end().succeeds().out
}

#[test]
fn a_real_guest_is_connected_to() {
    let Some(lab) = Lab::with_address() else { return };
    let (keyboard, shell) = std::io::pipe().expect("a pipe");
    let cmd = lab.shim("--bridge br0 -name alice").stdin(keyboard);
    let Some(guest) = boot_linux_by(&lab, cmd, "shell") else { return };
    let mut shell = GuestShell::new(shell);
    let connect = |words: &str| lab.kvm_bridge(&format!("connect alice {words}"));
    let (from, into) = std::io::pipe().expect("a pipe");
    let waiting = connect("80 --wait=120").stdin(from).start();
    wait_for("the guest's shell", 120, || guest.out().contains("guest: shell").then_some(()));
    shell.run(&guest, "(while :; do echo hello | nc -l -p 80; done >/dev/null 2>&1 &)");
    wait_for("its word", 60, || (waiting.out() == "hello\n").then_some(()));
    drop(into);
    waiting.end().succeeds();
    // As much as an emulated guest carries in a few seconds, each way, with its sum.
    shell.run(
        &guest,
        "((nc -l -p 81 > /in 2>/dev/null; md5sum < /in | nc -l -p 82; nc -l -p 83 < /in) >/dev/null 2>&1 &)",
    );
    let text = long_text(100_000);
    let file = lab.dir.path().join("text");
    fs::write(&file, &text).expect("write a file");
    let sum = lab.program("md5sum").stdin(File::open(&file).expect("open")).run().succeeds().out;
    connect("81 --wait=30").stdin(File::open(&file).expect("open")).run().succeeds();
    assert_eq!(hear(connect("82 --wait=30"), |out| out.ends_with('\n')), sum);
    assert!(hear(connect("83 --wait=30"), |out| out.len() >= text.len()) == text, "it is another text");
    guest.kill();
}
