//! The kernel's randomness.
#![forbid(unsafe_code)]

use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// So many random bytes, no more than 256: these the kernel gives at once (getrandom(2)).
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match getrandom(&mut bytes, GetRandomFlags::empty())? {
        length if length == N => Ok(bytes),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
