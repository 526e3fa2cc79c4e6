//! Candidates for the word that is being typed: the one truth behind the completions of all shells.
//! It may not change anything.
//!
//! The scripts in completions/ hand over the words up to the cursor, `kvm-bridge complete -- qemu-kvm -device e10`, and
//! show what comes back; none of them knows an option. Our own commands and keys are those that the programs themselves
//! have, QEMU's are those that the installed QEMU tells of (`complete::ask`). Nothing here changes anything but a cache, and
//! nothing fails: what can't be found out is not offered.
mod ask;
mod commands;
mod host;

use crate::launch;
use ask::Asker;
use model::complete::Answer;
use std::ffi::OsString;
use std::path::Path;

/// The answer to the words of a command line, the last one of which is being typed; `definition` is that of `kvm-bridge`.
pub fn complete(words: &[OsString], definition: clap::Command) -> String {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some((name, [before @ .., typed])) = words.split_first() else { return String::new() };
    let answer = match Path::new(name).file_name().and_then(|name| name.to_str()) {
        Some("kvm-bridge") => commands::complete(definition, before, typed),
        Some("kvm-bridge-helper") => commands::of_helper(before, typed),
        _ => qemu(name, before, typed),
    };
    answer.text()
}

/// The answer to QEMU's command line, ours among its options.
fn qemu(name: &str, before: &[String], typed: &str) -> Answer {
    model::complete::qemu::complete(&Asker::of(name), launch::is_foreign(name.as_ref()), before, typed)
}
