//! Questions to the installed QEMU, each asked once: its answers are kept in the user's cache for as long as it is the
//! same file.

use crate::complete::host;
use crate::launch;
use crate::launch::{Qemu, kept};
use crate::sys::program;
use crate::sys::program::Answer;
use model::complete::{Candidate, Source, Thing};
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// A QEMU that is silent for so long is not waited for, nor asked anything else: somebody sits at the keyboard.
const PATIENCE: Duration = Duration::from_secs(3);
/// A QEMU that was silent is not asked again for so long: the next key is pressed at once.
const REST: Duration = Duration::from_secs(60);
/// Where it is written that it was.
const SILENT: &str = "silent";

/// A QEMU, and what is known of it.
pub(super) struct Asker {
    qemu: Option<Qemu>,
    cache: Option<PathBuf>,
    /// Whether one question was not answered.
    is_silent: Cell<bool>,
}

impl Asker {
    /// Finds the QEMU that a program of this name would run.
    pub(super) fn of(name: &str) -> Self {
        // What is wrong with the configuration is for who starts QEMU.
        let qemu = launch::find_alone(OsStr::new(name), |_| {}).ok();
        let cache = qemu.as_ref().and_then(|qemu| kept::folder(&kept::cache()?, qemu.path()));
        Self { qemu, cache, is_silent: Cell::new(false) }
    }

    /// Whether it went well, and what it printed: on stdout if it went well, else on stderr.
    fn answer(&self, words: &[&str]) -> Option<(bool, String)> {
        let path = self.cache.as_ref().map(|folder| folder.join(kept::file_name(words)));
        if let Some(text) = path.as_ref().and_then(|path| fs::read_to_string(path).ok()) {
            return text.split_once('\n').map(|(good, said)| (good == "0", said.to_owned()));
        }
        let silent = self.cache.as_ref().map(|folder| folder.join(SILENT));
        let since = silent.as_ref().and_then(|path| path.metadata().ok()?.modified().ok()?.elapsed().ok());
        if self.is_silent.get() || since.is_some_and(|since| since < REST) {
            return None;
        }
        let Some(answer) = self.live(words) else {
            self.is_silent.set(true);
            silent.iter().for_each(|path| kept::keep(path, ""));
            return None;
        };
        // What keeps a QEMU from starting today, such as a library that is missing, may be fixed tomorrow.
        let is_answer = answer.0 || answer.1.contains("invalid option") || answer.1.contains("requires an argument");
        if let Some(path) = path.filter(|_| is_answer) {
            kept::keep(&path, &format!("{}\n{}", u8::from(!answer.0), answer.1));
        }
        Some(answer)
    }

    /// The same, not from the cache; `None` if it is silent.
    fn live(&self, words: &[&str]) -> Option<(bool, String)> {
        let mut command = self.qemu.as_ref()?.question();
        match program::answer(command.args(words).stdin(Stdio::null()), PATIENCE) {
            Err(_) => Some((false, String::new())),
            Ok(None) => None,
            // Some lists come with a status of 1.
            Ok(Some(Answer { status, out, .. })) if status.success() || !out.is_empty() => Some((true, out)),
            Ok(Some(Answer { err, .. })) => Some((false, err)),
        }
    }
}

impl Source for Asker {
    fn ask(&self, words: &[&str]) -> String {
        self.answer(words).filter(|(good, _)| *good).map(|(_, said)| said).unwrap_or_default()
    }

    /// QEMU looks at all of the line before it obeys `-version`.
    fn has_option(&self, name: &str) -> bool {
        let said = self.answer(&["-version", &format!("-{name}")]);
        said.is_some_and(|(good, said)| good || said.contains("requires an argument"))
    }

    fn all(&self, things: Thing) -> Vec<Candidate> {
        host::all(things)
    }
}
