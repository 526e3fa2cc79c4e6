//! User namespaces (user_namespaces(7)).
#![forbid(unsafe_code)]

use nix::sched::{CloneFlags, setns};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Whether this process sees only some of the host's users: its root is not the host's. What can't be read is the host's own.
pub fn has_some_users_only() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map");
    map.is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Whether there is one user in this process's namespace, and that is its root: nobody else can have set anything up here. A
/// container has more.
pub fn has_one_user_only() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut words = map.split_whitespace();
    (words.next(), words.nth(1), words.next()) == (Some("0"), Some("1"), None)
}

/// Takes this process into a user namespace of its user's and a network namespace of that, where it has all rights. It has to
/// have one thread.
pub fn enter(user: &impl AsFd, network: &impl AsFd) -> io::Result<()> {
    setns(user, CloneFlags::CLONE_NEWUSER)?;
    Ok(setns(network, CloneFlags::CLONE_NEWNET)?)
}

/// Why a user can't make a user namespace here, with the command that allows it, as far as the kernel's settings tell.
pub fn why_not() -> Option<(&'static str, &'static str)> {
    const SETTINGS: [(&str, &str, &str, &str); 3] = [
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "users may not make namespaces (kernel.unprivileged_userns_clone)",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "user/max_user_namespaces",
            "0",
            "there may be no user namespaces (user.max_user_namespaces)",
            "sysctl -w user.max_user_namespaces=10000",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor keeps users from making namespaces (kernel.apparmor_restrict_unprivileged_userns)",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let is = |path: &str, value: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(path)).is_ok_and(|text| text.trim() == value)
    };
    let found = SETTINGS.into_iter().find(|(path, value, ..)| is(path, value));
    found.map(|(_, _, why, command)| (why, command))
}
