//! `uplink=user`: a network of a user's own, without any right. The real pasta, dnsmasq and nft, and real guests.

use crate::connect::hear;
use crate::guests::real;
use crate::support::command::{Cmd, Running, fake_qemu};
use crate::support::processes::Process;
use crate::support::real::{GuestShell, linux};
use crate::support::served::{echoes, read_from, tells};
use crate::support::user::{ALICE, BOB, Right};
use crate::support::{Lab, have, wait_for};
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

/// A host with a way out and users, who have no helper and no bridge.
pub(crate) fn host() -> Option<Lab> {
    let lab = Lab::with_address().and_then(Lab::with_users)?;
    if !["pasta", "dnsmasq", "nft"].into_iter().all(have) {
        return None;
    }
    for program in [env!("CARGO_BIN_EXE_qemu-kvm"), env!("CARGO_BIN_EXE_kvm-bridge")] {
        lab.install(Path::new(program), Right::None);
    }
    lab.install(&fake_qemu(), Right::None);
    // As distributions have it: users may ping.
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").expect("let users ping");
    lab.baseline();
    Some(lab)
}

pub(crate) fn program<'lab>(lab: &'lab Lab, user: &str, name: &str) -> Cmd<'lab> {
    let home = if user == ALICE { "/run/alice" } else { "/run/bob" };
    lab.as_user(user, Path::new("/run/bin").join(name)).env("XDG_RUNTIME_DIR", home)
}

fn shim<'lab>(lab: &'lab Lab, user: &str, words: &str) -> Cmd<'lab> {
    program(lab, user, "qemu-kvm").words(words).env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu")
}

fn kvm_bridge<'lab>(lab: &'lab Lab, user: &str, words: &str) -> Cmd<'lab> {
    program(lab, user, "kvm-bridge").words(words).env("KVM_BRIDGE_QEMU", "/run/bin/fake-qemu")
}

/// The processes of the networks of this name, which no other test has.
fn processes_of(bridge: &str) -> Vec<Process> {
    let marks =
        [format!("--bridge-hold={bridge},"), format!("kvm-bridge-reaper {bridge} "), format!("--interface={bridge} ")];
    all_processes().filter(|process| marks.iter().any(|mark| process.command.contains(mark))).collect()
}

fn all_processes() -> impl Iterator<Item = Process> {
    let all = fs::read_dir("/proc").expect("proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process { pid, command: String::from_utf8_lossy(&words).replace('\0', " ") })
    })
}

#[track_caller]
fn process_of(bridge: &str, what: &str) -> Process {
    let found = processes_of(bridge).into_iter().find(|process| process.command.starts_with(what));
    found.unwrap_or_else(|| panic!("no {what} of {bridge}: {:?}", processes_of(bridge)))
}

/// Nothing is left of a network: no process, and no file of its user's but what is kept for the next time.
#[track_caller]
pub(crate) fn is_gone(bridge: &str, home: &str) {
    wait_for(&format!("the end of {bridge}"), 30, || processes_of(bridge).is_empty().then_some(()));
    let left = || Path::new(home).join("kvm-bridge").exists();
    wait_for(&format!("the files of {bridge} to go"), 10, || (!left()).then_some(()));
}

/// A real guest of alice's with a shell.
struct Guest<'lab> {
    qemu: Running<'lab>,
    shell: GuestShell,
}

impl<'lab> Guest<'lab> {
    fn boot(lab: &'lab Lab, name: &str, bridge: &str) -> Option<Self> {
        let (kernel, initramfs) = linux()?;
        if !have("qemu-system-x86_64") {
            return None;
        }
        for (file, name) in [(kernel, "kernel"), (initramfs, "initramfs")] {
            let copy = Path::new("/run/bin").join(name);
            if !copy.exists() {
                fs::copy(file, copy).expect("copy for users");
            }
        }
        let (keyboard, shell) = std::io::pipe().expect("a pipe");
        let words =
            format!("--bridge {bridge} -name {name} -m 256 -kernel /run/bin/kernel -initrd /run/bin/initramfs -append");
        let append = "ip=dhcp console=ttyS0 panic=-1 guest.then=shell quiet";
        let qemu = real(shim(lab, ALICE, &words).arg(append)).stdin(keyboard).start();
        Some(Self { qemu, shell: GuestShell::new(shell) })
    }

    /// Waits for its shell, and tells its address.
    #[track_caller]
    fn address(&mut self) -> String {
        wait_for("the guest's shell", 120, || {
            assert!(self.qemu.is_running(), "{}{}", self.qemu.out(), self.qemu.err());
            self.qemu.out().contains("guest: shell").then_some(())
        });
        let out = self.qemu.out();
        let told = out.split(" leased ").nth(1).unwrap_or_else(|| panic!("no lease: {out}"));
        told.split('/').next().expect("an address").to_owned()
    }

    /// Runs a command in the guest, which succeeds: what it said.
    #[track_caller]
    fn succeeds(&mut self, command: &str) -> String {
        let (status, said) = self.shell.run(&self.qemu, command);
        assert_eq!(status, 0, "{command}: {said}");
        said
    }
}

#[test]
fn guests_of_a_user_have_addresses_names_a_way_out_a_way_in_and_neighbours() {
    let Some(lab) = host() else { return };
    let listener = lab.lan.thread(|| TcpListener::bind("10.77.0.1:80").expect("a server")).join().expect("a thread");
    tells(listener);
    let own = TcpListener::bind("127.0.0.1:7777").expect("a server of the host's own");
    tells(own);
    tells(TcpListener::bind("0.0.0.0:7778").expect("a server on all of the host's addresses"));
    // Before there is any network.
    let (from, into) = std::io::pipe().expect("a pipe");
    let waiting = kvm_bridge(&lab, ALICE, "-v connect alice 22 --wait=300").stdin(from).start();
    wait_for("it to look", 20, || waiting.err().contains("asked the kernel for its links").then_some(()));
    let Some(mut alice) = Guest::boot(&lab, "alice", "unreal,uplink=user,forward=tcp:2222:22") else { return };
    let Some(mut carol) = Guest::boot(&lab, "carol", "unreal,uplink=user") else { return };
    let (address, carols) = (alice.address(), carol.address());
    let notices = format!("{}{}", alice.qemu.err(), carol.qemu.err());
    assert_eq!(notices.matches("made unreal, a network of your own (").count(), 1, "{notices}");
    // Out, as the host, and to each other by name.
    assert!(alice.succeeds("nc -w 5 10.77.0.1 80").contains("seen 10.77.0.2"));
    alice.succeeds("ping -c 1 -w 10 10.77.0.1");
    assert!(carol.succeeds("ping -c 1 -w 10 alice").contains(&address));
    // In.
    alice.succeeds("(while :; do echo hello-from-alice | nc -l -p 22; done >/dev/null 2>&1 &)");
    let said = wait_for("the forwarded port", 30, || read_from("127.0.0.1:2222".parse().expect("an address")));
    assert!(said.contains("hello-from-alice"), "{said}");
    wait_for("its word", 60, || (waiting.out() == "hello-from-alice\n").then_some(()));
    drop(into);
    waiting.end().succeeds();
    hear(kvm_bridge(&lab, ALICE, "connect alice 22 --wait=30"), |out| out == "hello-from-alice\n");
    let refused = kvm_bridge(&lab, ALICE, "connect carol 23").run().exits_with(125).err;
    assert!(refused.contains("refuses connections to port 23"), "{refused}");
    // Nothing of the host's loopback, by any address that leads to the host.
    for to in ["127.0.0.1", "169.254.2.1", "169.254.2.2"] {
        carol.succeeds(&format!("! nc -w 3 {to} 7777"));
    }
    assert!(read_from("127.0.0.1:7777".parse().expect("an address")).is_some());
    carol.succeeds("nc -w 5 10.77.0.2 7778 | grep seen");
    // What the commands say, without root.
    let status = kvm_bridge(&lab, ALICE, "status").run().succeeds().out;
    for part in ["unreal", "a network of your own", "alice", "carol", "tcp 127.0.0.1:2222 leads to alice, port 22"] {
        assert!(status.contains(part), "no {part}: {status}");
    }
    let json: Value =
        serde_json::from_str(&kvm_bridge(&lab, ALICE, "status --json").run().succeeds().out).expect("JSON");
    assert_eq!(json["bridges"][0]["nat"]["dnsmasq"], true, "{json}");
    assert_eq!(kvm_bridge(&lab, ALICE, "ip carol --first").run().succeeds().out.trim(), carols);
    let doctor = kvm_bridge(&lab, ALICE, "doctor unreal --quick --json").run().out;
    let checks: Value = serde_json::from_str(&doctor).expect("JSON");
    assert_eq!(checks["failures"], 0, "{doctor}");
    let entered = kvm_bridge(&lab, ALICE, "enter unreal -- getent hosts alice").run().succeeds().out;
    assert!(entered.contains(&address), "{entered}");
    let who =
        kvm_bridge(&lab, ALICE, "enter unreal --").arg("sh").arg("-c").arg("id -un; echo ~alice").run().succeeds().out;
    assert_eq!(who, "alice\n/run/alice\n");
    // Another user has none of it.
    assert!(!kvm_bridge(&lab, BOB, "status").run().out.contains("unreal"));
    let refused = kvm_bridge(&lab, BOB, "enter unreal -- true").run().exits_with(125).err;
    assert!(refused.contains("you have no network unreal that runs"), "{refused}");
    carol.qemu.kill();
    alice.qemu.kill();
    is_gone("unreal", "/run/alice");
    assert!(read_from("127.0.0.1:2222".parse().expect("an address")).is_none(), "the port is free");
}

#[test]
fn guests_go_out_by_whatever_the_default_route_is_by_then() {
    let Some(lab) = host() else { return };
    // Another way out, as a cable beside Wi-Fi.
    lab.ip("link add wlan0 type veth peer name wlan1 netns lan");
    lab.ip("addr add 10.78.0.2/24 dev wlan0");
    lab.ip("link set wlan0 up");
    for command in ["ip addr add 10.78.0.1/24 dev wlan1", "ip link set wlan1 up", "ip addr add 192.0.2.1/32 dev lo"] {
        lab.lan.run(command);
    }
    let listen = |port: u16| {
        lab.lan.thread(move || TcpListener::bind(("192.0.2.1", port)).expect("a server")).join().expect("a thread")
    };
    tells(listen(80));
    echoes(listen(81));
    let Some(mut alice) = Guest::boot(&lab, "alice", "uroute,uplink=user") else { return };
    alice.address();
    alice.succeeds("nc -w 5 192.0.2.1 80 | grep 'seen 10.77.0.2'");
    alice.succeeds("(while :; do echo x; sleep 1; done | nc 192.0.2.1 81 >>/log &)");
    let goes_on = |alice: &mut Guest, what: &str| {
        alice.succeeds(": >/log");
        wait_for(what, 30, || {
            alice.succeeds("wc -c </log").trim().parse::<u32>().is_ok_and(|size| size > 4).then_some(())
        });
    };
    goes_on(&mut alice, "an echo");
    lab.ip("route replace default via 10.78.0.1");
    alice.succeeds("nc -w 5 192.0.2.1 80 | grep 'seen 10.78.0.2'");
    // As one of the host's own programs, while the other address is still there.
    goes_on(&mut alice, "an echo by the old address");
    lab.ip("link del wlan0");
    lab.ip("route replace default via 10.77.0.1");
    alice.succeeds("nc -w 5 192.0.2.1 80 | grep 'seen 10.77.0.2'");
    lab.lan.run("ip addr del 192.0.2.1/32 dev lo");
    alice.qemu.kill();
    is_gone("uroute", "/run/alice");
}

#[test]
fn slirp4netns_is_the_way_out_where_there_is_no_pasta() {
    let Some(lab) = host().filter(|_| have("slirp4netns")) else { return };
    lab.sh("mount --bind /dev/null /usr/bin/pasta").run().succeeds();
    tells(lab.lan.thread(|| TcpListener::bind("10.77.0.1:80").expect("a server")).join().expect("a thread"));
    tells(TcpListener::bind("127.0.0.1:7777").expect("a server of the host's own"));
    fs::remove_file("/etc/resolv.conf").ok();
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\n").expect("a resolver");
    let at = "dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --keep-in-foreground --user=root --bind-interfaces";
    let server = lab.sh(&format!("exec {at} --listen-address=127.0.0.1 --address=/host.test/192.0.2.77"));
    let _server = server.start();
    let Some(mut alice) = Guest::boot(&lab, "alice", "uslirp,uplink=user,forward=tcp:2225:22") else { return };
    alice.address();
    assert!(alice.succeeds("nc -w 5 10.77.0.1 80").contains("seen 10.77.0.2"));
    alice.succeeds("ping -c 1 -w 10 10.77.0.1");
    alice.succeeds("nslookup host.test | grep 192.0.2.77");
    for to in ["127.0.0.1", "10.77.0.2", "169.254.2.2", "169.254.2.3"] {
        alice.succeeds(&format!("! nc -w 3 {to} 7777"));
    }
    alice.succeeds("(while :; do echo hello-from-alice | nc -l -p 22; done >/dev/null 2>&1 &)");
    let said = wait_for("the forwarded port", 30, || read_from("127.0.0.1:2225".parse().expect("an address")));
    assert!(said.contains("hello-from-alice"), "{said}");
    kvm_bridge(&lab, ALICE, "status uslirp").run().succeeds();
    // All ends with it, and the next start begins anew.
    let slirp = all_processes().find(|one| one.command.contains("slirp4netns ") && is_of(one.pid, "uslirp"));
    slirp.expect("slirp4netns").kill();
    wait_for("the others to end with it", 10, || processes_of("uslirp").is_empty().then_some(()));
    let next = shim(&lab, ALICE, "--bridge uslirp,uplink=user -name next").boot();
    assert!(next.err().contains("made uslirp"), "{}", next.err());
    alice.qemu.kill();
    next.kill();
    is_gone("uslirp", "/run/alice");
}

/// Whether a process has the holder's starter of this network as its child.
fn is_of(pid: i32, bridge: &str) -> bool {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let command = |child: &str| fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
    children.split_whitespace().any(|child| command(child).contains(&format!("{bridge},uplink=nat")))
}

#[test]
fn a_second_guest_joins_and_the_next_network_has_the_same_addresses() {
    let Some(lab) = host() else { return };
    let mut subnets = Vec::new();
    for _ in 0..2 {
        let mut first = shim(&lab, ALICE, "--bridge ujoin,uplink=user -name first").boot();
        // It need not be said again.
        let mut second = shim(&lab, ALICE, "--bridge ujoin -name second").boot();
        assert_ne!(first.qemu().mac(), second.qemu().mac());
        assert!(!second.err().contains("made "), "{}", second.err());
        assert!(first.qemu().tap().vnet_hdr);
        let holders = processes_of("ujoin").into_iter().filter(|one| one.command.contains("/qemu-kvm --bridge-hold="));
        assert_eq!(holders.filter(|one| !one.command.contains("pasta")).count(), 1);
        subnets.push(first.err().split('(').nth(1).expect("a subnet").split(')').next().map(str::to_owned));
        // What is said otherwise is refused, and changes nothing.
        let refused = shim(&lab, ALICE, "--bridge ujoin,uplink=user,net=10.1.2.0/24").run().exits_with(125).err;
        assert!(refused.contains("not 10.1.2.0/24"), "{refused}");
        second.kill();
        first.kill();
        is_gone("ujoin", "/run/alice");
    }
    assert_eq!(subnets[0], subnets[1]);
    // Its users are told what a dry run would do.
    let out = shim(&lab, ALICE, "--bridge-dry-run --bridge ujoin,uplink=user").run().succeeds().out;
    assert!(
        out.contains("# ujoin: in a network of your own, behind this host's address, by pasta or else slirp4netns"),
        "{out}"
    );
    assert!(processes_of("ujoin").is_empty());
}

#[test]
fn the_configuration_has_a_network_and_a_daemon_keeps_its_ports() {
    let Some(lab) = host() else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    fs::create_dir_all("/run/alice/.config/kvm-bridge").expect("a folder");
    let text = "[bridge.uconf]\nuplink = \"user\"\nnet = \"10.99.1.0/24\"\nmtu = 1400\n";
    fs::write("/run/alice/.config/kvm-bridge/config.toml", text).expect("a configuration");
    let pid = Path::new("/run/alice/pid");
    for _ in 0..2 {
        let words = "--bridge uconf,forward=tcp:2222:22,forward=udp:2223:22 -name vm -S -m 64 -accel tcg -display none -daemonize -pidfile";
        let started =
            shim(&lab, ALICE, words).arg(pid).env("KVM_BRIDGE_QEMU", crate::support::real::QEMU).run().succeeds();
        assert!(started.err.contains("made uconf, a network of your own (10.99.1.0/24)"), "{}", started.err);
        let json: Value =
            serde_json::from_str(&kvm_bridge(&lab, ALICE, "status uconf --json").run().succeeds().out).expect("JSON");
        assert_eq!(json["bridges"][0]["mtu"], 1400, "{json}");
        // Somebody is there, who leads it to a guest that does not answer; and goes with it.
        let client = TcpStream::connect("127.0.0.1:2222").expect("the port is open");
        let daemon = Process {
            pid: fs::read_to_string(pid).expect("a PID").trim().parse().expect("a number"),
            command: String::new(),
        };
        let relays = || relays("udp:127.0.0.1:2223:22");
        assert_eq!(relays().len(), 2, "{:?}", relays());
        daemon.kill();
        wait_for("the relay to end", 10, || relays().is_empty().then_some(()));
        drop(client);
        fs::remove_file(pid).expect("QEMU was killed");
        is_gone("uconf", "/run/alice");
    }
}

/// The processes of the relay of this port, which nobody else forwards.
fn relays(port: &str) -> Vec<Process> {
    let all = all_processes();
    all.filter(|one| one.command.starts_with("kvm-bridge-relay ") && one.command.contains(port)).collect()
}

#[test]
fn a_killed_relay_is_started_again_or_noticed() {
    let Some(lab) = host() else { return };
    const PORT: &str = "tcp:127.0.0.1:2224:22";
    let guest = shim(&lab, ALICE, "--bridge urelay,uplink=user,forward=tcp:2224:22 -name vm").boot();
    let two = |but: &[i32]| {
        wait_for("a relay of two processes", 10, || {
            let found: Vec<i32> = relays(PORT).iter().map(|one| one.pid).collect();
            (found.len() == 2 && !found.iter().any(|pid| but.contains(pid))).then_some(found)
        })
    };
    let found = two(&[]);
    // The second one is the child of the first one.
    let parent = |pid: i32| fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (first, second) = if parent(found[1]).contains(&format!(") S {} ", found[0])) {
        (found[0], found[1])
    } else {
        (found[1], found[0])
    };
    Process { pid: second, command: String::new() }.kill();
    let again = two(&[second]);
    let status = || kvm_bridge(&lab, ALICE, "status urelay --json").run().out;
    let faults = || serde_json::from_str::<Value>(&status()).expect("JSON")["bridges"][0]["faults"].to_string();
    assert_eq!(faults(), "[]");
    Process { pid: first, command: String::new() }.kill();
    assert_eq!(faults(), "[]");
    TcpStream::connect("127.0.0.1:2224").expect("the other one leads it");
    again.iter().filter(|pid| **pid != first).for_each(|pid| Process { pid: *pid, command: String::new() }.kill());
    wait_for("the fault", 10, || faults().contains("the ports that are forwarded to vm lead nowhere").then_some(()));
    // It is looked into without its name too.
    let doctor: Value =
        serde_json::from_str(&kvm_bridge(&lab, ALICE, "doctor --quick --json").run().exits_with(1).out).expect("JSON");
    let checks = doctor["checks"].as_array().expect("checks");
    let is_it = |check: &&Value| check["observed"].as_str().is_some_and(|seen| seen.contains("its relay was killed"));
    assert_eq!(checks.iter().find(is_it).map(|check| &check["subject"]), Some(&Value::from("urelay")), "{doctor}");
    guest.kill();
    is_gone("urelay", "/run/alice");
}

#[test]
fn who_has_networks_of_their_own_is_told_of_these() {
    let Some(lab) = host() else { return };
    let one = shim(&lab, ALICE, "--bridge uone,uplink=user -name vm").boot();
    let other = shim(&lab, ALICE, "--bridge uother,uplink=user -name vm").boot();
    let doctor = kvm_bridge(&lab, ALICE, "doctor --quick --json").run().out;
    let checks: Value = serde_json::from_str(&doctor).expect("JSON");
    assert_eq!(checks["failures"], 0, "{doctor}");
    for subject in ["uone", "uother"] {
        let list = checks["checks"].as_array().expect("checks");
        assert!(list.iter().any(|check| check["name"] == "nat" && check["subject"] == subject), "{doctor}");
        assert_eq!(list.iter().filter(|check| check["name"] == "tun").count(), 1, "{doctor}");
    }
    let refused = kvm_bridge(&lab, ALICE, "ip vm").run().exits_with(125).err;
    assert!(refused.contains("vm is on several networks of yours: uone, uother"), "{refused}");
    assert!(refused.contains("kvm-bridge enter uone -- kvm-bridge ip vm"), "{refused}");
    kvm_bridge(&lab, ALICE, "enter uone -- /run/bin/kvm-bridge ip vm").run().exits_with(1);
    one.kill();
    other.kill();
    is_gone("uone", "/run/alice");
}

#[test]
fn folders_may_be_long_and_those_that_cannot_be_used_are_named() {
    let Some(lab) = host() else { return };
    let long = format!("/run/alice/{}", "x".repeat(150));
    let folder = |path: &str| {
        fs::create_dir(path).expect("a folder");
        std::os::unix::fs::chown(path, Some(1000), Some(1000)).expect("alice's");
    };
    folder(&long);
    let guest =
        shim(&lab, ALICE, "--bridge ulong,uplink=user,announce=on -name vm").env("XDG_RUNTIME_DIR", &long).boot();
    let status = kvm_bridge(&lab, ALICE, "status ulong --json").env("XDG_RUNTIME_DIR", &long).run().succeeds().out;
    assert!(status.contains("\"faults\": []"), "{status}");
    guest.kill();
    is_gone("ulong", &long);
    // Without a home of its own in the environment it is the account's, also for who is root in there.
    let guest = shim(&lab, ALICE, "--bridge uhome,uplink=user -name vm").env("HOME", "").boot();
    assert!(Path::new("/run/alice/.local/state/kvm-bridge/networks/uhome.json").exists());
    guest.kill();
    is_gone("uhome", "/run/alice");
    for (name, options, wanted) in [
        ("readonly", "ro", "findmnt -T /run/alice/readonly"),
        ("full", "size=4k", "Make room: df /run/alice/full/kvm-bridge"),
    ] {
        let at = format!("/run/alice/{name}");
        folder(&at);
        lab.sh(&format!("mount -t tmpfs -o {options},uid=1000,mode=700 none {at}")).run().succeeds();
        let refused = shim(&lab, ALICE, "--bridge ufull,uplink=user").env("XDG_RUNTIME_DIR", &at).run().exits_with(125);
        assert!(refused.err.contains(&format!("cannot use {at}/kvm-bridge")), "{}", refused.err);
        assert!(refused.err.contains(wanted), "{}", refused.err);
        wait_for("nothing to be left", 10, || processes_of("ufull").is_empty().then_some(()));
        assert!(!Path::new(&at).join("kvm-bridge/ufull").exists());
    }
}

#[test]
fn names_come_from_a_resolver_on_the_lan_too() {
    let Some(lab) = host() else { return };
    fs::remove_file("/etc/resolv.conf").ok();
    fs::write("/etc/resolv.conf", "nameserver 10.77.0.1\n").expect("a resolver");
    let at = "dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --keep-in-foreground --user=root --bind-interfaces";
    let server =
        lab.sh(&format!("exec ip netns exec lan {at} --listen-address=10.77.0.1 --address=/host.test/192.0.2.77"));
    let _server = server.start();
    let guest = shim(&lab, ALICE, "--bridge unames,uplink=user -name vm").boot();
    let asked = || {
        let ended = kvm_bridge(&lab, ALICE, "enter unames -- getent hosts host.test").run();
        ended.out.contains("192.0.2.77").then_some(())
    };
    wait_for("an answer", 20, asked);
    guest.kill();
    is_gone("unames", "/run/alice");
}

#[test]
fn a_network_whose_files_were_deleted_leaves_those_of_the_next_one_alone() {
    let Some(lab) = host() else { return };
    let first = shim(&lab, ALICE, "--bridge ulost,uplink=user -name first").boot();
    let before = processes_of("ulost");
    // As systemd does when a user logs out.
    fs::remove_dir_all("/run/alice/kvm-bridge").expect("its files");
    let second = shim(&lab, ALICE, "--bridge ulost,uplink=user -name second").boot();
    assert!(second.err().contains("made ulost"), "{}", second.err());
    first.kill();
    wait_for("the end of the first", 30, || {
        let now = processes_of("ulost");
        before.iter().all(|old| now.iter().all(|one| one.pid != old.pid)).then_some(())
    });
    kvm_bridge(&lab, ALICE, "status ulost").run().succeeds();
    second.kill();
    is_gone("ulost", "/run/alice");
}

#[test]
fn two_users_have_networks_of_one_name() {
    let Some(lab) = host() else { return };
    let hers = shim(&lab, ALICE, "--bridge utwo,uplink=user -name vm").boot();
    let his = shim(&lab, BOB, "--bridge utwo,uplink=user -name vm").boot();
    for (user, guest) in [(ALICE, &hers), (BOB, &his)] {
        let status = kvm_bridge(&lab, user, "status utwo --json").run().succeeds().out;
        let json: Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(json["bridges"][0]["ports"].as_array().map(Vec::len), Some(1), "{json}");
        assert!(guest.err().contains("a network of your own"));
    }
    hers.kill();
    his.kill();
    is_gone("utwo", "/run/alice");
    is_gone("utwo", "/run/bob");
}

#[test]
fn whatever_is_killed_the_next_start_begins_anew_and_nothing_is_left() {
    let Some(lab) = host() else { return };
    for victim in ["/usr/bin/pasta", "/run/bin/qemu-kvm", "kvm-bridge-reaper", "/usr/sbin/dnsmasq"] {
        let guest = shim(&lab, ALICE, "--bridge ukill,uplink=user -name vm").boot();
        wait_for("dnsmasq", 20, || {
            processes_of("ukill").iter().any(|one| one.command.starts_with("/usr/sbin/dnsmasq")).then_some(())
        });
        let victim = process_of("ukill", victim);
        victim.kill();
        let is_rest_gone = victim.command.contains("--bridge-hold=");
        if is_rest_gone {
            wait_for("the others to end with it", 10, || processes_of("ukill").is_empty().then_some(()));
        } else {
            // It is started again.
            let what = victim.command.split(' ').next().expect("a word").to_owned();
            wait_for(&format!("another {what}"), 20, || {
                processes_of("ukill").into_iter().find(|one| one.command.starts_with(&what) && one.pid != victim.pid)
            });
        }
        let next = shim(&lab, ALICE, "--bridge ukill,uplink=user -name next").boot();
        assert_eq!(next.err().contains("made ukill"), is_rest_gone, "{}", next.err());
        guest.kill();
        next.kill();
        is_gone("ukill", "/run/alice");
    }
}

#[test]
fn a_bridge_can_be_taken_down_and_kept() {
    let Some(lab) = host() else { return };
    let guest = shim(&lab, ALICE, "--bridge udown,uplink=user,keep=on -name vm").boot();
    assert!(guest.err().contains("a network of your own") && !guest.err().contains("until"), "{}", guest.err());
    guest.kill();
    kvm_bridge(&lab, ALICE, "status udown").run().succeeds();
    kvm_bridge(&lab, ALICE, "down udown").run().succeeds();
    is_gone("udown", "/run/alice");
}

#[test]
fn what_is_missing_is_named_before_anything_is_made() {
    let Some(lab) = host() else { return };
    let refused = lab.shim("--bridge umiss,uplink=user").run().exits_with(125).err;
    assert!(refused.contains("uplink=user is for users without root") && refused.contains("uplink=nat"), "{refused}");
    let refused = shim(&lab, ALICE, "--bridge umiss,uplink=user,forward=tcp:80:80").run().exits_with(125).err;
    assert!(refused.contains("cannot forward tcp port 80") && refused.contains("below 1024"), "{refused}");
    // A pasta that can't make a namespace: what the kernel's settings say, with the command.
    fs::write("/run/pasta", "#!/bin/sh\necho 'Failed to clone process with detached namespaces' >&2\nexit 1\n")
        .expect("write");
    fs::set_permissions("/run/pasta", std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let bind = |what: &str, at: &str| lab.sh(&format!("mount --bind {what} {at}")).run().succeeds();
    bind("/run/pasta", "/usr/bin/pasta");
    let refused = shim(&lab, ALICE, "--bridge umiss,uplink=user").run().exits_with(125).err;
    assert!(refused.contains("pasta says: Failed to clone process"), "{refused}");
    fs::write("/run/none", "0\n").expect("write");
    bind("/run/none", "/proc/sys/user/max_user_namespaces");
    let refused = shim(&lab, ALICE, "--bridge umiss,uplink=user").run().exits_with(125).err;
    assert!(refused.contains("sudo sysctl -w user.max_user_namespaces="), "{refused}");
    assert!(lab.tun_has_mode(0o600));
    let refused = shim(&lab, ALICE, "--bridge umiss,uplink=user").run().exits_with(125).err;
    assert!(refused.contains("you cannot open /dev/net/tun"), "{refused}");
    assert!(processes_of("umiss").is_empty() && !Path::new("/run/alice/kvm-bridge").exists());
}
