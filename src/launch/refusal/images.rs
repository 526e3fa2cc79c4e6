//! What only the inside of an image tells: that one which it is based on is missing; and what only the kernel does: that another
//! process has it.

use crate::launch::refusal::why_not;
use crate::sys::lock;
use model::argv::image;
use model::argv::image::Place;
use model::argv::needs::{File, Kind};
use model::argv::{Line, needs, qcow2};
use model::error::{Error, Result};
use model::text::shell::quote;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// More images on each other than anybody has.
const DEEPEST: usize = 64;
/// How long a QEMU that was told to end may take to leave its image to one that is started at once.
const LEAVING: Duration = Duration::from_millis(500);
/// Checks an image that can be opened.
pub(super) fn check(line: &Line, file: &File) -> Result<()> {
    let path = Path::new(OsStr::from_bytes(&file.path));
    if file.kind != Kind::Image || file.behind.is_some() {
        return Ok(());
    }
    let Some((opened, start)) = start_of(path) else { return Ok(()) };
    let is_qcow2 = file.opening.is_qcow2 && qcow2::is_one(&start);
    if is_qcow2 && file.opening.opens_backing {
        check_backing(&file.shown, path, start)?;
    }
    let Some(byte) = file.byte_of_lock(line, is_qcow2) else { return Ok(()) };
    let end = Instant::now() + LEAVING;
    while lock::is_byte_locked(&opened, byte) {
        if Instant::now() >= end {
            let what = format!("{}: another process uses {}, and QEMU could not lock it", file.shown, path.display());
            return Err(Error::new(what, format!("Nothing was made. End that one first: fuser -v {}", quote(path))));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Checks the images that one is based on, by the names in their headers.
fn check_backing(shown: &str, image: &Path, mut start: Vec<u8>) -> Result<()> {
    let mut path = image.to_owned();
    for _ in 0..DEEPEST {
        let Some(backing) = qcow2::backing(&start) else { break };
        // A name with a protocol is read from another folder, or from elsewhere.
        if image::of_name(&backing.name) != Some(Place::Local(backing.name.clone())) {
            break;
        }
        let base: PathBuf = path.with_file_name(OsStr::from_bytes(&backing.name));
        if let Some(why) = why_not(Kind::Image, &base) {
            let what =
                format!("{shown}: QEMU cannot open {}, which {} is based on: {why}", base.display(), path.display());
            let remedy = format!("Nothing was made. See what it is based on: qemu-img info {}", quote(&path));
            return Err(Error::new(what, remedy));
        }
        let is_qcow2 = backing.format.is_none_or(|format| format == b"qcow2");
        let Some((_, next)) = start_of(&base).filter(|_| is_qcow2) else { break };
        (path, start) = (base, next);
    }
    Ok(())
}

/// Whether a file that is there is a kernel of Linux for x86.
pub(super) fn is_bz_image(path: &[u8]) -> bool {
    start_of(Path::new(OsStr::from_bytes(path))).is_some_and(|(_, start)| needs::is_bz_image(&start))
}

/// The start of a file; of what is no file nothing is read.
fn start_of(path: &Path) -> Option<(fs::File, Vec<u8>)> {
    // It may become a pipe meanwhile, which nobody is waited for at.
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let mut start = Vec::new();
    if file.metadata().ok()?.is_file() {
        (&file).take(qcow2::LENGTH as u64).read_to_end(&mut start).ok()?;
    }
    Some((file, start))
}
