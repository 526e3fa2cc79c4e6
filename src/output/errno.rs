//! What the kernel's errors mean for people.
#![forbid(unsafe_code)]

use kvm_bridge_helper::container;
use model::text::shell::quote;
use nix::errno::Errno;

/// What an errno means, without Rust's `(os error N)`.
pub fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => words(Errno::from_raw(number)).to_owned(),
        None => error.to_string(),
    }
}

/// The C library's words, but for those that tell what the errno once meant, on other machines or for other things.
pub fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOTTY => "this is no device that knows the request",
        Errno::EBADF => "the file is not open",
        Errno::EBADFD => "the interface behind it is gone",
        Errno::EXFULL => "there is no room for one more",
        Errno::EUSERS => "there are too many users",
        Errno::ESRCH => "there is none",
        Errno::ENXIO => "there is no device behind it",
        Errno::ENOSYS => "this kernel does not know it",
        Errno::EOPNOTSUPP => "it is not supported here",
        Errno::EAFNOSUPPORT | Errno::EPFNOSUPPORT => "this kernel does not have the protocol",
        Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT => "this kernel does not have this kind of socket",
        Errno::ENFILE => "the whole system has as many files open as it can have",
        Errno::EMFILE => "this process has as many files open as it may have",
        Errno::ENOBUFS => "the kernel has no memory for it",
        Errno::EAGAIN => "it is not to be had at the moment",
        Errno::E2BIG => "arguments and environment are longer than the kernel takes",
        Errno::EFBIG => "a file may not become so large (ulimit -f)",
        Errno::ETXTBSY => "the program is being written",
        Errno::ENOEXEC => "this is no program for this machine",
        Errno::ELOOP => "links lead in a circle",
        Errno::EXDEV => "it is on another file system",
        Errno::ERANGE | Errno::EDOM => "the value is not one that is allowed",
        Errno::ENODATA => "it has no such attribute",
        Errno::ENOTCONN | Errno::EDESTADDRREQ | Errno::ESHUTDOWN => "nobody is at the other end",
        Errno::EDQUOT => "this user may use no more of the disk",
        Errno::ESTALE => "the file is gone from its server",
        other => other.desc(),
    }
}

/// What is to be done where a right is missing that root has: by root in a container, at the container's start.
pub fn as_root(command: &str) -> String {
    match nix::unistd::geteuid().is_root() {
        true if container::is_container() => format!("{}.", container::REMEDY),
        true => "This root has not the right: see whether 'capsh --print' lists cap_net_admin.".to_owned(),
        false => format!("Run it as root: {command}"),
    }
}

/// The same where the command is this one again, of `kvm-bridge`, with all of its words.
pub fn again_as_root() -> String {
    let words: Vec<String> = std::env::args_os().skip(1).map(quote).collect();
    as_root(&format!("sudo kvm-bridge {}", words.join(" ")))
}

/// What is to be done where a folder of root's can't be written to.
pub fn to_write(error: &std::io::Error, folder: &str) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES | Errno::EPERM) if !nix::unistd::geteuid().is_root() => "Run it as root.".to_owned(),
        _ => to_write_own(error, folder),
    }
}

/// The same of the caller's own.
pub fn to_write_own(error: &std::io::Error, folder: &str) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EFBIG) => "Raise the limit on files before: ulimit -f unlimited".to_owned(),
        Some(Errno::EROFS) => {
            format!("To see what is mounted there: findmnt -T {folder}; then: mount -o remount,rw ...")
        }
        Some(Errno::ENOSPC | Errno::EDQUOT) => format!("Make room: df {folder}; df -i {folder}"),
        Some(Errno::EMFILE | Errno::ENFILE) => "Raise the limit on open files before: ulimit -n".to_owned(),
        _ => format!("To see whose it is, and what keeps writers out: ls -ld {folder}; findmnt -T {folder}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_errno_is_told_in_the_words_of_another_age() {
        for number in 1..134 {
            let said = reason(&std::io::Error::from_raw_os_error(number));
            for old in ["typewriter", "Bad file", "bad state", "tables full", "overflow", "transport endpoint"] {
                assert!(!said.contains(old), "{number}: {said}");
            }
        }
        assert_eq!(reason(&std::io::Error::from_raw_os_error(libc::EPERM)), "Operation not permitted");
    }
}
