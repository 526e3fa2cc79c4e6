//! Waiting, always with an end.

use std::process::Command;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);
/// How long a small program takes on a machine that has nothing else to do.
const USUAL: Duration = Duration::from_millis(2);

/// How much slower than usual this machine is now: every wait is longer by that, so that tests hold beside other work too.
/// Measured once.
fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let start = Instant::now();
                let _ = Command::new("true").status();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        // Other tests start meanwhile: what is twice as slow is as usual.
        let factor = times[times.len() / 2].as_micros() / (2 * USUAL.as_micros());
        u32::try_from(factor).unwrap_or(u32::MAX).clamp(1, 10)
    })
}

/// Asks again and again until there is an answer; a test failure after so many seconds.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, ask: impl FnMut() -> Option<T>) -> T {
    match patiently(Duration::from_secs(seconds), ask) {
        Some(answer) => answer,
        None => panic!("waited {seconds} s in vain for {what}"),
    }
}

/// The same without a pause between two looks, for what passes in no time.
#[track_caller]
pub fn spin_for<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds) * slowness();
    loop {
        match ask() {
            Some(answer) => return answer,
            None => assert!(Instant::now() < end, "waited {seconds} s in vain for {what}"),
        }
        std::thread::yield_now();
    }
}

/// The same without a judgement: None when the time is over.
pub fn patiently<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit * slowness();
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        sleep(STEP);
    }
}
