//! Everything beside everyone else's way, in one run: `make bench`.
//!
//! In network namespaces of its own. The ways of one work take turns, so that what else goes on meets all of them. The
//! table goes to standard output, and with the figures and the plot into the folder OUT. RUNS=N says how often (40), PORTS=N
//! how many guests one bridge gets (1000), BENCH=row,row which rows; some rows alone never go to docs/.
#![allow(missing_docs, unreachable_pub, clippy::expect_used, clippy::panic, clippy::incompatible_msrv)]

/// The laboratory of the tests.
#[path = "../../tests"]
mod tests {
    pub mod support;
}

mod asked;
mod counts;
mod host;
mod page;
mod plot;
mod report;
mod rows;
mod scale;
// The soak run uses more of it.
#[allow(dead_code)]
mod timing;

use host::Host;
use report::Report;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What BENCH can name.
const ROWS: [&str; 11] = ["pass", "join", "make", "qemu", "user", "helper", "dhcp", "many", "scale", "reaper", "sizes"];

fn main() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let number =
        |name: &str, default: usize| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (runs, ports) = (number("RUNS", 40).max(1), number("PORTS", 1000).max(1));
    let wanted = std::env::var("BENCH").unwrap_or_default();
    for row in wanted.split(',').filter(|row| !row.is_empty()) {
        assert!(ROWS.contains(&row), "BENCH={row}: there is no such row; there are {}", ROWS.join(", "));
    }
    let is_wanted = |row: &str| wanted.is_empty() || wanted.split(',').any(|name| name == row);
    // Each guest of a full bridge has a pipe to us.
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, most) = nix::sys::resource::getrlimit(limit).expect("the limit on open files");
    nix::sys::resource::setrlimit(limit, most.min(65536), most).expect("raise the limit on open files");
    // Where it is not allowed, the figures are only less even.
    let _ = Command::new("renice").args(["-n", "-20", "-p", &std::process::id().to_string()]).output();

    let Some(host) = Host::new(&target) else { return };
    let machine = machine();
    println!("{machine}");
    let mut report = Report::default();
    let mut picture = String::new();
    if is_wanted("pass") {
        rows::pass_through(&host, &mut report, runs);
        counts::of_pass_through(&host, &mut report);
    }
    type Row = fn(&Host, &mut Report, usize);
    let timed: [(&str, Row); 5] = [
        ("join", rows::join),
        ("make", rows::make),
        ("qemu", rows::qemu),
        ("user", rows::without_root),
        ("helper", rows::helper),
    ];
    for (name, row) in timed {
        if is_wanted(name) {
            row(&host, &mut report, runs);
        }
    }
    if is_wanted("dhcp") {
        rows::dhcp(&host, &mut report, (runs / 8).max(1), &target.join("guest"));
    }
    if is_wanted("many") {
        rows::at_once(&host, &mut report, (runs / 4).max(1));
    }
    if is_wanted("scale") {
        picture = scale::scale(&host, &mut report, ports);
    }
    if is_wanted("reaper") {
        counts::of_reaper(&host, &mut report, 60, &target);
    }
    if is_wanted("sizes") {
        counts::of_programs(&target, &mut report);
    }
    // A part is not to stand where all of it was.
    let out = std::env::var_os("OUT").filter(|_| wanted.is_empty());
    let folder = out.map_or_else(|| target.join("bench"), PathBuf::from);
    report.write(&folder, &machine, &picture).expect("write the figures");
}

/// What the figures are of.
fn machine() -> String {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = text("/proc/cpuinfo");
    let field = |name: &str| {
        let line = processor.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(": ").map_or("", |(_, value)| value).to_owned()
    };
    let kind = if field("flags").split(' ').any(|flag| flag == "hypervisor") { "virtual machine" } else { "machine" };
    let cores = processor.lines().filter(|line| line.starts_with("processor")).count();
    let release = text("/proc/sys/kernel/osrelease");
    let kernel: String = release.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let version = Command::new(host::QEMU).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).into_owned();
    let version = version.split_whitespace().nth(3).unwrap_or("?");
    format!(
        "A {kind} with {cores} processors ({}), Linux {kernel}, QEMU {version}; the ways of one work in turns.",
        field("model name")
    )
}
