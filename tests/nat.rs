//! `uplink=nat` from the command line to the end: real guests, the real dnsmasq and nft.
//!
//!     guest ---- kvb0 :br0: SUBNET.1 :host: eth0 10.77.0.2 ====== 10.77.0.1 :lan

use crate::guests::real;
use crate::report;
use crate::support::command::Running;
use crate::support::processes::{Process, is_alive};
use crate::support::real::{GuestShell, linux};
use crate::support::served::{echoes, read_from, tells};
use crate::support::{Lab, have, wait_for};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

/// A host with a way out, on which all that is needed is.
fn host() -> Option<Lab> {
    let lab = Lab::with_address()?;
    if !have("dnsmasq") || !have("nft") {
        return None;
    }
    lab.baseline();
    Some(lab)
}

/// A real guest with a shell.
struct Guest<'lab> {
    qemu: Running<'lab>,
    shell: GuestShell,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
}

impl<'lab> Guest<'lab> {
    fn boot(lab: &'lab Lab, name: &str, bridge: &str) -> Option<Self> {
        let (kernel, initramfs) = linux()?;
        if !have("qemu-system-x86_64") {
            return None;
        }
        let (keyboard, shell) = std::io::pipe().expect("a pipe");
        let shim = lab.shim(&format!("--bridge {bridge} -name {name} -m 256"));
        let cmd = real(shim).words("-kernel").arg(kernel).words("-initrd").arg(initramfs).words("-append");
        let append = "ip=dhcp console=ttyS0 panic=-1 guest.then=shell quiet";
        let qemu = cmd.arg(append).stdin(keyboard).start();
        let mut guest = Self {
            qemu,
            shell: GuestShell::new(shell),
            address: Ipv4Addr::UNSPECIFIED,
            gateway: Ipv4Addr::UNSPECIFIED,
        };
        wait_for("the guest's shell", 90, || {
            assert!(guest.qemu.is_running(), "{}{}", guest.qemu.out(), guest.qemu.err());
            guest.qemu.out().contains("guest: shell").then_some(())
        });
        let out = guest.qemu.out();
        let told = out.split(" leased ").nth(1).unwrap_or_else(|| panic!("no lease: {out}"));
        let (address, rest) = told.split_once('/').expect("a prefix");
        let gateway = rest.split_whitespace().nth(2).expect("a router");
        (guest.address, guest.gateway) = (address.parse().expect("an address"), gateway.parse().expect("an address"));
        Some(guest)
    }

    /// Runs a command in the guest: its exit status, and what it said.
    #[track_caller]
    fn run(&mut self, command: &str) -> (i32, String) {
        self.shell.run(&self.qemu, command)
    }

    #[track_caller]
    fn succeeds(&mut self, command: &str) -> String {
        let (status, said) = self.run(command);
        assert_eq!(status, 0, "{command}: {said}");
        said
    }
}

/// The one that serves a bridge.
fn dnsmasq_of(lab: &Lab, bridge: &str) -> Option<Process> {
    let word = format!("--interface={bridge} ");
    lab.processes().into_iter().find(|process| process.command.contains(&word))
}

#[track_caller]
fn nft(words: &str) -> String {
    let output = Command::new("nft").args(words.split_whitespace()).output().expect("nft");
    assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that such a network changes on a host beside links, which the laboratory compares itself.
fn rest_of_host() -> String {
    let mut text = nft("list ruleset");
    for path in Command::new("find")
        .args([
            "/proc/sys/net/ipv4/conf",
            "/proc/sys/net/ipv6/conf",
            "-name",
            "*forwarding",
            "-o",
            "-name",
            "accept_ra",
        ])
        .output()
        .map(|found| String::from_utf8_lossy(&found.stdout).into_owned())
        .expect("find")
        .lines()
    {
        text += &format!("{path} {}", std::fs::read_to_string(path).unwrap_or_default());
    }
    text
}

#[test]
fn a_guest_has_its_address_a_name_and_a_way_out() {
    let Some(lab) = host() else { return };
    let before = rest_of_host();
    let listener = lab.lan.thread(|| TcpListener::bind("10.77.0.1:80").expect("a server")).join().expect("a thread");
    tells(listener);
    let Some(mut alice) = Guest::boot(&lab, "alice", "br0,uplink=nat") else { return };
    assert!(alice.qemu.err().contains("made br0 with a network of the host's own, "), "{}", alice.qemu.err());
    assert_eq!(lab.addresses("br0").first(), Some(&format!("{}/24", alice.gateway)));
    for name in ["alice", "alice.br0.internal"] {
        let said = alice.succeeds(&format!("nslookup {name} {}", alice.gateway));
        assert!(said.contains(&alice.address.to_string()), "{said}");
    }
    alice.succeeds("ping -c 1 -W 5 10.77.0.1");
    assert!(alice.succeeds("nc -w 5 10.77.0.1 80").contains("seen 10.77.0.2"));
    // It has the name that root has given it, whatever it says.
    alice.run("udhcpc -i eth0 -n -q -t 10 -T 1 -x hostname:bob -s /bin/true");
    let (status, said) = alice.run(&format!("nslookup bob.br0.internal {}", alice.gateway));
    assert!(status != 0 && !said.contains(&alice.address.to_string()), "{said}");
    alice.qemu.terminate();
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

/// Status of a bridge, for programs.
#[track_caller]
fn status(lab: &Lab, bridge: &str) -> Value {
    let said: Value = serde_json::from_str(&lab.kvm_bridge("status --json").run().out).expect("JSON");
    let bridges = said["bridges"].as_array().expect("a list");
    bridges.iter().find(|known| known["name"] == bridge).unwrap_or_else(|| panic!("no {bridge}: {said:#}")).clone()
}

/// The worst of what doctor says of the network: its verdict and what was seen.
#[track_caller]
fn doctor(lab: &Lab, bridge: &str) -> Vec<(String, String)> {
    let said = lab.kvm_bridge(&format!("doctor --quick --json {bridge}")).run().out;
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = said["checks"].as_array().expect("a list").iter();
    checks
        .filter(|check| check["verdict"] != "ok")
        .map(|check| (text(&check["name"]), text(&check["observed"])))
        .collect()
}

#[test]
fn ports_of_the_host_lead_to_guests_for_as_long_as_they_run() {
    let Some(lab) = host() else { return };
    let before = rest_of_host();
    let ports = "forward=tcp:2222:22,forward=tcp:0.0.0.0:8080:80,forward=udp:5353:53";
    let Some(mut alice) = Guest::boot(&lab, "alice", &format!("br0,{ports}")) else { return };
    alice.succeeds("(while :; do echo first | nc -l -p 22; done >/dev/null 2>&1 &)");
    alice.succeeds("(while :; do echo web | nc -l -p 80; done >/dev/null 2>&1 &)");
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let lan = |text: &str| {
        lab.lan
            .thread({
                let to = at(text);
                move || read_from(to)
            })
            .join()
            .expect("a thread")
    };
    wait_for("the guest's server", 20, || read_from(at("127.0.0.1:2222")).filter(|said| said == "first\n"));
    wait_for("its other", 20, || lan("10.77.0.2:8080").filter(|said| said == "web\n"));
    assert_eq!(lan("10.77.0.2:2222"), None, "that one is the host's own");
    // Nobody else has them meanwhile, and who wants one is told which.
    assert!(TcpListener::bind("127.0.0.1:2222").is_err() && UdpSocket::bind("127.0.0.1:5353").is_err());
    let said = lab.shim("--bridge br0,forward=tcp:2222:22 -name bob").run().exits_with(125).err;
    assert!(said.contains("cannot forward tcp port 2222 of 127.0.0.1") && said.contains("ss -ltnp"), "{said}");
    // What is told of it.
    lab.kvm_bridge("status br0").run().succeeds();
    let shown = lab.kvm_bridge("status").run().succeeds().out;
    for words in ["10.77.0.2", "alice, port 22", "goes out with the host's address", "br0.internal"] {
        assert!(words == "10.77.0.2" || shown.contains(words), "{words}: {shown}");
    }
    let nat = &status(&lab, "br0")["nat"];
    assert_eq!(nat["guests"][0]["name"], "alice");
    assert_eq!(nat["guests"][0]["address"], alice.address.to_string());
    assert_eq!(nat["guests"][0]["forwards"][2], "udp:127.0.0.1:5353:53");
    assert_eq!((&nat["dnsmasq"], &nat["domain"]), (&Value::Bool(true), &Value::from("br0.internal")));
    assert_eq!(doctor(&lab, "br0").into_iter().filter(|(name, _)| name == "nat").collect::<Vec<_>>(), []);
    let ip = lab.kvm_bridge("ip alice --wait 10 --first").run().succeeds().out;
    assert_eq!(ip.trim(), alice.address.to_string());
    // It comes again while another is there: the same address, the same port.
    let bob = lab.shim("--bridge br0 -name bob").boot();
    let address = alice.address;
    alice.qemu.kill();
    let alice = Guest::boot(&lab, "alice", "br0,forward=tcp:2222:22").expect("as before");
    assert_eq!(alice.address, address);
    alice.qemu.kill();
    wait_for("its port to be closed", 10, || (!nft("list table inet kvmb_br0").contains("2222")).then_some(()));
    assert!(TcpListener::bind("127.0.0.1:2222").is_ok());
    bob.kill();
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

#[test]
fn whatever_is_killed_is_there_again_or_gone() {
    let Some(lab) = host() else { return };
    let before = rest_of_host();
    let Some(mut alice) = Guest::boot(&lab, "alice", "br0,uplink=nat,forward=tcp:2222:22") else { return };
    let mut renews = |what: &str| {
        let (_, said) = alice.run("udhcpc -i eth0 -n -q -t 10 -T 1 -s /bin/true 2>&1");
        assert!(said.contains(&format!("lease of {} obtained", alice.address)), "{what}: {said}");
    };
    // dnsmasq.
    let first = dnsmasq_of(&lab, "br0").expect("it runs");
    first.kill();
    let second = wait_for("another", 20, || dnsmasq_of(&lab, "br0").filter(|other| other.pid != first.pid));
    renews("after dnsmasq");
    // The reaper, and dnsmasq with it; then recover.
    lab.reaper_of("br0").kill();
    wait_for("dnsmasq to end with it", 10, || (!is_alive(second.pid)).then_some(()));
    let found = doctor(&lab, "br0");
    assert!(found.iter().any(|(name, saw)| name == "nat" && saw == "dnsmasq does not run"), "{found:?}");
    // Meanwhile somebody flushes all rules, and the host's addresses of the bridge.
    nft("flush ruleset");
    lab.ip("addr flush dev br0");
    assert!(doctor(&lab, "br0").iter().any(|(_, saw)| saw == "its firewall rules are missing"));
    lab.kvm_bridge("status").run().exits_with(1);
    lab.kvm_bridge("recover").run().succeeds();
    wait_for("dnsmasq", 20, || dnsmasq_of(&lab, "br0"));
    renews("after the reaper");
    alice.succeeds("ping -c 1 -W 5 10.77.0.1");
    assert!(nft("list ruleset").contains("2222"), "its ports too");
    // The same under the reaper's eyes, which mends it by itself.
    nft("flush ruleset");
    wait_for("the rules", 20, || nft("list ruleset").contains("masquerade").then_some(()));
    fs::write("/proc/sys/net/ipv4/conf/br0/forwarding", "0").expect("a setting");
    wait_for("forwarding", 20, || {
        let on = fs::read_to_string("/proc/sys/net/ipv4/conf/br0/forwarding").expect("a setting");
        (on.trim() == "1").then_some(())
    });
    alice.succeeds("ping -c 1 -W 5 10.77.0.1");
    // All at once.
    lab.reaper_of("br0").kill();
    alice.qemu.kill();
    lab.kvm_bridge("recover").run().succeeds();
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

/// The server on the LAN sees a guest with this address of the host's. On a busy machine it may have to try again.
#[track_caller]
fn goes_out_as(guest: &mut Guest, address: &str) {
    let seen = wait_for("its way out", 90, || {
        Some(guest.run("nc -w 5 192.0.2.1 80 </dev/null").1).filter(|said| said.contains("seen"))
    });
    assert!(seen.contains(&format!("seen {address}")), "{seen}");
}

#[test]
fn two_bridges_have_two_networks_and_follow_the_default_route() {
    let Some(lab) = host() else { return };
    let before = rest_of_host();
    // Another way out, as a cable beside Wi-Fi.
    lab.ip("link add wlan0 type veth peer name wlan1 netns lan");
    lab.ip("addr add 10.78.0.2/24 dev wlan0");
    lab.ip("link set wlan0 up");
    lab.lan.run("ip addr add 10.78.0.1/24 dev wlan1");
    lab.lan.run("ip link set wlan1 up");
    lab.lan.run("ip addr add 192.0.2.1/32 dev lo");
    let listener = lab.lan.thread(|| TcpListener::bind("192.0.2.1:80").expect("a server")).join().expect("a thread");
    tells(listener);
    let echo = lab.lan.thread(|| TcpListener::bind("192.0.2.1:81").expect("a server")).join().expect("a thread");
    echoes(echo);
    let Some(mut alice) = Guest::boot(&lab, "alice", "br0,uplink=nat") else { return };
    let mut bob = Guest::boot(&lab, "bob", "br1,uplink=nat,net=192.168.77.0/24").expect("as before");
    assert!(bob.address.to_string().starts_with("192.168.77."), "{}", bob.address);
    for guest in [&mut alice, &mut bob] {
        goes_out_as(guest, "10.77.0.2");
    }
    // An open connection, by which a line comes back.
    let (status, said) = alice.run(
        "mkfifo /way; (nc 192.0.2.1 81 </way >/said; echo broken >>/said) 2>/dev/null & exec 3>/way; echo one >&3; \
         for try in 1 2 3 4 5 6 7 8 9; do grep -q one /said && break; sleep 1; done; cat /said",
    );
    assert_eq!((status, said.trim()), (0, "one"));
    lab.ip("route replace default via 10.78.0.1");
    for guest in [&mut alice, &mut bob] {
        goes_out_as(guest, "10.78.0.2");
    }
    // It had the other address.
    let (_, said) =
        alice.run("echo two >&3; for try in $(seq 30); do grep -q broken /said && break; sleep 1; done; cat /said");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["one", "broken"]);
    // The one does not reach the other but through the host, which lets nothing in.
    assert_ne!(alice.run(&format!("ping -c 1 -W 2 {}", bob.address)).0, 0);
    alice.qemu.terminate();
    lab.waits_until_gone("br0");
    lab.ip("route replace default via 10.77.0.1");
    // The other's end is not its own.
    goes_out_as(&mut bob, "10.77.0.2");
    bob.qemu.terminate();
    lab.waits_until_gone("br1");
    lab.ip("link del wlan0");
    lab.lan.run("ip addr del 192.0.2.1/32 dev lo");
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

#[test]
fn a_full_network_has_room_again_when_somebody_has_gone() {
    let Some(lab) = host() else { return };
    let start = |name: &str| lab.shim(&format!("--bridge br0,uplink=nat,net=10.5.6.0/29 -name {name}"));
    // The last quarter is for users' guests.
    let mut guests: Vec<_> = ["a", "b", "c", "d"].map(|name| start(name).boot()).into();
    let said = start("e").run().exits_with(125).err;
    assert!(said.contains("no address of 10.5.6.0/29 is left") && said.contains("a larger network"), "{said}");
    guests.pop().expect("d").terminate();
    guests.push(start("e").boot());
    drop(guests);
    lab.waits_until_gone("br0");
}

#[test]
fn a_bridge_that_stays_has_its_network_without_guests_and_again_after_a_boot() {
    let Some(lab) = host() else { return };
    let before = rest_of_host();
    let said = lab.kvm_bridge("up br0 --uplink nat --save").run().succeeds().out;
    assert!(said.contains("br0 is created, with a network of the host's own, 10."), "{said}");
    wait_for("dnsmasq", 20, || dnsmasq_of(&lab, "br0"));
    let seen = lab.kvm_bridge("doctor br0 --quick --verbose").run().out;
    assert!(seen.contains("br0 has none: its guests go out with the host's address"), "{seen}");
    let subnet = status(&lab, "br0")["nat"]["subnet"].clone();
    let config = fs::read_to_string("/etc/kvm-bridge/config.toml").expect("it is saved");
    assert!(config.contains("uplink = \"nat\"\nkeep = true"), "{config}");
    lab.kvm_bridge("down br0").run().succeeds();
    wait_for("the reaper to end", 10, || lab.reapers().is_empty().then_some(()));
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
    // As the unit does at boot. The network is the one that it was.
    lab.kvm_bridge("up br0").run().succeeds();
    assert_eq!(status(&lab, "br0")["nat"]["subnet"], subnet);
    for (words, why) in [
        ("up br0 --uplink nat --net 192.168.9.0/24", "not 192.168.9.0/24"),
        ("up br0 --uplink none", "has uplink=nat"),
        ("up br1 --uplink nat --net 10.77.0.0/24", "10.77.0.0/24 is not free"),
        ("up br1 --uplink eth0 --net 192.168.9.0/24", "net= is for uplink=nat"),
    ] {
        let said = lab.kvm_bridge(words).run().exits_with(125).err;
        assert!(said.contains(why), "{words}: {said}");
    }
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

#[test]
fn who_has_no_other_way_falls_back_on_it_if_that_is_configured() {
    let Some(lab) = host() else { return };
    lab.ip("tuntap add dev tun0 mode tun");
    lab.ip("link set tun0 up");
    lab.ip("route replace default dev tun0");
    lab.baseline();
    let said = lab.shim("--bridge br0").run().exits_with(125).err;
    assert_eq!(said.lines().nth(1), Some("  For guests behind the host's address: --bridge br0,uplink=nat"), "{said}");
    let said = lab.kvm_bridge("up br0").run().exits_with(125).err;
    assert_eq!(said.lines().nth(1), Some("  For guests behind the host's address: kvm-bridge up br0 --uplink nat"));
    lab.configure("[defaults]\nuplink_fallback = \"nat\"\n");
    lab.baseline();
    let mut guest = lab.shim("--bridge br0").boot();
    assert!(guest.is_running() && guest.err().contains(", as tun0 cannot be its uplink, until"), "{}", guest.err());
    guest.kill();
    lab.becomes_as_before();
    // Where an interface can be the uplink, that is it.
    lab.ip("route replace default via 10.77.0.1");
    lab.baseline();
    let guest = lab.shim("--bridge br0").boot();
    assert!(guest.err().contains("on the shared uplink eth0"), "{}", guest.err());
    guest.kill();
    lab.becomes_as_before();
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let Some(lab) = host() else { return };
    for program in ["dnsmasq", "nft"] {
        let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let path = folders.iter().map(|folder| format!("{folder}/{program}")).find(|path| Path::new(path).exists());
        // What is no program is none.
        let path = path.expect("it is there");
        Command::new("mount").args(["--bind", "/dev/null", &path]).status().expect("mount");
        let said = lab.shim("--bridge br0,uplink=nat").run().exits_with(125).err;
        for word in [&format!("{program} is missing") as &str, "apt install ", "dnf install ", "pacman -S ", "apk add "]
        {
            assert!(said.contains(word), "{word}: {said}");
        }
        Command::new("umount").arg(&path).status().expect("umount");
    }
    lab.is_untouched();
}

#[test]
fn names_of_vms_are_made_safe() {
    let Some(lab) = host() else { return };
    let names = ["x\nevil", "a,b=c", "../../etc", "x --conf-file=/etc/shadow", "Web Server", "web-server"];
    let guests: Vec<_> = names
        .iter()
        .map(|name| {
            let cmd = lab.shim("-m 64").words("--bridge").arg(format!("br0,uplink=nat,vm={}", name.replace(',', ",,")));
            cmd.boot()
        })
        .collect();
    let nat = status(&lab, "br0")["nat"].clone();
    let shown: Vec<&str> =
        nat["guests"].as_array().expect("a list").iter().filter_map(|g| g["name"].as_str()).collect();
    assert_eq!(shown, ["x-evil", "a-b-c", "etc", "x---conf-file--etc-shadow", "web-server", "web-server-2"]);
    for line in fs::read_dir(lab.run_dir().join("br0.nat/hosts")).expect("its folder").flatten() {
        let text = fs::read_to_string(line.path()).expect("a file");
        assert_eq!((text.lines().count(), text.split(',').count()), (1, 4), "{text}");
    }
    guests.into_iter().for_each(|guest| drop(guest.kill()));
    lab.becomes_as_before();
}

/// A firewall that forwards nothing, as Docker's and many admins' do.
fn close_the_way(table: &str) {
    nft(&format!("add table inet {table}"));
    nft(&format!("add chain inet {table} forward {{ type filter hook forward priority 0 ; policy drop ; }}"));
}

#[test]
fn firewalls_of_others_let_its_guests_pass_also_those_that_come_later() {
    let Some(lab) = host() else { return };
    close_the_way("first");
    let before = rest_of_host();
    let Some(mut alice) = Guest::boot(&lab, "alice", "br0,uplink=nat") else { return };
    alice.succeeds("ping -c 1 -W 5 10.77.0.1");
    close_the_way("second");
    let is_open = || nft("list table inet second").contains("kvm-bridge br0").then_some(());
    wait_for("the reaper to open it", 20, is_open);
    alice.succeeds("ping -c 1 -W 5 10.77.0.1");
    // It is loaded anew, without what was added.
    nft("delete table inet second");
    close_the_way("second");
    wait_for("the reaper to open it again", 20, is_open);
    assert_eq!(doctor(&lab, "br0").into_iter().filter(|(name, _)| name == "nat").collect::<Vec<_>>(), []);
    alice.qemu.terminate();
    lab.becomes_as_before();
    nft("delete table inet second");
    assert_eq!(without_handles(&rest_of_host()), without_handles(&before));
}

/// What was removed and added again has the same words.
fn without_handles(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split(" # handle").next().unwrap_or_default()).collect()
}

#[test]
fn the_start_may_be_killed_at_every_step() {
    let Some(lab) = host() else { return };
    if !have("strace") {
        return;
    }
    close_the_way("other");
    let before = rest_of_host();
    let calls = "sendto,write,openat,flock,rename,unlink,rmdir,execve,vfork,clone,clone3,ioctl";
    let (mut step, mut steps) = (1, 0);
    while lab.shim("--bridge br0,uplink=nat,forward=tcp:2222:22").dies_at(calls, step) {
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after step {step}"), 15, || lab.is_as_before().then_some(()));
        assert_eq!(rest_of_host(), before, "after step {step}");
        // Many are reads of one setting after the other.
        (step, steps) = (step + 3, steps + 1);
    }
    assert!(steps > 15, "only {steps} steps");
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

#[test]
fn recover_may_be_killed_at_every_step() {
    let Some(lab) = host() else { return };
    if !have("strace") {
        return;
    }
    close_the_way("other");
    let before = rest_of_host();
    let calls = "sendto,write,openat,flock,rename,unlink,rmdir,execve,vfork,clone,clone3";
    let (mut step, mut steps, mut is_killed) = (1, 0, true);
    while is_killed {
        let guest = lab.shim("--bridge br0,uplink=nat,forward=tcp:2222:22").boot();
        lab.reaper_of("br0").kill();
        guest.kill();
        is_killed = lab.kvm_bridge("recover").dies_at(calls, step);
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after step {step}"), 15, || lab.is_as_before().then_some(()));
        assert_eq!(rest_of_host(), before, "after step {step}");
        (step, steps) = (step + 1, steps + 1);
    }
    assert!(steps > 15, "only {steps} steps");
}

#[test]
fn the_reaper_may_be_killed_at_every_step() {
    let Some(lab) = host() else { return };
    if !have("strace") {
        return;
    }
    close_the_way("other");
    let before = rest_of_host();
    let calls = "sendto,write,openat,flock,rename,unlink,rmdir,execve,vfork,clone,clone3,ioctl";
    let (mut step, mut steps, mut is_killed) = (1, 0, true);
    while is_killed {
        let guest = lab.shim("--bridge br0,uplink=nat,forward=tcp:2222:22").boot();
        let reaper = lab.reaper_of("br0");
        let mut tracer = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:signal=KILL:when={step}"), "-p", &reaper.pid.to_string()])
            .spawn()
            .expect("start strace");
        wait_for("strace to be there", 10, || {
            // An event may have woken the reaper already, to its end.
            if !is_alive(reaper.pid) {
                return Some(());
            }
            let status = fs::read_to_string(format!("/proc/{}/status", reaper.pid)).ok()?;
            status.contains(&format!("TracerPid:\t{}\n", tracer.id())).then_some(())
        });
        guest.kill();
        wait_for("the tracer to end with the reaper", 30, || tracer.try_wait().expect("wait"));
        is_killed = !lab.is_as_before();
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after step {step}"), 15, || lab.is_as_before().then_some(()));
        assert_eq!(rest_of_host(), before, "after step {step}");
        (step, steps) = (step + 4, steps + 1);
    }
    assert!(steps > 10, "only {steps} steps");
}

#[test]
fn the_switch_of_ipv6_may_be_killed_at_every_write() {
    let Some(lab) = host() else { return };
    if !have("strace") {
        return;
    }
    lab.ip("addr add fd77::2/64 dev eth0");
    lab.ip("route add default via fd77::1");
    fs::write("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1").expect("a host that listens to routers");
    lab.baseline();
    let before = rest_of_host();
    let (mut step, mut steps) = (1, 0);
    while lab.shim("--bridge br0,uplink=nat").dies_at("write", step) {
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after write {step}"), 15, || lab.is_as_before().then_some(()));
        assert_eq!(rest_of_host(), before, "after write {step}");
        (step, steps) = (step + 1, steps + 1);
    }
    assert!(steps > 15, "only {steps} writes of a start");
    lab.becomes_as_before();
    let (mut step, mut steps, mut is_killed) = (1, 0, true);
    while is_killed {
        let guest = lab.shim("--bridge br0,uplink=nat").boot();
        lab.reaper_of("br0").kill();
        guest.kill();
        is_killed = lab.kvm_bridge("recover").dies_at("write", step);
        lab.kvm_bridge("recover").run().succeeds();
        wait_for(&format!("a clean host after write {step}"), 15, || lab.is_as_before().then_some(()));
        assert_eq!(rest_of_host(), before, "after write {step} of recover");
        (step, steps) = (step + 1, steps + 1);
    }
    assert!(steps > 10, "only {steps} writes of recover");
}

#[test]
fn a_server_that_cannot_start_keeps_nothing_else_from_being_done() {
    let Some(lab) = host() else { return };
    let log = report::journal();
    let guest = lab.shim("--bridge br0,uplink=nat,forward=tcp:2222:22 -name alice").boot();
    let server = wait_for("dnsmasq", 20, || dnsmasq_of(&lab, "br0"));
    // As its user could not do it, but something else may.
    let leases = lab.run_dir().join("br0.nat/leases");
    fs::remove_file(&leases).expect("its leases");
    fs::create_dir(&leases).expect("a folder there");
    server.kill();
    let failure = || fs::read_to_string(lab.run_dir().join("br0.error")).unwrap_or_default();
    wait_for("the reaper to tell", 20, || failure().contains("dnsmasq").then_some(()));
    nft("flush chain inet kvmb_br0 forward");
    let has_rules = || nft("list chain inet kvmb_br0 forward").contains("drop");
    wait_for("the rules", 10, || has_rules().then_some(()));
    assert!(nft("list chain inet kvmb_br0 output").contains("dnat"));
    let other = lab.shim("--bridge br0 -name bob").boot();
    guest.kill();
    wait_for("the port to be closed", 10, || (!nft("list chain inet kvmb_br0 output").contains("dnat")).then_some(()));
    fs::remove_dir(&leases).expect("away");
    wait_for("dnsmasq again", 30, || dnsmasq_of(&lab, "br0"));
    wait_for("nothing to be told", 20, || failure().is_empty().then_some(()));
    let said = report::read(&log);
    let place = |event: &str| said.iter().position(|entry| entry.contains(&report::id(event)));
    assert!(place("fault").is_some() && place("fault") < place("fault over"), "{said:?}");
    other.kill();
}

#[test]
fn sets_that_anybody_can_fill_are_not_read() {
    let Some(lab) = host() else { return };
    nft("add table inet full");
    nft("add set inet full seen { typeof ip saddr . ip daddr; }");
    let elements: Vec<String> = (0..60_000).map(|n| format!("10.1.{}.{} . 10.2.3.4", n / 250, n % 250)).collect();
    let path = lab.new_file("elements");
    fs::write(&path, format!("add element inet full seen {{ {} }}", elements.join(", "))).expect("write");
    nft(&format!("-f {}", path.display()));
    nft("add chain inet full forward { type filter hook forward priority 0; }");
    lab.baseline();
    let guest = lab.shim("--bridge br0,uplink=nat").boot();
    guest.kill();
    lab.waits_until_gone("br0");
    nft("delete table inet full");
}

#[test]
fn each_request_to_the_kernel_may_be_refused() {
    let Some(lab) = host() else { return };
    let before = rest_of_host();
    let mut steps = 0;
    for nth in 1..100 {
        let line = format!("--bridge br{nth},uplink=nat,forward=tcp:2222:22");
        let ended = lab.shim(&line).env("KVM_BRIDGE_TEST_FAIL", nth.to_string()).run();
        assert!(ended.status.success() || ended.status.code() == Some(125), "request {nth}: {}", ended.err);
        wait_for(&format!("a clean host after request {nth}"), 15, || lab.is_as_before().then_some(()));
        assert_eq!(rest_of_host(), before, "after request {nth}");
        if !ended.err.contains("fails") {
            break;
        }
        steps += 1;
    }
    assert!(steps > 4, "only {steps} requests");
}

#[test]
fn ipv6_is_behind_it_where_the_host_has_a_way_out_by_it() {
    let Some(lab) = host() else { return };
    lab.ip("addr add fd77::2/64 dev eth0");
    lab.ip("route add default via fd77::1");
    lab.baseline();
    let before = rest_of_host();
    let listener = lab.lan.thread(|| TcpListener::bind("[fd77::1]:80").expect("a server")).join().expect("a thread");
    tells(listener);
    let Some(mut alice) = Guest::boot(&lab, "alice", "br0,uplink=nat") else { return };
    let guest = status(&lab, "br0")["nat"]["guests"][0].clone();
    let address = guest["address6"].as_str().expect("an address").to_owned();
    wait_for("its address", 30, || alice.succeeds("ip -6 addr show dev eth0").contains(&address).then_some(()));
    wait_for("its route", 30, || alice.succeeds("ip -6 route").contains("default").then_some(()));
    // Until it knows that nobody else has its address (RFC 4862, 5.4) it does not use it.
    let seen = wait_for("its way out", 30, || Some(alice.run("nc -w 5 fd77::1 80").1).filter(|s| s.contains("seen")));
    assert!(seen.contains("seen fd77::2"), "{seen}");
    alice.qemu.terminate();
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}

#[test]
fn a_users_own_guest_gets_an_address_of_the_pool_and_no_name() {
    let Some(lab) = host() else { return };
    lab.kvm_bridge("up br0 --uplink nat --tap tap0 --user root").run().succeeds();
    wait_for("dnsmasq", 20, || dnsmasq_of(&lab, "br0"));
    let pool = dnsmasq_of(&lab, "br0").expect("it runs").command;
    let (first, _) = pool.split_once("--dhcp-range=").and_then(|(_, rest)| rest.split_once(',')).expect("a range");
    let (first, net): (Ipv4Addr, _) = (first.parse().expect("an address"), first.rsplit_once('.').expect("a net").0);
    let (Some((kernel, initramfs)), true) = (linux(), have("qemu-system-x86_64")) else { return };
    let line = "-netdev tap,id=n,ifname=tap0,script=no,downscript=no -device e1000,netdev=n -m 256";
    let qemu = real(lab.shim(line)).words("-kernel").arg(kernel).words("-initrd").arg(initramfs).words("-append");
    let mut guest = qemu.arg("ip=dhcp console=ttyS0 panic=-1 guest.then=hold quiet").start();
    let out = wait_for("its lease", 90, || {
        assert!(guest.is_running(), "{}{}", guest.out(), guest.err());
        Some(guest.out()).filter(|out| out.contains("guest: hold"))
    });
    let address = out.split(" leased ").nth(1).and_then(|rest| rest.split('/').next()).expect("a lease");
    let address: Ipv4Addr = address.parse().expect("an address");
    assert!(address >= first && address.to_string().starts_with(net), "{address} is not from {first} on");
    assert_eq!(status(&lab, "br0")["nat"]["guests"], serde_json::json!([]));
    guest.terminate();
    lab.kvm_bridge("down br0").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn what_a_dry_run_prints_can_be_typed() {
    let Some(lab) = host() else { return };
    close_the_way("other");
    let said = lab.shim("--bridge-dry-run --bridge br0,uplink=nat,net=10.5.6.0/24").run().succeeds().out;
    lab.is_untouched();
    let lines: Vec<&str> = said.lines().collect();
    let (server, typed): (Vec<&str>, Vec<&str>) =
        lines[..lines.len() - 1].iter().partition(|line| line.starts_with("dnsmasq "));
    for line in typed.iter().filter(|line| !line.contains("kvb0")) {
        lab.sh(line).run().succeeds();
    }
    assert_eq!(lab.addresses("br0").first().map(String::as_str), Some("10.5.6.1/24"));
    let rules = nft("list ruleset");
    assert!(rules.contains("masquerade") && rules.contains("kvm-bridge br0"), "{rules}");
    lab.sh(&format!("{} --test", server[0].trim_end_matches(" &"))).run().succeeds();
    nft("flush ruleset");
    fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a setting");
    lab.ip("link del br0");
}
