//! What a VM is known by.

use crate::argv::image;
use crate::argv::scan::Identity;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The key of VMs that nothing tells apart.
const UNNAMED: &str = "unnamed:";
/// The kinds of keys that are the path of an image.
const IMAGES: [&str; 2] = ["disk:", "kernel:"];

/// A VM, as its leases are kept under: a kind and a text, `name:alice`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmId {
    /// The key itself, as records have it.
    pub text: String,
    /// What marks the image that it is the key of, wherever that is.
    pub mark: Option<String>,
}

impl VmId {
    /// The key of an identity; that of a path is the path as it is written.
    pub fn as_written(identity: &Identity) -> Self {
        Self::from(match identity {
            Identity::Name(name) => format!("name:{}", readable(name)),
            Identity::Uuid(uuid) => format!("uuid:{}", readable(uuid).to_lowercase()),
            Identity::Disk(path) => format!("disk:{}", readable(path)),
            Identity::DiskElsewhere(text) => format!("disk:{}", image::elsewhere::canonical(&readable(text))),
            Identity::Kernel(path) => format!("kernel:{}", readable(path)),
            Identity::Unnamed => UNNAMED.to_owned(),
        })
    }

    /// The key that a person means: one as it is listed, or a VM's name.
    pub fn said(text: &str) -> Self {
        let kinds = ["name:", "uuid:", "disk:", "kernel:", "unnamed:"];
        match kinds.iter().any(|kind| text.starts_with(kind)) {
            true => Self::from(text.to_owned()),
            false => Self::as_written(&Identity::Name(text.as_bytes().to_vec())),
        }
    }

    /// What a command line has to say for it to have this key.
    pub fn identity(&self) -> Identity {
        let (kind, text) = self.text.split_once(':').unwrap_or_default();
        let bytes = || path_of(text).into_os_string().into_vec();
        match kind {
            "name" => Identity::Name(bytes()),
            "uuid" => Identity::Uuid(bytes()),
            "disk" if text.starts_with('/') => Identity::Disk(bytes()),
            "disk" => Identity::DiskElsewhere(bytes()),
            "kernel" => Identity::Kernel(bytes()),
            _ => Identity::Unnamed,
        }
    }

    /// The path of the image that it is the key of; that of anything elsewhere is none.
    pub fn image(&self) -> Option<PathBuf> {
        let path = IMAGES.iter().find_map(|kind| self.text.strip_prefix(kind)).map(path_of);
        path.filter(|path| path.is_absolute())
    }

    /// Whether a record found under this key can be that of another, whose image has moved.
    pub fn can_have_moved_from(&self, other: &str) -> bool {
        IMAGES.iter().any(|kind| other.starts_with(kind) && self.text.starts_with(kind))
    }

    /// Whether nothing tells it from others.
    pub fn is_unnamed(&self) -> bool {
        self.text == UNNAMED
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
    pub fn file_name(&self) -> String {
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
        Self { text, mark: None }
    }
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
pub fn path_of(text: &str) -> PathBuf {
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
    fn a_key_is_that_of_its_identity() {
        for key in
            ["name:a:b", "name:a\\\\b", "uuid:6d1c0a3e", "disk:/a b.img", "kernel:/k", "disk:rbd:vms/a", "unnamed:"]
        {
            let vm = VmId::from(key.to_owned());
            assert_eq!(VmId::as_written(&vm.identity()).text, key);
        }
    }

    #[test]
    fn a_person_may_leave_the_kind_out() {
        assert_eq!(VmId::said("alice").text, "name:alice");
        assert_eq!(VmId::said("disk:/a.img").text, "disk:/a.img");
    }
}
