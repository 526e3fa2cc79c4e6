//! `kvm-bridge ssh`.

use crate::cli::connect::WAIT;
use crate::cli::guest::DOMAIN;
use crate::output::errno::reason;
use clap::Args;
use model::error::{CANNOT_EXECUTE, Error, NOT_FOUND, Result};
use model::text::shell::quote;
use model::vm::VmId;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

/// The arguments of `kvm-bridge ssh`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ssh {
    /// The VM, as for 'kvm-bridge ip', and the user in it
    #[arg(id = "guest", value_name = "[USER@]VM")]
    destination: String,
    /// Wait until the VM exists and its ssh server listens, at most 60 seconds or so long
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = WAIT,
        value_parser = crate::cli::seconds
    )]
    wait: Option<u32>,
    /// Options of ssh(1), and the command for the guest
    #[arg(last = true)]
    args: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge ssh root@alice
  kvm-bridge ssh --wait alice -- uptime
  kvm-bridge ssh alice -- -p 2222 -L 8080:localhost:80
It runs ssh through 'kvm-bridge connect'. The host key is stored under the VM's name with '.vm' behind it, and
'Host *.vm' in ssh_config applies. Exit status: that of ssh; 126 it cannot be executed, 127 it is not found.";

impl Ssh {
    pub(super) fn run(self) -> Result<String> {
        let (user, vm) = match self.destination.rsplit_once('@') {
            Some((user, vm)) => (Some(user), vm),
            None => (None, self.destination.as_str()),
        };
        if vm.is_empty() || user.is_some_and(str::is_empty) {
            let what = format!("'{}' names no VM and user", model::text::one_line(&self.destination));
            return Err(Error::new(what, "Write [USER@]VM, for example root@alice."));
        }
        let wait = self.wait.map(|seconds| format!(" --wait={seconds}")).unwrap_or_default();
        let program = quote(program()?);
        let proxy = format!("{program} connect{wait} -- {}", quote(vm)).replace('%', "%%") + " %p";
        let alias = alias(vm);
        let mut ssh = Command::new("ssh");
        ssh.arg("-o").arg(format!("ProxyCommand={proxy}")).arg("-o").arg(format!("HostKeyAlias={alias}"));
        if let Some(user) = user {
            ssh.arg("-l").arg(user);
        }
        let error = ssh.arg(alias).args(self.args).exec();
        let what = format!("cannot execute ssh: {}", reason(&error));
        let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE };
        Err(Error::new(what, "Install OpenSSH's client: openssh-client, or openssh-clients.").with_status(status))
    }
}

/// What ssh calls a VM: its name where that can be a host's, else one that no other VM has.
fn alias(vm: &str) -> String {
    let vm = vm.strip_suffix(DOMAIN).filter(|short| !short.is_empty()).unwrap_or(vm);
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let is_plain = vm.chars().all(is_plain) && !vm.starts_with(['-', '.']) && vm.len() < 200;
    let name = if is_plain { vm.to_owned() } else { VmId::said(vm).file_name() };
    name.trim_start_matches('-').to_owned() + DOMAIN
}

/// This program, as a shell finds it.
fn program() -> Result<PathBuf> {
    let own = env::current_exe().ok().filter(|path| path.exists() && path.to_str().is_some());
    own.ok_or_else(|| {
        let what = "the file of this program has been deleted, or its path is not UTF-8";
        Error::new(what, "Run it by its path now.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vm_has_a_name_for_ssh() {
        for name in ["alice", "alice.vm", "web-1.example.org"] {
            assert_eq!(alias(name), format!("{}.vm", name.trim_end_matches(".vm")));
        }
        for (name, begin) in [("Alice", "Alice-"), ("a b", "ab-"), ("-oX", "oX-"), ("$(x)", "x-"), ("é", "")] {
            let alias = alias(name);
            assert!(alias.starts_with(begin) && alias.ends_with(".vm"), "{alias}");
            assert!(alias.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{alias}");
            assert!(!alias.starts_with('-'), "{alias}");
        }
        assert_ne!(alias("a b"), alias("ab"));
    }
}
