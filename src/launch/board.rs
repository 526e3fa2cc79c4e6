//! Asks QEMU what a machine has for network cards, once: see `argv::board`.

use crate::launch::{Qemu, kept};
use model::argv::Line;
use model::argv::board::{Board, COMMANDS, question};
use model::argv::needs::Kind;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// What the machine of a line has, if it is to have so many cards on board; `None` if QEMU does not tell.
pub fn of(qemu: &Qemu, line: &Line, cards: usize) -> Option<Board> {
    let machine = line.machine.as_deref().map(String::from_utf8_lossy);
    let about = |cards: usize| question(machine.as_deref(), cards);
    let folder = kept::cache().and_then(|cache| kept::folder(&cache, qemu.path()));
    let kept = folder.map(|folder| folder.join(kept::file_name(&about(cards))));
    let text = kept.as_ref().and_then(|path| fs::read_to_string(path).ok());
    if let Some(board) = text.and_then(|text| serde_json::from_str(&text).ok()) {
        return Some(board);
    }
    // Some machines are not made without what they boot, some not with more cards than they have.
    let more = [Some(Vec::new()), Some(firmware(line)).filter(|words| !words.is_empty())];
    let counts = if cards > 1 { vec![cards, 1] } else { vec![cards] };
    let tries = counts.into_iter().flat_map(|count| more.iter().flatten().map(move |more| (count, more)));
    let mut answers = tries.filter_map(|(count, more)| {
        let words: Vec<OsString> = about(count).into_iter().map(OsString::from).chain(more.iter().cloned()).collect();
        Board::read(&qemu.tell(&words, COMMANDS)?)
    });
    let board = answers.next()?;
    if let (Some(path), Ok(text)) = (kept, serde_json::to_string(&board)) {
        kept::keep(&path, &text);
    }
    Some(board)
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
