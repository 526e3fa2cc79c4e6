//! What a command line does not tell: the environment, QEMU, and files.

use crate::launch;
use crate::state::config;
use model::argv::Environment;
use model::error::Result;
use model::options::Arity;
use model::request::of_variable;
use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Of the longest file for `-readconfig` that is looked into, in bytes.
const LONGEST_CONFIG: u64 = 1 << 20;

/// The caller of the shim.
pub struct Caller<'a> {
    /// The name that we were called by.
    pub name: &'a OsStr,
}

impl Environment for Caller<'_> {
    fn nics(&self) -> Result<Vec<String>> {
        match env::var_os(launch::NICS) {
            Some(value) => of_variable(launch::NICS, &value),
            None => Ok(Vec::new()),
        }
    }

    fn arity(&self, option: &[u8]) -> Arity {
        let qemu = config::load().and_then(|config| launch::find(self.name, &config));
        match qemu {
            Ok(qemu) if !option.is_empty() => qemu.arity(option),
            // An error that is going to be met again.
            _ => Arity::Unknown,
        }
    }

    fn config(&self, path: &[u8]) -> Option<Vec<u8>> {
        let path = Path::new(OsStr::from_bytes(path));
        // What is no file, such as a shell's <(...), can be read only once: by QEMU.
        let is_fit = |metadata: &std::fs::Metadata| metadata.is_file() && metadata.len() <= LONGEST_CONFIG;
        path.metadata().ok().filter(is_fit).and_then(|_| std::fs::read(path).ok())
    }
}
