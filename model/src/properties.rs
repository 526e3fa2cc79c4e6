//! What holds of any input that is thought about here; what else is read has its own beside it.
#![doc(hidden)]

use crate::argv;
use crate::argv::board::Board;
use crate::argv::{Backend, Part, json, readconfig, rewrite, scan};
use crate::mac::Mac;
use crate::optstr;
use crate::packet::{dhcp, frame};
use crate::vm::Record;
use crate::{config, journal, kernel, rtnl};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The data are words, each ended by a zero byte, with what the environment asks for behind `\xff`.
pub fn argv(data: &[u8]) {
    let (line, environment) = match data.iter().position(|byte| *byte == 0xff) {
        Some(at) => (&data[..at], Some(&data[at + 1..])),
        None => (data, None),
    };
    let words: Vec<OsString> = line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    let nics = || Ok(environment.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect());
    let Ok(mut line) = scan(&words, nics) else { return };
    if line.nics.is_empty() {
        // A line that is not ours reaches QEMU as it is; --bridge-dry-run and --bridge-help are.
        let ours = words.iter().any(|word| argv::scan::may_be_ours(word));
        assert!(ours || rewrite(&line, &[]) == words, "it is not ours, and another line: {words:?}");
        return;
    }
    for system in ["x86_64", "s390x", "microblaze"] {
        let one = || vec!["one".to_owned()];
        let board = |_: &argv::Line, _| Some(Board { buses: one(), cards: one() });
        let _ = argv::settle::settle(&mut line.clone(), None, system, board);
    }
    if argv::settle::settle(&mut line, None, "x86_64", |_, _| None).is_err() {
        return;
    }
    let Ok(ids) = argv::rewrite::ids(&line) else { return };
    let count = line.nics.len();
    let backends =
        (0..count).map(|at| Backend::Inherited { queues: vec![100 + at as i32], vhost: Vec::new() }).collect();
    let macs: Vec<Mac> = (0..count).map(|at| Mac([2, 0, 0, 0, (at >> 8) as u8, at as u8])).collect();
    let netdevs = argv::netdevs(&line, ids, backends, &macs);
    let rewritten = rewrite(&line, &netdevs);
    // Each card has its netdev, and QEMU's own words stay in their order but for what was added to one.
    for netdev in &netdevs {
        let id = format!(",id={}", netdev.id);
        let has_it = |word: &OsString| word.to_string_lossy().contains(&id);
        assert!(rewritten.iter().any(has_it), "{netdev:?} is not in {rewritten:?}");
    }
    let mut rest = rewritten.iter();
    for part in &line.parts {
        let is_changed = line.devices_on.values().any(|own| own.place.is_some() || own.lacks_netdev);
        if let (Part::Word(word), false) = (part, is_changed) {
            assert!(rest.any(|other| other == word), "{word:?} is not in {rewritten:?} in its place");
        }
    }
}

/// What is escaped is read as it was.
pub fn option_strings(data: &[u8]) {
    for param in optstr::parse(data) {
        let _ = (param.key, param.value);
    }
    let _ = optstr::get(data, "file", "file");
    let text = String::from_utf8_lossy(data);
    let line = format!("key={}", optstr::escape(&text));
    assert_eq!(optstr::get(line.as_bytes(), "key", "first").as_deref(), Some(text.as_bytes()));
    let _ = crate::request::Nic::parse(data);
}

/// A file of QEMU's, or of ours.
pub fn readconfig(data: &[u8]) {
    for section in readconfig::parse(data) {
        let _ = (section.params().count(), section.get("id"));
    }
    let _ = config::Config::parse_bytes(data);
}

/// JSON in QEMU's manner.
pub fn json(data: &[u8]) {
    let _ = json::parse(data);
}

/// A journal that is read is written as it was read.
pub fn journal(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(read) = journal::parse(&text) {
        let again = journal::text_of(&read).ok().and_then(|text| journal::parse(&text).ok());
        assert_eq!(again.as_ref(), Some(&read));
    }
    // What is damaged otherwise would hide behind its checksum.
    if let Ok(read) = serde_json::from_str::<journal::Journal>(&text) {
        let _ = (read.share().is_some(), read.port(), read.awaits().is_some(), read.alias(), read.needs_reaper());
    }
}

/// What a guest or anybody on the network sends.
pub fn frames(data: &[u8]) {
    let _ = frame::read(data);
    let _ = dhcp::Message::parse(data);
}

/// A kernel's image, which may be anybody's file.
pub fn kernel_configuration(data: &[u8]) {
    let _ = kernel::read(data);
}

/// What the kernel says.
pub fn netlink(data: &[u8]) {
    rtnl::read_as_anything(data);
}

/// A VM's file.
pub fn lease(data: &[u8]) {
    if let Ok(read) = Record::parse(data) {
        let text = serde_json::to_vec(&read).unwrap_or_default();
        assert_eq!(Record::parse(&text).as_ref(), Ok(&read));
    }
}
