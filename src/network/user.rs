//! Whose rights are looked at, and with whose eyes: root sees files that the person does not, and what they do not see
//! decides what the helper says to them.
#![forbid(unsafe_code)]

use crate::network::rootless;
use kvm_bridge_helper::acl::Caller;
use nix::unistd::{User, geteuid, getgrouplist, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, capabilities, set_capabilities, set_thread_groups};
use std::ffi::CString;
use std::io;
use std::thread::Builder;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The name, or the number.
    pub name: String,
    /// As the rules know them, with all their groups.
    pub caller: Caller,
}

impl Person {
    /// Who runs this program.
    pub fn caller() -> Self {
        Self { name: rootless::user(), caller: rootless::caller() }
    }

    /// The user of this name, or number, who need not have a name.
    pub fn named(name: &str) -> Option<Self> {
        let number: Option<u32> = name.parse().ok();
        let by_number = || number.and_then(|number| User::from_uid(number.into()).ok().flatten());
        let Some(user) = User::from_name(name).ok().flatten().or_else(by_number) else {
            return number.map(|uid| Self { name: name.to_owned(), caller: Caller { uid, gids: Vec::new() } });
        };
        let groups = CString::new(user.name).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
        let gids = [user.gid].into_iter().chain(groups.unwrap_or_default()).map(|gid| gid.as_raw()).collect();
        Some(Self { name: name.to_owned(), caller: Caller { uid: user.uid.as_raw(), gids } })
    }

    /// Nobody in particular, who is in no group: only what is for everybody is for them.
    pub fn anybody() -> Self {
        Self { name: "everybody".to_owned(), caller: Caller { uid: 65534, gids: vec![65534] } }
    }

    /// Looks as this person does. Only root can; whoever else asks looks with their own eyes.
    pub fn look<T: Send>(&self, look: impl FnOnce() -> T + Send) -> io::Result<T> {
        if !geteuid().is_root() || self.caller.uid == 0 {
            return Ok(look());
        }
        std::thread::scope(|scope| {
            let looking = Builder::new().spawn_scoped(scope, || become_user(&self.caller).map(|()| look()))?;
            let looked = looking.join().unwrap_or_else(|_| Err(rustix::io::Errno::CANCELED));
            looked.map_err(io::Error::from)
        })
    }
}

/// Makes this thread, and it alone, look at files as somebody else, for as long as it lives: by the IDs for file systems alone
/// (setfsuid(2); the capabilities over files go with them). With that user's real or effective ID in it, that user could stop and
/// end this process, and set its limits.
fn become_user(caller: &Caller) -> rustix::io::Result<()> {
    let gids: Vec<Gid> = caller.gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&gids)?;
    // Who is known by a number only has no group, and not root's.
    let (uid, gid) = (caller.uid, caller.gids.first().copied().unwrap_or(65534));
    setfsgid(gid.into());
    setfsuid(uid.into());
    // They tell what was before, never whether they failed.
    let is_done = setfsgid(gid.into()).as_raw() == gid && setfsuid(uid.into()).as_raw() == uid;
    // Others let it through as well, such as the one over processes by /proc/PID/cwd.
    let sets = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..sets })?;
    if is_done { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}
