//! The configuration file.
//!
//! Root's is the system's alone; a user's own comes before it. An unknown key is an error with its line: a setting that
//! is silently not there is worse than none.

use crate::error::{Error, Result, reason};
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

/// The system's configuration.
pub const SYSTEM: &str = "/etc/kvm-bridge/config.toml";

/// What can be configured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The real QEMU: a path, or a name to be found on PATH.
    pub qemu: Option<PathBuf>,
    /// The network card that guests see, in place of `e1000`.
    pub model: Option<String>,
}

impl Config {
    /// Reads what there is.
    pub fn load() -> Result<Self> {
        let system = Self::read(Path::new(SYSTEM))?;
        let own = match own_file() {
            Some(path) => Self::read(&path)?,
            None => Self::default(),
        };
        Ok(Self { qemu: own.qemu.or(system.qemu), model: own.model.or(system.model) })
    }

    fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|why| {
                let remedy = "Its keys are qemu = \"PATH\" and model = \"DEVICE\".";
                Error::new(format!("{}: {why}", path.display()), remedy)
            }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Self::default())
            }
            Err(error) => {
                let what = format!("cannot read {}: {}", path.display(), reason(&error));
                Err(Error::new(what, "Make it readable, or move it away."))
            }
        }
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line}: {}", error.message().replace('\n', ", "))
        })
    }
}

fn own_file() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return None;
    }
    let folders = directories::ProjectDirs::from("", "", "kvm-bridge")?;
    Some(folders.config_dir().join("config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_the_line() {
        assert!(Config::parse("qemu = \"x\"\n\ncolour = 1\n").unwrap_err().starts_with("line 3: unknown field"));
        assert!(Config::parse("qemu = 5\n").unwrap_err().starts_with("line 1: "));
        assert!(Config::parse("model = \"virtio-net-pci\"\nqemu = \n").unwrap_err().starts_with("line 2: "));
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }
}
