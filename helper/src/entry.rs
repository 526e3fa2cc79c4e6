//! A program that starts as C programs do.
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
