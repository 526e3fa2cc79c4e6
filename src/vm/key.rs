//! What a VM is known by.

use model::argv::image;
use model::argv::scan::Identity;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A VM, as its leases are kept under: a kind and a text, `name:alice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmId {
    pub(super) text: String,
    /// The image that it is the key of.
    pub(super) image: Option<PathBuf>,
    /// What marks that image, wherever it is.
    pub(super) mark: Option<String>,
}

impl VmId {
    /// The key of an identity. A path is made absolute and its links are followed, so that one image has one key. The way to an
    /// image can be another user's, who can keep whoever goes it: it is gone here once, before any lock is held.
    pub fn of(identity: &Identity) -> Self {
        let of_path = |kind: &str, path: &[u8]| {
            let image = resolve(path);
            let full = image.as_deref().map_or(path, |image| image.as_os_str().as_bytes());
            let mark = image.as_deref().and_then(crate::vm::images::mark_of);
            Self { text: format!("{kind}:{}", readable(full)), image, mark }
        };
        match identity {
            Identity::Name(name) => Self::from(format!("name:{}", readable(name))),
            Identity::Uuid(uuid) => Self::from(format!("uuid:{}", readable(uuid).to_lowercase())),
            Identity::Disk(path) => of_path("disk", path),
            Identity::DiskElsewhere(text) => {
                Self::from(format!("disk:{}", image::elsewhere::canonical(&readable(text))))
            }
            Identity::Kernel(path) => of_path("kernel", path),
            Identity::Unnamed => Self::from(crate::vm::UNNAMED.to_owned()),
        }
    }

    /// The key that a person means: one as it is listed, or a VM's name.
    pub(super) fn said(text: &str) -> Self {
        let kinds = ["name:", "uuid:", "disk:", "kernel:", "unnamed:"];
        match kinds.iter().any(|kind| text.starts_with(kind)) {
            true => Self::from(text.to_owned()),
            false => Self::of(&Identity::Name(text.as_bytes().to_vec())),
        }
    }

    /// Whether nothing tells it from others.
    pub fn is_unnamed(&self) -> bool {
        self.text == crate::vm::UNNAMED
    }

    /// The key itself, as records have it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What people call it: the text behind the kind.
    pub fn display(&self) -> &str {
        match self.text.split_once(':') {
            Some((_, text)) if !text.is_empty() => text,
            _ => "unnamed",
        }
    }

    /// The alias of its TAPs: at most 254 bytes (with its NUL below IFALIASZ of linux/if.h), cut between two characters.
    pub fn alias(&self) -> String {
        let mut alias = format!("kvm-bridge {}", self.display());
        let end = (0..=alias.len().min(254)).rev().find(|end| alias.is_char_boundary(*end));
        alias.truncate(end.unwrap_or_default());
        alias
    }

    /// A file name for it: what a person recognises of it, and a hash of all (FNV-1a, 64 bits).
    pub(super) fn file_name(&self) -> String {
        let last = self.display().rsplit('/').next().unwrap_or_default();
        let plain = last.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c));
        let plain: String = plain.take(40).collect();
        let hash = self
            .text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("{plain}-{hash:016x}")
    }
}

impl From<String> for VmId {
    fn from(text: String) -> Self {
        Self { text, image: None, mark: None }
    }
}

/// An image's full path.
fn resolve(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    fs::canonicalize(path).ok().or_else(|| std::path::absolute(path).ok())
}

/// Text that no two byte strings share: a backslash is doubled, a byte that is no UTF-8 is written in hexadecimal.
fn readable(bytes: &[u8]) -> String {
    let chunks = bytes.utf8_chunks().map(|chunk| {
        let odd: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        chunk.valid().replace('\\', "\\\\") + &odd
    });
    chunks.collect()
}

/// The path whose text `readable` wrote.
pub(super) fn path_of(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.strip_prefix(b"x").and_then(|tail| std::str::from_utf8(tail.get(..2)?).ok());
        match (first, tail.first(), code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'\\', Some(b'\\'), _) => {
                bytes.push(b'\\');
                rest = &tail[1..];
            }
            (b'\\', _, Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_path_comes_back(path in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x')], 0..20)) {
            let back = path_of(&readable(&path));
            prop_assert_eq!(back.as_os_str().as_bytes(), path.as_slice());
        }
    }

    #[test]
    fn a_person_may_leave_the_kind_out() {
        assert_eq!(VmId::said("alice").text, "name:alice");
        assert_eq!(VmId::said("disk:/a.img").text, "disk:/a.img");
    }
}
