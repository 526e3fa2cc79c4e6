//! A network of a user's own: `uplink=user`, without any right.
//!
//! ```text
//! the host          pasta ─┐ (its sockets are the user's)
//!                          │            a user and network namespace of the user's
//!                          └── up0 ─ masquerading ─ lab 10.77.5.1 ─ kvb0, kvb1 ...
//! QEMU, with the TAP's descriptor ────────────────────────────────────┘
//! ```
//!
//! In the namespace the user has all rights over the network, so all there is as root has it on the host with `uplink=nat`: the
//! same journal, reaper, dnsmasq and rules, in the user's run-time folder ([`place`]). What is left to do:
//!
//! - [`holder`] is the process that pasta starts in the namespace. It makes the bridge, hands the namespace to each start of the
//!   user's who asks at its socket, and ends with the bridge; pasta ends with it. Where there is only slirp4netns, `slirp` makes
//!   the namespace.
//! - [`join`] asks there, or has one started, and sends a child of its own into the namespace, which opens the TAP as root would.
//! - [`relay`] is there for each guest with `forward=`: it listens on the host, and connects in the namespace.
//!
//! Who may enter is the kernel's to decide: the user whose namespace it is.

pub mod holder;
pub mod names;
pub mod relay;
mod slirp;

use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::locks::planned_locked;
use crate::network::made;
use crate::network::made::{Card, Indices, Made};
use crate::network::uplink::nat::{gateway, programs};
use crate::output;
use crate::output::errno::{reason, to_write_own};
use crate::state::journal::Files;
use crate::state::networks;
use crate::sys::lock::Passing;
use crate::sys::{descriptors, files, place, process, program, tap, userns};
use crate::vm::VmId;
use model::config::Config;
use model::error::{Error, FAILED, Result};
use model::ifname::IfName;
use model::mac::Mac;
use model::request::Nic;
use model::text::shell::quote;
use model::uplink::Uplink;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long whoever is asked may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is said of a bridge that its reaper takes back in the moment in which somebody joins it, and how long that takes.
const GONE: &str = "it went away in this moment";
const GONE_FOR: Duration = Duration::from_millis(50);
/// So often a network that ends in this moment is asked for again.
const ATTEMPTS: u32 = 10;

/// Runs as one of its processes, where `words` are of one.
pub fn main(words: &[OsString]) -> Option<i32> {
    let spec = || words.get(1)?.to_str()?.strip_prefix(holder::OPTION)?.strip_prefix('=');
    match words.first()?.to_str()? {
        holder::NAME => Some(holder::become_pasta(words)),
        relay::NAME => Some(relay::main(words)),
        _ => spec().map(holder::main),
    }
}

/// Where the files of one network are.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
    bridge: IfName,
}

impl Place {
    /// That of the calling user's network of this name.
    pub fn of(bridge: &IfName) -> Result<Self> {
        Ok(Self { folder: place::users_run()?, bridge: bridge.clone() })
    }

    /// Those of all networks of the calling user's that run: one whose holder was killed has left its files.
    pub fn all() -> Vec<Self> {
        let Ok(folder) = place::users_run() else { return Vec::new() };
        let names = fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| IfName::new(entry.file_name().to_str()?).ok());
        let mut places: Vec<Self> = names.map(|bridge| Self { folder: folder.clone(), bridge }).collect();
        places.retain(|place| matches!(descriptors::connect(&place.socket()), Ok(Some(_))));
        places.sort_by(|one, other| one.bridge.as_str().cmp(other.bridge.as_str()));
        places
    }

    /// The network's name.
    pub fn bridge(&self) -> &IfName {
        &self.bridge
    }

    /// Where its run-time files are.
    fn run(&self) -> PathBuf {
        self.folder.join(self.bridge.as_str())
    }

    /// Where its holder listens.
    fn socket(&self) -> PathBuf {
        self.run().join("socket")
    }

    /// The lock of all who start or join it, and of the holder that ends.
    fn lock_file(&self) -> PathBuf {
        self.folder.join(format!("{}.lock", self.bridge))
    }

    fn lock(&self) -> Result<Passing> {
        let path = self.lock_file();
        Passing::wait(path.clone(), 1, |error| unusable(&path, error))
    }

    /// Whether something is so in the network, found out by a process of its own there.
    pub fn is_so_there(&self, look: impl FnOnce() -> bool) -> bool {
        let work = || {
            let entrance = self.knock().ok().flatten();
            i32::from(!entrance.is_some_and(|entrance| entrance.enter(self).is_ok() && look()))
        };
        let ended = process::fork_for(work).and_then(|child| waitpid(child, None));
        matches!(ended, Ok(WaitStatus::Exited(_, 0)))
    }

    /// Asks its holder for the namespace; `None` where there is none.
    fn knock(&self) -> Result<Option<Entrance>> {
        let connection = descriptors::connect(&self.socket()).map_err(|error| unusable(&self.socket(), &error))?;
        let Some(connection) = connection else { return Ok(None) };
        // The holder stays, as it hears of this. It need not be waited for but where it has to make the bridge again.
        if let Ok((user, network)) = descriptors::listener_of(&connection).and_then(userns::of) {
            let journal =
                |network: Metadata| self.run().join(network.ino().to_string()).join(format!("{}.json", self.bridge));
            if network.metadata().is_ok_and(|network| journal(network).exists()) {
                return Ok(Some(Entrance { user: user.into(), network: network.into(), _connection: connection }));
            }
        }
        let answer = descriptors::receive(&connection, PATIENCE).map_err(|error| {
            let what = format!("the holder of your network {} does not answer: {}", self.bridge, reason(&error));
            Error::new(
                what,
                format!("See what it does: ps -C kvm-bridge-hold. To do without it: rm {}", self.socket().display()),
            )
        })?;
        // One that was killed, or is about to end.
        let Some((text, files)) = answer else { return Ok(None) };
        match <[OwnedFd; 2]>::try_from(files) {
            Ok([user, network]) => Ok(Some(Entrance { user, network, _connection: connection })),
            Err(_) => Err(told(&text, &self.bridge)),
        }
    }
}

/// The way into a network. It does not end while this is there.
struct Entrance {
    user: OwnedFd,
    network: OwnedFd,
    _connection: OwnedFd,
}

impl Entrance {
    /// Takes this process there.
    fn enter(&self, place: &Place) -> Result<()> {
        place::enter(place.run());
        userns::enter(&self.user, &self.network).map_err(|error| {
            let what = format!("cannot enter the namespace of {}: {}", place.bridge, reason(&error));
            Error::new(what, "Start it from outside of any sandbox.")
        })
    }
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let folder = path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(path);
    let remedy = to_write_own(error, &quote(folder));
    let what = format!("cannot use {}: {}", path.display(), reason(error));
    Error::new(what, format!("Set XDG_RUNTIME_DIR to another folder of yours. {remedy}"))
}

/// An error in a message from another process of ours, which may have said already what it is about.
fn told(text: &[u8], bridge: &IfName) -> Error {
    let value: serde_json::Value = serde_json::from_slice(text).unwrap_or_default();
    let part = |key: &str| value[key].as_str().unwrap_or("it ended without a word").to_owned();
    let (what, about) = (part("what"), format!("--bridge {bridge}: "));
    Error::new(what.strip_prefix(&about).unwrap_or(&what), part("remedy"))
}

/// The same, as the other process sends it.
fn message(error: &Error) -> Vec<u8> {
    serde_json::json!({ "what": error.what(), "remedy": error.remedy().to_string() }).to_string().into_bytes()
}

/// A network card that has joined.
#[derive(Debug)]
pub struct Joined {
    /// The queues of its TAP.
    pub queues: Vec<OwnedFd>,
    /// The host's ports that lead to the guest.
    pub ports: Vec<OwnedFd>,
    /// What people should know of.
    pub notice: Option<String>,
}

/// Whether the calling user has a network of this name that runs.
pub fn is_there(bridge: &IfName) -> bool {
    Place::of(bridge).is_ok_and(|place| place.socket().exists())
}

/// Checks what can be known before one is made, where it is missing.
pub fn check(bridge: &IfName) -> Result<()> {
    let place = Place::of(bridge)?;
    if place.socket().exists() { Ok(()) } else { programs::check_way_out().and_then(|()| programs::check()) }
}

/// Has a TAP made for a guest in a network of the calling user's; where that is missing it is made as `new` has it.
pub fn join(nic: &Nic, new: &Nic, mac: Mac, vm: &VmId) -> Result<Joined> {
    let place = Place::of(&nic.bridge)?;
    let mut ports = nic.forwards.iter().map(gateway::listen_on).collect::<Result<Vec<OwnedFd>>>()?;
    let (lives, holds) = files::pipe().map_err(|error| unusable(&place.run(), &error))?;
    let lives = OwnedFd::from(lives);
    let lock = place.lock()?;
    let mut notice = None;
    for _ in 0..ATTEMPTS {
        let Some(entrance) = place.knock()? else {
            notice = Some(start(&place, new)?);
            continue;
        };
        let queues = match plug(&NewCard { place: &place, nic, mac, vm, lives: &lives, ports: &ports }, &entrance) {
            Err(error) if error.what().ends_with(GONE) => {
                drop(entrance);
                std::thread::sleep(GONE_FOR);
                continue;
            }
            plugged => plugged?,
        };
        drop(lock);
        if !ports.is_empty() {
            // As long as QEMU has it, the relay goes on.
            ports.push(holds.into());
        }
        return Ok(Joined { queues, ports, notice });
    }
    let what = format!("your network {} ends each time that it is asked for", place.bridge);
    Err(Error::new(what, "See who ends its processes."))
}

/// Starts a network, and returns what is to be said of it. For who holds its lock.
fn start(place: &Place, nic: &Nic) -> Result<String> {
    let run = place.run();
    // What a kill left there.
    match fs::remove_dir_all(&run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(&run, &error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&run).map_err(|error| unusable(&run, &error))?;
    let started = holder::start(&run, nic);
    if started.is_err() {
        let _ = fs::remove_dir_all(&run);
    }
    started
}

/// A network card that is about to join.
struct NewCard<'a> {
    place: &'a Place,
    nic: &'a Nic,
    mac: Mac,
    vm: &'a VmId,
    /// Open at its other end as long as its QEMU runs.
    lives: &'a OwnedFd,
    ports: &'a [OwnedFd],
}

/// Sends a child into the network, which opens the TAP there; only a process of its own can come back from a namespace.
fn plug(card: &NewCard, entrance: &Entrance) -> Result<Vec<OwnedFd>> {
    let place = card.place;
    let cannot = |error: io::Error| {
        let what = format!("cannot start the process that joins {}: {}", place.bridge, reason(&error));
        Error::new(what, "See whether the limit on processes is reached: ulimit -u")
    };
    let (ours, theirs) = descriptors::pair().map_err(cannot)?;
    let child = process::fork_for(|| {
        let sent = match plug_inside(card, entrance) {
            Ok(queues) => descriptors::send(&theirs, b"{}", &queues.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
            Err(error) => descriptors::send(&theirs, &message(&error), &[]),
        };
        i32::from(sent.is_err())
    });
    let child = child.map_err(|error| cannot(error.into()))?;
    drop(theirs);
    let answer = descriptors::receive(&ours, PATIENCE);
    // Not there to be waited for, where the caller ignores SIGCHLD.
    let _ = waitpid(child, None);
    match answer.map_err(cannot)? {
        Some((_, queues)) if !queues.is_empty() => Ok(queues),
        Some((text, _)) => Err(told(&text, &place.bridge)),
        None => Err(cannot(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The child's part: all is as root has it on the host.
fn plug_inside(card: &NewCard, entrance: &Entrance) -> Result<Vec<OwnedFd>> {
    let NewCard { place, nic, mac, vm, lives, ports } = *card;
    entrance.enter(place)?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let nics = [inside(nic)];
    let devices = (0..nic.number_of_queues()).map(|_| tap::open_device()).collect::<Result<Vec<File>>>()?;
    let gone = |_: &[&IfName]| Err(Error::new(GONE, "Try again."));
    let (planned, locks) = planned_locked(&mut netlink, &nics, &Config::default(), gone)?;
    let card = Card { vm, mac, forwards: &nic.forwards };
    let announced = if nic.announce { vec![(nic.bridge.clone(), mac)] } else { Vec::new() };
    let open = |made: &mut Made, indices: &Indices| made.taps(&planned.plan, indices, &locks, vec![devices], &[card]);
    let (taps, _) = made::carry_out(netlink, &planned, &locks, announced, open)?;
    if !ports.is_empty() {
        let files = Files::of(&nic.bridge)?;
        let guest = networks::guests(&files)?.all().into_iter().find(|guest| guest.mac == mac);
        let guest = guest.ok_or_else(|| Error::new("the guest was forgotten in this moment", "Try again."))?;
        relay::leave_behind(&files, &guest, lives, ports)?;
    }
    output::step(|| format!("its TAP is in your network {}", nic.bridge));
    Ok(taps.into_iter().flatten().collect())
}

/// A card as its network has it.
fn inside(nic: &Nic) -> Nic {
    Nic { uplink: nic.uplink.as_ref().map(|_| Uplink::Nat), ..nic.clone() }
}

/// What a command of ours says in a network of the user's own.
#[derive(Debug)]
pub struct Said {
    /// On stdout.
    pub out: String,
    /// Its exit status.
    pub status: u8,
}

impl Said {
    /// The values of a list in its JSON.
    pub fn json(&self, list: &str) -> Vec<serde_json::Value> {
        let all: serde_json::Value = serde_json::from_str(&self.out).unwrap_or_default();
        all[list].as_array().cloned().unwrap_or_default()
    }
}

/// The networks of the calling user's, outside of which this process is.
fn others() -> Vec<Place> {
    if place::user_network().is_some() || geteuid().is_root() { Vec::new() } else { Place::all() }
}

/// Whether the calling user has any, and is in none.
pub fn are_there() -> bool {
    !others().is_empty()
}

/// Runs `kvm-bridge WORDS NAME` for each network of the calling user's, outside of which this process is; for so long at the most
/// beyond what is usual.
pub fn each(words: &[&str], more: Duration) -> Vec<Said> {
    let mut said = Vec::new();
    for place in others() {
        let mut command = Command::new("/proc/self/exe");
        command.args(words).arg(place.bridge.as_str());
        let answer = program::answer(&mut command, PATIENCE + more).ok().flatten();
        // One that has ended meanwhile is none.
        said.extend(answer.filter(|answer| !answer.out.is_empty()).map(|answer| {
            let status = answer.status.code().and_then(|code| u8::try_from(code).ok());
            Said { out: answer.out, status: status.unwrap_or(FAILED) }
        }));
    }
    said
}

/// Takes this process into a network of the calling user's, where it finds all as root does on the host. Whether there is one of
/// this name that runs.
pub fn enter(bridge: &IfName) -> Result<bool> {
    let place = Place::of(bridge)?;
    let Some(entrance) = place.knock()? else { return Ok(false) };
    entrance.enter(&place).map(|()| true)
}
