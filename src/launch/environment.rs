//! What a command line does not tell: the environment, QEMU, and files.

use crate::launch;
use crate::state::config;
use model::argv::Environment;
use model::error::{Error, Result};
use model::options::Arity;
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
        nics_of_environment()
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

/// The values in the environment variable, which a shell's quotes may hold together.
fn nics_of_environment() -> Result<Vec<String>> {
    let variable = launch::NICS;
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else {
        return Ok(Vec::new());
    };
    let fault = |why: &str| {
        let what = format!("the environment variable {variable} {why}");
        Error::new(what, format!("Write it as the value of --bridge: {variable}=br0,model=virtio-net-pci"))
    };
    let text = value.to_str().ok_or_else(|| fault("is not UTF-8"))?;
    let values = shell_words::split(text).map_err(|_| fault("has a quote that is not closed"))?;
    match values.iter().any(|value| value.starts_with("--bridge") || value.starts_with("-bridge")) {
        true => Err(fault("has the option itself in it")),
        false => Ok(values),
    }
}
