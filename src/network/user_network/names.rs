//! Names as a network of a user's own has them, for one process in it and its children: those of guests, and the user's own, who is
//! root there and would have root's home and name.

use crate::output::errno::reason;
use crate::state::journal::Files;
use crate::sys::{files, place};
use model::error::{Error, Result};
use model::ifname::IfName;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::User;
use std::fs;
use std::io;
use std::path::Path;

/// Where programs learn whom to ask for names.
const RESOLVER: &str = "/etc/resolv.conf";
/// Where others of the host's are asked, past that file: systemd-resolved by nss-resolve, and nscd.
const NONE: Option<&str> = None;
const OTHERS: [&str; 2] = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket"];

/// Where users are.
const USERS: &str = "/etc/passwd";

/// Has this process, which is in the network, ask its dnsmasq, and know its user by name.
pub fn ask_there(bridge: &IfName, user: Option<&User>) -> Result<()> {
    let Some(network) = Files::of(bridge)?.read()?.and_then(|journal| Some(journal.nat()?.network.clone())) else {
        return Ok(());
    };
    let resolver = format!("nameserver {}\nsearch {}\n", network.gateway(), network.domain);
    let done = alone().and_then(|()| put(RESOLVER, &resolver));
    let done =
        done.and_then(|()| user.map_or(Ok(()), |user| put(USERS, &with_user(user, &fs::read_to_string(USERS)?))));
    done.map_err(|error| {
        let what = format!("cannot have names asked for in {bridge}: {}", reason(&error));
        Error::new(what, "Start it from outside of any sandbox.")
    })
}

/// What follows is seen by nobody else. Nobody is asked for names but by the files of libc.
fn alone() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    for socket in OTHERS.into_iter().filter(|socket| Path::new(socket).exists()) {
        mount(Some("/dev/null"), socket, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
}

/// Puts another text in the place of a file; where there is none there is nothing to be asked.
fn put(at: &str, text: &str) -> io::Result<()> {
    let Some(at) = files::if_there(fs::canonicalize(at))? else { return Ok(()) };
    let file = place::run().join(format!("seen.{}", std::process::id()));
    files::replace(&file, &file.with_extension("new"), text.as_bytes(), false)?;
    let done = mount(Some(&file), &at, NONE, MsFlags::MS_BIND, NONE);
    fs::remove_file(&file)?;
    Ok(done?)
}

/// The users with this one as the one of number 0.
fn with_user(User { name, dir, shell, .. }: &User, users: &str) -> String {
    let own = format!("{name}:x:0:0::{}:{}\n", dir.display(), shell.display());
    let others = users.lines().filter(|line| !line.starts_with(&format!("{name}:")));
    own + &others.map(|line| format!("{line}\n")).collect::<String>()
}
