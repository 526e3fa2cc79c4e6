//! Talks with a QEMU that runs, by its monitor for programs (QMP, docs/interop/qmp-spec.rst of QEMU).
//! It may not know bridges or VMs.
#![forbid(unsafe_code)]

pub mod cards;

use crate::output::errno::reason;
use crate::sys::{files, place, process};
use model::error::{Error, Result};
use model::text;
use model::text::shell::quote;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: usize = 4 << 20;
/// So many events are kept.
const MOST_EVENTS: usize = 64;

/// Why a command was not carried out.
#[derive(Debug)]
pub enum Failure {
    /// QEMU says so, and nothing was changed.
    Refused(String),
    /// It did not answer.
    Silent(io::Error),
}

impl Failure {
    /// The failure as an error, which says of what.
    pub fn of(self, what: &str) -> Error {
        match self {
            Self::Refused(why) => {
                Error::new(format!("{what}: QEMU says: {}", text::one_line(&why)), "Nothing was changed.")
            }
            Self::Silent(error) => Error::new(
                format!("{what}: QEMU does not answer: {}", reason(&error)),
                "See whether it still runs; 'kvm-bridge status' shows what is on the bridge.",
            ),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Silent(error)
    }
}

/// A connection to the monitor of a QEMU.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    /// What has been read and is no whole line yet.
    read: Vec<u8>,
    /// What was told without having been asked for.
    events: Vec<Value>,
}

impl Monitor {
    /// Connects to the socket at a path. It has to be that of this very process: the path is no more than somebody's word.
    pub fn connect(path: &Path, pid: i32) -> Result<Self> {
        let shown = text::one_line(&path.to_string_lossy());
        let cannot = |why: &dyn std::fmt::Display, remedy: &str| {
            Error::new(format!("cannot use QEMU's monitor {shown}: {why}"), remedy)
        };
        let stream = open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN) => cannot(&"too many programs wait for it", "End one of them."),
            _ => cannot(&reason(&error), "See whether the file is still there."),
        })?;
        let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials);
        // Whose it was when it began to listen: a number may be another process's by now.
        let own = nix::unistd::geteuid().as_raw();
        if peer.map(|peer| (peer.pid(), peer.uid())) != Ok((pid, own)) {
            return Err(cannot(
                &format_args!("it is not that of process {pid}"),
                "End the program that listens there.",
            ));
        }
        let mut monitor = Self { stream, read: Vec::new(), events: Vec::new() };
        let greeted = monitor.message(Instant::now() + PATIENCE);
        let negotiated = greeted.map_err(Failure::from).and_then(|_| monitor.execute("qmp_capabilities", json!({})));
        match negotiated {
            Ok(_) => Ok(monitor),
            Err(Failure::Silent(error)) if error.kind() == io::ErrorKind::TimedOut => {
                let remedy = "A monitor talks with one program at a time: end the other, or give QEMU a second -qmp.";
                Err(cannot(&"QEMU does not answer there", remedy))
            }
            Err(failure) => Err(failure.of(&format!("cannot use QEMU's monitor {shown}"))),
        }
    }

    /// Has a command carried out, and returns what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> std::result::Result<Value, Failure> {
        self.ask(command, arguments, &[])
    }

    /// Gives QEMU a copy of a file under a name (`getfd`).
    pub fn give(&mut self, name: &str, file: &impl AsFd) -> std::result::Result<(), Failure> {
        self.ask("getfd", json!({ "fdname": name }), &[file.as_fd()]).map(|_| ())
    }

    fn ask(&mut self, command: &str, arguments: Value, files: &[BorrowedFd]) -> std::result::Result<Value, Failure> {
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.send(request.as_bytes(), files)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let mut message = self.message(end)?;
            if !message["return"].is_null() {
                return Ok(message["return"].take());
            }
            if let Some(error) = message.get("error") {
                return Err(Failure::Refused(error["desc"].as_str().unwrap_or("it does not say why").to_owned()));
            }
            self.keep(message);
        }
    }

    /// Keeps an event for later; of very many the last.
    fn keep(&mut self, event: Value) {
        if self.events.len() >= MOST_EVENTS {
            self.events.remove(0);
        }
        self.events.push(event);
    }

    /// Waits for an event that is wanted; `None` if it has not come until `end`.
    pub fn event(&mut self, end: Instant, is_wanted: impl Fn(&Value) -> bool) -> io::Result<Option<Value>> {
        loop {
            if let Some(at) = self.events.iter().position(&is_wanted) {
                return Ok(Some(self.events.remove(at)));
            }
            match self.message(end) {
                Ok(event) => self.keep(event),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], files: &[BorrowedFd]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !with.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        while !bytes.is_empty() {
            let sent = rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut with, SendFlags::NOSIGNAL)?;
            bytes = &bytes[sent..];
            with.clear();
        }
        Ok(())
    }

    /// The next message, a line of JSON.
    fn message(&mut self, end: Instant) -> io::Result<Value> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(at) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=at).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.read.len() > LONGEST => return Err(io::ErrorKind::InvalidData.into()),
                Ok(length) => self.read.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where a QEMU that this process is going to become has a monitor that only the calling user can open: the folder is closed to
/// others.
pub fn own_path(vm: &str) -> Result<PathBuf> {
    Ok(folder()?.join(format!("{vm}.{}", std::process::id())))
}

fn folder() -> Result<PathBuf> {
    let run = if process::is_root() { place::RUN.into() } else { place::users_run()? };
    // Longer than the name of a network, which a user has beside it.
    Ok(run.join("machine-monitors"))
}

/// Removes what QEMUs that were killed have left.
pub fn tidy() {
    if let Ok(folder) = folder() {
        sweep(&folder);
    }
}

/// Makes its folder, and removes the sockets there that a QEMU which was killed has left.
pub fn prepare(path: &Path) -> Result<()> {
    let unusable = |error: io::Error| {
        let what = format!("cannot use {}: {}", path.display(), reason(&error));
        Error::new(what, "Leave monitor= out, or see that files can be made there.")
    };
    SocketAddrUnix::new(path).map_err(|error| unusable(error.into()))?;
    let folder = path.parent().unwrap_or(path);
    files::create_folder_of(folder).map_err(unusable)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(unusable)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        let what = format!("{} is open to others", folder.display());
        return Err(Error::new(what, format!("Remove it: rm -r {}", quote(folder))));
    }
    sweep(folder);
    Ok(())
}

/// Removes the sockets in a folder that nobody listens on.
fn sweep(folder: &Path) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if open(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The words that have QEMU listen there.
pub fn words(path: &Path) -> [OsString; 2] {
    let path = model::optstr::escape(&path.to_string_lossy());
    ["-qmp".into(), format!("unix:{path},server=on,wait=off").into()]
}

/// Connects without waiting for who has not the time to listen.
fn open(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, rustix::net::SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    /// A stand-in that says these lines to whoever connects, and what the other side makes of it.
    fn with<T>(says: &'static str, ask: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let serves = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(says.as_bytes());
            let mut all = String::new();
            let _ = stream.read_to_string(&mut all);
            all
        });
        let told = ask(&path);
        drop(serves.join());
        told
    }

    #[test]
    fn answers_are_told_from_events_and_only_the_process_itself_is_talked_with() {
        let own = std::process::id() as i32;
        const SAYS: &str = "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"A\"}\r\n{\"return\":[1]}\n{\"error\":{\"desc\":\"no\"}}\n{\"event\":\"B\"}\n";
        with(SAYS, |path| {
            let mut monitor = Monitor::connect(path, own).unwrap();
            assert_eq!(monitor.execute("x", json!({})).unwrap(), json!([1]));
            assert!(matches!(monitor.execute("y", json!({})), Err(Failure::Refused(why)) if why == "no"));
            let end = || Instant::now() + Duration::from_secs(10);
            assert!(monitor.event(end(), |event| event["event"] == "B").unwrap().is_some());
            assert!(monitor.event(end(), |event| event["event"] == "A").unwrap().is_some());
            assert!(monitor.event(Instant::now(), |event| event["event"] == "A").unwrap().is_none());
        });
        let error = with("", |path| Monitor::connect(path, 1).unwrap_err().to_string());
        assert!(error.contains("it is not that of process 1"), "{error}");
        let error = with("nonsense\n", |path| Monitor::connect(path, own).unwrap_err().to_string());
        assert!(error.contains("does not answer"), "{error}");
        assert!(Monitor::connect(Path::new("/missing"), own).unwrap_err().to_string().contains("No such file"));
    }
}
