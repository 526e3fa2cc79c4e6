//! Asks QEMU what a machine has for network cards, once: see `argv::board`.

use crate::launch::{Qemu, kept};
use model::argv::Line;
use model::argv::board::{Board, COMMANDS, question};
use model::argv::needs::Kind;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What the machine of a line has, if it is to have so many cards on board; `None` if QEMU does not tell.
pub fn of(qemu: &Qemu, line: &Line, cards: usize) -> Option<Board> {
    let machine = line.machine.as_deref().map(String::from_utf8_lossy);
    let about = |accel: &str, cards: usize| question(machine.as_deref(), accel, cards);
    let folder = kept::cache().and_then(|cache| kept::folder(&cache, qemu.path()));
    let kept = folder.map(|folder| folder.join(kept::file_name(&about("tcg", cards))));
    let text = kept.as_ref().and_then(|path| fs::read_to_string(path).ok());
    if let Some(board) = text.and_then(|text| serde_json::from_str(&text).ok()) {
        return Some(board);
    }
    // Some machines are not made without what they boot, some not with more cards than they have.
    let (zeroes, in_place) = stand_in();
    let own = Some(firmware(line)).filter(|words| !words.is_empty()).map(|words| ("tcg", words));
    let ways: Vec<(&str, Vec<OsString>)> =
        [("tcg", Vec::new())].into_iter().chain(own).chain([("qtest", Vec::new())]).chain(in_place).collect();
    let counts = if cards > 1 { vec![cards, 1] } else { vec![cards] };
    let tries = counts.into_iter().flat_map(|count| ways.iter().map(move |(accel, more)| (count, accel, more)));
    let mut answers = tries.filter_map(|(count, accel, more)| {
        let words = about(accel, count).into_iter().map(OsString::from);
        let words: Vec<OsString> = words.chain(more.iter().cloned()).collect();
        Board::read(&qemu.tell(&words, COMMANDS)?.out)
    });
    let board = answers.next()?;
    drop(zeroes);
    if let (Some(path), Ok(text)) = (kept, serde_json::to_string(&board)) {
        kept::keep(&path, &text);
    }
    Some(board)
}

/// Where QEMU has no qtest: what stands in for a firmware, of which nothing is ever executed. The file is there while it is open.
fn stand_in() -> (Option<OwnedFd>, Vec<(&'static str, Vec<OsString>)>) {
    const SIZE: u64 = 1 << 16;
    let zeroes = memfd_create("firmware", MemfdFlags::CLOEXEC).ok().filter(|file| ftruncate(file, SIZE).is_ok());
    let path = zeroes.as_ref().map(|file| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    let flash = |size: &str| format!("if=pflash,format=raw,file.driver=null-co,file.size={size},file.read-zeroes=on");
    let words = |option: &str, value: &str| ("tcg", [option, value].map(OsString::from).to_vec());
    let bios = path.map(|path| words("-bios", &path));
    let flashes = ["16M", "32M"].map(|size| words("-drive", &flash(size)));
    (zeroes, bios.into_iter().chain(flashes).collect())
}

/// The words of a line for its kernel and its firmware.
fn firmware(line: &Line) -> Vec<OsString> {
    let words = line.needs.files.iter().filter_map(|file| match file.kind {
        Kind::Kernel => Some(["-kernel".into(), OsStr::from_bytes(&file.path).to_owned()]),
        Kind::Firmware if file.shown.starts_with("-bios ") => {
            Some(["-bios".into(), OsStr::from_bytes(&file.path).to_owned()])
        }
        _ => None,
    });
    words.flatten().collect()
}
