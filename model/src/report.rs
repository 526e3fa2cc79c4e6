//! What a command did or would do, in words and as JSON.
//! It may not know how it is done.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod down;
pub mod dry_run;
pub mod prometheus;
pub mod up;

use crate::text;
use serde_json::Value;

/// JSON for a program, with a newline behind it.
pub fn json(value: &Value) -> String {
    text::json_for_terminals(&format!("{value:#}\n"))
}

/// The same on one line.
pub fn json_line(value: &Value) -> String {
    text::json_for_terminals(&format!("{value}\n"))
}
