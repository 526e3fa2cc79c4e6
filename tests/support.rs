//! What the tests stand on: a laboratory of network namespaces and the programs run in it.
//!
//! A test opens with `let Some(lab) = Lab::new() else { return };` and then tells its story. Whatever happens, the
//! laboratory ends every process of the test when it is dropped, and fails the test unless the host is then as it was
//! before the first of our programs ran.

// Every test module uses its own part of this.
#![allow(dead_code, unreachable_pub)]

pub mod command;
pub mod files;
pub mod filters;
pub mod frames;
pub mod guest;
pub mod lab;
pub mod lan;
pub mod managers;
pub mod namespaces;
pub mod processes;
pub mod programs;
pub mod real;
pub mod record;
pub mod rooms;
pub mod served;
pub mod shell;
pub mod snapshot;
pub mod state;
pub mod stream;
pub mod user;
pub mod wait;
pub mod wire;

use std::collections::BTreeSet;
use std::sync::Mutex;

pub use lab::Lab;
pub use wait::wait_for;

/// Says that a test did not run, past the test harness's capture of output; a failure where skipping is not allowed.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("KVM_BRIDGE_TEST_REQUIRE").is_none(), "{name} was skipped: {reason}");
    lacks(reason);
}

/// Says that a test, or the rest of it, did not run for what the running kernel has not: nothing that could be installed.
pub fn lacks(reason: &str) {
    use std::io::Write;
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
    let mut skipped = SKIPPED.lock().expect("a set");
    if skipped.is_empty() {
        // SAFETY: `count_skipped` is called once, in the ordinary end of this process.
        #[allow(unsafe_code)]
        unsafe {
            libc::atexit(count_skipped)
        };
    }
    skipped.insert(name);
}

/// The tests that did not run, or in part.
static SKIPPED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Says at the end of the run how many it were: "ok" says nothing of these.
extern "C" fn count_skipped() {
    use std::io::Write;
    let count = SKIPPED.lock().map_or(0, |skipped| skipped.len());
    let _ =
        writeln!(std::io::stderr(), "SKIPPED, as a whole or in part: {count} of these tests. Above, each says why.");
}

/// Whether a program is on PATH; says that the test is skipped where it is not.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file());
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}
