//! Which Linux this is.
#![forbid(unsafe_code)]

use model::error::{Error, Result};
use nix::sys::utsname::uname;

/// A kernel's version, as far as it says what the kernel can do.
type Version = (u32, u32);

/// On older ones the reaper can't read what it watches: the bridge would stay. Found by trying 4.15, 4.18, 5.0 and 5.4.
const OLDEST: Version = (4, 18);
/// The oldest that whole hosts are tried with (docs/hosts.md).
pub const TRIED: &str = "5.10";

/// What `uname -r` says.
pub fn release() -> String {
    uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Checks that bridges can be made and taken back. One that does not say its version is not refused.
pub fn check() -> Result<()> {
    let release = release();
    if !is_older(&release, OLDEST) {
        return Ok(());
    }
    let what = format!("this is Linux {release}, and bridges need {TRIED} or later");
    Err(Error::new(what, "Boot a newer one: Debian 11 and Ubuntu 22.04 have one."))
}

/// Whether it is older than those that were tried.
pub fn is_untried(release: &str) -> bool {
    version(TRIED).is_some_and(|tried| is_older(release, tried))
}

fn is_older(release: &str, than: Version) -> bool {
    version(release).is_some_and(|version| version < than)
}

fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for old in ["2.6.78", "3.10.0-1160.el7.x86_64", "4.15.0-20-generic", "4.9.0"] {
            assert!(is_older(old, OLDEST) && is_untried(old), "{old}");
        }
        for untried in ["4.18.0-553.el8_10.x86_64", "5.4.0-26-generic", "5.9-rc1"] {
            assert!(!is_older(untried, OLDEST) && is_untried(untried), "{untried}");
        }
        for fine in ["5.10.0-32-amd64", "6.1", "10.0.0", "unknown", ""] {
            assert!(!is_older(fine, OLDEST) && !is_untried(fine), "{fine}");
        }
    }
}
