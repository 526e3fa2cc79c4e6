//! Who has run on the way to one QEMU, as the environment tells those after us.
//! It may not know which file is which.
//!
//! Copies of us that have run are no QEMU for the next one. A program that was executed and has brought this very process
//! back to us is a wrapper that would do so for ever; one that starts processes is noticed by the count alone, for a VM
//! that is started from within another's QEMU has the same environment and is no loop.
#![forbid(unsafe_code)]

use std::fmt;

/// A file, by its file system and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(pub u64, pub u64);

/// `COUNT PID COPIES PROGRAMS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// How many of us have run.
    pub depth: u32,
    /// The process that the last one is.
    process: u32,
    /// Those of us that have run.
    copies: Vec<FileId>,
    /// What they executed in this process.
    programs: Vec<FileId>,
}

impl Chain {
    /// What those before us have left, for us in this process. What can't be read is nothing.
    pub fn read(text: &str, process: u32) -> Self {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let depth = word().parse().unwrap_or_default();
        let is_this_process = word().parse() == Ok(process);
        let copies = files(word());
        let programs = if is_this_process { files(word()) } else { Vec::new() };
        Self { depth, process, copies, programs }
    }

    /// What we, who are this file, leave to a program that we execute.
    pub fn next(&self, own: Option<FileId>, program: Option<FileId>) -> Self {
        let mut next = Self { depth: self.depth.saturating_add(1), ..self.clone() };
        next.copies.extend(own.filter(|own| !self.copies.contains(own)));
        next.programs.extend(program);
        next
    }

    /// Whether a file is a copy of us that has run.
    pub fn has_copy(&self, file: FileId) -> bool {
        self.copies.contains(&file)
    }

    /// Whether a file was executed already and has brought us back.
    pub fn has_executed(&self, file: FileId) -> bool {
        self.programs.contains(&file)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |files: &[FileId]| {
            let files: Vec<String> =
                files.iter().map(|FileId(device, inode)| format!("{device:x}-{inode:x}")).collect();
            files.join(",")
        };
        write!(out, "{} {} {} {}", self.depth, self.process, list(&self.copies), list(&self.programs))
    }
}

fn files(text: &str) -> Vec<FileId> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let file =
        |text: &str| text.split_once('-').and_then(|(device, inode)| Some(FileId(number(device)?, number(inode)?)));
    text.split(',').filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes_and_no_nonsense() {
        let (own, program) = (FileId(1, 0xab), FileId(u64::MAX, 2));
        let chain = Chain::read("", 7).next(Some(own), Some(own)).next(Some(own), Some(program));
        assert_eq!(Chain::read(&chain.to_string(), 7), chain);
        assert_eq!((chain.depth, chain.copies.len(), chain.programs.len()), (2, 1, 2));
        assert!(chain.has_copy(own) && chain.has_executed(own) && chain.has_executed(program));
        assert!(!Chain::read(&chain.to_string(), 8).has_executed(program), "by another process");
        for (text, depth) in [("7", 7), ("x", 0), ("-1", 0), ("3 4 x,1-,-2 1", 3), ("99999999999", 0)] {
            let chain = Chain::read(text, 4);
            assert_eq!((chain.depth, chain.copies.len(), chain.programs.len()), (depth, 0, 0), "{text}");
        }
    }
}
