//! dnsmasq of one bridge, beside the bridge's reaper.
//!
//! Its folder has `hosts/` with a file for each guest, which is root's, and the file `leases`, which is dnsmasq's: nobody else
//! reads that. It is killed with the thread that started it; the next one reads its leases, and guests keep their addresses in any
//! case, as these are their files'.

use crate::output::errno::{reason, to_write};
use crate::state::networks;
use crate::sys::companion::{Account, Companion, account};
use crate::sys::files;
use crate::sys::place;
use crate::sys::process;
use crate::sys::tap_users::command_line;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::mac::Mac;
use model::nat::Nat;
use model::nat::dnsmasq::{Places, words};
use model::nat::guest::Guest;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};
use rustix::thread::CapabilitySet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

/// Who it runs as: the user that distributions have for it, or nobody.
const USERS: [&str; 2] = ["dnsmasq", "nobody"];
/// It would become another user, where it is root of a namespace.
const STAY: [&str; 2] = ["--user=root", "--group="];
/// To send to who has no address yet, to hear who asks, and to be on ports 53 and 67.
const CAPABILITIES: &[CapabilitySet] =
    &[CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW, CapabilitySet::NET_BIND_SERVICE];
/// Where programs learn whom to ask for names. It is read again when it has changed.
const RESOLVER: &str = "/etc/resolv.conf";

/// A dnsmasq that runs.
#[derive(Debug)]
pub struct Server(Companion);

impl Server {
    /// Starts it; its files are in `folder`. By the thread that stays: with that it ends.
    pub fn start(nat: &Nat, bridge: &IfName, folder: &Path) -> Result<Self> {
        let cannot = |error: &io::Error| {
            let what = format!("cannot start dnsmasq for {bridge}: {}", reason(error));
            Error::new(what, "See whether it works: dnsmasq --test --conf-file=/dev/null.")
        };
        let nobody = || Error::new("there is no user that dnsmasq could run as", "Add one: useradd --system dnsmasq.");
        // In a network of a user's own there is nobody else.
        let account = if place::user_network().is_some() { None } else { Some(account(&USERS).ok_or_else(nobody)?) };
        prepare(folder, account).map_err(|error| cannot(&error))?;
        let (hosts, leases) = (folder.join("hosts"), folder.join("leases"));
        let places = Places { hosts: &hosts, leases: &leases, resolver: Path::new(RESOLVER) };
        let mut words = words(nat, bridge, places);
        words.extend(account.is_none().then_some(STAY).into_iter().flatten().map(str::to_owned));
        let started = Companion::start("dnsmasq", &words, account, CAPABILITIES);
        started.map(Self).map_err(|error| cannot(&error))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Why it has ended; `None` while it runs.
    pub fn end(&mut self) -> Option<Error> {
        let said = match self.0.end() {
            Ok(None) => return None,
            Ok(Some(said)) => said,
            Err(error) => reason(&error),
        };
        let said = said.lines().next().map(|line| line.trim_start_matches("dnsmasq: ").to_owned());
        let what = format!("dnsmasq has ended: {}", said.as_deref().unwrap_or("it was killed"));
        Some(Error::new(what, "It is started again: kvm-bridge recover."))
    }
}

impl AsFd for Server {
    /// Readable when it has ended; for `poll`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn prepare(folder: &Path, account: Option<Account>) -> io::Result<()> {
    let (hosts, leases) = (folder.join("hosts"), folder.join("leases"));
    files::create_folder_of(&hosts.join("guest"))?;
    // A file, and no folder, in which it could put what it likes.
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&leases);
    drop(opened?);
    account.map_or(Ok(()), |account| chown(&leases, Some(account.uid.as_raw()), Some(account.gid.as_raw())))
}

/// Notes that it runs, for who looks.
pub fn note(folder: &Path, server: &Server) -> Result<()> {
    networks::write(&folder.join("server"), &server.pid())
}

/// Whether the one that was noted last runs; `None` before the first has been started. Who may not see its words has to believe its
/// number.
pub fn runs(folder: &Path, bridge: &IfName) -> Option<bool> {
    let pid = networks::read::<i32>(&folder.join("server")).ok().flatten();
    pid.map(|pid| {
        if place::user_network().is_some() {
            return runs_inside(folder);
        }
        let process = Path::new("/proc").join(pid.to_string());
        let own = format!("--interface={bridge}");
        let words = process.metadata().ok().and_then(|found| command_line(&process, found.uid()));
        // One that has ended and was not waited for has none.
        let is_it = words.is_none_or(|words| has(&words, &own));
        is_it && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
    })
}

/// The same in a network of a user's own, whose processes have other numbers outside. Only those in that network count, which are that
/// user's: what others say of themselves is not even read.
fn runs_inside(folder: &Path) -> bool {
    let (own, network) = (format!("--dhcp-leasefile={}", folder.join("leases").display()), process::own_network());
    let is_it = |process: &Path| {
        network.is_some()
            && process::network_of(process) == network
            && command_line(process, geteuid().as_raw()).is_some_and(|words| has(&words, &own))
    };
    process::all().any(|(process, _)| is_it(&process))
}

/// Whether a command line has a word.
fn has(words: &[u8], own: &str) -> bool {
    words.split(|byte| *byte == 0).any(|word| word == own.as_bytes())
}

/// Makes a guest known to the server, which reads it at once if it runs.
pub fn know(guest: &Guest, domain: &str, folder: &Path) -> Result<()> {
    let (path, new) = files_of(guest.mac, folder);
    files::create_folder_of(&path)
        .and_then(|()| files::replace(&path, &new, guest.host_line(domain).as_bytes(), false))
        .map_err(|error| cannot_write(&path, &error))
}

/// Has the server forget a guest that is not there.
pub fn forget(mac: Mac, folder: &Path) -> Result<()> {
    let (path, _) = files_of(mac, folder);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_write(&path, &error)),
        _ => Ok(()),
    }
}

/// The file of a guest, named by its MAC address, and that which becomes it.
fn files_of(mac: Mac, folder: &Path) -> (PathBuf, PathBuf) {
    let hosts = folder.join("hosts");
    let name = mac.to_string().replace(':', "-");
    // What begins with a dot is not read by it.
    (hosts.join(&name), hosts.join(format!(".{name}")))
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    let what = format!("cannot write {}: {}", path.display(), reason(error));
    Error::new(what, to_write(error, &path.parent().unwrap_or(path).display().to_string()))
}

/// Removes its files.
pub fn tidy(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let what = format!("cannot remove {}: {}", folder.display(), reason(&error));
            Err(Error::new(what, "Remove it by hand."))
        }
        _ => Ok(()),
    }
}
