//! Programs that a test makes and has executed.
//!
//! Another process writes them: a descriptor of this one, open for writing, is for a moment also that of every child which
//! another test starts, and the kernel executes no file that anybody has open for writing (ETXTBSY).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program that all may execute.
#[track_caller]
pub fn write(path: impl AsRef<Path>, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path.as_ref()).stdin(Stdio::piped());
    let mut child = install.spawn().expect("run install");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("install reads");
    assert!(child.wait().expect("wait").success(), "write {}", path.as_ref().display());
}

/// A shell script.
#[track_caller]
pub fn script(path: impl AsRef<Path>, text: &str) {
    write(path, &format!("#!/bin/sh\n{text}\n"));
}

/// Copies a program that all may execute.
#[track_caller]
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("install").args(["-m", "755"]).arg(from.as_ref()).arg(to.as_ref()).status();
    assert!(status.expect("run install").success(), "copy {}", from.as_ref().display());
}
