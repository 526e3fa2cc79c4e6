//! The first process in a network of a user's own, which holds it: pasta starts it there, and ends when it does.

use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::locks::planned_locked;
use crate::network::uplink::nat::programs::WAYS_OUT;
use crate::network::uplink::nat::rules::carry_out;
use crate::network::user_network::{PATIENCE, Place, message, slirp, told};
use crate::network::{made, reaper};
use crate::output::errno::reason;
use crate::state::events::{self, Event};
use crate::state::journal::Files;
use crate::sys::lock::{Hold, Passing};
use crate::sys::process::{Stderr, leave_behind};
use crate::sys::program::{PATH, find, is_installed};
use crate::sys::{descriptors, files, memory, place, process, sysctl, userns};
use model::config::Config;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::request::Nic;
use model::uplink::user;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::ffi::{CStr, CString, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The name of the process that becomes pasta; the program dispatches on it.
pub const NAME: &str = "kvm-bridge-pasta";
/// The word that makes this program the holder. Not its name: pasta's AppArmor profile executes what is in /usr/bin, such as env(1),
/// and nothing else.
pub const OPTION: &str = "--bridge-hold";

/// Starts a network with its bridge, and returns what is to be said of it. For who holds its lock.
pub(super) fn start(run: &Path, nic: &Nic) -> Result<String> {
    let cannot = |error: std::io::Error| Error::new(format!("cannot start it: {}", reason(&error)), "Try again.");
    let said = files::in_memory(b"").map_err(cannot)?;
    let (ours, theirs) = descriptors::pair().map_err(cannot)?;
    // It is taken by the process that becomes pasta.
    descriptors::send(&ours, b"stderr", &[said.as_fd()]).map_err(cannot)?;
    let net = nic.net.map(|net| format!(",net={net}")).unwrap_or_default();
    let mtu = nic.mtu.map(|mtu| format!(",mtu={mtu}")).unwrap_or_default();
    let keep = if nic.keep == Some(true) { ",keep=on" } else { "" };
    let spec = format!("{},uplink=nat{net}{mtu}{keep}", nic.bridge.as_str().replace(',', ",,"));
    let places = place::environment(run).map(|(_, place)| place.into_os_string());
    let words = [NAME.into(), spec.into()].into_iter().chain(places);
    let words: Vec<CString> = words.map(|word: OsString| CString::new(word.as_bytes()).unwrap_or_default()).collect();
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    leave_behind(&words, &theirs, Stderr::Null)?;
    drop(theirs);
    match descriptors::receive(&ours, PATIENCE).map_err(cannot)? {
        Some((text, _)) => match text.strip_prefix(b"made ") {
            Some(subnet) => Ok(user::notice(&nic.bridge, &String::from_utf8_lossy(subnet), nic.keep == Some(true))),
            None => Err(told(&text, &nic.bridge)),
        },
        None => Err(refusal(said)),
    }
}

/// Why pasta has ended.
fn refusal(mut said: File) -> Error {
    let mut text = String::new();
    let _ = said.rewind().and_then(|()| said.by_ref().take(4096).read_to_string(&mut text));
    // Where there is no syslog it tells of that first.
    let mut lines = text.lines().filter(|line| !line.contains("to syslog") && !line.trim().is_empty());
    let what = lines.next_back().unwrap_or("it ended without a word").trim();
    let program = if is_installed(WAYS_OUT[0]) { WAYS_OUT[0] } else { WAYS_OUT[1] };
    // With that it has made its namespace.
    let is_allowed = what.contains("routable interface");
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    match userns::why_not(&own).filter(|_| !is_allowed) {
        Some((why, command)) => {
            let remedy = format!(
                "Have that allowed, once: {command}\n  Or have a bridge of the host's: sudo kvm-bridge up, with a helper; or \
                 QEMU's own -netdev user."
            );
            Error::new(format!("cannot make a network of your own: {why}"), remedy)
        }
        None => Error::new(
            format!("cannot make a network of your own: {program} says: {what}"),
            "The host needs a default route, and users have to be allowed to make user namespaces.",
        ),
    }
}

/// Becomes pasta; `words` are as `start` gives them. Returns only if that fails.
pub fn become_pasta(words: &[OsString]) -> i32 {
    let told = process::inherited();
    let [_, spec, run, state] = words else { return 1 };
    let Ok(Some((_, mut files))) = descriptors::receive(&told, PATIENCE) else { return 1 };
    let exe = fs::read_link("/proc/self/exe").unwrap_or_default();
    let (Some(spec), Some(exe), Some(stderr)) = (spec.to_str(), exe.to_str(), files.pop()) else { return 1 };
    let holder = ["/usr/bin/env", exe, &format!("{OPTION}={spec}")];
    let with_surroundings = |mut command: Command, out: Stdio| {
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env(place::VARIABLE, run).env(place::STATE, state);
        let stderr = stderr.try_clone().map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(Stdio::null()).stdout(out).stderr(stderr);
        command
    };
    let Some(pasta) = find(Path::new(WAYS_OUT[0])) else {
        let mut command = Command::new(holder[0]);
        command.args(&holder[1..]);
        let Some(program) = find(Path::new(WAYS_OUT[1])) else { return 1 };
        return slirp::start(
            with_surroundings(command, told.into()),
            with_surroundings(Command::new(program), Stdio::null()),
        );
    };
    let is_on_loopback = user::is_resolver_on_loopback(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut command = Command::new(pasta);
    command.args(user::pasta(holder, is_on_loopback));
    let error = with_surroundings(command, told.into()).exec();
    i32::from(error.raw_os_error().is_some())
}

/// Runs as the holder, in the namespace. Its stdout is the one who waits for it.
pub fn main(spec: &str) -> i32 {
    let _ = nix::sys::prctl::set_name(c"kvm-bridge-hold");
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    process::ignore_requests_to_end();
    let Ok(starter) = process::take_stdout() else { return 1 };
    let made = Network::make(spec);
    // Where the one who asked for it has gone the reaper takes the bridge back.
    let _ = match &made {
        Ok((_, subnet)) => descriptors::send(&starter, format!("made {subnet}").as_bytes(), &[]),
        Err(error) => descriptors::send(&starter, &message(error), &[]),
    };
    drop(starter);
    let Ok((network, _)) = made else { return 1 };
    memory::trim();
    let bridge = network.nic.bridge.clone();
    match network.hold() {
        Ok(()) => 0,
        Err(error) => {
            events::tell(Event::Fault, &bridge, &format!("{bridge}: {error}"));
            1
        }
    }
}

/// The network in whose namespace this is.
struct Network {
    nic: Nic,
    place: Place,
    files: Files,
    listener: OwnedFd,
    /// The inode of its socket: another network of this name may be in the place of one that somebody deleted.
    socket: u64,
    ended: SignalFd,
}

impl Network {
    /// Makes it, and tells its subnet.
    fn make(spec: &str) -> Result<(Self, String)> {
        let nic = Nic::parse(spec.as_bytes())?;
        let run =
            place::user_network().ok_or_else(|| Error::new("this is no namespace of a user's", "Give uplink=user."))?;
        let folder = run.parent().unwrap_or(run).to_owned();
        let place = Place { folder, bridge: nic.bridge.clone() };
        let cannot = |error: std::io::Error| Error::new(format!("cannot hold it: {}", reason(&error)), "Try again.");
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|error| cannot(error.into()))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let ended = SignalFd::with_flags(&mask, flags).map_err(|error| cannot(error.into()))?;
        // What leaves the loopback for the host's resolver leaves by pasta's interface.
        sysctl::write(user::UPLINK, "ipv4/route_localnet", "1").map_err(cannot)?;
        carry_out(&user::rules())?;
        let files = Files::of(&nic.bridge)?;
        let listener = descriptors::listen(&place.socket()).map_err(cannot)?;
        let socket = fs::metadata(place.socket()).map_err(cannot)?.ino();
        let network = Self { nic, place, files, listener, socket, ended };
        network.make_bridge()?;
        let subnet = network.files.read()?.and_then(|journal| Some(journal.nat()?.network.subnet));
        Ok((network, subnet.map(|subnet| subnet.to_string()).unwrap_or_default()))
    }

    fn make_bridge(&self) -> Result<()> {
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let nics = std::slice::from_ref(&self.nic);
        let is_to_be_made = |_: &[&IfName]| Ok(());
        let (planned, locks) = planned_locked(&mut netlink, nics, &Config::default(), is_to_be_made)?;
        made::carry_out(netlink, &planned, &locks, Vec::new(), |_, _| Ok(())).map(|_| ())
    }

    /// Hands the namespace to all who ask, until the bridge is gone and nobody is about to join.
    fn hold(&self) -> Result<()> {
        let mut guests_to_be: Vec<OwnedFd> = Vec::new();
        loop {
            let own = [self.listener.as_fd(), self.ended.as_fd()].into_iter();
            let all = own.chain(guests_to_be.iter().map(AsFd::as_fd));
            let mut events: Vec<PollFd> = all.map(|file| PollFd::new(file, PollFlags::POLLIN)).collect();
            match poll(&mut events, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(Error::new(format!("cannot wait: {}", error.desc()), "Try again.")),
                Ok(_) => {}
            }
            let ready: Vec<bool> = events.iter().map(|event| event.any().unwrap_or(true)).collect();
            let asked = ready[0];
            // Those of whom something is heard have joined, or given up.
            let mut has_gone = ready.into_iter().skip(2);
            guests_to_be.retain(|_| has_gone.next() != Some(true));
            while matches!(self.ended.read_signal(), Ok(Some(_))) {}
            // It is the first process of its namespace, whose orphans are its children.
            while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive) {}
            if let Ok(Some(guest)) = asked.then(|| descriptors::accept(&self.listener)).transpose() {
                match self.let_in(&guest) {
                    Ok(()) => guests_to_be.push(guest),
                    Err(error) => {
                        let _ = descriptors::send(&guest, &message(&error), &[]);
                    }
                }
            }
            if guests_to_be.is_empty() && self.is_over()? {
                return Ok(());
            }
        }
    }

    /// Gives somebody who is about to join the namespace, with the bridge in it.
    fn let_in(&self, guest: &OwnedFd) -> Result<()> {
        // One that is about to be taken back in this moment is asked for again.
        if !self.files.exist() {
            self.make_bridge()?;
        }
        let namespace = |name: &str| File::open(format!("/proc/thread-self/ns/{name}"));
        let sent = namespace("user").and_then(|user| {
            let network = namespace("net")?;
            descriptors::send(guest, b"{}", &[user.as_fd(), network.as_fd()])
        });
        sent.map_err(|error| Error::new(format!("cannot hand over its namespace: {}", reason(&error)), "Try again."))
    }

    /// Whether there is no bridge any more, and nobody who wants it. Then all files of it are gone.
    fn is_over(&self) -> Result<bool> {
        if self.files.exist() {
            if !self.files.has_reaper() {
                // Who ends it takes the lock first.
                let _lock = self.files.lock(Hold::Alone)?;
                if self.files.exist() {
                    reaper::ensure(self.files.bridge(), &self.files)?;
                }
            }
            return Ok(false);
        }
        // Somebody may have deleted the files under its feet.
        let mut netlink = Netlink::open().map_err(unreadable)?;
        if netlink.link(&self.nic.bridge).map_err(unreadable)?.is_some() {
            return Ok(false);
        }
        // Who holds it is about to ask: that is heard.
        let Ok(Some(_lock)) = Passing::try_alone(self.place.lock_file(), 1) else { return Ok(false) };
        if fs::metadata(self.place.socket()).is_ok_and(|socket| socket.ino() == self.socket) {
            let _ = fs::remove_dir_all(self.place.run());
        }
        Ok(true)
    }
}
