//! The header of a qcow2 image, as docs/interop/qcow2.txt of QEMU has it: on which image it is based.
#![forbid(unsafe_code)]

/// So much of a file has its header, and the name in it.
pub const LENGTH: usize = 64 << 10;
/// The header extension with the format of the backing file.
const FORMAT: u32 = 0xe279_2aca;

/// The image that another one is based on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name, as it was written.
    pub name: Vec<u8>,
    /// Its format, if that is said.
    pub format: Option<Vec<u8>>,
}

/// Whether a file that begins like this is taken for qcow2 where no format is said.
pub fn is_one(start: &[u8]) -> bool {
    start.starts_with(b"QFI\xfb") && matches!(number(start, 4), Some(2 | 3))
}

/// What an image is based on, by the start of its file; `None` if on nothing, or if that can't be told.
pub fn backing(start: &[u8]) -> Option<Backing> {
    if !is_one(start) {
        return None;
    }
    let offset = usize::try_from(u64::from(number(start, 8)?) << 32 | u64::from(number(start, 12)?)).ok()?;
    let length = usize::try_from(number(start, 16)?).ok().filter(|length| (1..=1023).contains(length))?;
    let name = start.get(offset..offset.checked_add(length)?).filter(|_| offset != 0)?.to_vec();
    Some(Backing { name, format: format(start) })
}

/// The format that an extension names: each has a type, a length, and data up to a multiple of eight bytes.
fn format(start: &[u8]) -> Option<Vec<u8>> {
    let mut at = if number(start, 4)? == 2 { 72 } else { usize::try_from(number(start, 100)?).ok()? };
    loop {
        let length = usize::try_from(number(start, at.checked_add(4)?)?).ok()?;
        let data = start.get(at + 8..(at + 8).checked_add(length)?)?;
        match number(start, at)? {
            0 => return None,
            FORMAT => return Some(data.to_vec()),
            _ => at += 8 + length.next_multiple_of(8),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image of version 3 on `base`, which is of this format.
    fn image(base: &[u8], format: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[100..104].copy_from_slice(&104_u32.to_be_bytes());
        for (kind, data) in [(0x6803_f857, &b"features!"[..]), (FORMAT, format), (0, b"")] {
            bytes.extend(u32::to_be_bytes(kind));
            bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let at = u32::try_from(bytes.len()).unwrap();
        bytes[12..16].copy_from_slice(&at.to_be_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(base.len()).unwrap().to_be_bytes());
        bytes.extend(base);
        bytes
    }

    #[test]
    fn what_an_image_is_based_on_is_read() {
        let based = image(b"base.img", b"raw");
        assert_eq!(backing(&based), Some(Backing { name: b"base.img".to_vec(), format: Some(b"raw".to_vec()) }));
        assert_eq!(backing(&image(b"", b"raw")), None);
        assert_eq!(backing(&based[..based.len() - 1]), None);
        let mut newer = based;
        newer[7] = 4;
        assert!(backing(&newer).is_none() && !is_one(&newer) && !is_one(b"QFI") && !is_one(b""));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(at in 0_usize..160, byte: u8, length in 0_usize..200) {
            let mut bytes = image(b"base.img", b"qcow2");
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            backing(&bytes);
            backing(&bytes[..length.min(bytes.len())]);
        }
    }
}
