//! Asks QEMU what a machine has for network cards, once: see `argv::board`.

use crate::launch::{Qemu, kept};
use model::argv::Line;
use model::argv::board::{Board, COMMANDS, question, questions};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

/// What the machine of a line has, if it is to have so many cards on board; `None` if QEMU does not tell.
pub fn of(qemu: &Qemu, line: &Line, cards: usize) -> Option<Board> {
    let folder = kept::cache().and_then(|cache| kept::folder(&cache, qemu.path()));
    let kept = folder.map(|folder| folder.join(kept::file_name(&question(line.machine.as_deref(), "tcg", cards))));
    let text = kept.as_ref().and_then(|path| fs::read_to_string(path).ok());
    if let Some(board) = text.and_then(|text| serde_json::from_str(&text).ok()) {
        return Some(board);
    }
    let zeroes = zeroes();
    let firmware = zeroes.as_ref().map(|file| format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    let mut questions = questions(line, cards, firmware.as_deref()).into_iter();
    let board = questions.find_map(|words| Board::read(&qemu.tell(&words, COMMANDS)?.out))?;
    if let (Some(path), Ok(text)) = (kept, serde_json::to_string(&board)) {
        kept::keep(&path, &text);
    }
    Some(board)
}

/// What stands in for a firmware, of which nothing is ever executed. The file is there while it is open.
fn zeroes() -> Option<OwnedFd> {
    const SIZE: u64 = 1 << 16;
    memfd_create("firmware", MemfdFlags::CLOEXEC).ok().filter(|file| ftruncate(file, SIZE).is_ok())
}
