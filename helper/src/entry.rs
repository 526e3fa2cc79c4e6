//! A program that starts as C programs do, and what it was given.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

/// The words of the command line, argv\[0\] first.
///
/// # Safety
/// `count` and `words` are the arguments of `main`: so many pointers to NUL-terminated strings (C17, 5.1.2.2.1).
pub unsafe fn words(count: c_int, words: *const *const c_char) -> Vec<OsString> {
    (0..usize::try_from(count).unwrap_or_default())
        .map(|at| {
            // SAFETY: the caller vouches for `count` pointers, each to a string that lives as long as the process.
            let word = unsafe { CStr::from_ptr(*words.add(at)) };
            OsStr::from_bytes(word.to_bytes()).to_owned()
        })
        .collect()
}

unsafe extern "C" {
    /// The entries of the environment, and a null pointer (environ(7)).
    static environ: *const *const c_char;
}

/// The entries of the environment as they are, `NAME=value`. They are lent, not copied: all of them go on to QEMU.
///
/// Our programs have one thread and never change their environment.
pub fn environment() -> Vec<&'static CStr> {
    let mut entries = Vec::new();
    // SAFETY: nobody writes it (see above), so that it has its final null pointer and its strings live as long as we do.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            entries.push(CStr::from_ptr(*next));
            next = next.add(1);
        }
    }
    entries
}
