//! Questions to the installed QEMU, each asked once: its answers are kept in the user's cache for as long as it is the
//! same file.

use crate::launch::{self, Qemu};
use crate::sys::program::{self, Answer};
use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A QEMU that is silent for so long is not waited for, nor asked anything else: somebody sits at the keyboard.
const PATIENCE: Duration = Duration::from_secs(3);
/// A QEMU that was silent is not asked again for so long: the next key is pressed at once.
const REST: Duration = Duration::from_secs(60);
/// Root's cache.
const SYSTEM: &str = "/var/cache/kvm-bridge";
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
        let cache = qemu.as_ref().and_then(|qemu| folder(qemu.path()));
        Self { qemu, cache, is_silent: Cell::new(false) }
    }

    /// What it prints on stdout; empty if it can't be asked or has no answer.
    pub(super) fn ask(&self, words: &[&str]) -> String {
        self.answer(words).filter(|(good, _)| *good).map(|(_, said)| said).unwrap_or_default()
    }

    /// Whether it has an option of this name: it looks at all of the line before it obeys `-version`.
    pub(super) fn has_option(&self, name: &str) -> bool {
        let option = format!("-{name}");
        let said = self.answer(&["-version", &option]);
        said.is_some_and(|(good, said)| good || said.contains("requires an argument"))
    }

    /// Whether it went well, and what it printed: on stdout if it went well, else on stderr.
    fn answer(&self, words: &[&str]) -> Option<(bool, String)> {
        let kept = self.cache.as_ref().map(|folder| folder.join(file_name(words)));
        if let Some(text) = kept.as_ref().and_then(|path| fs::read_to_string(path).ok()) {
            return text.split_once('\n').map(|(good, said)| (good == "0", said.to_owned()));
        }
        let silent = self.cache.as_ref().map(|folder| folder.join(SILENT));
        let since = silent.as_ref().and_then(|path| path.metadata().ok()?.modified().ok()?.elapsed().ok());
        if self.is_silent.get() || since.is_some_and(|since| since < REST) {
            return None;
        }
        let Some(answer) = self.live(words) else {
            self.is_silent.set(true);
            silent.iter().for_each(|path| keep(path, ""));
            return None;
        };
        // What keeps a QEMU from starting today, such as a library that is missing, may be mended tomorrow.
        let is_answer = answer.0 || answer.1.contains("invalid option") || answer.1.contains("requires an argument");
        if let Some(path) = kept.filter(|_| is_answer) {
            keep(&path, &format!("{}\n{}", u8::from(!answer.0), answer.1));
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

/// Where the answers of this very file are kept: another version, another folder.
fn folder(qemu: &Path) -> Option<PathBuf> {
    let real = qemu.canonicalize().ok()?;
    let metadata = real.metadata().ok()?;
    let cache = cache()?;
    let which = format!("qemu-{:016x}-", hash(real.as_os_str().as_encoded_bytes()));
    let version = format!("{:x}-{:x}.{:x}", metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    let folder = cache.join(format!("{which}{version}"));
    if !folder.is_dir() {
        forget_others(&cache, &which);
        fs::create_dir_all(&folder).ok()?;
    }
    Some(folder)
}

/// Root's own, whatever HOME says: what is in a user's, that user has written.
fn cache() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(SYSTEM.into());
    }
    directories::ProjectDirs::from("", "", "kvm-bridge").map(|folders| folders.cache_dir().to_owned())
}

/// What was kept of the same QEMU before it was another version.
fn forget_others(cache: &Path, which: &str) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(which)) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// A readable name, which no other question has.
fn file_name(words: &[&str]) -> String {
    let question = words.join("\0");
    let readable = question.chars().filter(|c| c.is_ascii_alphanumeric() || "-,".contains(*c)).take(40);
    format!("{}-{:016x}", readable.collect::<String>(), hash(question.as_bytes()))
}

/// FNV-1a, which is the same in every build.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Keeps an answer, whole or not at all.
fn keep(path: &Path, text: &str) {
    let unfinished = path.with_extension(format!("{}", std::process::id()));
    let written = fs::File::create(&unfinished).and_then(|mut file| file.write_all(text.as_bytes()));
    if written.and_then(|()| fs::rename(&unfinished, path)).is_err() {
        let _ = fs::remove_file(&unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_names_of_their_own() {
        assert_ne!(file_name(&["-device", "a,help"]), file_name(&["-device a,help", ""]));
        assert!(!file_name(&["-device", "../../x/\n,help"]).contains('/'));
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
