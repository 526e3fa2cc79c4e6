//! The command line: `--use-vnet`, `--br=NAME`, `--fd=N`, `--mac=ADDRESS`, in any order, the last of each kind; nothing else.
//! The first three are those of QEMU's helper. Pure.
#![forbid(unsafe_code)]

use crate::acl::show;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `--br`: the bridge's name, which an interface can have.
    pub bridge: Vec<u8>,
    /// `--fd`: the socket that the TAP's descriptor is to be sent over.
    pub fd: RawFd,
    /// `--use-vnet`: whether the TAP is to have vnet headers (IFF_VNET_HDR).
    pub use_vnet: bool,
    /// `--mac`: the guest's address, to which a guarded port is held.
    pub mac: Option<[u8; 6]>,
}

/// What a mistake on the command line is answered with.
pub const USAGE: &str = "Usage: kvm-bridge-helper [--use-vnet] --br=BRIDGE --fd=SOCKET [--mac=ADDRESS], or --version";

impl Options {
    /// Reads the words behind argv\[0\].
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut bridge, mut fd, mut use_vnet, mut mac) = (None, None, false, None);
        for word in words {
            let word = word.as_bytes();
            if word == b"--use-vnet" {
                use_vnet = true;
            } else if let Some(name) = word.strip_prefix(b"--br=") {
                bridge = Some(name.to_vec());
            } else if let Some(number) = word.strip_prefix(b"--fd=") {
                fd = Some(descriptor(number).ok_or_else(|| format!("--fd={} is no descriptor", show(number)))?);
            } else if let Some(text) = word.strip_prefix(b"--mac=") {
                mac = Some(address(text).ok_or_else(|| format!("--mac={} is no address of one guest", show(text)))?);
            } else {
                return Err(USAGE.to_owned());
            }
        }
        let (Some(bridge), Some(fd)) = (bridge, fd) else { return Err(USAGE.to_owned()) };
        check_name(&bridge)?;
        Ok(Self { bridge, fd, use_vnet, mac })
    }
}

/// Digits, and no sign: what `atoi` makes of anything else is somebody's descriptor, but not the one that was meant.
fn descriptor(text: &[u8]) -> Option<RawFd> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

/// Six pairs of digits with colons between them: a unicast address, and not the one of nobody.
fn address(text: &[u8]) -> Option<[u8; 6]> {
    let pairs = text.split(|byte| *byte == b':').map(|pair| {
        let is_pair = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|_| is_pair)?, 16).ok()
    });
    let mac: [u8; 6] = pairs.collect::<Option<Vec<u8>>>()?.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// As the kernel's dev_valid_name() has it. A longer name would be cut when it is used, after another was judged
/// (CVE-2019-13164).
fn check_name(name: &[u8]) -> Result<(), String> {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || [0x0b, 0xa0].contains(byte);
    match name {
        b"" => Err("the bridge's name is empty".to_owned()),
        _ if name.len() > crate::acl::MAX_NAME => {
            Err(format!("the name '{}' has {} bytes, and {} is the most", show(name), name.len(), crate::acl::MAX_NAME))
        }
        b"." | b".." => Err(format!("'{}' is no name of a bridge", show(name))),
        _ if name.iter().any(|byte| b"/:%\0".contains(byte) || is_blank(byte)) => {
            Err(format!("'{}' is no name of a bridge", show(name)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parse(words: &[&[u8]]) -> Result<Options, String> {
        Options::parse(words.iter().map(|word| OsString::from_vec(word.to_vec())))
    }

    #[test]
    fn the_order_is_free_and_the_last_counts() {
        let expected = Options { bridge: b"br0".to_vec(), fd: 7, use_vnet: true, mac: None };
        assert_eq!(parse(&[b"--use-vnet", b"--fd=7", b"--br=br0"]), Ok(expected.clone()));
        assert_eq!(parse(&[b"--br=br0", b"--use-vnet", b"--fd=7"]), Ok(expected.clone()));
        assert_eq!(parse(&[b"--br=x", b"--fd=3", b"--br=br0", b"--fd=7", b"--use-vnet"]), Ok(expected));
        assert_eq!(parse(&[b"--br=br0", b"--fd=0"]).unwrap().fd, 0);
    }

    #[test]
    fn anything_else_is_a_mistake() {
        let lines: [&[&[u8]]; 9] = [
            &[],
            &[b"--br=br0"],
            &[b"--fd=3"],
            &[b"--help"],
            &[b"--br=br0", b"--fd=3", b"x"],
            &[b"--br", b"br0", b"--fd=3"],
            &[b"-br=br0", b"--fd=3"],
            &[b"--use-vnet=on", b"--br=br0", b"--fd=3"],
            &[b"--br=br0", b"--fd=3", b""],
        ];
        for line in lines {
            assert_eq!(parse(line), Err(USAGE.to_owned()), "{line:?}");
        }
        for mac in [
            "",
            "52:54:00:01:02",
            "52:54:00:01:02:03:04",
            "52:54:00:01:02:3",
            "52:54:00:01:02:+3",
            "53:54:00:01:02:03",
            "00:00:00:00:00:00",
            "52-54-00-01-02-03",
        ] {
            assert!(parse(&[b"--br=br0", b"--fd=3", format!("--mac={mac}").as_bytes()]).is_err(), "{mac}");
        }
        let mac = parse(&[b"--br=br0", b"--fd=3", b"--mac=52:54:00:aB:02:03"]).unwrap().mac;
        assert_eq!(mac, Some([0x52, 0x54, 0, 0xab, 2, 3]));
        for fd in ["", "x", "-1", "+3", " 3", "3 ", "0x3", "2147483648", "4294967299", "99999999999999999999"] {
            assert!(parse(&[b"--br=br0", format!("--fd={fd}").as_bytes()]).is_err(), "{fd}");
        }
    }

    #[test]
    fn names_are_those_that_a_bridge_can_have() {
        for good in [&b"br0"[..], b"fifteen-bytes-x", b"\xff\xfe", "br\u{e4}".as_bytes(), b"all"] {
            assert_eq!(parse(&[&[b"--br=", good].concat(), b"--fd=3"]).unwrap().bridge, good);
        }
        for bad in
            [&b""[..], b".", b"..", b"sixteen-bytes-xy", b"a/b", b"../br0", b"tap%d", b"a b", b"a:b", b"a\0b", b"a\n"]
        {
            assert!(parse(&[&[b"--br=", bad].concat(), b"--fd=3"]).is_err(), "{bad:?}");
        }
    }
}
