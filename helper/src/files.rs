//! The files that are read, all with the rights of the caller.
#![forbid(unsafe_code)]

use crate::acl::{self, Fault, Names};
use crate::container;
use crate::sys;
use nix::fcntl::OFlag;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Rules that are longer were not written by a person.
const MAX_SIZE: u64 = 1024 * 1024;

/// Reads a file of rules. It has to be root's own, and so has every folder on the way to it: whoever else can write it can
/// allow themselves everything, and whoever can write such a folder can put another file there or take one away.
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
                // Rules that somebody wrote are not passed over.
                Some(nix::libc::ENOENT) if fs::symlink_metadata(path).is_ok() => {
                    acl::File::Unfit("is a link that leads nowhere".to_owned())
                }
                Some(nix::libc::ENOENT) => fault_of_way(path).map_or(acl::File::Missing, acl::File::Unfit),
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
    if let Some(why) = fault_of(path, &metadata).or_else(|| fault_of_way(path)) {
        return acl::File::Unfit(why);
    }
    let mut text = Vec::new();
    match file.take(MAX_SIZE + 1).read_to_end(&mut text) {
        Ok(_) if text.len() as u64 > MAX_SIZE => acl::File::Unfit(format!("has more than {MAX_SIZE} bytes")),
        Ok(_) => acl::File::Text(text),
        Err(error) => acl::File::Unfit(cannot_be_read(&error)),
    }
}

/// Who else than root can write this, as the end of a sentence that begins with it; `None` if nobody can.
fn fault_of(path: &Path, metadata: &Metadata) -> Option<String> {
    let shown = acl::quote(&acl::show(path.as_os_str().as_encoded_bytes()));
    if metadata.uid() != 0 && container::is_user_namespace() {
        return Some("does not belong to the root of this user namespace".to_owned());
    }
    let group_may_write = metadata.mode() & 0o020 != 0;
    if metadata.uid() != 0 || (group_may_write && metadata.gid() != 0) || metadata.mode() & 0o002 != 0 {
        return Some(format!("can be written by others than root (sudo chown root {shown}; sudo chmod go-w {shown})"));
    }
    // Where there is an access control list, the mode of the group is the most that anybody in it may do.
    match group_may_write.then(|| sys::has_acl(path)) {
        None | Some(Ok(false)) => None,
        Some(Ok(true)) => Some(format!("has an ACL by which others than root may write it (sudo setfacl -b {shown})")),
        Some(Err(error)) => Some(format!("may have an ACL, which {}", cannot_be_read(&error))),
    }
}

/// The same of the folders that lead to a file, as its path is written and as symbolic links have it.
fn fault_of_way(path: &Path) -> Option<String> {
    let real = match fs::canonicalize(path) {
        Err(error) if error.raw_os_error() != Some(nix::libc::ENOENT) => return Some(cannot_be_read(&error)),
        real => real.unwrap_or_default(),
    };
    path.ancestors().skip(1).chain(real.ancestors().skip(1)).find_map(|folder| {
        let why = match fs::metadata(folder) {
            // In a folder like /tmp nobody can remove or rename what is root's.
            Ok(metadata) if metadata.uid() == 0 && metadata.mode() & 0o1000 != 0 => None,
            Ok(metadata) => fault_of(folder, &metadata),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => None,
            Err(error) => Some(cannot_be_read(&error)),
        };
        why.map(|why| format!("is in {}, which {why}", acl::show(folder.as_os_str().as_encoded_bytes())))
    })
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
        let text = |path: &str| fs::read(path).map_err(|error| Fault(format!("{path} {}", cannot_be_read(&error))));
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
