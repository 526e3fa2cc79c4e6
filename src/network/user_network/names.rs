//! Names as a network of a user's own has them, for one process in it and its children.

use crate::output::errno::reason;
use crate::state::journal::Files;
use crate::sys::{files, place};
use model::error::{Error, Result};
use model::ifname::IfName;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io;
use std::path::Path;

/// Where programs learn whom to ask for names.
const RESOLVER: &str = "/etc/resolv.conf";
/// Where others of the host's are asked, past that file: systemd-resolved by nss-resolve, and nscd.
const OTHERS: [&str; 2] = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket"];

/// Has this process, which is in the network, ask its dnsmasq.
pub fn ask_there(bridge: &IfName) -> Result<()> {
    let Some(network) = Files::of(bridge)?.read()?.and_then(|journal| Some(journal.nat()?.network.clone())) else {
        return Ok(());
    };
    let text = format!("nameserver {}\nsearch {}\n", network.gateway(), network.domain);
    let file = place::run().join("resolv.conf");
    let written = files::replace(&file, &file.with_extension("new"), text.as_bytes(), false);
    written.and_then(|()| look_away(&file)).map_err(|error| {
        let what = format!("cannot have names asked for in {bridge}: {}", reason(&error));
        Error::new(what, "Start it from outside of any sandbox.")
    })
}

/// In a mount namespace of its own nobody else sees it.
fn look_away(file: &Path) -> io::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    for socket in OTHERS.into_iter().filter(|socket| Path::new(socket).exists()) {
        mount(Some("/dev/null"), socket, NONE, MsFlags::MS_BIND, NONE)?;
    }
    match fs::canonicalize(RESOLVER) {
        Ok(resolver) => Ok(mount(Some(file), &resolver, NONE, MsFlags::MS_BIND, NONE)?),
        // Programs ask 127.0.0.1 then: there is nobody.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
