//! Networks of the host's own: what a bridge has each time that it is made, and who is on it now.
//!
//! ```text
//! /var/lib/kvm-bridge/networks/BRIDGE.json      its subnets, and the address of each card that was on it
//! /run/kvm-bridge/NAMESPACE/BRIDGE.nat/guests   the guests that root has started on it since
//! ```
//!
//! Both are root's alone. What guests say themselves dnsmasq keeps, in a folder that nobody else reads.

use crate::output::errno::{reason, to_write};
use crate::state::journal::Files;
use crate::sys::files::{self, if_there};
use crate::sys::lock;
use crate::sys::lock::Hold;
use crate::sys::place;
use model::error::{Error, Result, json_reason};
use model::ifname::IfName;
use model::nat::guests::{Addresses, Guests};
use model::nat::subnet::{Ipv4Net, Ula};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where a bridge's network is kept.
const FOLDER: &str = "networks";

/// What is kept of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The subnets that were chosen.
    pub subnets: Option<(Ipv4Net, Ula)>,
    /// The addresses of cards.
    pub addresses: Addresses,
}

impl Kept {
    /// Reads it.
    pub fn read(bridge: &IfName) -> Result<Self> {
        read(&path(bridge)).map(Option::unwrap_or_default)
    }

    /// Keeps it. A network that can't be kept is another one the next time, which is no reason not to have it. Nothing is synced.
    pub fn write(&self, bridge: &IfName) {
        let path = path(bridge);
        let _ = files::create_folder_of(&path).map_err(|error| failed(&path, &error)).and_then(|()| write(&path, self));
    }
}

fn path(bridge: &IfName) -> PathBuf {
    place::lasting().join(FOLDER).join(format!("{bridge}.json"))
}

/// The guests on a bridge, for who changes them: nobody else does meanwhile.
#[derive(Debug)]
pub struct Register {
    path: PathBuf,
    before: Guests,
    /// They.
    pub guests: Guests,
    _lock: File,
}

impl Register {
    /// Waits for it.
    pub fn open(files: &Files) -> Result<Self> {
        let (path, lock) = (files.nat().join("guests"), files.nat().join("lock"));
        let lock = lock::wait(&lock, Hold::Alone, |error| failed(&lock, error))?;
        let guests: Guests = read(&path)?.unwrap_or_default();
        Ok(Self { path, before: guests.clone(), guests, _lock: lock })
    }

    /// Writes what has changed. Whether anything has.
    pub fn write(&mut self) -> Result<bool> {
        if self.guests == self.before {
            return Ok(false);
        }
        write(&self.path, &self.guests)?;
        self.before = self.guests.clone();
        Ok(true)
    }
}

/// The guests on a bridge, for who only looks.
pub fn guests(files: &Files) -> Result<Guests> {
    read(&files.nat().join("guests")).map(Option::unwrap_or_default)
}

/// Reads a file of ours; `None` where there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = if_there(fs::read(path)).map_err(|error| failed(path, &error))?;
    let read = text.map(|text| serde_json::from_slice(&text)).transpose();
    read.map_err(|error| {
        let what = format!("cannot read {}: {}", path.display(), json_reason(&error));
        Error::new(what, format!("It is made anew without it: rm {}", path.display()))
    })
}

/// Writes a file whole.
pub fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(io::Error::from);
    let written = text.and_then(|text| files::replace(path, &path.with_extension("new"), &text, false));
    written.map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let folder = path.parent().unwrap_or(path).display().to_string();
    Error::new(format!("cannot use {}: {}", path.display(), reason(error)), to_write(error, &folder))
}
