//! The shim; its story is told in `kvm_bridge::shim`.
//!
//! It starts as a C program does, without Rust's own preparations: those would ignore SIGPIPE and open what the caller
//! has closed, and QEMU would inherit it.
#![no_main]
#![allow(unsafe_code)]

#[unsafe(no_mangle)]
extern "C" fn main(count: std::ffi::c_int, words: *const *const std::ffi::c_char) -> std::ffi::c_int {
    // SAFETY: these are the two arguments that the C library calls main with.
    kvm_bridge::shim::main(unsafe { kvm_bridge::sys::entry::words(count, words) })
}
