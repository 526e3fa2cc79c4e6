//! Files and folders of ours, with modes of their own whatever the caller's umask: what others may write, they may abuse.
//!
//! A umask makes what a user has more private still. Not what root makes: users have to read the rules and the
//! configuration, also those of an admin whose umask is 077.
use crate::sys::userns;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{AccessFlags, faccessat, pipe2};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A descriptor that was received from another process.
pub fn own(received: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made it for this process just now, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// A pipe that programs do not inherit: what it is read from, and what it is written to. (As `std::io::pipe` of later compilers.)
pub fn pipe() -> io::Result<(File, File)> {
    let (from, into) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((from.into(), into.into()))
}

/// Whether the calling thread may do this with a file, with the IDs that it opens files with: access(2), and eaccess(3) in some C
/// libraries, go by the real ones.
pub fn check_access(path: &Path, flags: AccessFlags) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, flags, AtFlags::AT_EACCESS)
}

/// Whether root alone decides what is found at a path: the file, and all folders on the way to it, also behind links, are
/// root's, and no other may write to them.
pub fn are_roots_alone(path: &Path) -> bool {
    are_roots(path, false)
}

/// The same, but for folders such as /tmp above the one that the file is in: with the sticky bit, nobody else replaces a
/// folder of root's there.
pub fn are_roots_also_in_tmp(path: &Path) -> bool {
    are_roots(path, true)
}

fn are_roots(path: &Path, in_tmp: bool) -> bool {
    let is_roots = |path: &Path, may_be_sticky: bool| {
        path.metadata().is_ok_and(|file| {
            is_root(file.uid()) && (file.mode() & 0o022 == 0 || may_be_sticky && file.mode() & 0o1000 != 0)
        })
    };
    let has_roots_folder = |path: &Path| {
        let folder = path.parent().unwrap_or(path);
        is_roots(folder, false) && folder.ancestors().all(|folder| is_roots(folder, in_tmp))
    };
    let folder = path.parent().unwrap_or(path).canonicalize();
    let Ok((target, folder)) = path.canonicalize().and_then(|target| Ok((target, folder?))) else { return false };
    is_roots(&target, false) && has_roots_folder(&target) && has_roots_folder(&folder.join("it"))
}

/// Whether this is root's number. In a user namespace that does not have all users, the host's root is a number of nobody's
/// there, and the caller has no right of his.
fn is_root(user: u32) -> bool {
    const NOBODYS: u32 = 65534;
    user == 0 || user == NOBODYS && userns::has_some_users_only()
}

/// What was done with a file; `None` if there is none.
pub fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// Makes the folder that a file is in, and those above it, where they are missing.
pub fn create_folder_of(file: &Path) -> io::Result<()> {
    let Some(folder) = file.parent().filter(|folder| !folder.exists()) else { return Ok(()) };
    create_folder_of(folder)?;
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) if nix::unistd::geteuid().is_root() => fs::set_permissions(folder, Permissions::from_mode(0o755)),
        // Another was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }
}

/// Writes a file whole: under the name `new` first, which then becomes `path`. One that is to last outlives a power cut from
/// here on.
pub fn replace(path: &Path, new: &Path, text: &[u8], is_to_last: bool) -> io::Result<()> {
    prepare(new, text, is_to_last)?;
    match is_to_last {
        true => rename_to_last(new, path),
        false => fs::rename(new, path),
    }
}

/// Gives a file its name for good: what is in it was synced, and now the name is.
pub fn rename_to_last(new: &Path, path: &Path) -> io::Result<()> {
    fs::rename(new, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

/// Writes what is going to take another file's place.
pub fn prepare(new: &Path, text: &[u8], is_to_last: bool) -> io::Result<()> {
    // What a kill left there.
    if_there(fs::remove_file(new))?;
    let mut file = create(new)?;
    file.write_all(text)?;
    if is_to_last {
        file.sync_all()?;
    }
    Ok(())
}

/// Makes a file that nobody has made, with this text; it never has more than this mode.
pub fn write_new(path: &Path, text: &[u8], mode: u32) -> io::Result<File> {
    let mut file = create_with(path, mode)?;
    file.write_all(text)?;
    file.sync_all()?;
    Ok(file)
}

/// Makes a file that nobody has made.
pub fn create(path: &Path) -> io::Result<File> {
    create_with(path, 0o644)
}

fn create_with(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if nix::unistd::geteuid().is_root() {
        // Who is told that it could not be made does not take it away.
        let set = file.set_permissions(Permissions::from_mode(mode));
        set.inspect_err(|_| drop(fs::remove_file(path)))?;
    }
    Ok(file)
}

/// A file that has no name and is gone with its last descriptor; it is read from its beginning.
pub fn in_memory(text: &[u8]) -> io::Result<File> {
    use std::io::Seek;
    let mut file = File::from(rustix::fs::memfd_create("kvm-bridge", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    file.rewind()?;
    Ok(file)
}

/// Has reading from a file fail (EAGAIN) where there is nothing to be read now.
pub fn do_not_block(file: &impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
