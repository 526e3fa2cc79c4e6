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

use std::process::Command;
use std::time::Duration;
use tests::support::Lab;
use tests::support::stream::{AFTER, Series, watch};

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
