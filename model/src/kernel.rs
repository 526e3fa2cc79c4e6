//! A guest's kernel, as its image tells: the configuration that it was built with, and its version.
//! It may not know where the image is.
//!
//! A kernel with CONFIG_IKCONFIG carries it, gzipped between two marks. In an image that boots the whole kernel is
//! compressed once more: the place is told by the header of a bzImage (Documentation/arch/x86/boot.rst) or of an EFI image
//! that unpacks itself; in any other file it is looked for by the first bytes of each format, as the kernel's own
//! scripts/extract-ikconfig does.
#![forbid(unsafe_code)]

use memchr::memmem;
use std::io::Read;

const BEGIN: &[u8] = b"IKCFG_ST";
/// A kernel is not larger, unpacked.
pub const LIMIT: u64 = 1 << 29;
/// Nor does one need more memory to be unpacked, in KiB, whatever it says.
const MEMORY: u32 = 1 << 19;
/// Nor is a configuration larger than this.
pub const CONFIG_LIMIT: u64 = 1 << 24;
/// How many places of a file are tried: the first bytes of a format may stand anywhere by chance.
const ATTEMPTS: usize = 64;

/// Lines as `CONFIG_E1000=y`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config(pub String);

impl Config {
    /// The value of an option: `y`, `m`; `None` where it is not set.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
    }
}

/// What an image tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Its configuration.
    Config(Config),
    /// Only its version, if that: it is part of the names of files that may have the configuration.
    Version(Option<String>),
}

/// Reads an image.
pub fn read(image: &[u8]) -> Told {
    let unpacked = unpacked(image);
    let kernels = || std::iter::once(image).chain(unpacked.as_deref());
    match kernels().find_map(embedded) {
        Some(config) => Told::Config(config),
        None => Told::Version(bzimage_version(image).or_else(|| kernels().rev().find_map(version_of))),
    }
}

fn embedded(kernel: &[u8]) -> Option<Config> {
    let start = memmem::find(kernel, BEGIN)? + BEGIN.len();
    let mut config = String::new();
    flate2::read::GzDecoder::new(kernel.get(start..)?).take(CONFIG_LIMIT).read_to_string(&mut config).ok()?;
    Some(Config(config))
}

/// `6.1.0-48-amd64` of "Linux version 6.1.0-48-amd64 (...".
fn version_of(kernel: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = kernel;
    // The first one may be a format of it.
    while let Some(at) = memmem::find(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        let version: Vec<u8> = rest.iter().copied().take_while(|byte| byte.is_ascii_graphic()).take(64).collect();
        if version.first().is_some_and(u8::is_ascii_digit) {
            return String::from_utf8(version).ok();
        }
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
}

/// Where the real-mode code ends, of a bzImage.
fn setup_end(image: &[u8]) -> Option<usize> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    // 0 stands for 4, for the oldest boot loaders.
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    Some((sectors + 1) * 512)
}

fn bzimage_version(image: &[u8]) -> Option<String> {
    setup_end(image)?;
    let at = usize::from(u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?)) + 0x200;
    let text: Vec<u8> = image.get(at..)?.iter().copied().take_while(u8::is_ascii_graphic).take(64).collect();
    String::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// The kernel that is packed in an image.
fn unpacked(image: &[u8]) -> Option<Vec<u8>> {
    if let Some(told) = payload(image).and_then(unpack) {
        return Some(told);
    }
    // That one tells its version to whoever looks is no sign: some formats leave what does not repeat as it is.
    let places = SCANNED.iter().flat_map(|magic| memmem::find_iter(image, magic).take(ATTEMPTS));
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    // An image may be made of nothing but what is large when it is unpacked.
    let mut left = LIMIT;
    for at in places.into_iter().take(ATTEMPTS) {
        let Some(kernel) = image.get(at..).and_then(unpack) else { continue };
        if version_of(&kernel).is_some() {
            return Some(kernel);
        }
        left = left.saturating_sub(kernel.len() as u64);
        if left == 0 {
            break;
        }
    }
    None
}

/// What the header of an image says where the packed kernel is.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let (start, length) = match setup_end(image) {
        Some(setup) => (setup + word(image, 0x248)?, word(image, 0x24c)?),
        // struct linux_efi_zboot_header of the kernel's drivers/firmware/efi/libstub.
        None if image.get(4..8) == Some(b"zimg") => (word(image, 8)?, word(image, 12)?),
        None => return None,
    };
    image.get(start..start.checked_add(length)?)
}

const GZIP: &[u8] = &[0x1f, 0x8b, 0x08];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The format of `lz4 -l`.
const LZ4: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const BZIP2: &[u8] = b"BZh";
const LZMA: &[u8] = &[0x5d, 0, 0];
/// Those that are looked for. What LZMA begins with stands everywhere.
const SCANNED: &[&[u8]] = &[GZIP, XZ, ZSTD, LZ4, BZIP2];

/// Unpacks what begins here. What stands behind the end of a stream, as the length that a kernel's build appends, is none
/// of it; whatever was unpacked before an error counts.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut kernel = Vec::new();
    let mut keep = |stream: &mut dyn Read| {
        let _ = stream.take(LIMIT).read_to_end(&mut kernel);
    };
    match packed {
        _ if packed.starts_with(GZIP) => keep(&mut flate2::read::GzDecoder::new(packed)),
        _ if packed.starts_with(XZ) => keep(&mut lzma_rust2::XzReader::new_mem_limit(packed, false, MEMORY)),
        _ if packed.starts_with(ZSTD) => keep(&mut ruzstd::decoding::StreamingDecoder::new(packed).ok()?),
        _ if packed.starts_with(LZ4) => kernel = lz4(packed),
        _ if packed.starts_with(BZIP2) => keep(&mut bzip2::read::BzDecoder::new(packed)),
        _ if packed.starts_with(LZMA) => keep(&mut lzma_rust2::LzmaReader::new_mem_limit(packed, MEMORY, None).ok()?),
        _ => return None,
    }
    (!kernel.is_empty()).then_some(kernel)
}

/// Blocks of up to 8 MiB, each behind its packed length.
fn lz4(packed: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 8 << 20;
    let mut kernel = Vec::new();
    let mut block = vec![0; BLOCK];
    let mut rest = packed.get(LZ4.len()..).unwrap_or_default();
    while let Some(bytes) = word(rest, 0).and_then(|length| rest.get(4..4 + length)) {
        match lz4_flex::block::decompress_into(bytes, &mut block) {
            Ok(size) if (kernel.len() as u64) < LIMIT => kernel.extend_from_slice(&block[..size]),
            _ => break,
        }
        rest = &rest[4 + bytes.len()..];
    }
    kernel
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    const CONFIG: &str = "# Linux\nCONFIG_E1000=y\nCONFIG_IP_PNP_DHCP=y\n# CONFIG_IGB is not set\n";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    /// What a kernel is made of here: noise, its banner, its configuration, noise.
    fn kernel(has_config: bool) -> Vec<u8> {
        let noise: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let config = [BEGIN, &gzip(CONFIG.as_bytes()), b"IKCFG_ED"].concat();
        let banner = b"Linux version %s\0Linux version 6.1.0-test (me@here)\n".to_vec();
        // In some formats this stays readable.
        let first = b"Linux version 6.1.0-test (".to_vec();
        [first, noise.clone(), banner, if has_config { config } else { Vec::new() }, noise].concat()
    }

    /// A bzImage: the setup code's header says where the payload is.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        image[0x500..0x50a].copy_from_slice(b"6.1.0-test");
        image[0x248..0x24c].copy_from_slice(&64_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend([0xcc; 64]);
        image.extend(payload);
        image.extend([0xcc; 64]);
        image
    }

    /// Packs as a kernel's build does, with the length behind it.
    fn packed(program: &str, options: &[&str]) -> Option<Vec<u8>> {
        let mut child =
            Command::new(program).args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let mut stdin = child.stdin.take()?;
        let writer = std::thread::spawn(move || stdin.write_all(&kernel(true)));
        let mut packed = child.wait_with_output().ok()?.stdout;
        writer.join().ok()?.ok()?;
        packed.extend((kernel(true).len() as u32).to_le_bytes());
        Some(packed)
    }

    fn found(image: &[u8]) -> Option<String> {
        match read(image) {
            Told::Config(config) => Some(config.0),
            Told::Version(_) => None,
        }
    }

    #[test]
    fn the_version_is_no_format_of_it() {
        assert_eq!(version_of(b"Linux version %s\0Linux version 6.1.0 (").as_deref(), Some("6.1.0"));
        assert_eq!(version_of(b"Linux version %s"), None);
    }

    #[test]
    fn an_unpacked_kernel_has_it() {
        let found = Config(found(&kernel(true)).unwrap());
        let values = ["CONFIG_E1000", "CONFIG_IGB", "CONFIG_E100"].map(|option| found.get(option));
        assert_eq!(values, [Some("y"), None, None]);
        assert_eq!(found.0, CONFIG);
    }

    #[test]
    fn a_packed_kernel_has_it() {
        let formats: [(&str, &[&str]); 7] = [
            ("gzip", &["-9"]),
            ("xz", &["--check=crc32", "--x86", "--lzma2=dict=32MiB"]),
            ("zstd", &["-22", "--ultra"]),
            ("zstd", &["-19"]),
            ("lz4", &["-l", "-9"]),
            ("bzip2", &["-9"]),
            ("lzma", &["-9"]),
        ];
        let mut tried = 0;
        for (program, options) in formats {
            let Some(payload) = packed(program, options) else { continue };
            tried += 1;
            assert_eq!(found(&bzimage(&payload)).as_deref(), Some(CONFIG), "{program}");
            if program != "lzma" {
                let image = [&[0xcc; 1000], payload.as_slice()].concat();
                assert_eq!(found(&image).as_deref(), Some(CONFIG), "{program}");
            }
        }
        assert!(tried >= 2, "gzip and xz are everywhere");
    }

    #[test]
    fn one_without_it_tells_its_version() {
        let version = |image: &[u8]| match read(image) {
            Told::Version(version) => version,
            Told::Config(config) => panic!("{config:?}"),
        };
        let mut image = bzimage(&gzip(&kernel(false)));
        assert_eq!(version(&image).as_deref(), Some("6.1.0-test"));
        assert_eq!(version(&kernel(false)).as_deref(), Some("6.1.0-test"), "an unpacked one tells it too");
        // It is not checked here whether it can be a part of a name.
        image[0x500..0x50a].copy_from_slice(b"/../a\0\0\0\0\0");
        assert_eq!(version(&image).as_deref(), Some("/../a"));
        image[0x202..0x206].fill(0);
        assert_eq!(version(&image[0x600..]).as_deref(), Some("6.1.0-test"), "of the packed one");
    }

    #[test]
    fn an_image_cannot_ask_for_any_amount_of_memory() {
        // Its header asks for a dictionary of nearly 4 GiB.
        let Some(mut lzma) = packed("lzma", &["-1"]) else { return };
        assert!(unpack(&lzma).is_some());
        lzma[1..5].copy_from_slice(&[0, 0, 0, 0xf0]);
        assert_eq!(unpack(&lzma), None);
    }

    /// Whatever bytes a kernel has: no panic, and nothing that is not told.
    #[test]
    fn a_damaged_kernel_is_no_reason_to_fail() {
        let programs: [(&str, &[&str]); 6] = [
            ("gzip", &["-9"]),
            ("xz", &["--check=crc32", "--x86", "--lzma2=dict=32MiB"]),
            ("zstd", &["-19"]),
            ("lz4", &["-l", "-9"]),
            ("bzip2", &["-1"]),
            ("lzma", &["-1"]),
        ];
        for (program, options) in programs {
            let Some(payload) = packed(program, options) else { continue };
            for at in (0..payload.len().min(64)).chain((64..payload.len()).step_by(payload.len() / 8)) {
                for bits in [0xff, 0x80, 0x01] {
                    let mut lies = payload.clone();
                    lies[at] ^= bits;
                    let _ = unpack(&lies);
                }
                let _ = unpack(&payload[..at]);
            }
        }
    }

    #[test]
    fn anything_else_has_none() {
        for image in [&b""[..], b"HdrS", &[0x1f, 0x8b, 0x08], &bzimage(b""), &bzimage(&[0x28, 0xb5, 0x2f, 0xfd])] {
            assert_eq!(found(image), None);
        }
        let mut lies = bzimage(&gzip(&kernel(false)));
        lies[0x248..0x250].fill(0xff);
        assert_eq!(found(&lies), None);
    }
}
