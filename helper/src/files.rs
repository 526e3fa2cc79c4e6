//! The files that are read, all with the rights of the caller.
#![forbid(unsafe_code)]

use crate::acl::{self, Fault, Names};
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
        Err(error) => {
            // Nothing else means that there is none, or that it is for others: EMFILE is the caller's own limit, by
            // which no rule is passed over.
            return match error.raw_os_error() {
                Some(nix::libc::ENOENT) => acl::File::Missing,
                Some(nix::libc::EACCES) => acl::File::Unreadable,
                _ => acl::File::Unfit(cannot_be_read(&error)),
            };
        }
    };
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return acl::File::Unfit(cannot_be_read(&error)),
    };
    if !metadata.is_file() {
        return acl::File::Unfit("is no plain file".into());
    }
    let group_may_write = metadata.mode() & 0o020 != 0 && metadata.gid() != 0;
    if metadata.uid() != 0 || group_may_write || metadata.mode() & 0o002 != 0 {
        let path = acl::quote(&acl::show(path.as_os_str().as_encoded_bytes()));
        let why = format!("can be written by others than root (sudo chown root {path}; sudo chmod go-w {path})");
        return acl::File::Unfit(why);
    }
    let mut text = Vec::new();
    match file.take(MAX_SIZE + 1).read_to_end(&mut text) {
        Ok(_) if text.len() as u64 > MAX_SIZE => acl::File::Unfit(format!("has more than {MAX_SIZE} bytes")),
        Ok(_) => acl::File::Text(text),
        Err(error) => acl::File::Unfit(cannot_be_read(&error)),
    }
}

fn cannot_be_read(error: &io::Error) -> String {
    format!("cannot be read: {}", crate::failure::reason(error))
}

/// The names of users and groups in /etc/passwd and /etc/group. No directory service is asked: that would load libraries
/// into a privileged program.
#[derive(Debug)]
pub struct Accounts {
    users: Result<Vec<u8>, Fault>,
    groups: Result<Vec<u8>, Fault>,
}

impl Accounts {
    /// Reads both files. That one can't be read is known when a name is looked for in it.
    pub fn read() -> Self {
        let text =
            |path: &str| std::fs::read(path).map_err(|error| Fault(format!("{path} {}", cannot_be_read(&error))));
        Self { users: text("/etc/passwd"), groups: text("/etc/group") }
    }

    /// The name of a user, or their number: for messages.
    pub fn user(&self, uid: u32) -> String {
        let name = self.users.as_ref().ok().and_then(|text| acl::name_of(text, uid));
        name.map_or_else(|| uid.to_string(), acl::show)
    }
}

impl Names for Accounts {
    fn users(&self) -> Result<&[u8], Fault> {
        self.users.as_deref().map_err(Clone::clone)
    }

    fn groups(&self) -> Result<&[u8], Fault> {
        self.groups.as_deref().map_err(Clone::clone)
    }
}
