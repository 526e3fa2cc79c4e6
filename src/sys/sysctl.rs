//! Settings of interfaces (Documentation/networking/ip-sysctl.rst), in the network namespace of the calling thread.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

/// A setting's value; `None` where the kernel has no such setting, or not for this interface.
pub fn read(link: &str, setting: &str) -> Option<String> {
    Some(std::fs::read_to_string(path(link, setting)?).ok()?.trim_end().to_owned())
}

/// Changes a setting of an interface.
pub fn write(link: &str, setting: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(link, setting).ok_or(io::ErrorKind::NotFound)?, value)
}

/// Opens a setting of an interface to be written once. After the interface has another name that fails.
pub fn open(link: &str, setting: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(path(link, setting).ok_or(io::ErrorKind::NotFound)?)
}

/// Where `ipv6/accept_ra` of an interface is.
fn path(link: &str, setting: &str) -> Option<PathBuf> {
    let (family, name) = setting.split_once('/')?;
    Some(["/proc/sys/net", family, "conf", link, name].iter().collect())
}
