//! How text looks: with colours and drawn trees for a person at a terminal, plain for all else.
//! It may not know where text goes.
#![forbid(unsafe_code)]

pub mod table;

use std::fmt::Display;

/// What the reader can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether trees are drawn.
    pub has_trees: bool,
    /// Whether there are colours: not where NO_COLOR is set and not empty (no-color.org), nor on a dumb terminal.
    pub has_colours: bool,
    /// How long a line may be: as wide as the terminal.
    pub width: Option<usize>,
}

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Tone {
    Title,
    Good,
    Warning,
    Bad,
    Quiet,
}

impl Style {
    /// The same where so much of each line is taken.
    pub fn narrower(self, by: usize) -> Self {
        Self { width: self.width.map(|width| width.saturating_sub(by)), ..self }
    }

    /// A text in its tone.
    pub fn paint(self, tone: Tone, text: impl Display) -> String {
        let code = match tone {
            Tone::Title => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Quiet => "2",
        };
        match self.has_colours {
            true => format!("\x1b[{code}m{text}\x1b[m"),
            false => text.to_string(),
        }
    }

    /// What stands before a branch of a tree, which is the last one or not.
    pub fn branch(self, is_last: bool) -> &'static str {
        match (self.has_trees, is_last) {
            (false, _) => "  ",
            (true, false) => "├─ ",
            (true, true) => "└─ ",
        }
    }

    /// What stands beside a branch that goes on below, or before any.
    pub fn trunk(self, goes_on: bool) -> &'static str {
        match (self.has_trees, goes_on) {
            (false, _) => "  ",
            (true, true) => "│  ",
            (true, false) => "   ",
        }
    }
}

/// A number of bytes, for people: powers of 1000.
pub fn bytes(number: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut size, mut unit) = (number as f64, 0);
    while size >= 999.5 && unit + 1 < units.len() {
        (size, unit) = (size / 1000.0, unit + 1);
    }
    match unit {
        0 => format!("{number} B"),
        _ if size < 9.95 => format!("{size:.1} {}", units[unit]),
        _ => format!("{size:.0} {}", units[unit]),
    }
}

/// A length of time, for people.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(
            [0, 999, 1000, 9_949, 9_950, 999_499, 1_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB"]
        );
        assert_eq!([59, 60, 3700, 90_000].map(duration), ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
