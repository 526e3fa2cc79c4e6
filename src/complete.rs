//! Candidates for the word that is being typed: the one truth behind the completions of all shells.
//! It may not change anything.
//!
//! The scripts in completions/ hand over the words up to the cursor, `kvm-bridge complete -- qemu-kvm -device e10`, and
//! show what comes back; none of them knows an option. Our own commands and keys are those that the programs themselves
//! have, QEMU's are those that the installed QEMU tells of (`complete::ask`). Nothing here changes anything but a cache, and
//! nothing fails: what can't be found out is not offered.
//!
//! An answer has lines of three columns, divided by tabs: a kind, a text, and what it is.
//!
//! - `h`: the beginning of the typed word that all candidates share; they come without it;
//! - `w`: a whole word; `p`: one that goes on, as a key does behind its `=`;
//! - `f`: names of files fit, and the shell knows those best.

mod ask;
mod commands;
mod host;
mod ours;
mod qemu;

use std::ffi::OsString;
use std::path::Path;

/// Something that can stand where the cursor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What is to be typed, behind the head.
    pub text: String,
    /// What it is, for shells that show it.
    pub about: String,
    /// Whether the word goes on behind it.
    pub goes_on: bool,
}

impl Candidate {
    fn new(text: impl Into<String>, about: impl Into<String>) -> Self {
        let text: String = text.into();
        let goes_on = text.ends_with(['=', '/', '.', ':']);
        Self { text, about: about.into(), goes_on }
    }

    fn bare(text: impl Into<String>) -> Self {
        Self::new(text, "")
    }

    fn with(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// A key that takes a value.
    fn key(key: &str, about: impl Into<String>) -> Self {
        Self::new(format!("{key}="), about)
    }
}

/// All that can stand where the cursor is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The part of the typed word that stands before every candidate.
    pub head: String,
    /// In the order in which they came up.
    pub candidates: Vec<Candidate>,
    /// Whether names of files fit too.
    pub files: bool,
}

impl Answer {
    fn of(candidates: impl IntoIterator<Item = Candidate>) -> Self {
        Self { candidates: candidates.into_iter().collect(), ..Self::default() }
    }

    fn files() -> Self {
        Self { files: true, ..Self::default() }
    }

    fn behind(mut self, head: &str) -> Self {
        self.head.insert_str(0, head);
        self
    }

    fn text(&self) -> String {
        let line = |kind: char, text: &str, about: &str| {
            // A blank in place of what would divide: it is for reading only.
            let about: String = about.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("{kind}\t{text}\t{}\n", about.trim())
        };
        let mut text = line('h', &self.head, "");
        if self.files {
            text += &line('f', "", "");
        }
        let mut seen = std::collections::HashSet::new();
        for Candidate { text: word, about, goes_on } in &self.candidates {
            if !word.contains(char::is_control) && seen.insert(word) {
                text += &line(if *goes_on { 'p' } else { 'w' }, word, about);
            }
        }
        text
    }
}

/// The answer to the words of a command line, the last one of which is being typed; `definition` is that of `kvm-bridge`.
pub fn complete(words: &[OsString], definition: clap::Command) -> String {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some((name, [before @ .., typed])) = words.split_first() else { return String::new() };
    let answer = match Path::new(name).file_name().and_then(|name| name.to_str()) {
        Some("kvm-bridge") => commands::complete(definition, before, typed),
        Some("kvm-bridge-helper") => commands::of_helper(before, typed),
        _ => qemu::complete(name, before, typed),
    };
    answer.text()
}

/// The parts of an option string up to the cursor: what is before the last part, and that part. A comma that is written
/// twice divides nothing.
fn split_last(typed: &str) -> (&str, &str) {
    let plain = typed.replace(",,", "__");
    let at = plain.rfind(',').map_or(0, |at| at + 1);
    typed.split_at(at)
}

/// The keys and values that a half-typed option string has already.
fn given(before: &str) -> Vec<(String, String)> {
    let params = model::optstr::parse(before.as_bytes()).into_iter();
    let text = |bytes: Option<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    params.map(|param| (text(param.key), text(param.value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_lines_of_three_columns() {
        let candidates = [Candidate::key("mtu", "bytes\tor so"), Candidate::bare("on"), Candidate::bare("on")];
        let answer = Answer::of(candidates).behind("br0,");
        assert_eq!(answer.text(), "h\tbr0,\t\np\tmtu=\tbytes or so\nw\ton\t\n");
    }

    #[test]
    fn a_double_comma_divides_nothing() {
        assert_eq!(split_last("br0,vm=a,,b,k"), ("br0,vm=a,,b,", "k"));
        assert_eq!(split_last("br0"), ("", "br0"));
        assert_eq!(split_last("a,,"), ("", "a,,"));
    }
}
