//! The kernel's randomness.
#![forbid(unsafe_code)]

use model::error::Error;
use model::mac::Mac;
use rand::TryRng;
use std::io;

/// So many random bytes.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A new MAC address for a guest.
pub fn mac() -> Result<Mac, Error> {
    let bytes = bytes().map_err(|error| {
        Error::new(format!("the kernel gives no random bytes: {error}"), "Give the address yourself: mac=.")
    })?;
    Ok(Mac::random(bytes))
}
