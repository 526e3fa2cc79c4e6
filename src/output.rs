//! What people see: text on stdout and stderr, the kernel's errors in words.
//! It may not know what it prints.
#![forbid(unsafe_code)]

pub mod errno;

use crate::output::errno::reason;
use model::error::{Error, Result};
use model::layout::Style;
use model::text;
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
    print_to_reader(text).map(|_| ())
}

/// The same, and whether there is a reader yet.
pub fn print_to_reader(text: &str) -> Result<bool> {
    HAS_PRINTED.store(true, Ordering::Relaxed);
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new(format!("cannot write: {}", reason(&error)), "See where stdout goes.")),
    }
}

/// How text looks on stdout.
pub fn style() -> Style {
    let is_terminal = io::stdout().is_terminal();
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|_| is_terminal);
    Style {
        has_trees: is_terminal,
        has_colours: is_terminal && !is_set("NO_COLOR") && !is_dumb,
        width: size.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0),
    }
}

/// Tells of an error or of notices, in the name of a program; if nobody can be told, nobody is.
pub fn say(program: &str, text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{program}: {}", text::lines(&text.to_string()));
}

/// A line on stderr, if that is a terminal, that is written over again and again, and is gone in the end; on anything else
/// nothing.
#[derive(Debug)]
pub struct ProgressLine {
    is_shown: bool,
}

impl Default for ProgressLine {
    fn default() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { is_shown: io::stderr().is_terminal() && !is_dumb }
    }
}

impl ProgressLine {
    /// Says what is going on.
    pub fn show(&mut self, text: std::fmt::Arguments) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.show(format_args!(""));
    }
}
