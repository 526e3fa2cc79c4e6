//! A stream of a request each millisecond, over UDP and over an open TCP connection, between the host and the LAN: what
//! a host feels while something happens to its network.

use super::Lab;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

const SERVER: &str = "10.77.0.1:7777";
const TICK: Duration = Duration::from_millis(1);
/// A stream is watched for so long before the event.
const BEFORE: Duration = Duration::from_millis(400);
/// And usually for so long after it.
pub const AFTER: Duration = Duration::from_millis(1500);

/// What the two streams saw of one event.
pub struct Seen {
    pub gap: Duration,
    pub lost: usize,
    pub stall: Duration,
    pub is_broken: bool,
}

/// Lets the streams run, and does something meanwhile.
pub fn watch<T>(lab: &Lab, after: Duration, event: impl FnOnce() -> T) -> (Seen, T) {
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
pub struct Series {
    name: String,
    seen: Vec<Seen>,
}

impl Series {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), seen: Vec::new() }
    }

    pub fn add(&mut self, seen: Seen) {
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
