//! What was asked of the numbers, and whether it was reached in this run: nobody writes that by hand.

use serde_json::{Map, Value};

type Figures = Map<String, Value>;

const PASSED: &str = "no bridge, a program that does nothing";
const VERSION: &str = "no bridge, `qemu-kvm --version`";
const JOIN: &str = "join a bridge, exec";
const QEMU: &str = "QEMU to its QMP greeting";
const USER: &str = "without root, QEMU to its QMP greeting";
const MANY: &str = "64 guests at once, until the last one is there";

fn median(figures: &Figures, work: &str, way: &str) -> Option<f64> {
    figures.get(work)?.get(way)?.get("median")?.as_f64()
}

fn count(figures: &Figures, what: &str) -> Option<f64> {
    figures.get("counts")?.get(what)?.as_f64()
}

fn ratio(figures: &Figures, work: &str, ours: &str, theirs: &str) -> Option<f64> {
    Some(median(figures, work, ours)? / median(figures, work, theirs)?)
}

/// Of the counts whose names begin so, the largest.
fn most(figures: &Figures, start: &str) -> Option<f64> {
    let counts = figures.get("counts")?.as_object()?.iter().filter(|(what, _)| what.starts_with(start));
    counts.filter_map(|(_, value)| value.as_f64()).reduce(f64::max)
}

/// What is beyond QEMU alone, as a part of what is so another way.
fn added(figures: &Figures, theirs: &str) -> Option<f64> {
    let alone = median(figures, QEMU, super::rows::ALONE)?;
    Some((median(figures, QEMU, "shim")? - alone) / (median(figures, QEMU, theirs)? - alone))
}

/// The table; a line whose row was not measured says so.
pub fn table(figures: &Figures) -> String {
    let beside = |work, theirs| ratio(figures, work, "shim", theirs);
    let of_port_1 = || {
        let first = count(figures, "instructions, join, port 1")?;
        Some(most(figures, "instructions, join, port ")? / first)
    };
    let helper = || ratio(figures, USER, "shim with our helper", super::rows::BRIDGE);
    let guarded = || ratio(figures, JOIN, super::rows::GUARDED, "shim");
    let lines: [(&str, &str, f64, Option<f64>); 16] = [
        ("pass-through, in all, ms", "at most", 1.0, median(figures, PASSED, "shim")),
        ("pass-through, beside QEMU called directly", "at most", 1.05, beside(VERSION, "called directly")),
        ("pass-through, system calls", "at most", 59.0, count(figures, "system calls, no bridge")),
        ("join, beside the floor", "at most", 1.25, beside(JOIN, "the floor")),
        ("join, beside the commands by hand", "at most", 0.25, beside(JOIN, "the commands by hand")),
        ("join with a guard, beside one without", "at most", 1.3, guarded()),
        ("added to QEMU's start, beside `-netdev bridge`", "at most", 1.0 / 3.0, added(figures, super::rows::BRIDGE)),
        ("without root, beside QEMU's `-netdev bridge`", "at most", 1.0, helper()),
        ("instructions, the last port and 10,000 leases, beside port 1", "at most", 1.1, of_port_1()),
        ("dumps and listed folders in a join", "at most", 0.0, most(figures, "dumps and listed folders, join, port ")),
        ("64 at once, beside the floor: as for one", "at most", 1.25, beside(MANY, "the floor")),
        (
            "processes beside a guest on a bridge that was there",
            "at most",
            0.0,
            most(figures, "processes of ours beside"),
        ),
        ("processes behind a bridge of ours", "at most", 1.0, most(figures, "processes of ours behind")),
        ("PSS of that one, KiB", "at most", 1024.0, most(figures, "its PSS")),
        ("its wake-ups while nothing changes", "at most", 0.0, most(figures, "its wake-ups")),
        ("kvm-bridge-helper, KiB", "under", 500.0, count(figures, "kvm-bridge-helper, KiB")),
    ];
    let rows = lines.iter().map(|(what, how, bound, measured)| {
        let number = |value: f64| {
            let digits = if value.fract() == 0.0 { 0 } else { 2 };
            format!("{value:.digits$}")
        };
        let (value, verdict) = match measured {
            None => (String::new(), "not measured"),
            Some(value) if value < bound || (*how == "at most" && value == bound) => (number(*value), "reached"),
            Some(value) => (number(*value), "**not reached**"),
        };
        format!("| {what} | {how} {} | {value} | {verdict} |\n", number(*bound))
    });
    format!("| asked for | bound | measured | in this run |\n|---|---|---|---|\n{}", rows.collect::<String>())
}
