//! What can stand where the cursor is, on a line that is being typed.
//! It may not know what the host has, nor QEMU.
//!
//! An answer has lines of three columns, divided by tabs: a kind, a text, and what it is.
//!
//! - `h`: the beginning of the typed word that all candidates share; they come without it;
//! - `w`: a whole word; `p`: one that goes on, as a key does behind its `=`;
//! - `f`: names of files fit, and the shell knows those best.
#![forbid(unsafe_code)]

mod ours;
pub mod qemu;

/// Things of a host that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing<'a> {
    /// The bridges that are there, and those that can be made.
    Bridges,
    /// What `uplink=` can be for this bridge.
    Uplinks(&'a str),
    /// The TAPs that are there.
    Taps,
    /// The VMs that have addresses, as `kvm-bridge mac list` calls them: `name:alice`.
    Vms,
    /// The VMs that run.
    Guests,
    /// The names of those that have one, as an option string holds them.
    Names,
    /// The users.
    Users,
    /// The files that a half-typed path may become, as an option string holds them; folders end in a slash.
    Files(&'a str),
    /// The keyboard layouts, which are files beside QEMU's firmware: in these folders, one a line.
    Keymaps(&'a str),
}

/// Whoever knows a host and a QEMU. What can't be found out is empty.
pub trait Source {
    /// What QEMU prints on stdout when it is called with these words.
    fn ask(&self, words: &[&str]) -> String;

    /// Whether QEMU has an option of this name.
    fn has_option(&self, name: &str) -> bool;

    /// What the host has of these things.
    fn all(&self, things: Thing) -> Vec<Candidate>;
}

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
    /// One with what it is.
    pub fn new(text: impl Into<String>, about: impl Into<String>) -> Self {
        let text: String = text.into();
        let goes_on = text.ends_with(['=', '/', '.', ':']);
        Self { text, about: about.into(), goes_on }
    }

    /// One of which there is nothing to be said.
    pub fn bare(text: impl Into<String>) -> Self {
        Self::new(text, "")
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
    /// One of these candidates.
    pub fn of(candidates: impl IntoIterator<Item = Candidate>) -> Self {
        Self { candidates: candidates.into_iter().collect(), ..Self::default() }
    }

    /// Names of files.
    pub fn files() -> Self {
        Self { files: true, ..Self::default() }
    }

    /// The same behind a part of the typed word.
    pub fn behind(mut self, head: &str) -> Self {
        self.head.insert_str(0, head);
        self
    }

    /// The answer in lines.
    pub fn text(&self) -> String {
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

/// The parts of an option string up to the cursor: what is before the last part, and that part. A comma that is written
/// twice divides nothing.
fn split_last(typed: &str) -> (&str, &str) {
    let plain = typed.replace(",,", "__");
    let at = plain.rfind(',').map_or(0, |at| at + 1);
    typed.split_at(at)
}

/// The keys and values that a half-typed option string has already.
fn given(before: &str) -> Vec<(String, String)> {
    let params = crate::optstr::parse(before.as_bytes()).into_iter();
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
