//! slirp4netns(1) in place of pasta: it gives a way out to a namespace that somebody else has made, here a child of the process that
//! becomes slirp4netns. The child waits for the holder, which it starts there; each of the three ends with the others.

use crate::sys::{files, process, userns};
use model::uplink::user;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Starts the holder in a new namespace, and becomes slirp4netns. Returns only if that fails.
pub(super) fn start(holder: Command, slirp: Command) -> i32 {
    i32::from(become_slirp(holder, slirp).is_err())
}

fn become_slirp(holder: Command, mut slirp: Command) -> io::Result<()> {
    let ((mut made, tells_made), (is_ready, tells_ready), (over, ends)) =
        (files::pipe()?, files::pipe()?, files::pipe()?);
    // It has the other end of `over` as long as it lives.
    let child = process::fork_for(move || i32::from(hold(holder, tells_made, is_ready, &ends).is_err()))?;
    made.read_exact(&mut [0])?;
    process::inherit(&tells_ready).and_then(|()| process::inherit(&over)).map_err(io::Error::other)?;
    slirp.args(user::slirp4netns(child.as_raw().unsigned_abs(), tells_ready.as_raw_fd(), over.as_raw_fd()));
    Err(slirp.exec())
}

/// The child's part: runs the holder, as the first process of a new namespace, once that has its way out.
fn hold(mut holder: Command, mut tells_made: File, mut is_ready: File, _ends: &File) -> io::Result<()> {
    userns::make()?;
    set_pdeathsig(Signal::SIGKILL)?;
    tells_made.write_all(&[0])?;
    is_ready.read_exact(&mut [0])?;
    holder.status().map(|_| ())
}
