//! Programs that a test makes and has executed.
//!
//! Another process writes them: a descriptor of this one, open for writing, is for a moment also that of every child which
//! another test starts, and the kernel executes no file that anybody has open for writing (ETXTBSY).

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a program that all may execute.
#[track_caller]
pub fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let Ok(mut child) = install.spawn() else {
        // A test that hides /usr/bin has to do without.
        fs::write(path, text).expect("write a program");
        return fs::set_permissions(path, Permissions::from_mode(0o755)).expect("chmod");
    };
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("install reads");
    assert!(child.wait().expect("wait").success(), "write {}", path.display());
}

/// A shell script.
#[track_caller]
pub fn script(path: impl AsRef<Path>, text: &str) {
    write(path, &format!("#!/bin/sh\n{text}\n"));
}

/// Copies a program that all may execute.
#[track_caller]
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    match Command::new("install").args(["-m", "755"]).arg(from).arg(to).status() {
        Ok(status) => assert!(status.success(), "copy {}", from.display()),
        Err(_) => {
            fs::copy(from, to).expect("copy a program");
            fs::set_permissions(to, Permissions::from_mode(0o755)).expect("chmod");
        }
    }
}
