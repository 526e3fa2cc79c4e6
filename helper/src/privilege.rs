//! Becoming the caller, and the one right that is kept: CAP_NET_ADMIN.
#![forbid(unsafe_code)]

use crate::acl::Caller;
use crate::sys::{self, Capabilities, NET_ADMIN};
use nix::sys::prctl;
use nix::unistd::{getgid, getgroups, getuid, setresgid, setresuid};
use std::io;

/// That CAP_NET_ADMIN is within reach, and not in effect. To be had once, from `drop_to_caller`.
#[derive(Debug)]
pub struct Reserve(());

/// That it is in effect.
#[derive(Debug)]
pub struct InEffect(());

/// Makes this process the caller's own, with nothing in effect, and tells who that is; and the reserve, if this program
/// was given the capability or is setuid root (or root runs it).
///
/// The supplementary groups are the caller's already. Whatever fails here is the end: there is no going on with more.
pub fn drop_to_caller() -> io::Result<(Caller, Option<Reserve>)> {
    // From here on no exec gives rights, and nobody without rights of their own looks in or attaches (ptrace(2)).
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    sys::clear_environment();
    nix::unistd::chdir("/")?;
    // Else the change of the user would take all capabilities.
    prctl::set_keepcaps(true)?;
    let (uid, gid) = (getuid(), getgid());
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)?;
    let kept = sys::capabilities()?.permitted[0] & NET_ADMIN;
    let sets = Capabilities { permitted: [kept, 0], ..Capabilities::default() };
    sys::set_capabilities(sets)?;
    sys::clear_ambient()?;
    // To change the user from one that is not root to the same makes the process readable again where suid_dumpable is 1.
    prctl::set_dumpable(false)?;
    let is_dropped = nix::unistd::getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [uid; 3])
        && nix::unistd::getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [gid; 3])
        && sys::capabilities()? == sets;
    if !is_dropped {
        return Err(io::Error::other("the rights are not those that were asked for"));
    }
    let gids = getgroups()?.iter().map(|gid| gid.as_raw()).chain([gid.as_raw()]).collect();
    Ok((Caller { uid: uid.as_raw(), gids }, (kept != 0).then_some(Reserve(()))))
}

impl Reserve {
    /// Takes the capability into effect.
    pub fn take(self) -> io::Result<InEffect> {
        sys::set_capabilities(Capabilities {
            effective: [NET_ADMIN, 0],
            permitted: [NET_ADMIN, 0],
            ..Capabilities::default()
        })?;
        Ok(InEffect(()))
    }
}

impl InEffect {
    /// Gives it up for good.
    pub fn renounce(self) -> io::Result<()> {
        sys::set_capabilities(Capabilities::default())
    }
}
