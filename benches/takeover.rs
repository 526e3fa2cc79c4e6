//! What a host feels when its only interface becomes a port of a bridge: `make bench-takeover`.
//!
//! In network namespaces of its own: a host, and a LAN with an echo server behind a veth pair. A stream of a request each
//! millisecond, over UDP and over an open TCP connection, goes on while the interface is taken: by us, by one `ip -batch`
//! that makes the same move, and by the commands of the old how-to, which flush the address and do not bring it back. The
//! three take turns. RUNS=N says how often; the default is 20.
#![allow(missing_docs, clippy::expect_used, clippy::panic)]

/// The laboratory of the tests.
#[path = "../tests"]
mod tests {
    pub mod support;
}

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};
use tests::support::Lab;

const SERVER: &str = "10.77.0.1:7777";
const TICK: Duration = Duration::from_millis(1);
/// A stream is watched for so long before and after the event.
const BEFORE: Duration = Duration::from_millis(400);
const AFTER: Duration = Duration::from_millis(1500);

fn main() {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(20);
    let mut taken = Series::new("kvm-bridge, taking it");
    let mut returned = Series::new("kvm-bridge, giving it back");
    let mut batch = Series::new("one ip -batch");
    let mut by_hand = Series::new("the seven commands by hand");
    for _ in 0..runs {
        let Some(lab) = host() else { return };
        let (seen, guest) = watch(&lab, AFTER, || lab.shim("--bridge br0").boot());
        taken.add(seen);
        // The grace time comes first.
        let (seen, _) = watch(&lab, AFTER + Duration::from_secs(2), move || guest.kill());
        returned.add(seen);
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
    println!("{runs} runs each, in turns; a stream of 1,000 requests a second; times in ms: median (longest)\n");
    println!(
        "| | longest gap, UDP | requests lost | longest stall, TCP | connections lost, or silent for over 1.5 s |"
    );
    println!("|---|---|---|---|---|");
    for series in [taken, returned, batch, by_hand] {
        println!("{series}");
    }
}

/// A host on the network by eth0, which has spoken to its gateway.
fn host() -> Option<Lab> {
    let lab = Lab::with_address()?;
    assert!(
        Command::new("ping").args(["-q", "-c", "1", "-W", "5", "10.77.0.1"]).output().expect("ping").status.success()
    );
    Some(lab)
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

/// What the two streams saw of one event.
struct Seen {
    gap: Duration,
    lost: usize,
    stall: Duration,
    is_broken: bool,
}

/// Lets the streams run, and does something meanwhile.
fn watch<T>(lab: &Lab, after: Duration, event: impl FnOnce() -> T) -> (Seen, T) {
    let is_over = Arc::new(AtomicBool::new(false));
    let servers = serve(lab, &is_over);
    let udp = udp_stream(&is_over);
    let tcp = tcp_stream(&is_over);
    sleep(BEFORE);
    let done = event();
    sleep(after);
    is_over.store(true, Ordering::Relaxed);
    let (gap, lost) = udp.join().expect("the UDP stream");
    let (stall, is_broken) = tcp.join().expect("the TCP stream");
    for server in servers {
        server.join().expect("a server");
    }
    (Seen { gap, lost, stall, is_broken }, done)
}

/// Echo servers on the LAN.
fn serve(lab: &Lab, is_over: &Arc<AtomicBool>) -> [JoinHandle<()>; 2] {
    let udp = lab.lan.thread(|| UdpSocket::bind(SERVER).expect("a UDP server")).join().expect("a UDP server");
    let tcp = lab.lan.thread(|| TcpListener::bind(SERVER).expect("a TCP server")).join().expect("a TCP server");
    udp.set_read_timeout(Some(Duration::from_millis(50))).expect("set a limit");
    tcp.set_nonblocking(true).expect("set non-blocking");
    let (udp_over, tcp_over) = (is_over.clone(), is_over.clone());
    let udp = spawn(move || {
        let mut buffer = [0; 64];
        while !udp_over.load(Ordering::Relaxed) {
            if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..length], from);
            }
        }
    });
    let tcp = spawn(move || {
        while !tcp_over.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = tcp.accept() else {
                sleep(TICK);
                continue;
            };
            stream.set_nodelay(true).expect("no delay");
            stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set a limit");
            let mut buffer = [0; 4096];
            while !tcp_over.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) => drop(stream.write_all(&buffer[..length])),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => return,
                }
            }
        }
    });
    [udp, tcp]
}

/// The longest time between two answers, and how many requests had none.
fn udp_stream(is_over: &Arc<AtomicBool>) -> JoinHandle<(Duration, usize)> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a UDP client");
    socket.set_nonblocking(true).expect("set non-blocking");
    let is_over = is_over.clone();
    spawn(move || {
        let (mut sent, mut answered, mut gap) = (0, 0, Duration::ZERO);
        let (mut last, mut next) = (Instant::now(), Instant::now());
        let mut buffer = [0; 64];
        while !is_over.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                next += TICK;
                // Without a route it is lost as well.
                let _ = socket.send_to(b"request", SERVER);
                sent += 1;
            }
            while socket.recv(&mut buffer).is_ok() {
                answered += 1;
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
            sleep(Duration::from_micros(100));
        }
        // The last one may still be on its way.
        (gap.max(last.elapsed()), usize::saturating_sub(sent, answered + 1))
    })
}

/// The longest time without progress, and whether the connection broke.
fn tcp_stream(is_over: &Arc<AtomicBool>) -> JoinHandle<(Duration, bool)> {
    let mut stream = TcpStream::connect(SERVER).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream.set_nonblocking(true).expect("set non-blocking");
    let is_over = is_over.clone();
    spawn(move || {
        let mut stall = Duration::ZERO;
        let (mut last, mut next) = (Instant::now(), Instant::now());
        let mut buffer = [0; 4096];
        while !is_over.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                next += TICK;
                match stream.write(&[1]) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return (stall.max(last.elapsed()), true),
                    _ => {}
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) => return (stall.max(last.elapsed()), true),
                Ok(_) => {
                    stall = stall.max(last.elapsed());
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return (stall.max(last.elapsed()), true),
            }
            sleep(Duration::from_micros(100));
        }
        (stall.max(last.elapsed()), false)
    })
}

/// All runs of one way.
struct Series {
    name: &'static str,
    seen: Vec<Seen>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self { name, seen: Vec::new() }
    }

    fn add(&mut self, seen: Seen) {
        self.seen.push(seen);
    }
}

impl std::fmt::Display for Series {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn median_and_longest(mut values: Vec<f64>) -> String {
            values.sort_by(f64::total_cmp);
            let median = values[values.len() / 2];
            format!("{median:.1} ({:.1})", values[values.len() - 1])
        }
        let times = |of: fn(&Seen) -> Duration| {
            median_and_longest(self.seen.iter().map(|seen| of(seen).as_secs_f64() * 1000.0).collect())
        };
        let mut lost: Vec<usize> = self.seen.iter().map(|seen| seen.lost).collect();
        lost.sort_unstable();
        let broken = self.seen.iter().filter(|seen| seen.is_broken || seen.stall > AFTER).count();
        let (gap, stall) = (times(|seen| seen.gap), times(|seen| seen.stall));
        let lost = format!("{} ({})", lost[lost.len() / 2], lost[lost.len() - 1]);
        write!(out, "| {} | {gap} | {lost} | {stall} | {broken} of {} |", self.name, self.seen.len())
    }
}
