//! Answers of QEMU's that are kept for as long as it is the same file.

use crate::sys::files;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where root keeps them, whose HOME may be another's.
pub const SYSTEM: &str = "/var/cache/kvm-bridge";

/// The caller's folder for what can be found out again. Root has one of root's own, whatever HOME says: what is in a user's, that
/// user has written.
pub fn cache() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(SYSTEM.into());
    }
    directories::ProjectDirs::from("", "", "kvm-bridge").map(|folders| folders.cache_dir().to_owned())
}

/// Where the answers of this very file are kept: another version, another folder. What was kept of the one before goes.
pub fn folder(cache: &Path, qemu: &Path) -> Option<PathBuf> {
    let real = qemu.canonicalize().ok()?;
    let metadata = real.metadata().ok()?;
    let which = format!("qemu-{:016x}-", hash(real.as_os_str().as_encoded_bytes()));
    let version = format!("{:x}-{:x}.{:x}", metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    let folder = cache.join(format!("{which}{version}"));
    if !folder.is_dir() {
        forget_others(cache, &which);
        files::create_folder_of(&folder.join("it")).ok()?;
    }
    Some(folder)
}

/// What was kept of the same QEMU before it was another version.
fn forget_others(cache: &Path, which: &str) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(which)) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// A readable name, which no other question has.
pub fn file_name<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<&str> = words.iter().map(T::as_ref).collect();
    let question = words.join("\0");
    let readable = question.chars().filter(|c| c.is_ascii_alphanumeric() || "-,".contains(*c)).take(40);
    format!("{}-{:016x}", readable.collect::<String>(), hash(question.as_bytes()))
}

/// FNV-1a, which is the same in every build.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Keeps an answer, whole or not at all.
pub fn keep(path: &Path, text: &str) {
    let unfinished = path.with_extension(format!("{}", std::process::id()));
    if files::replace(path, &unfinished, text.as_bytes(), false).is_err() {
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

    #[test]
    fn another_version_has_another_folder_and_the_old_answers_go() {
        let here = tempfile::tempdir().unwrap();
        let (cache, qemu) = (here.path().join("cache"), here.path().join("qemu"));
        fs::write(&qemu, "one").unwrap();
        let first = folder(&cache, &qemu).unwrap();
        keep(&first.join("x"), "answer");
        assert_eq!(
            (folder(&cache, &qemu), fs::read_to_string(first.join("x")).unwrap()),
            (Some(first.clone()), "answer".to_owned())
        );
        fs::write(&qemu, "another").unwrap();
        assert_ne!(folder(&cache, &qemu), Some(first.clone()));
        assert!(!first.exists());
    }
}
