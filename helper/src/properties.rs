//! What holds of any input: for the fuzz targets, and for the tests that replay what those found.
#![doc(hidden)]
#![forbid(unsafe_code)]

use crate::acl::{Acl, Caller, Fault, File, Names, OURS, QEMU, Verdict};
use crate::netlink;
use crate::options::Options;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

struct Nobody;

impl Names for Nobody {
    fn users(&self) -> Result<&[u8], Fault> {
        Ok(b"alice:x:1000:1000::/:/bin/sh\n")
    }

    fn groups(&self) -> Result<&[u8], Fault> {
        Ok(b"kvm:x:104:alice\nalice:x:1000:\n")
    }
}

fn verdict(parts: &[&[u8]], bridge: &[u8]) -> Result<Verdict, Fault> {
    let text = |at: usize| parts.get(at).map_or(File::Missing, |text| File::Text(text.to_vec()));
    let read = |path: &Path| match path.to_str() {
        Some(QEMU) => text(0),
        Some(OURS) => text(1),
        Some("/etc/more") => text(2),
        _ => File::Missing,
    };
    Acl::read(read)?.judge(bridge, &Caller { uid: 1000, gids: vec![1000, 104] }, &Nobody)
}

/// The data is three files, divided by `\xff`: QEMU's, ours, and one that they can include.
pub fn acl(data: &[u8]) {
    let parts: Vec<&[u8]> = data.splitn(3, |byte| *byte == 0xff).collect();
    for bridge in [&b"br0"[..], b"all"] {
        let found = verdict(&parts, bridge);
        // What is allowed is allowed by a line, and one line that denies ends that.
        if let Ok(Verdict::Allowed(_)) = found {
            let has = |word: &[u8]| data.windows(word.len()).any(|part| part == word);
            assert!(has(b"allow") && (has(bridge) || has(b"all")));
            let mut denying = parts.first().copied().unwrap_or_default().to_vec();
            denying.extend(b"\ndeny all\n");
            let mut denied = parts.clone();
            denied[0] = &denying;
            assert!(!matches!(verdict(&denied, bridge), Ok(Verdict::Allowed(_))));
        }
    }
    // No two bridges are one by being cut.
    if let Ok(Verdict::Allowed(_)) = verdict(&parts, b"fifteen-bytes-x") {
        assert!(data.windows(3).any(|part| part == b"all") || data.windows(15).any(|part| part == b"fifteen-bytes-x"));
    }
}

/// The data is words, divided by NUL as on a command line.
pub fn options(data: &[u8]) {
    let words: Vec<OsString> = data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    if let Ok(options) = Options::parse(words.clone().into_iter()) {
        let name = &options.bridge;
        assert!(!name.is_empty() && name.len() <= 15 && !name.contains(&b'/') && !name.contains(&b'%'));
        assert!(options.fd >= 0);
        // What was read, written again, is read the same.
        let again = [[&b"--br="[..], name].concat(), format!("--fd={}", options.fd).into_bytes()];
        let mac =
            options.mac.map(|mac| format!("--mac={}", mac.map(|byte| format!("{byte:02x}")).join(":")).into_bytes());
        let again = again.into_iter().chain(options.use_vnet.then(|| b"--use-vnet".to_vec())).chain(mac);
        assert_eq!(Options::parse(again.map(OsString::from_vec)), Ok(options));
    }
}

/// The data is a datagram of the kernel's.
pub fn answers(data: &[u8]) {
    assert!(netlink::answers(data).is_none_or(|answers| answers.len() <= data.len() / 16));
}
