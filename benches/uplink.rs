//! What a shared uplink costs: `make bench-uplink`.
//!
//! In network namespaces of its own: a host, a LAN behind a veth pair, and guests that are namespaces behind a port of the
//! bridge (a real QEMU would measure itself). Three parts, of which `BENCH=come-and-go,throughput,host` picks some:
//!
//! - come-and-go: a stream of a request each millisecond, over UDP and over an open TCP connection, between host and LAN,
//!   while a guest comes and goes; beside nothing at all, one `ip -batch` that moves the host to a bridge, and the commands
//!   of the old how-to, which flush the address and do not bring it back.
//! - throughput: between guest, LAN and host, beside a bridge whose port the uplink is.
//! - host: the host's own traffic with 0, 1, 100 and 1,000 addresses behind the bridge.
//!
//! The ways take turns. RUNS=N says how often; the default is 20.
#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::incompatible_msrv)]

/// The laboratory of the tests.
#[path = "../tests"]
mod tests {
    pub mod support;
}

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};
use tests::support::command::Running;
use tests::support::guest::Stack;
use tests::support::stream::{AFTER, Series, watch};
use tests::support::{Lab, wait_for};

const LAN: &str = "10.77.0.1";
const HOST: &str = "10.77.0.2";
const GUEST: &str = "10.77.0.50";
/// How long a stream of bytes is measured.
const STREAM: Duration = Duration::from_millis(700);
const ROUND_TRIPS: usize = 2000;

fn main() {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(20);
    let wanted = std::env::var("BENCH").unwrap_or_else(|_| "come-and-go,throughput,host".to_owned());
    let is_wanted = |part: &str| wanted.split(',').any(|wanted| wanted == part);
    if is_wanted("come-and-go") {
        come_and_go(runs);
    }
    if is_wanted("throughput") {
        throughput(runs);
    }
    if is_wanted("host") {
        host_alone(runs);
    }
}

fn come_and_go(runs: usize) {
    let mut idle = Series::new("nothing at all");
    let mut came = Series::new("`--bridge br0`: a guest comes, the first");
    let mut gone = Series::new("it goes, the last");
    let mut batch = Series::new("one `ip -batch` that moves the host to a bridge");
    let mut by_hand = Series::new("the seven commands by hand");
    for _ in 0..runs {
        let Some(lab) = host() else { return };
        idle.add(watch(&lab, AFTER, || ()).0);
        let (seen, guest) = watch(&lab, AFTER, || lab.shim("--bridge br0").boot());
        came.add(seen);
        // The grace time comes first.
        let (seen, _) = watch(&lab, AFTER + Duration::from_secs(2), move || guest.kill());
        gone.add(seen);
        lab.waits_until_gone("br0");
        drop(lab);

        let Some(lab) = host() else { return };
        let (seen, ()) = watch(&lab, AFTER, || in_one_batch(&lab));
        batch.add(seen);
        lab.ends_here();
        drop(lab);

        let Some(lab) = host() else { return };
        let (seen, ()) = watch(&lab, AFTER, by_the_how_to);
        by_hand.add(seen);
        lab.ends_here();
    }
    println!(
        "What the host feels; {runs} runs each, in turns; 1,000 requests a second; times in ms: median (longest)\n"
    );
    println!(
        "| | longest gap, UDP | requests lost | longest stall, TCP | connections lost, or silent for over 1.5 s |"
    );
    println!("|---|---|---|---|---|");
    for series in [idle, came, gone, batch, by_hand] {
        println!("{series}");
    }
    println!();
}

/// A host on the network by eth0, which has spoken to its gateway.
fn host() -> Option<Lab> {
    let lab = Lab::with_address()?;
    answers(LAN);
    Some(lab)
}

fn answers(address: &str) {
    let ping = Command::new("ping").args(["-q", "-c", "1", "-w", "10", address]).output().expect("ping");
    assert!(ping.status.success(), "{address} does not answer");
}

fn in_one_batch(lab: &Lab) {
    let mac = lab.a_link("eth0")["address"].as_str().expect("a MAC").to_owned();
    let commands = format!(
        "link add br0 address {mac} type bridge stp_state 0 forward_delay 0\nlink set br0 up\nlink set eth0 master br0\n\
         addr add 10.77.0.2/24 dev br0\naddr del 10.77.0.2/24 dev eth0\nroute add default via 10.77.0.1 dev br0\n\
         tuntap add dev tap0 mode tap\nlink set tap0 master br0 up\n"
    );
    let file = lab.new_file("batch");
    std::fs::write(&file, commands).expect("write the batch");
    lab.ip(&format!("-batch {}", file.display()));
}

fn by_the_how_to() {
    for command in [
        "ip link add br0 type bridge",
        "ip addr flush dev eth0",
        "ip link set eth0 master br0",
        "ip tuntap add dev tap0 mode tap",
        "ip link set tap0 master br0",
        "ip link set dev br0 up",
        "ip link set dev tap0 up",
    ] {
        let mut words = command.split(' ');
        let status = Command::new(words.next().expect("a program")).args(words).status().expect("run ip");
        assert!(status.success(), "{command}");
    }
}

/// One figure of each run, by what was measured.
#[derive(Default)]
struct Figures(BTreeMap<(usize, String), Vec<f64>>);

impl Figures {
    fn add(&mut self, place: usize, what: &str, figure: f64) {
        self.0.entry((place, what.to_owned())).or_default().push(figure);
    }

    fn median(&self, place: usize, what: &str) -> f64 {
        let mut figures = self.0.get(&(place, what.to_owned())).cloned().unwrap_or_default();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// A guest that is a namespace behind a port of br0.
fn guest(lab: &Lab) -> Stack {
    let stack = Stack::new("guest");
    lab.ip("link add kvbt0 type veth peer name eth0 netns guest");
    lab.ip("link set kvbt0 master br0 up");
    stack.run(&format!("ip addr add {GUEST}/24 dev eth0"));
    stack.run("ip link set eth0 up");
    stack
}

fn throughput(runs: usize) {
    const WAYS: [&str; 2] = ["shared uplink", "plain bridge"];
    let mut figures = Figures::default();
    for _ in 0..runs {
        for (way, _) in WAYS.iter().enumerate() {
            let Some(lab) = host() else { return };
            let _running: Option<Running> = match way {
                0 => Some(lab.shim("--bridge br0").boot()),
                _ => {
                    in_one_batch(&lab);
                    None
                }
            };
            let stack = guest(&lab);
            assert!(stack.reaches(LAN) && stack.reaches(HOST), "the guest is not on the network");
            answers(GUEST);
            for (what, on, from, to) in [
                ("guest to LAN", "lan", "guest", LAN),
                ("LAN to guest", "guest", "lan", GUEST),
                ("host to guest", "guest", "", GUEST),
                ("guest to host", "", "guest", HOST),
            ] {
                let (rate, busy) = stream(on, from, to);
                figures.add(way, &format!("{what}, Gbit/s"), rate);
                figures.add(way, &format!("{what}, CPU s for 1 Gbit"), busy);
                figures.add(way, &format!("{what}, round trip, us"), round_trip(on, from, to));
            }
            drop(stack);
            lab.ends_here();
        }
    }
    println!("A guest on a {} and on a {}; {runs} runs each, in turns; medians\n", WAYS[0], WAYS[1]);
    println!("| | {} | {} | ratio |\n|---|---|---|---|", WAYS[0], WAYS[1]);
    let names: Vec<String> = figures.0.keys().filter(|(way, _)| *way == 0).map(|(_, what)| what.clone()).collect();
    for what in names {
        let (ours, plain) = (figures.median(0, &what), figures.median(1, &what));
        println!("| {what} | {ours:.2} | {plain:.2} | {:.2} |", ours / plain);
    }
    println!();
}

fn host_alone(runs: usize) {
    const GUESTS: [usize; 4] = [0, 1, 100, 1000];
    /// Below what one port can have.
    const PER_PORT: usize = 60;
    let mut figures = Figures::default();
    for _ in 0..runs {
        for (place, guests) in GUESTS.iter().enumerate() {
            let Some(lab) = host() else { return };
            let _running = (*guests > 0).then(|| lab.shim("--bridge br0").boot());
            let _stack = (*guests > 1).then(|| guest(&lab));
            let ports: Vec<String> = (0..guests.div_ceil(PER_PORT)).map(|port| format!("more{port}")).collect();
            if *guests > 1 {
                let mut batch = String::new();
                for port in &ports {
                    // With a carrier, as a port without one has no entries.
                    lab.ip(&format!("link add {port} type veth peer name {port}p"));
                    lab.ip(&format!("link set dev {port}p up"));
                    lab.ip(&format!("link set dev {port} master br0 up"));
                }
                for number in 1..*guests {
                    let _ = writeln!(
                        batch,
                        "fdb add 02:00:00:00:{:02x}:{:02x} dev more{} master dynamic",
                        number / 256,
                        number % 256,
                        number / PER_PORT
                    );
                }
                let file = lab.new_file("fdb");
                std::fs::write(&file, batch).expect("write the batch");
                let added = Command::new("bridge").arg("-batch").arg(&file).status().expect("run bridge");
                assert!(added.success(), "bridge -batch");
                wait_for("an entry for each address", 20, || (entries() >= *guests).then_some(()));
            }
            for (what, on, from, to) in [("host to LAN", "lan", "", LAN), ("LAN to host", "", "lan", HOST)] {
                figures.add(place, &format!("{what}, Gbit/s"), stream(on, from, to).0);
                figures.add(place, &format!("{what}, round trip, us"), round_trip(on, from, to));
            }
            if *guests > 1 {
                ports.iter().for_each(|port| lab.ip(&format!("link del dev {port}")));
            }
            lab.ends_here();
        }
    }
    println!(
        "The host's own traffic with so many guests' addresses; {runs} runs each, in turns; medians (ratio to none)\n"
    );
    println!("| | 0 | 1 | 100 | 1,000 |\n|---|---|---|---|---|");
    let names: Vec<String> = figures.0.keys().filter(|(place, _)| *place == 0).map(|(_, what)| what.clone()).collect();
    for what in names {
        let none = figures.median(0, &what);
        let cells = (0..GUESTS.len()).map(|place| {
            let figure = figures.median(place, &what);
            format!(" {figure:.2} ({:.2}) |", figure / none)
        });
        println!("| {what} |{}", cells.collect::<String>());
    }
    println!();
}

/// The addresses that the host reaches through the bridge, as `tc` counts them.
fn entries() -> usize {
    let shown = Command::new("tc").args(["filter", "show", "dev", "eth0", "egress"]).output().expect("run tc").stdout;
    String::from_utf8_lossy(&shown).lines().filter(|line| line.contains("key ht 6b7 ")).count()
}

/// A thread in the namespace of this name; in the host's where it is empty.
fn thread<T: Send + 'static>(on: &str, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    if on.is_empty() { spawn(work) } else { tests::support::namespaces::within(on, work) }
}

/// A stream of bytes by TCP, in Gbit/s, and the seconds of CPU that a Gbit took on the whole machine.
fn stream(on: &str, from: &str, to: &str) -> (f64, f64) {
    let to = format!("{to}:7001");
    let address = to.clone();
    let listener = thread(on, move || TcpListener::bind(address).expect("listen")).join().expect("a server");
    let server = spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut buffer = vec![0; 1 << 18];
        let (start, before, mut bytes) = (Instant::now(), busy(), 0);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            bytes += length;
        }
        let gigabits = bytes as f64 * 8.0 / 1e9;
        (gigabits / start.elapsed().as_secs_f64(), (busy() - before) / gigabits)
    });
    let client = thread(from, move || {
        let mut stream = TcpStream::connect(to).expect("connect");
        stream.set_write_timeout(Some(STREAM * 4)).expect("set a limit");
        let (start, buffer) = (Instant::now(), vec![0; 1 << 18]);
        while start.elapsed() < STREAM && stream.write_all(&buffer).is_ok() {}
    });
    client.join().expect("the client");
    server.join().expect("the server")
}

/// Seconds that the machine's processors were not idle (/proc/stat, in hundredths).
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let first = stat.lines().next().expect("a line");
    let numbers: Vec<f64> = first.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    [0, 1, 2, 5, 6].iter().map(|at| numbers[*at]).sum::<f64>() / 100.0
}

/// The median time of a request and its answer by UDP, in microseconds.
fn round_trip(on: &str, from: &str, to: &str) -> f64 {
    let to = format!("{to}:7002");
    let address = to.clone();
    let server = thread(on, move || UdpSocket::bind(address).expect("bind")).join().expect("a server");
    server.set_read_timeout(Some(Duration::from_secs(2))).expect("set a limit");
    let server = spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length @ 1.., from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], from);
        }
    });
    let client = thread(from, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.connect(to).expect("connect");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set a limit");
        let mut times = Vec::new();
        let mut buffer = [0; 64];
        for _ in 0..ROUND_TRIPS {
            let start = Instant::now();
            socket.send(b"request").expect("send");
            if socket.recv(&mut buffer).is_ok() {
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        // An empty one ends the server.
        let _ = socket.send(b"");
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    });
    let median = client.join().expect("the client");
    server.join().expect("the server");
    sleep(Duration::from_millis(10));
    median
}
