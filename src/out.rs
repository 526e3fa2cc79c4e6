//! What is printed.
#![forbid(unsafe_code)]

use crate::error::{Error, Result, reason};
use std::io::{self, Write};

/// Prints a result; a reader that has gone is no fault, a full disk is.
pub fn print(text: &str) -> Result<()> {
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
    let _ = writeln!(io::stderr(), "{program}: {text}");
}
