//! A QEMU that boots nothing and remembers everything.
//!
//! It writes what it was given (argv, inherited descriptors, signal state, terminal) to the file named by
//! `FAKE_QEMU_RECORD`, then does what `FAKE_QEMU_THEN` says, a list divided by commas:
//!
//! - `exit:N` ends with that status (and is what happens at the end of the list, with 0);
//! - `hold` stays until a signal ends it, `hold:MS` for that long; neither for ever;
//! - `daemonize` goes on in a child, while the first process exits 0, as QEMU's own `-daemonize`;
//! - `arp:IP` asks for that address through every TAP it was given, as a guest's NIC would, and notes who answered;
//! - `send:HEX` sends that frame four times a second for a quarter of a minute;
//! - `flood:HEX` sends it as fast as a guest might, for half a minute;
//! - `dhcp` asks for an address through every TAP it was given, and notes the one that is acknowledged;
//! - `answer:IP` is a guest that has this address: it answers such questions until a signal ends it;
//! - `stack:NAME` is a guest whose network stack is that of the network namespace of this name: its first card is eth0
//!   there, with all offloads, until a signal ends it.
//!
//! It has a C `main`, because the one of Rust's runtime would ignore SIGPIPE and open descriptors 0 to 2 again before
//! anything could be recorded.
#![no_main]
#![allow(unsafe_code, missing_docs, clippy::expect_used, clippy::panic)]

use nix::ioctl_read_bad;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::env;
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::exit;
use std::thread::sleep;
use std::time::{Duration, Instant};

ioctl_read_bad!(tun_get_iff, 0x8004_54d2, libc::ifreq);

/// Nobody holds a test machine for longer than this.
const FOR_EVER: Duration = Duration::from_secs(150);

#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: the C runtime hands over argc valid strings, which live as long as the process.
    let argv: Vec<Vec<u8>> =
        (0..argc as usize).map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes().to_vec()).collect();
    let mut record = describe(&argv);
    let then = env::var("FAKE_QEMU_THEN").unwrap_or_default();
    let mut written = false;

    for deed in then.split(',').filter(|deed| !deed.is_empty()) {
        let (verb, object) = deed.split_once(':').unwrap_or((deed, ""));
        if verb == "arp" {
            let wanted = object.parse().expect("arp: takes an IPv4 address");
            record["answers"] = nics(&argv).iter().map(|nic| (nic.id.clone(), json!(nic.ask_for(wanted)))).collect();
            continue;
        }
        if verb == "dhcp" {
            record["leases"] = nics(&argv).iter().map(|nic| (nic.id.clone(), json!(nic.lease()))).collect();
            continue;
        }
        if !written {
            write(&record, "");
            written = true;
        }
        match verb {
            "exit" => exit(object.parse().expect("exit: takes a number")),
            "hold" if object.is_empty() => sleep(FOR_EVER),
            "hold" => sleep(Duration::from_millis(object.parse().expect("hold: takes milliseconds"))),
            "until" => {
                while !fs::exists(object).expect("until: takes a path") {
                    sleep(Duration::from_millis(5));
                }
            }
            "daemonize" => daemonize(),
            "send" => send(&nics(&argv), object, 60, Duration::from_millis(250)),
            "flood" => send(&nics(&argv), object, 400_000, Duration::from_micros(50)),
            "stack" => stack(nics(&argv).first().expect("stack: takes a network card"), object),
            "answer" => answer(&nics(&argv), object.parse().expect("answer: takes an IPv4 address")),
            _ => panic!("FAKE_QEMU_THEN has an unknown word: {deed}"),
        }
    }
    if !written {
        write(&record, "");
    }
    0
}

/// Everything that a process inherits through exec, as far as /proc tells it.
fn describe(argv: &[Vec<u8>]) -> Value {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect(field)
    };
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc/self/stat");
    let stat: Vec<i64> = stat[stat.rfind(')').expect("a name") + 1..]
        .split_whitespace()
        .skip(1)
        .take(4)
        .map(|n| n.parse().expect("a number"))
        .collect();
    json!({
        "argv": argv.iter().map(|word| hex(word)).collect::<Vec<_>>(),
        "env": env::vars_os().map(|(k, v)| hex(&[k.as_bytes(), b"=", v.as_bytes()].concat())).collect::<Vec<_>>(),
        "cwd": env::current_dir().map(|dir| hex(dir.as_os_str().as_bytes())).ok(),
        "pid": std::process::id(), "ppid": stat[0], "pgid": stat[1], "sid": stat[2], "tty": stat[3],
        "blocked": mask("SigBlk"), "ignored": mask("SigIgn"), "caught": mask("SigCgt"),
        "fds": open_fds(),
    })
}

fn open_fds() -> Vec<Value> {
    let listing = format!("/proc/{}/fd", std::process::id());
    let mut fds: Vec<(RawFd, String)> = fs::read_dir("/proc/self/fd")
        .expect("/proc/self/fd")
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let link = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
            Some((entry.file_name().to_str()?.parse().ok()?, link))
        })
        .filter(|(_, link)| *link != listing)
        .collect();
    fds.sort();
    fds.into_iter().map(|(fd, link)| json!({"fd": fd, "link": link, "tap": tap(fd, &link)})).collect()
}

fn tap(fd: RawFd, link: &str) -> Value {
    if link != "/dev/net/tun" {
        return Value::Null;
    }
    // SAFETY: an ifreq of zeroes is valid, and TUNGETIFF fills one in.
    let (done, request) = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        (tun_get_iff(fd, &mut request), request)
    };
    if done.is_err() {
        return Value::Null; // opened, but never attached to an interface
    }
    let name: Vec<u8> = request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    // SAFETY: TUNGETIFF stores the flags there.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    json!({
        "name": String::from_utf8_lossy(&name),
        "is_tap": flags & libc::IFF_TAP != 0,
        "vnet_hdr": flags & libc::IFF_VNET_HDR != 0,
        "persistent": flags & 0x0800 != 0,
        "packet_information": flags & libc::IFF_NO_PI == 0,
        "multi_queue": flags & libc::IFF_MULTI_QUEUE != 0,
    })
}

/// By temporary file and rename, so that a test that waits for it sees it whole.
fn write(record: &Value, suffix: &str) {
    let Some(mut path) = env::var_os("FAKE_QEMU_RECORD") else { return };
    path.push(suffix);
    // A device would be replaced.
    assert!(fs::metadata(&path).map_or(true, |there| there.is_file()), "{path:?} is no file");
    let mut unfinished = path.clone();
    unfinished.push(".new");
    fs::write(&unfinished, record.to_string()).expect("write the record");
    fs::rename(&unfinished, Path::new(&path)).expect("rename the record");
}

fn daemonize() {
    // SAFETY: this program has one thread.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Parent { child } => {
            write(&json!(child.as_raw()), ".daemon");
            exit(0);
        }
        nix::unistd::ForkResult::Child => drop(nix::unistd::setsid()),
    }
}

/// What `-netdev tap,fd=` and the `-device` with its MAC say together.
struct Nic {
    id: String,
    fd: RawFd,
    mac: [u8; 6],
    header: usize,
}

fn nics(argv: &[Vec<u8>]) -> Vec<Nic> {
    let values = |option: &'static str| {
        argv.windows(2)
            .filter(move |pair| OsStr::from_bytes(&pair[0]) == option)
            .map(|pair| String::from_utf8_lossy(&pair[1]).into_owned())
    };
    let key = |value: &str, key: &str| {
        value.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    let macs: Vec<(String, String)> =
        values("-device").filter_map(|device| Some((key(&device, "netdev")?, key(&device, "mac")?))).collect();
    values("-netdev")
        .filter_map(|netdev| {
            let (id, fd) = (key(&netdev, "id")?, key(&netdev, "fd")?.parse().ok()?);
            let mac = &macs.iter().find(|(netdev, _)| *netdev == id)?.1;
            let octets: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
            let vnet_hdr = tap(fd, "/dev/net/tun")["vnet_hdr"] == true;
            Some(Nic { id, fd, mac: octets.try_into().ok()?, header: if vnet_hdr { 10 } else { 0 } })
        })
        .collect()
}

impl Nic {
    /// The MAC that says it has this address; None when three seconds of asking brought no answer.
    fn ask_for(&self, wanted: Ipv4Addr) -> Option<String> {
        for _ in 0..15 {
            self.send(&self.arp(1, Ipv4Addr::UNSPECIFIED, [0; 6], wanted));
            let until = Instant::now() + Duration::from_millis(200);
            while let Some(frame) = self.receive(until) {
                if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == wanted.octets() {
                    return Some(frame[22..28].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"));
                }
            }
        }
        None
    }

    /// Discover, offer, request, acknowledgement (RFC 2131); None when nobody answers for six seconds.
    fn lease(&self) -> Option<String> {
        let (discover, request) = (1, 3);
        for _ in 0..30 {
            let Some(offer) = self.dhcp(&[53, 1, discover], 2) else { continue };
            // The server's identifier is the option behind the message's type, as servers have it.
            let server = offer.options.windows(6).find(|option| option[..2] == [54, 4])?[2..].to_vec();
            let wanted = [&[53, 1, request, 50, 4], &offer.address[..], &[54, 4], &server].concat();
            if let Some(ack) = self.dhcp(&wanted, 5) {
                return Some(Ipv4Addr::from(ack.address).to_string());
            }
        }
        None
    }

    /// Sends a message with these options, and waits a fifth of a second for an answer of this kind. That to an earlier
    /// message may come late.
    fn dhcp(&self, options: &[u8], kind: u8) -> Option<Answer> {
        let transaction = &self.mac[2..];
        let fixed = [&[1, 1, 6, 0], transaction, &[0, 0, 0x80, 0], &[0; 16], &self.mac, &[0; 10 + 192]].concat();
        let message = [&fixed[..], &[99, 130, 83, 99], options, &[255], &[0; 32]].concat();
        let length = |more: usize| ((message.len() + more) as u16).to_be_bytes();
        let udp = [&[0, 68, 0, 67], &length(8)[..], &[0, 0], &message].concat();
        let mut ip =
            [&[0x45, 0], &length(28)[..], &[0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]].concat();
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        self.send(&[&[0xff; 6], &self.mac[..], &[8, 0], &ip, &udp].concat());
        let until = Instant::now() + Duration::from_millis(200);
        while let Some(frame) = self.receive(until) {
            let message = frame.get(42..).unwrap_or_default();
            if frame[34..38] == [0, 67, 0, 68]
                && message.len() > 242
                && message[4..8] == *transaction
                && message[240..243] == [53, 1, kind]
            {
                return Some(Answer { address: message[16..20].try_into().ok()?, options: message[240..].to_vec() });
            }
        }
        None
    }

    fn arp(&self, operation: u8, sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
        let to = if operation == 1 { [0xff; 6] } else { target_mac };
        let kind = [8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
        [&to, &self.mac[..], &kind, &self.mac, &sender.octets(), &target_mac, &target.octets(), &[0; 18]].concat()
    }

    fn send(&self, frame: &[u8]) {
        let packet = [&vec![0; self.header], frame].concat();
        // SAFETY: the descriptor was inherited for this and stays open.
        let _ = nix::unistd::write(unsafe { BorrowedFd::borrow_raw(self.fd) }, &packet);
    }

    /// The next frame that is long enough to be an ARP message.
    fn receive(&self, until: Instant) -> Option<Vec<u8>> {
        // SAFETY: as in `send`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let mut packet = vec![0; 65_536];
        loop {
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout).unwrap_or(0) == 0 {
                return None;
            }
            let length = nix::unistd::read(fd, &mut packet).unwrap_or(0);
            if length >= self.header + 42 {
                return Some(packet[self.header..length].to_vec());
            }
        }
    }
}

/// Sends a frame, in hexadecimal, from each card so often, with so much time between.
fn send(nics: &[Nic], frame: &str, times: u32, pause: Duration) {
    let byte = |at: usize| u8::from_str_radix(&frame[at..at + 2], 16).expect("send: takes hexadecimal");
    let frame: Vec<u8> = (0..frame.len()).step_by(2).map(byte).collect();
    for _ in 0..times {
        nics.iter().for_each(|nic| nic.send(&frame));
        sleep(pause);
    }
}

/// What a DHCP server said.
struct Answer {
    address: [u8; 4],
    options: Vec<u8>,
}

fn answer(nics: &[Nic], own: Ipv4Addr) {
    let end = Instant::now() + FOR_EVER;
    while Instant::now() < end {
        for nic in nics {
            let Some(frame) = nic.receive(Instant::now() + Duration::from_millis(50)) else { continue };
            if frame[12..14] == [8, 6] && frame[20..22] == [0, 1] && frame[38..42] == own.octets() {
                let asker: [u8; 6] = frame[22..28].try_into().expect("six bytes");
                let address = Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]);
                nic.send(&nic.arp(2, own, asker, address));
            }
        }
    }
}

/// Copies what comes between the card's TAP and another, which is eth0 of a namespace: frames and what they say of
/// checksums and segments still to be made, where the card's TAP says that.
fn stack(nic: &Nic, namespace: &str) {
    nix::sched::setns(
        fs::File::open(format!("/run/netns/{namespace}")).expect("open the namespace"),
        nix::sched::CloneFlags::CLONE_NEWNET,
    )
    .expect("enter the namespace");
    let inner = fs::File::options().read(true).write(true).open("/dev/net/tun").expect("open /dev/net/tun");
    let inner = inner.as_raw_fd();
    // Each cuts or sums up what the other end can't: checksums, and segments of TCP by IPv4 and IPv6.
    let (headers, offloads): (_, libc::c_ulong) =
        if nic.header > 0 { (libc::IFF_VNET_HDR, 0x1 | 0x2 | 0x4) } else { (0, 0) };
    // SAFETY: an ifreq of zeroes is valid; these requests read it, or a number.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"eth0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | headers) as libc::c_short;
        assert_eq!(libc::ioctl(inner, 0x4004_54ca, &raw mut request), 0, "make eth0");
        request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: 1, sa_data: [0; 14] };
        for (to, from) in request.ifr_ifru.ifru_hwaddr.sa_data.iter_mut().zip(nic.mac) {
            *to = from as libc::c_char;
        }
        assert_eq!(libc::ioctl(inner, libc::SIOCSIFHWADDR as _, &raw mut request), 0, "give it the card's MAC");
        for tap in [inner, nic.fd] {
            assert_eq!(libc::ioctl(tap, 0x4004_54d0, offloads), 0, "offer offloads");
        }
    }
    // SAFETY: both stay open.
    let [outer, inner] = [nic.fd, inner].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    let mut packet = vec![0; 70_000];
    loop {
        let mut files = [outer, inner].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut files, PollTimeout::from(60_000_u16)).unwrap_or(0) == 0 {
            continue;
        }
        for (at, (from, to)) in [(outer, inner), (inner, outer)].into_iter().enumerate() {
            if files[at].any().unwrap_or(false) {
                let length = nix::unistd::read(from, &mut packet).unwrap_or(0);
                // One that is down takes none.
                let _ = nix::unistd::write(to, &packet[..length]);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
