//! The n-th guest on one bridge, and what our own part of it costs.

use super::counts;
use super::host::Host;
use super::plot::plot;
use super::report::Report;
use super::timing::{Ready, Times, start};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::path::Path;

/// A network namespace with a bridge of its own, entered when its turn comes.
struct Net(File);

impl Net {
    fn new(host: &Host) -> Self {
        let before = Self::current();
        unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
        let net = Self(Self::current());
        // As `Host` does for duplicate addresses: it has none.
        for command in ["link set lo up", "link add br0 type bridge", "link set br0 up"] {
            host.lab.ip(command);
        }
        Self(before).enter();
        net
    }

    fn current() -> File {
        File::open("/proc/thread-self/ns/net").expect("open the network namespace")
    }

    fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
    }
}

/// Fills two bridges, one by us and one by the floor, in turns. Every VM has its lease before.
pub fn scale(host: &Host, report: &mut Report, most: usize) -> String {
    let before = Net(Net::current());
    let nets = [Net::new(host), Net::new(host)];
    let command = |at: usize, number: usize| match at {
        0 => host.shim(&format!("--bridge br0 -name vm{number}")),
        _ => host.command(&host.floor, &format!("join br0 {}", host.floor.display())),
    };
    nets[0].enter();
    for number in 0..most {
        start(command(0, number)).end();
    }
    counts::of_join(host, report, "port 1");
    // What the kernel still does for all those TAPs that have gone is over then.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let mut values = [Vec::new(), Vec::new()];
    let mut guests: [Vec<Ready>; 2] = [Vec::new(), Vec::new()];
    for number in 0..most {
        for turn in 0..2 {
            let at = (turn + number) % 2;
            nets[at].enter();
            let ready = start(command(at, number));
            values[at].push(ready.took.as_secs_f64() * 1000.0);
            guests[at].push(ready.without_output());
        }
    }
    nets[0].enter();
    // One more than a bridge takes is not asked for.
    counts::of_join(host, report, &format!("port {}", most + 1));
    leases(10_000);
    counts::of_join(host, report, &format!("port {}, with 10,000 leases more", most + 1));
    for guest in guests.into_iter().flatten() {
        guest.end();
    }
    before.enter();
    let work = "n-th guest on one bridge";
    for number in [1, 10, 100, 250, 500, 1000].into_iter().filter(|number| *number <= most) {
        let around = |at: usize| {
            let reach = (number / 4).clamp(1, 12);
            Times::of(&values[at][(number - 1).saturating_sub(reach)..most.min(number + reach)])
        };
        report.compare(&format!("{work}, n = {number}"), ("shim", &around(0)), ("the floor", &around(1)));
    }
    for (way, values) in ["shim", "the floor"].iter().zip(&values) {
        report.set(work, way, serde_json::json!(values));
    }
    // A tenth of them at each end: one alone says little on a machine that others use.
    let differences: Vec<f64> = values[0].iter().zip(&values[1]).map(|(ours, floor)| ours - floor).collect();
    let part = (most / 10).max(1).min(differences.len());
    let (first, last) = (Times::of(&differences[..part]), Times::of(&differences[differences.len() - part..]));
    report.count(&format!("ours beyond the floor, ports 1 to {part}, ms"), first, "");
    let end = format!("ours beyond the floor, ports {} to {most}, ms", most - part + 1);
    report.count(&end, last, "as at the first ports: the rest is the kernel's");
    plot(
        "Until the n-th guest is there, in ms",
        &[("qemu-kvm --bridge br0", &values[0]), ("the floor: one netlink send in C", &values[1])],
    )
}

/// Leases of VMs that are somewhere else, beside those that there are.
fn leases(many: u32) {
    let store = Path::new("/var/lib/kvm-bridge");
    for number in 0..many {
        let mac = format!("92{number:010x}");
        let spelled: Vec<&str> = (0..6).map(|byte| &mac[2 * byte..2 * byte + 2]).collect();
        let record = format!("{{\"version\":1,\"vm\":\"name:other{number}\",\"slots\":[[\"{}\"]]}}", spelled.join(":"));
        fs::write(store.join(format!("vms/other{number}-{number:016x}.json")), record).expect("write a lease");
        fs::write(store.join("macs").join(mac), format!("name:other{number}")).expect("write a claim");
    }
}
