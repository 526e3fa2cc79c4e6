//! A thousand starts and ends in a row, and a thousand guests at once, mixed with kills: `make soak`.
//!
//! Guests, their shims in the midst of their work, and reapers are killed at moments of a fixed sequence. At the end the
//! host has to be as it was: links, addresses, routes, processes, run-time files; each guest may have had two descriptors
//! of ours, and a reaper no more behind a thousand guests than behind one. ROUNDS=N says how many (1000). LEAVE=tap or
//! LEAVE=journal leaves such a thing behind, to see that it is found.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::expect_used, clippy::panic, clippy::incompatible_msrv)]

/// The laboratory of the tests.
#[path = "../tests"]
mod tests {
    pub mod support;
}

#[path = "bench/host.rs"]
mod host;
#[path = "bench/page.rs"]
mod page;
#[path = "bench/timing.rs"]
mod timing;

use host::Host;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};
use timing::{Ready, start};

/// The same sequence each time (Knuth's MMIX).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

#[derive(Default)]
struct Told {
    starts: usize,
    killed_guests: usize,
    killed_shims: usize,
    killed_reapers: usize,
}

/// A bridge that was there, and two that are made.
const BRIDGES: [&str; 3] = ["br0", "soak0,uplink=eth0", "soak1,uplink=none"];

fn main() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, most) = nix::sys::resource::getrlimit(limit).expect("the limit on open files");
    nix::sys::resource::setrlimit(limit, most.min(65536), most).expect("raise the limit on open files");
    let Some(host) = Host::new(&target) else { return };
    host.lab.baseline();
    let own_files = own_descriptors();
    let mut chance = Chance(8);
    let mut told = Told::default();

    let patience = Duration::from_secs(20 + rounds as u64 / 10);
    let begun = Instant::now();
    in_a_row(&host, rounds, &mut chance, &mut told);
    becomes_as_before(&host, patience);
    let row = begun.elapsed();
    println!("{rounds} in a row: nothing left after {:.0} s", row.as_secs_f64());

    let begun = Instant::now();
    let most_at_once = at_once(&host, rounds.min(1000), &mut chance, &mut told);
    becomes_as_before(&host, patience);
    let many = begun.elapsed();
    println!("{most_at_once} at once: nothing left after {:.0} s", many.as_secs_f64());

    // It was compared; as it is, the order of routes apart.
    host.lab.ends_here();
    assert_eq!(own_descriptors(), own_files, "descriptors that the shims left with their caller");
    let (leases, claims, others) = leases();
    assert_eq!(leases, claims, "each MAC belongs to one VM");
    assert!(others.is_empty(), "files beside the leases: {others:?}");
    let table = format!(
        "| soak | |\n|---|---|\n| starts and ends in a row, on a bridge that was there and on two of ours | {rounds} \
         ({:.0} s) |\n| guests at once on one bridge of ours | {most_at_once} ({:.0} s) |\n| starts in all | {} |\n| \
         guests killed | {} |\n| shims killed in the midst of their work | {} |\n| reapers killed | {} |\n| links, processes, journals, locks and other run-time files, open files left | 0 |\n| MAC \
         addresses of leases, and claims to them | {leases}, {claims} |\n",
        row.as_secs_f64(),
        many.as_secs_f64(),
        told.starts,
        told.killed_guests,
        told.killed_shims,
        told.killed_reapers,
    );
    println!("\n{table}");
    let folder = std::env::var_os("OUT").map_or_else(|| target.join("bench"), PathBuf::from);
    page::put(&folder, "soak", &table).expect("write the table");
}

/// Waits until the host is as it was; a thousand TAPs take their time to go. Of two links that both have a fe80::/64, the one
/// that was away and came back has it after the other: the same routes in another order are the same routes.
fn becomes_as_before(host: &Host, patience: Duration) {
    let begun = Instant::now();
    loop {
        let network = host.lab.network_difference().unwrap_or_default();
        let is_order = |line: &str| line.is_empty() || line.starts_with("ip -j") || line.ends_with("in another order");
        let (processes, has_files) = (host.lab.processes(), Path::new("/run/kvm-bridge").exists());
        if processes.is_empty() && !has_files && network.lines().all(is_order) {
            return;
        }
        let what = format!("{processes:?}, run-time files: {has_files}\n{network}");
        assert!(begun.elapsed() < patience, "the host is not as it was: {what}");
        sleep(Duration::from_millis(200));
    }
}

fn in_a_row(host: &Host, rounds: usize, chance: &mut Chance, told: &mut Told) {
    let mut first = Vec::new();
    for round in 0..rounds {
        let bridge = BRIDGES[chance.below(3) as usize];
        let command = |name: u64| host.shim(&format!("--bridge {bridge} -name soak{name}"));
        let name = chance.below(50);
        if chance.one_in(4) {
            // In the midst of its work, or a little later; every second one starts for the first time.
            let is_first = chance.one_in(2);
            first.extend(is_first.then_some(1000 + round));
            let mut command = command(if is_first { 1000 + round as u64 } else { name });
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut child = child.expect("start the shim");
            sleep(Duration::from_micros(chance.below(6000)));
            let _ = child.kill();
            let _ = child.wait();
            told.killed_shims += 1;
        } else {
            let guest = start(command(name));
            let seen = descriptors_of(&guest);
            assert_eq!(seen.len(), 2, "a TAP, and the lock of its slot: {seen:?}");
            if chance.one_in(2) {
                told.killed_guests += 1;
                guest.end();
            } else {
                guest.leave();
            }
        }
        told.starts += 1;
        if chance.one_in(40) {
            kill_reapers(host, told);
        }
        if round % 100 == 99 {
            // Time for reapers to come, and for some bridges to go.
            sleep(Duration::from_millis(chance.below(4000)));
        }
    }
    // The next start ends what a killed one has begun.
    for name in first {
        start(host.shim(&format!("--bridge br0 -name soak{name}"))).end();
        told.starts += 1;
    }
    // Where the last reaper was killed, nobody is left who knows.
    host.run(host.command(&host.kvm_bridge, "recover"));
    match std::env::var("LEAVE").as_deref() {
        Ok("tap") => host.lab.ip("tuntap add dev left0 mode tap"),
        Ok("journal") => {
            fs::create_dir_all(host.lab.run_dir()).expect("make the folder of journals");
            fs::write(host.lab.run_dir().join("left0.json"), "{}").expect("write a journal");
        }
        _ => {}
    }
}

fn at_once(host: &Host, many: usize, chance: &mut Chance, told: &mut Told) -> usize {
    let start_one =
        |number: usize| start(host.shim(&format!("--bridge soak2,uplink=none -name many{number}"))).without_output();
    let mut guests = vec![start_one(0)];
    let behind_one = descriptors_of_reaper(host);
    guests.extend((1..many).map(start_one));
    let ports = host.lab.ports("soak2").len();
    assert_eq!(descriptors_of_reaper(host), behind_one, "descriptors of a reaper, behind all and behind one");
    kill_reapers(host, told);
    // A third of them is killed, in no order, and comes back.
    for _ in 0..many / 3 {
        guests.swap_remove(chance.below(guests.len() as u64) as usize).end();
        told.killed_guests += 1;
    }
    while guests.len() < many {
        guests.push(start_one(guests.len()));
    }
    // It is another one than before, which was killed.
    assert_eq!(descriptors_of_reaper(host), behind_one, "descriptors of a reaper, behind all and behind one");
    told.starts += many + many / 3;
    let again = host.lab.ports("soak2").len();
    assert_eq!((ports, again), (many, many), "ports of the bridge");
    told.killed_guests += guests.len();
    // All at once: first each is killed, then each is waited for.
    timing::end_all(guests);
    ports
}

fn kill_reapers(host: &Host, told: &mut Told) {
    for reaper in host.lab.reapers() {
        reaper.kill();
        told.killed_reapers += 1;
    }
}

/// What is open in a guest beside its standard files and what we have open too: it may be from our own caller.
fn descriptors_of(guest: &Ready) -> Vec<PathBuf> {
    let own: Vec<PathBuf> = open_files("self").into_iter().map(|(_, file)| file).collect();
    let of_guest = open_files(&guest.pid().to_string()).into_iter();
    of_guest.filter(|(number, file)| *number > 2 && !own.contains(file)).map(|(_, file)| file).collect()
}

/// The bridge's one reaper, once it has begun to watch.
fn descriptors_of_reaper(host: &Host) -> usize {
    sleep(Duration::from_secs(1));
    let reapers = host.lab.reapers();
    assert_eq!(reapers.len(), 1, "one reaper: {reapers:?}");
    open_files(&reapers[0].pid.to_string()).len()
}

fn own_descriptors() -> usize {
    open_files("self").len()
}

fn open_files(process: &str) -> Vec<(u32, PathBuf)> {
    let files = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs").flatten();
    let file =
        |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?));
    files.filter_map(file).collect()
}

/// How many MACs the leases hold, how many are claimed, and what else is there but locks.
fn leases() -> (usize, usize, Vec<String>) {
    let store = Path::new("/var/lib/kvm-bridge");
    let names = |folder: &str| -> Vec<PathBuf> {
        fs::read_dir(store.join(folder)).expect("leases").flatten().map(|entry| entry.path()).collect()
    };
    let (mut macs, mut others) = (0, Vec::new());
    for path in names("vms") {
        match path.extension().and_then(|end| end.to_str()) {
            Some("json") => {
                let text = fs::read_to_string(&path).expect("a lease");
                let record: serde_json::Value = serde_json::from_str(&text).expect("a whole lease");
                macs += record["slots"]
                    .as_array()
                    .expect("slots")
                    .iter()
                    .flat_map(|slot| slot.as_array())
                    .flatten()
                    .count();
            }
            Some(end) if end.parse::<u32>().is_ok() => {}
            _ => others.push(path.display().to_string()),
        }
    }
    (macs, names("macs").len(), others)
}
