//! What a command did or would do, in words and as JSON.
//! It may not know how it is done.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod down;
pub mod dry_run;
pub mod up;

use crate::text;
use serde_json::Value;

/// JSON for a program, with a newline behind it.
pub fn json(value: &Value) -> String {
    let mut value = value.clone();
    add_old_keys(&mut value);
    text::json_for_terminals(&format!("{value:#}\n"))
}

/// The same on one line, for what has never had other keys.
pub fn json_line(value: &Value) -> String {
    text::json_for_terminals(&format!("{value}\n"))
}

/// Keys that had another name before 0.2, each with that: it stands beside the new one until the next version.
const OLD_KEYS: [(&str, &str); 9] = [
    ("observed", "saw"),
    ("fix", "mend"),
    ("permanent_setup", "for_good"),
    ("managed", "made_by_us"),
    ("persistent", "kept"),
    ("removed", "taken_back"),
    ("exists", "there"),
    ("disconnected", "cut_off"),
    ("fixed", "mended"),
];

fn add_old_keys(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_old_keys);
            for (key, old) in OLD_KEYS {
                if let Some(value) = fields.get(key).cloned() {
                    fields.insert(old.to_owned(), value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(add_old_keys),
        _ => {}
    }
}
