//! Work that somebody else can keep from ending.
#![forbid(unsafe_code)]

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// Does work in a thread of its own, and waits for it for so long; `None` if it takes longer: its thread stays until this
/// process ends.
pub fn within<T: Send + 'static>(time: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (told, hears) = channel();
    let is_begun = !time.is_zero() && thread::Builder::new().spawn(move || drop(told.send(work()))).is_ok();
    if is_begun { hears.recv_timeout(time).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (kept, waits) = channel::<()>();
        assert_eq!(within(Duration::from_millis(50), move || waits.recv().is_ok()), None);
        drop(kept);
        assert_eq!(within(Duration::ZERO, || 7), None);
    }
}
