//! A program of others that runs beside this process, as a user without rights, and never longer than this process.

use crate::sys::files;
use crate::sys::process::{close_by_exec, hear_all_signals};
use crate::sys::program::{PATH, find};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid, setsid};
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities, set_keep_capabilities,
    set_no_new_privs,
};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Who it runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: Uid,
    /// Their group.
    pub gid: Gid,
}

/// The first of these users that there is.
pub fn account(names: &[&str]) -> Option<Account> {
    let user = names.iter().find_map(|name| User::from_name(name).ok().flatten())?;
    Some(Account { uid: user.uid, gid: user.gid }).filter(|account| !account.uid.is_root())
}

/// A program that runs. It is killed when this is dropped, and by the kernel when the thread that started it ends: whatever
/// ends this process ends it too.
#[derive(Debug)]
pub struct Companion {
    child: Child,
    pidfd: OwnedFd,
    said: File,
}

impl Companion {
    /// Starts it, as this account or else as the caller, with these capabilities and no way to get more. To be called by the thread that stays.
    pub fn start(
        program: &str,
        words: &[String],
        account: Option<Account>,
        capabilities: &'static [CapabilitySet],
    ) -> io::Result<Self> {
        let path = find(Path::new(program)).ok_or(io::ErrorKind::NotFound)?;
        let said = files::in_memory(b"")?;
        let mut command = Command::new(path);
        command.args(words).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?);
        let parent = rustix::process::getpid();
        let prepare = move || become_unprivileged(account, capabilities, parent);
        // SAFETY: system calls only: no memory is asked for, no lock taken.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self { child, pidfd, said })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it had to say on stderr before it ended; `None` while it runs.
    pub fn end(&mut self) -> io::Result<Option<String>> {
        if self.child.try_wait()?.is_none() {
            return Ok(None);
        }
        let mut said = Vec::new();
        self.said.rewind()?;
        self.said.by_ref().take(4096).read_to_end(&mut said)?;
        Ok(Some(String::from_utf8_lossy(&said).trim().to_owned()))
    }
}

impl AsFd for Companion {
    /// Readable when it has ended; for `poll`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What its process does before it is the program.
fn become_unprivileged(account: Option<Account>, capabilities: &[CapabilitySet], parent: Pid) -> io::Result<()> {
    setsid()?;
    hear_all_signals()?;
    close_by_exec(3);
    set_keep_capabilities(true)?;
    if let Some(Account { uid, gid }) = account {
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    let all = capabilities.iter().fold(CapabilitySet::empty(), |all, one| all | *one);
    set_capabilities(None, CapabilitySets { effective: all, permitted: all, inheritable: all })?;
    for capability in capabilities {
        configure_capability_in_ambient_set(*capability, true)?;
    }
    set_no_new_privs(true)?;
    // Last: a change of users forgets it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}
