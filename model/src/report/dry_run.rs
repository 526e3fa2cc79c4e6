//! What a launch would do, in commands that a person could type.

use crate::text::shell::quote;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write;

/// What a launch would do.
#[derive(Debug)]
pub struct Launch {
    /// By which way, where there is something to be said of it: lines.
    pub notes: Vec<String>,
    /// The commands that set the network up, each a line for a shell.
    pub commands: Vec<String>,
    /// QEMU's own.
    pub qemu: Vec<OsString>,
    /// Why it is this QEMU, if it was not named for this start.
    pub why: Option<&'static str>,
    /// Whether a MAC in it is only an example: the first start makes another.
    pub has_example: bool,
}

impl Launch {
    /// The commands, one a line, for a shell; QEMU's is the last.
    pub fn text(&self) -> String {
        let mut text: String = self.notes.iter().map(|note| format!("# {note}\n")).collect();
        for command in &self.commands {
            let _ = writeln!(text, "{command}");
        }
        if self.has_example {
            text += "# The MAC below is an example: the first start makes one and keeps it.\n";
        }
        let words: Vec<String> = self.qemu.iter().map(quote).collect();
        if let Some(why) = self.why {
            let _ = writeln!(text, "# QEMU is {}: {why}.", words.first().map_or("", String::as_str));
        }
        let _ = writeln!(text, "{}", words.join(" "));
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let qemu: Vec<_> = self.qemu.iter().map(|word| word.to_string_lossy()).collect();
        json!({ "notes": self.notes, "commands": self.commands, "qemu": qemu, "example_mac": self.has_example })
    }
}
