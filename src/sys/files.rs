//! Files and folders of ours, with modes of their own whatever the caller's umask: what others may write, they may abuse.
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A descriptor that was received from another process.
pub fn own(received: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made it for this process just now, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Makes the folder that a file is in, and those above it, where they are missing.
pub fn create_folder_of(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.exists() => DirBuilder::new().recursive(true).mode(0o755).create(folder),
        _ => Ok(()),
    }
}

/// Writes a file whole: under the name `new` first, which then becomes `path`.
pub fn replace(path: &Path, new: &Path, text: &[u8], is_to_last: bool) -> io::Result<()> {
    // What a kill left there.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create(new)?;
    file.write_all(text)?;
    if is_to_last {
        file.sync_all()?;
    }
    fs::rename(new, path)
}

/// Makes a file that nobody has made, with this text.
pub fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Makes a file that nobody has made.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

/// Has reading from a file fail (EAGAIN) where there is nothing to be read now.
pub fn do_not_block(file: &File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
