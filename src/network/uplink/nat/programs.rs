//! dnsmasq and nft: whether they are there, and new enough.

use crate::sys::program::{Program, is_installed};
use model::error::{Error, Result};
use model::nat::dnsmasq::{OLDEST, version};

/// For each program, the packages that have it.
const PACKAGES: [(&str, &str); 2] = [
    (
        "dnsmasq",
        "apt install dnsmasq-base, dnf install dnsmasq, zypper install dnsmasq, pacman -S dnsmasq, apk add dnsmasq",
    ),
    (
        "nft",
        "apt install nftables, dnf install nftables, zypper install nftables, pacman -S nftables, apk add nftables",
    ),
];

/// By which a network of a user's own may have its way out; the first that is there is taken.
pub const WAYS_OUT: [&str; 2] = ["pasta", "slirp4netns"];

/// Checks that one of them is there.
pub fn check_way_out() -> Result<()> {
    if WAYS_OUT.into_iter().any(is_installed) {
        return Ok(());
    }
    let what = "pasta is missing, which a bridge with uplink=user needs (slirp4netns would do)";
    let remedy = "Have it installed: apt install passt, dnf install passt, zypper install passt, pacman -S passt, apk add passt; \
                  or use QEMU's own -netdev user.";
    Err(Error::new(what, remedy))
}

/// Checks that a network of the host's own can be had.
pub fn check() -> Result<()> {
    for (program, packages) in PACKAGES {
        if !is_installed(program) {
            let what = format!("{program} is missing, which a bridge with uplink=nat or uplink=user needs");
            return Err(Error::new(what, format!("Install it: {packages}.")));
        }
    }
    let said = Program::new("dnsmasq").words(["--version"]).run()?;
    if version(&said).is_some_and(|version| version < OLDEST) {
        let (major, minor) = OLDEST;
        let what = format!("this dnsmasq is too old: {}", said.lines().next().unwrap_or_default());
        return Err(Error::new(what, format!("uplink=nat needs {major}.{minor} or a later one.")));
    }
    // Asks nobody, and fails where it was built without JSON.
    Program::new("nft").words(["-j", "--check", r#"{"nftables":[]}"#]).run().map(|_| ())
}
