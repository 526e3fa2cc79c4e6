//! Who has run on the way to one QEMU, as the environment tells those after us.
//!
//! Copies of us that have run are no QEMU for the next one. A program that was executed and has brought this very process
//! back to us is a wrapper that would do so for ever; one that starts processes is noticed by the count alone, for a VM
//! that is started from within another's QEMU has the same environment and is no loop.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file, by its file system and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File(u64, u64);

impl File {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// `COUNT PID COPIES PROGRAMS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// How many of us have run.
    pub(super) depth: u32,
    /// The process that the last one was.
    process: u32,
    /// Those of us that have run.
    copies: Vec<File>,
    /// What they executed in this process.
    programs: Vec<File>,
}

impl Chain {
    /// What those before us have left.
    pub(super) fn of_environment() -> Self {
        let text = std::env::var(crate::launch::DEPTH).unwrap_or_default();
        let chain = Self::parse(&text);
        match chain.process == std::process::id() {
            true => chain,
            false => Self { programs: Vec::new(), ..chain },
        }
    }

    /// What can't be read is nothing.
    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        Self {
            depth: word().parse().unwrap_or_default(),
            process: word().parse().unwrap_or_default(),
            copies: parse_files(word()),
            programs: parse_files(word()),
        }
    }

    /// What we leave to a program that we execute.
    pub(super) fn next(&self, program: &Path) -> Self {
        let mut next = Self { depth: self.depth.saturating_add(1), process: std::process::id(), ..self.clone() };
        let file = |path: &Path| path.metadata().ok().map(|metadata| File::of(&metadata));
        next.copies.extend(file("/proc/self/exe".as_ref()).filter(|file| !self.copies.contains(file)));
        next.programs.extend(file(program));
        next
    }

    /// Whether a file is a copy of us that has run.
    pub(super) fn has_copy(&self, metadata: &Metadata) -> bool {
        self.copies.contains(&File::of(metadata))
    }

    /// Whether a file was executed already and has brought us back.
    pub(super) fn has_executed(&self, metadata: &Metadata) -> bool {
        self.programs.contains(&File::of(metadata))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |files: &[File]| {
            let files: Vec<String> = files.iter().map(|File(device, inode)| format!("{device:x}-{inode:x}")).collect();
            files.join(",")
        };
        write!(out, "{} {} {} {}", self.depth, self.process, list(&self.copies), list(&self.programs))
    }
}

fn parse_files(text: &str) -> Vec<File> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let file =
        |text: &str| text.split_once('-').and_then(|(device, inode)| Some(File(number(device)?, number(inode)?)));
    text.split(',').filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes_and_no_nonsense() {
        let exe = Path::new("/proc/self/exe");
        let chain = Chain::parse("").next(exe).next(Path::new("/"));
        assert_eq!(Chain::parse(&chain.to_string()), chain);
        assert_eq!((chain.depth, chain.copies.len(), chain.programs.len()), (2, 1, 2));
        assert!(chain.has_copy(&exe.metadata().unwrap()) && chain.has_executed(&exe.metadata().unwrap()));
        for (text, depth) in [("7", 7), ("x", 0), ("-1", 0), ("3 4 x,1-,-2 1", 3), ("99999999999", 0)] {
            let chain = Chain::parse(text);
            assert_eq!((chain.depth, chain.copies.len(), chain.programs.len()), (depth, 0, 0), "{text}");
        }
    }
}
