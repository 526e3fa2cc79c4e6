//! `uplink=nat` from the command line to the end: real guests, the real dnsmasq and nft.
//!
//!     guest ---- kvb0 :br0: SUBNET.1 :host: eth0 10.77.0.2 ====== 10.77.0.1 :lan

use crate::guests::real;
use crate::support::command::Running;
use crate::support::processes::Process;
use crate::support::real::linux;
use crate::support::{Lab, have, wait_for};
use std::io::{PipeWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

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
    shell: PipeWriter,
    asked: u32,
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
        let mut guest = Self { qemu, shell, asked: 0, address: Ipv4Addr::UNSPECIFIED, gateway: Ipv4Addr::UNSPECIFIED };
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
        self.asked += 1;
        let (begin, end) = (format!("begin-{}", self.asked), format!("end-{}", self.asked));
        // The console shows the line itself too, in which neither mark is whole.
        let line = format!("echo be''gin-{0}; {command}; echo en''d-{0} $?\n", self.asked);
        self.shell.write_all(line.as_bytes()).expect("its keyboard");
        wait_for(&format!("the end of '{command}'"), 60, || {
            let out = self.qemu.out();
            let said = out.split(&begin).nth(1)?;
            let (said, rest) = said.split_once(&format!("{end} "))?;
            let status = rest.lines().next()?.trim().parse().ok()?;
            rest.contains('\n').then(|| (status, said.trim().to_owned()))
        })
    }

    #[track_caller]
    fn succeeds(&mut self, command: &str) -> String {
        let (status, said) = self.run(command);
        assert_eq!(status, 0, "{command}: {said}");
        said
    }
}

/// The one that serves a bridge.
#[allow(dead_code)]
fn dnsmasq_of(lab: &Lab, bridge: &str) -> Option<Process> {
    let word = format!("--interface={bridge} ");
    lab.processes().into_iter().find(|process| process.command.contains(&word))
}

/// A server that tells each client whose address it sees.
fn tells(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().expect("an address").ip().to_string();
            let _ = stream.write_all(format!("seen {from}\n").as_bytes());
        }
    });
}

#[allow(dead_code)]
fn read_from(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
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
    alice.qemu.terminate();
    lab.becomes_as_before();
    assert_eq!(rest_of_host(), before);
}
