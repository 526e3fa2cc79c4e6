//! Whether the access lists of bridge helpers let a user on a bridge.
//!
//! This is the place where a helper's own reader of these files is plugged in: all that the checks ask is `decide`.
//! The format is QEMU's: lines `allow NAME|all`, `deny NAME|all`, `include PATH`; `#` begins a comment; nothing is allowed
//! that is not said to be, and a denial anywhere counts.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where access lists are, with the helpers that read them.
pub const FILES: [&str; 2] = ["/etc/qemu/bridge.conf", "/etc/kvm-bridge/bridge.conf"];

/// What a list says of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This line allows it.
    Allowed(PathBuf, usize),
    /// This line denies it.
    Denied(PathBuf, usize),
    /// No line is about it.
    NotMentioned,
    /// The list, or a part of it, can't be read.
    Unreadable(PathBuf, String),
}

/// What the list in this file says of a bridge.
pub fn decide(file: &Path, bridge: &str) -> Decision {
    let mut found = Found::default();
    found.read(file, bridge, &mut BTreeSet::new());
    match (found.denied, found.allowed, found.unreadable) {
        (Some((file, line)), _, _) => Decision::Denied(file, line),
        (_, Some((file, line)), _) => Decision::Allowed(file, line),
        (_, _, Some((file, why))) => Decision::Unreadable(file, why),
        _ => Decision::NotMentioned,
    }
}

#[derive(Default)]
struct Found {
    allowed: Option<(PathBuf, usize)>,
    denied: Option<(PathBuf, usize)>,
    unreadable: Option<(PathBuf, String)>,
}

impl Found {
    fn read(&mut self, file: &Path, bridge: &str, seen: &mut BTreeSet<PathBuf>) {
        if !seen.insert(file.to_owned()) {
            return;
        }
        let text = match fs::read(file) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => {
                self.unreadable.get_or_insert((file.to_owned(), crate::error::reason(&error)));
                return;
            }
        };
        for (at, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let here = || Some((file.to_owned(), at + 1));
            match (words.next(), words.next(), words.next()) {
                (Some("allow"), Some(name), None) if name == bridge || name == "all" => {
                    self.allowed = self.allowed.take().or_else(here);
                }
                (Some("deny"), Some(name), None) if name == bridge || name == "all" => {
                    self.denied = self.denied.take().or_else(here);
                }
                (Some("include"), Some(path), None) => self.read(Path::new(path), bridge, seen),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_counts_wherever_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        let decide = |text: &str| {
            write("list", text);
            super::decide(&path("list"), "br0")
        };
        assert_eq!(decide("# allow br0\nallow br1\n"), Decision::NotMentioned);
        assert_eq!(decide("allow br1\n  allow\tbr0\n"), Decision::Allowed(path("list"), 2));
        assert_eq!(decide("allow all\ndeny br0\n"), Decision::Denied(path("list"), 2));
        write("more", "deny all\ninclude list\n");
        assert_eq!(
            decide(&format!("allow br0\ninclude {}\n", path("more").display())),
            Decision::Denied(path("more"), 1)
        );
        let missing = path("none");
        assert!(
            matches!(decide(&format!("include {}\n", missing.display())), Decision::Unreadable(file, _) if file == missing)
        );
    }
}
