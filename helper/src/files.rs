//! The files that are read, all with the rights of the caller.
#![forbid(unsafe_code)]

use crate::acl::{self, Names};
use nix::fcntl::OFlag;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Rules that are longer were not written by a person.
const MAX_SIZE: u64 = 1024 * 1024;

/// Reads a file of rules. It has to be root's own: whoever else can write it can allow themselves everything.
///
/// What is no plain file is opened without waiting for anybody, and not read.
pub fn rules(path: &Path) -> acl::File {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) => return of_error(&error),
    };
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return of_error(&error),
    };
    if !metadata.is_file() {
        return acl::File::Unfit("is no plain file".into());
    }
    let group_may_write = metadata.mode() & 0o020 != 0 && metadata.gid() != 0;
    if metadata.uid() != 0 || group_may_write || metadata.mode() & 0o002 != 0 {
        let path = acl::show(path.as_os_str().as_encoded_bytes());
        let why = format!("can be written by others than root (sudo chown root {path}; sudo chmod go-w {path})");
        return acl::File::Unfit(why);
    }
    let mut text = Vec::new();
    match file.take(MAX_SIZE + 1).read_to_end(&mut text) {
        Ok(_) if text.len() as u64 > MAX_SIZE => acl::File::Unfit(format!("has more than {MAX_SIZE} bytes")),
        Ok(_) => acl::File::Text(text),
        Err(error) => of_error(&error),
    }
}

fn of_error(error: &io::Error) -> acl::File {
    match error.kind() {
        io::ErrorKind::NotFound => acl::File::Missing,
        io::ErrorKind::PermissionDenied => acl::File::Unreadable,
        // Among these is the caller's own limit on open files, by which no rule is passed over.
        _ => acl::File::Unfit(format!("cannot be read: {}", crate::failure::reason(error))),
    }
}

/// The names of users and groups in /etc/passwd and /etc/group. No directory service is asked: that would load libraries
/// into a privileged program.
#[derive(Debug, Default)]
pub struct Accounts {
    users: Vec<u8>,
    groups: Vec<u8>,
}

impl Accounts {
    /// Reads both files.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read(path).unwrap_or_default();
        Self { users: text("/etc/passwd"), groups: text("/etc/group") }
    }

    /// The name of a user, or their number.
    pub fn user(&self, uid: u32) -> String {
        acl::name_of(&self.users, uid).map_or_else(|| uid.to_string(), acl::show)
    }
}

impl Names for Accounts {
    fn uid(&self, name: &[u8]) -> Option<u32> {
        acl::id_of(&self.users, name)
    }

    fn gid(&self, name: &[u8]) -> Option<u32> {
        acl::id_of(&self.groups, name)
    }
}
