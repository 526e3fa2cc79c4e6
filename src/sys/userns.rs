//! User namespaces (user_namespaces(7)).
#![forbid(unsafe_code)]

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs::{self, File};
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

/// The user and the network namespace of a process of this user's.
pub fn of(process: i32) -> io::Result<(File, File)> {
    let open = |name: &str| File::open(format!("/proc/{process}/ns/{name}"));
    Ok((open("user")?, open("net")?))
}

/// Takes this process into a user namespace of its user's and a network namespace of that, where it has all rights. It has to
/// have one thread.
pub fn enter(user: &impl AsFd, network: &impl AsFd) -> io::Result<()> {
    setns(user, CloneFlags::CLONE_NEWUSER)?;
    Ok(setns(network, CloneFlags::CLONE_NEWNET)?)
}

/// Makes a user namespace with this process's user as its only one and root, and with a network, and processes that the next child
/// is the first of. This process has to have one thread.
pub fn make() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    let of_network = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    unshare(CloneFlags::CLONE_NEWUSER | of_network | CloneFlags::CLONE_NEWUTS)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Lets users make user namespaces by a program, where only those with a profile may.
const PROFILE: &str = "echo 'abi <abi/4.0>, profile kvm-bridge \"PROGRAM\" flags=(unconfined) { userns, }' | \
    sudo tee /etc/apparmor.d/kvm-bridge | sudo apparmor_parser -r";

/// Why a user can't make a user namespace here by `program`, with root's command that allows it, as far as the kernel's settings
/// tell.
pub fn why_not(program: &Path) -> Option<(&'static str, String)> {
    told_by(Path::new("/proc/sys"), program)
}

fn told_by(settings: &Path, program: &Path) -> Option<(&'static str, String)> {
    const SETTINGS: [(&str, &str, &str, &str); 3] = [
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "users may not make namespaces (kernel.unprivileged_userns_clone)",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            "user/max_user_namespaces",
            "0",
            "there may be no user namespaces (user.max_user_namespaces)",
            "sudo sysctl -w user.max_user_namespaces=10000",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "AppArmor keeps users from making namespaces (kernel.apparmor_restrict_unprivileged_userns)",
            PROFILE,
        ),
    ];
    let is = |path: &str, value: &str| fs::read_to_string(settings.join(path)).is_ok_and(|text| text.trim() == value);
    let found = SETTINGS.into_iter().find(|(path, value, ..)| is(path, value));
    // A profile that allows it to this program alone (apparmor.d(5)), as packaging/apparmor has it.
    found.map(|(.., why, command)| (why, command.replace("PROGRAM", &program.display().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_keeps_users_from_is_told_with_the_command_that_allows_it() {
        let settings = tempfile::tempdir().unwrap();
        let told = || told_by(settings.path(), Path::new("/opt/a b/qemu-kvm")).map(|(_, command)| command);
        let set = |name: &str, value: &str| {
            let path = settings.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        set("kernel/apparmor_restrict_unprivileged_userns", "0\n");
        set("user/max_user_namespaces", "15000\n");
        assert_eq!(told(), None);
        set("kernel/apparmor_restrict_unprivileged_userns", "1\n");
        let command = told().unwrap();
        let profile = r#"profile kvm-bridge "/opt/a b/qemu-kvm" flags=(unconfined) { userns, }"#;
        assert!(command.contains(profile) && command.ends_with("| sudo apparmor_parser -r"), "{command}");
        set("user/max_user_namespaces", "0\n");
        assert!(told().unwrap().contains("sudo sysctl -w user.max_user_namespaces="));
    }
}
