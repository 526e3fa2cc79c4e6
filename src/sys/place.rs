//! Where files are that outlive a process: root's, or in a network of a user's own (`crate::network::user_network`) that user's.
#![forbid(unsafe_code)]

use crate::output::errno::reason;
use crate::sys::userns;
use model::error::{Error, Result};
use nix::unistd::geteuid;
use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where root's run-time files are.
pub const RUN: &str = "/run/kvm-bridge";
/// Where root's lasting files are.
pub const LASTING: &str = "/var/lib/kvm-bridge";
/// Tells a process in a network of a user's own where its run-time files are. Nobody else believes it.
pub const VARIABLE: &str = "KVM_BRIDGE_RUN";

/// Where lasting files are put, by the rules of XDG.
pub const STATE: &str = "XDG_STATE_HOME";

/// The run-time files of the user's network that this process is in, and that user's lasting ones: there the user is root, with
/// root's home.
static USER_NETWORK: OnceLock<(PathBuf, Option<PathBuf>)> = OnceLock::new();

/// Finds out which network this process was started in.
pub fn find_out() {
    if let Some(run) = env::var_os(VARIABLE).filter(|_| userns::has_one_user_only()) {
        enter(run.into());
    }
}

/// From now on the files are those of a network of the user's own. To be called before the user is another there, or with the
/// variables of `environment`.
pub fn enter(run: PathBuf) {
    let _ = USER_NETWORK.set((run, own()));
}

/// What tells a process in a network of the calling user's own where its files are.
pub fn environment(run: &Path) -> [(&'static str, PathBuf); 2] {
    let state = users().and_then(|folder| folder.parent().map(Path::to_owned));
    [(VARIABLE, run.to_owned()), (STATE, state.unwrap_or_else(|| run.to_owned()))]
}

/// The run-time files of the network of the user's own that this process is in; `None` on the host.
pub fn user_network() -> Option<&'static Path> {
    USER_NETWORK.get().map(|(run, _)| run.as_path())
}

/// Where run-time files are.
pub fn run() -> &'static Path {
    user_network().unwrap_or(Path::new(RUN))
}

/// Where files are that are to last.
pub fn lasting() -> PathBuf {
    match user_network() {
        None => LASTING.into(),
        Some(run) => users().unwrap_or_else(|| run.to_owned()),
    }
}

/// Where a user's lasting files are.
pub fn users() -> Option<PathBuf> {
    USER_NETWORK.get().map_or_else(own, |(_, own)| own.clone())
}

fn own() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "kvm-bridge")?;
    folders.state_dir().map(Path::to_owned)
}

/// Where the calling user's run-time files are: in the run-time folder of their session, else in one of their own in /tmp.
pub fn users_run() -> Result<PathBuf> {
    let uid = geteuid();
    let is_theirs = |folder: &Path| {
        fs::symlink_metadata(folder)
            .is_ok_and(|found| found.is_dir() && found.uid() == uid.as_raw() && found.mode() & 0o022 == 0)
    };
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let sessions = [named, Some(PathBuf::from(format!("/run/user/{uid}")))];
    if let Some(folder) = sessions.into_iter().flatten().find(|folder| is_theirs(folder)) {
        return Ok(folder.join("kvm-bridge"));
    }
    let folder = PathBuf::from(format!("/tmp/kvm-bridge-{uid}"));
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::new(
            format!("cannot use {}: {}", folder.display(), reason(&error)),
            "Set XDG_RUNTIME_DIR to a folder of yours with a short name.",
        )),
        _ if is_theirs(&folder) => Ok(folder.join("networks")),
        _ => {
            let what = format!("{} is not yours alone", folder.display());
            Err(Error::new(what, "Set XDG_RUNTIME_DIR to a folder of yours that nobody else can write."))
        }
    }
}
