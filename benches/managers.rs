//! What a host feels when its interface is taken from under its network manager, and given back: `make bench-managers`.
//!
//! In network namespaces of its own, with the managers of Debian's packages. RUNS=N says how often each; the default is 5.
//! ONLY=Networkd measures one of them.
#![allow(missing_docs, clippy::expect_used, clippy::panic)]

/// The laboratory of the tests.
#[path = "../tests"]
mod tests {
    pub mod support;
}

use std::time::Duration;
use tests::support::managers::{ALL, Managed};
use tests::support::stream::{AFTER, Series, watch};

fn main() {
    let runs = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5);
    println!("{runs} runs each; a stream of 1,000 requests a second; times in ms: median (longest)\n");
    println!("| | longest gap, UDP | requests lost | longest stall, TCP | connections lost |");
    println!("|---|---|---|---|---|");
    let only = std::env::var("ONLY").unwrap_or_default();
    for (manager, mode) in ALL.into_iter().filter(|one| format!("{one:?}").contains(&only)) {
        let mut taken = Series::new(format!("{manager:?}, {mode:?}: taken"));
        let mut returned = Series::new(format!("{manager:?}, {mode:?}: given back"));
        for _ in 0..runs {
            let Some(host) = Managed::new(manager, mode) else { return };
            host.lan.reaches(&host.address);
            let (seen, guest) = watch(&host.lab, AFTER, || host.shim("--bridge br0").boot());
            taken.add(seen);
            // The grace time comes first.
            let (seen, _) = watch(&host.lab, AFTER + Duration::from_secs(4), move || guest.kill());
            returned.add(seen);
            host.waits_until_gone("br0");
            host.ends_here();
        }
        println!("{taken}\n{returned}");
    }
}
