//! The files of the configuration: the system's, and before it a user's own.
//!
//! Root's is the system's alone.

pub mod save;

use crate::output::errno::reason;
use crate::sys::place;
use model::config::Config;
use model::error::{Error, Result};
use std::io;
use std::path::{Path, PathBuf};

/// The system's configuration.
pub const SYSTEM: &str = "/etc/kvm-bridge/config.toml";

/// Reads what there is.
pub fn load() -> Result<Config> {
    let system = system()?;
    let own = own_file().map_or(Ok(Config::default()), |path| read(&path))?;
    Ok(system.overlaid(own))
}

/// Reads the system's alone, which is for all guests of root's.
pub fn system() -> Result<Config> {
    read(Path::new(SYSTEM))
}

/// Which QEMU is configured, for a start that needs nothing else. A file that doesn't name one is not parsed, and one
/// that can't be read is no reason not to start: `tell` hears of it.
pub fn qemu_alone(mut tell: impl FnMut(&Error)) -> Option<PathBuf> {
    let qemu = |path: PathBuf| match text(&path)? {
        Some(text) if Config::may_name_qemu(&text) => Ok(parse_file(&path, &text)?.qemu),
        _ => Ok(None),
    };
    let files = own_file().into_iter().chain([SYSTEM.into()]);
    files.map(qemu).find_map(|qemu| {
        qemu.unwrap_or_else(|error| {
            tell(&error);
            None
        })
    })
}

fn read(path: &Path) -> Result<Config> {
    text(path)?.map_or(Ok(Config::default()), |text| parse_file(path, &text))
}

fn text(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => {
            let what = format!("cannot read {}: {}", path.display(), reason(&error));
            Err(Error::new(what, "Make it readable, or move it away."))
        }
    }
}

fn parse_file(path: &Path, text: &[u8]) -> Result<Config> {
    Config::parse_bytes(text).map_err(|(line, error)| error.of(format_args!("{}:{line}", path.display())))
}

fn own_file() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() && place::user_network().is_none() {
        return None;
    }
    let folders = directories::ProjectDirs::from("", "", "kvm-bridge")?;
    Some(folders.config_dir().join("config.toml"))
}
