//! Waiting, always with an end.

use std::thread::sleep;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer; a test failure after so many seconds.
#[track_caller]
pub fn wait_for<T>(what: &str, seconds: u64, ask: impl FnMut() -> Option<T>) -> T {
    match patiently(Duration::from_secs(seconds), ask) {
        Some(answer) => answer,
        None => panic!("waited {seconds} s in vain for {what}"),
    }
}

/// The same without a judgement: None when the time is over.
pub fn patiently<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        sleep(STEP);
    }
}
