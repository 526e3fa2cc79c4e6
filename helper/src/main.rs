//! A drop-in for qemu-bridge-helper; its story is told in the library.
//!
//! It starts as a C program does, without Rust's own preparations: those would open files before any right is given up.
#![no_main]
#![allow(unsafe_code)]

#[unsafe(no_mangle)]
extern "C" fn main(count: std::ffi::c_int, words: *const *const std::ffi::c_char) -> std::ffi::c_int {
    // SAFETY: these are the two arguments that the C library calls main with.
    let words = unsafe { kvm_bridge_helper::entry::words(count, words) };
    kvm_bridge_helper::main(words)
}
