//! What is printed.
#![forbid(unsafe_code)]

use crate::error::{Error, Result, reason};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

static HAS_PRINTED: AtomicBool = AtomicBool::new(false);

/// Whether anything was printed as a result.
pub fn has_printed() -> bool {
    HAS_PRINTED.load(Ordering::Relaxed)
}

/// Who tells of each step, and since when; nobody, if nobody asked.
static STEPS: OnceLock<(&'static str, Instant)> = OnceLock::new();

/// Has each step told from now on, in the name of a program.
pub fn tell_steps(program: &'static str) {
    let _ = STEPS.set((program, Instant::now()));
}

/// Whether each step is told.
pub fn tells_steps() -> bool {
    STEPS.get().is_some()
}

/// Tells of a step that was done, with the time that has passed, if that is asked for.
pub fn step(text: impl FnOnce() -> String) {
    if let Some((program, start)) = STEPS.get() {
        say(program, format_args!("{:>6.1} ms  {}", start.elapsed().as_secs_f64() * 1e3, text()));
    }
}

/// Prints a result; a reader that has gone is no fault, a full disk is.
pub fn print(text: &str) -> Result<()> {
    HAS_PRINTED.store(true, Ordering::Relaxed);
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("cannot write: {}", reason(&error)), "See where stdout goes."))
        }
        _ => Ok(()),
    }
}

/// Tells of an error or of news, in the name of a program; if nobody can be told, nobody is.
pub fn say(program: &str, text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{program}: {}", lines(&text.to_string()));
}

/// A name that somebody else chose, for people: on one line, and without what a terminal obeys.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The same of a text that may have several lines.
pub fn lines(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// JSON in which what a terminal obeys is escaped, as JSON can have it: only in texts are there such characters, but for line
/// breaks.
pub fn json_for_terminals(json: &str) -> String {
    let mut units = [0; 2];
    json.chars()
        .map(|c| match c {
            c if c != '\n' && is_obeyed(c) => {
                c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }
            c => c.to_string(),
        })
        .collect()
}

/// Whether a terminal does something else with a character than to show it where it stands.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A line on a terminal that is written over again and again, and is gone in the end; on anything else nothing.
#[derive(Debug)]
pub struct ProgressLine {
    is_shown: bool,
}

impl ProgressLine {
    /// One on stderr.
    pub fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { is_shown: io::stderr().is_terminal() && !is_dumb }
    }

    /// Says what is going on.
    pub fn show(&mut self, text: std::fmt::Arguments) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Says no more.
    pub fn clear(&mut self) {
        self.show(format_args!(""));
    }
}

impl Default for ProgressLine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_commands_no_terminal() {
        assert_eq!(one_line("al\u{1b}[31mice\nbob\u{202e}"), "al\\u{1b}[31mice\\nbob\\u{202e}");
        assert_eq!(lines("a\u{7}\nb\u{200b}"), "a\\u{7}\nb\\u{200b}");
        assert_eq!(one_line("Jörg 7 \\ €"), "Jörg 7 \\ €");
    }
}
