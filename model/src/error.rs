//! What went wrong, and what to do about it.
//! It may not know where an error is shown.
//!
//! Nobody decides anything by looking into an error: it is made where the cause is known and printed at the end of
//! `main`. So there is one type for all layers, and it can't be made without a way out for the user.
#![forbid(unsafe_code)]

mod phrase;

pub use phrase::{Phrase, Voice};

use serde_json::{Value, json};
use std::fmt;

/// The exit status of the shim and of `kvm-bridge` when the fault is ours or the caller's.
pub const FAILED: u8 = 125;
/// QEMU was found and cannot be executed (as `env`, `timeout` and `docker` have it).
pub const CANNOT_EXECUTE: u8 = 126;
/// QEMU was not found.
pub const NOT_FOUND: u8 = 127;

/// A sentence that says what is wrong, and one that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    what: Phrase,
    remedy: Phrase,
    status: u8,
    /// What programs want to know beside the sentences.
    details: serde_json::Map<String, Value>,
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `what` names the thing and the cause without a full stop; `remedy` is a sentence or a command.
    pub fn new(what: impl Into<Phrase>, remedy: impl Into<Phrase>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), status: FAILED, details: serde_json::Map::new() }
    }

    /// The same error with another exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The same error with a detail for programs.
    pub fn with_detail(mut self, name: &str, detail: Value) -> Self {
        self.details.insert(name.to_owned(), detail);
        self
    }

    /// The error as `--json` has it.
    pub fn to_json(&self) -> Value {
        let mut error = self.details.clone();
        error.extend([
            ("what".to_owned(), json!(self.what.to_string())),
            ("remedy".to_owned(), json!(self.remedy.to_string())),
            ("status".to_owned(), json!(self.status)),
        ]);
        Value::Object(error)
    }

    /// The same error, said of `subject`.
    pub fn of(mut self, subject: impl fmt::Display) -> Self {
        self.what = Phrase::from(format!("{subject}: ")).say(self.what);
        self
    }

    /// The same error, said of the request of a bridge.
    pub fn of_request(mut self, bridge: impl fmt::Display) -> Self {
        self.what = Phrase::subject(bridge).say(": ").say(self.what);
        self
    }

    /// The same error as one of the programs says it.
    pub fn in_voice(self, voice: Voice) -> Self {
        let (what, remedy) = (self.what.in_voice(voice).into(), self.remedy.in_voice(voice).into());
        Self { what, remedy, ..self }
    }

    /// What is wrong.
    pub fn what(&self) -> String {
        self.what.to_string()
    }

    /// What to do about it.
    pub fn remedy(&self) -> &Phrase {
        &self.remedy
    }

    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\n  {}", self.what, self.remedy)
    }
}

impl std::error::Error for Error {}

/// What is wrong with a JSON text, in our words, of which serde's are those of a programming language.
pub fn json_reason(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let place = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Syntax => format!("it is no JSON: {place}"),
        Category::Eof if error.line() <= 1 && error.column() == 0 => "it is empty".to_owned(),
        Category::Eof => format!("it is cut off: {place}"),
        Category::Data => format!("{}: {place}", data_reason(&error.to_string())),
        Category::Io => "it cannot be read".to_owned(),
    }
}

/// Of what is JSON and does not say what it should: serde's own sentences begin with these words, all others are ours.
fn data_reason(said: &str) -> String {
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let name = said.split('`').nth(1).unwrap_or_default();
    match said {
        _ if said.starts_with("missing field") => format!("{name} is missing in it"),
        _ if said.starts_with("duplicate field") => format!("{name} is in it twice"),
        _ if said.starts_with("unknown field") => format!("it has {name}, which is not known"),
        _ if ["unknown ", "invalid ", "expected ", "data did not"].iter().any(|start| said.starts_with(start)) => {
            "a value in it has another form than we write".to_owned()
        }
        _ => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_json_is_told_in_our_words() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Text {
            _a: u8,
        }
        for (text, says) in [
            ("", "it is empty"),
            ("root:x", "it is no JSON: line 1, column 1"),
            ("{\"_a\":", "it is cut off: line 1, column 6"),
            ("{}", "_a is missing in it: line 1, column 2"),
            ("{\"_a\":300}", "another form"),
            ("{\"_a\":\"x\"}", "another form"),
            ("{\"b\":1}", "it has b, which is not known"),
            ("{\"_a\":1,\"_a\":2}", "_a is in it twice"),
        ] {
            let said = json_reason(&serde_json::from_str::<Text>(text).unwrap_err());
            assert!(said.contains(says) && !said.contains("expected") && !said.contains("field"), "{text}: {said}");
        }
    }
}
