//! What a QEMU has, as it says itself: its options, machines, devices.
//!
//! What it has is kept, and is known at once the next time. What it has not is not: it may come with another package.

use crate::launch::{Qemu, kept};
use crate::sys::process;
use model::argv::lacks::Answers;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Larger than a wrapper, smaller than any QEMU.
const LARGEST_WRAPPER: u64 = 4 << 20;

impl Qemu {
    fn place(&self, words: &[&str]) -> Option<PathBuf> {
        let words: Vec<&str> = std::iter::once("launch").chain(words.iter().copied()).collect();
        Some(kept::folder(&kept::cache()?, self.path())?.join(kept::file_name(&words)))
    }

    /// Whether this may be a program that runs QEMU, and not QEMU itself.
    pub fn may_be_wrapper(&self) -> bool {
        self.path().metadata().is_ok_and(|file| file.len() <= LARGEST_WRAPPER)
    }

    /// Whether it reaches QEMU with a descriptor that it inherits; `None` if it does not answer. QEMU looks at `-add-fd` before
    /// it obeys `-device help`.
    pub fn passes_on(&self) -> Option<bool> {
        let place = self.place(&["-add-fd"]);
        if place.as_ref().is_some_and(|path| path.exists()) {
            return Some(true);
        }
        // Where a TAP would be.
        let inherited = process::move_up(OwnedFd::from(File::open("/dev/null").ok()?));
        process::inherit(&inherited).ok()?;
        let set = format!("fd={},set=1", inherited.as_raw_fd());
        let help = ["-device".as_ref(), "help".as_ref()];
        let words: Vec<&OsStr> = ["-add-fd".as_ref(), set.as_ref()].into_iter().chain(help).collect();
        if self.ask(&words)?.0 != 0 {
            // What it refuses may be another thing.
            return (self.ask(&help)?.0 == 0).then_some(false);
        }
        if let Some(path) = place {
            kept::keep(&path, "");
        }
        Some(true)
    }
}

impl Answers for Qemu {
    fn path(&self) -> &Path {
        self.path()
    }

    fn text_of(&self, words: &[&str], will_do: &dyn Fn(&str) -> bool) -> Option<String> {
        let place = self.place(words);
        let kept = place.as_ref().and_then(|path| fs::read_to_string(path).ok());
        if let Some(text) = kept.filter(|text| will_do(text)) {
            return Some(text);
        }
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        let (_, text) = self.ask(&words)?;
        if let Some(path) = place.filter(|_| will_do(&text)) {
            kept::keep(&path, &text);
        }
        Some(text)
    }

    fn error_of(&self, words: &[&str], text: &str) -> Option<String> {
        Some(self.tell(words, text)?.err)
    }
}
