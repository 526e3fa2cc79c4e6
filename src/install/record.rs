//! What was made, written down so that it can be taken back, and nothing else.
#![forbid(unsafe_code)]

use crate::install::cannot;
use crate::sys::files::{self, if_there};
use model::error::{Error, Result, json_reason};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// It is written here.
pub const RECORD: &str = "/var/lib/kvm-bridge/install.json";

/// A file as it was made: another one in its place, or another text in it, differs. To be given a right changes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    inode: u64,
    /// When it was written, in seconds and nanoseconds.
    written: (i64, i64),
}

impl Identity {
    /// `None` where there is no file; one that can't be looked at may be any.
    pub(super) fn of(path: &Path) -> Result<Option<Self>> {
        let file = if_there(path.symlink_metadata()).map_err(|error| cannot("look at", path, &error))?;
        Ok(file.map(|file| Self { inode: file.ino(), written: (file.mtime(), file.mtime_nsec()) }))
    }
}

/// A thing that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Made {
    /// A folder, which goes when it is empty.
    Folder(PathBuf),
    /// A copy of the helper, which is one of these: while it is replaced, the old one or the new one.
    Helper { path: PathBuf, copies: Vec<Identity> },
    /// The right of a helper that was there.
    Right { path: PathBuf, file: Identity },
    /// A file of rules, which goes when nothing but its first line is left.
    Rules(PathBuf),
    /// A line of one.
    Rule { file: PathBuf, line: String },
    /// A link.
    Link { path: PathBuf, target: PathBuf },
}

/// All that was made, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) made: Vec<Made>,
}

impl Record {
    pub(super) fn read() -> Result<Self> {
        let text = if_there(fs::read(RECORD)).map_err(|error| cannot("read", Path::new(RECORD), &error))?;
        let Some(text) = text else { return Ok(Self { version: 1, made: Vec::new() }) };
        serde_json::from_slice(&text).map_err(|error| {
            Error::new(
                format!("{RECORD} is damaged: {}", json_reason(&error)),
                format!("Move it away: sudo mv {RECORD} {RECORD}.old"),
            )
        })
    }

    pub(super) fn write(&self) -> Result<()> {
        let path = Path::new(RECORD);
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let written =
            files::create_folder_of(path).and_then(|()| files::replace(path, &path.with_extension("new"), &text, true));
        written.map_err(|error| cannot("write", path, &error))
    }

    /// Writes down what is about to be made.
    pub(super) fn add(&mut self, made: Made) -> Result<()> {
        if self.made.contains(&made) {
            return Ok(());
        }
        self.made.push(made);
        self.write()
    }

    /// Whether the helper there is our copy, as we made it.
    pub(super) fn made_helper(&self, helper: &Path) -> Result<bool> {
        let found = Identity::of(helper)?;
        Ok(self.made.iter().any(|made| {
            matches!(made, Made::Helper { path, copies } if path == helper && copies.iter().any(|own| Some(*own) == found))
        }))
    }

    /// A copy of the helper is about to be there: this one, as soon as it is known.
    pub(super) fn makes_helper(&mut self, helper: &Path, copy: Option<Identity>) -> Result<()> {
        let found = Identity::of(helper)?;
        let is_it = |made: &&mut Made| matches!(made, Made::Helper { path, .. } if path == helper);
        match self.made.iter_mut().find(is_it) {
            Some(Made::Helper { copies, .. }) => {
                copies.retain(|own| Some(*own) == found);
                copies.extend(copy);
                self.write()
            }
            _ => self.add(Made::Helper { path: helper.to_owned(), copies: copy.into_iter().collect() }),
        }
    }

    /// A helper that was there is about to be given its right. What was given to one that was there before went with it.
    pub(super) fn gave_right(&mut self, helper: &Path) -> Result<()> {
        let Some(file) = Identity::of(helper)? else { return Ok(()) };
        self.made.retain(|made| !matches!(made, Made::Right { path, .. } if path == helper));
        self.add(Made::Right { path: helper.to_owned(), file })
    }
}

/// Where a file of ours is written before it gets its place, under a name that nobody else gives.
pub(super) fn draft_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".kvm-bridge-install");
    path.with_file_name(name)
}
