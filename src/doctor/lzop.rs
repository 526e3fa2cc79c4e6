//! The files of `lzop`, with which a kernel's build packs for CONFIG_KERNEL_LZO.
//!
//! The crates that unpack LZO trust their input or have a licence that does not fit ours; the format is a page
//! (Documentation/staging/lzo.rst of the kernel). Nothing here panics, whatever the file says.
#![forbid(unsafe_code)]

use crate::doctor::ikconfig::LIMIT;

pub(super) const MAGIC: &[u8] = &[0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];

/// From this version on the header has a few fields more.
const LONGER: u64 = 0x0940;
// The header's flags: checksums of what is unpacked, and of what is packed; more fields.
const UNPACKED_SUMS: [u64; 2] = [0x001, 0x100];
const PACKED_SUMS: [u64; 2] = [0x002, 0x200];
const HAS_EXTRA: u64 = 0x040;
const HAS_FILTER: u64 = 0x800;

/// What a file unpacks to, as far as it is sound.
pub(crate) fn unpack(file: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut rest = Input(file);
    if let Some(flags) = header(&mut rest) {
        while let Some(block) = block(&mut rest, flags)
            && (whole.len() + block.len()) as u64 <= LIMIT
        {
            whole.extend(block);
        }
    }
    whole
}

/// Reads the header, and tells its flags.
fn header(file: &mut Input) -> Option<u64> {
    file.take(MAGIC.len())?;
    let is_longer = file.number(2)? >= LONGER;
    // The versions of the library and of who can unpack it; the method and the level.
    file.take(if is_longer { 2 + 2 + 1 + 1 } else { 2 + 1 })?;
    let flags = file.number(4)?;
    if flags & HAS_FILTER != 0 {
        file.take(4)?;
    }
    // Mode and time; the name; the header's checksum.
    file.take(if is_longer { 4 + 8 } else { 4 + 4 })?;
    let name = file.byte()?;
    file.take(name + 4)?;
    if flags & HAS_EXTRA != 0 {
        let extra = usize::try_from(file.number(4)?).ok()?;
        file.take(extra.checked_add(4)?)?;
    }
    Some(flags)
}

/// The next block, unpacked; `None` at the end, or where it is broken.
fn block(file: &mut Input, flags: u64) -> Option<Vec<u8>> {
    let size = usize::try_from(file.number(4)?).ok().filter(|size| (1..=LIMIT as usize).contains(size))?;
    let packed = usize::try_from(file.number(4)?).ok()?;
    let count = |sums: [u64; 2]| 4 * sums.iter().filter(|sum| flags & **sum != 0).count();
    file.take(count(UNPACKED_SUMS))?;
    // What can't be made smaller is as it was.
    if packed == size {
        return file.take(size).map(<[u8]>::to_vec);
    }
    file.take(count(PACKED_SUMS))?;
    lzo1x(file.take(packed)?, size)
}

/// The instructions of LZO1X: each copies from what is unpacked already, and then up to three bytes as they are.
fn lzo1x(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut input = Input(packed);
    let mut out = Vec::new();
    // How many bytes the instruction before took as they are, 4 for more than 3: what small instructions mean hangs on it.
    let mut literals = 0;
    if let Some(18..) = packed.first() {
        let count = input.byte()? - 17;
        out.extend(input.take(count)?);
        literals = count.min(4);
    }
    loop {
        let code = input.byte()?;
        let (length, distance, after) = match (code, literals) {
            (64.., _) => ((code >> 5) + 1, (input.byte()? << 3) + (code >> 2 & 7) + 1, code & 3),
            (32.., _) => {
                let length = 2 + input.length(code & 31, 31)?;
                let rest = input.pair()?;
                (length, (rest >> 2) + 1, rest & 3)
            }
            (16.., _) => {
                let length = 2 + input.length(code & 7, 7)?;
                let rest = input.pair()?;
                match ((code & 8) << 11) + (rest >> 2) {
                    0 => return (out.len() == size).then_some(out),
                    distance => (length, distance + (1 << 14), rest & 3),
                }
            }
            (_, 0) => {
                let length = 3 + input.length(code, 15)?;
                out.extend(input.take(length)?);
                literals = 4;
                continue;
            }
            (_, 4) => (3, (input.byte()? << 2) + (code >> 2) + (1 << 11) + 1, code & 3),
            _ => (2, (input.byte()? << 2) + (code >> 2) + 1, code & 3),
        };
        let start = out.len().checked_sub(distance)?;
        if length > size.saturating_sub(out.len()) {
            return None;
        }
        // What is copied may be what this very instruction has just written.
        for at in start..start + length {
            out.push(*out.get(at)?);
        }
        out.extend(input.take(after)?);
        literals = after;
    }
}

/// What is still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<usize> {
        self.take(1)?.first().map(|byte| usize::from(*byte))
    }

    /// The highest byte first, as in lzop's own fields.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The lowest byte first, as in LZO's instructions.
    fn pair(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }

    /// A length that has its place in the instruction, or if that is 0 goes on behind it.
    fn length(&mut self, told: usize, most: usize) -> Option<usize> {
        if told != 0 {
            return Some(told);
        }
        let zeroes = self.0.iter().take_while(|byte| **byte == 0).count();
        self.take(zeroes)?;
        Some(most + 255 * zeroes + self.byte()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn packed(plain: &[u8], options: &[&str]) -> Option<Vec<u8>> {
        let mut child = Command::new("lzop").args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let (mut stdin, plain) = (child.stdin.take()?, plain.to_vec());
        let writer = std::thread::spawn(move || stdin.write_all(&plain));
        let packed = child.wait_with_output().ok()?.stdout;
        writer.join().ok()?.ok()?;
        Some(packed)
    }

    /// Near and far repetitions, runs of one byte, and what can't be packed.
    fn plain() -> Vec<u8> {
        let noise: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let words: Vec<u8> = (0..20_000_u32).flat_map(|n| format!("CONFIG_{} ", n % 777).into_bytes()).collect();
        [&words[..], &[7; 9_999], &noise, &noise[..20_000], &[0; 300_000], &words].concat()
    }

    #[test]
    fn what_lzop_packs_is_unpacked() {
        for options in [&["-9"][..], &["-1"], &["-3", "--crc32"], &["--no-checksum"]] {
            let Some(file) = packed(&plain(), options) else { return };
            assert!(unpack(&file) == plain(), "{options:?}");
        }
    }

    #[test]
    fn a_broken_file_is_unpacked_as_far_as_it_is_sound() {
        let Some(file) = packed(&plain(), &["-9"]) else { return };
        let whole = plain();
        for at in (0..file.len()).step_by(997) {
            assert!(whole.starts_with(&unpack(&file[..at])), "cut off at {at}");
            let mut lies = file.clone();
            lies[at] ^= 0x55;
            unpack(&lies);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 0..10_000_usize) {
            prop_assert!(lzo1x(&bytes, size).is_none_or(|out| out.len() == size));
        }
    }
}
