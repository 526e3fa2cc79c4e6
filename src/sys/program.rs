//! Programs of others that are run for us, with an end to every wait.

use crate::output::errno::reason;
use crate::sys::files;
use crate::sys::process::{close_by_exec, hear_all_signals};
use model::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for, whatever PATH says: the caller's is the caller's, and the reaper has none.
const FOLDERS: [&str; 6] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
/// What they get for PATH themselves.
pub(crate) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a command may take, unless it is said.
const USUAL: Duration = Duration::from_secs(20);
/// How long one that is killed may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// How often it is looked whether a program has ended.
const STEP: Duration = Duration::from_millis(1);
/// More than any program has to say.
const LONGEST: usize = 4 << 20;

/// What a program said, and its end.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed on stdout.
    pub out: String,
    /// What it printed on stderr.
    pub err: String,
}

/// Runs a program to its end and reads what it says. `None` if that takes longer than `limit`: it is ended then, and with
/// it all of its process group, if it has one of its own. It is its end that counts, not that of its output, which a
/// daemon may hold open, and which it may close and run on.
pub fn answer(command: &mut Command, limit: Duration) -> io::Result<Option<Answer>> {
    let end = Instant::now() + limit;
    let _heard = EndsAreTold::new()?;
    let (out, child_out) = files::pipe()?;
    let (err, child_err) = files::pipe()?;
    files::do_not_block(&out)?;
    files::do_not_block(&err)?;
    let spawned = command.stdout(child_out).stderr(child_err).spawn();
    // Its copies of the pipes' ends go.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned?;
    let (mut out, mut err) = (Stream::new(out), Stream::new(err));
    loop {
        let status = child.try_wait()?;
        // What it wrote before its end is there by now.
        out.read();
        err.read();
        if let Some(status) = status {
            return Ok(Some(Answer { status, out: out.text(), err: err.text() }));
        }
        if Instant::now() >= end {
            kill(&mut child);
            return Ok(None);
        }
        let mut open: Vec<PollFd> = [&out, &err]
            .into_iter()
            .filter_map(|stream| Some(PollFd::new(stream.pipe.as_ref()?.as_fd(), PollFlags::POLLIN)))
            .collect();
        let _ = poll(&mut open, PollTimeout::try_from(STEP).unwrap_or(PollTimeout::ZERO));
    }
}

/// What comes through a pipe, as far as anybody wants to know it.
struct Stream {
    pipe: Option<File>,
    said: Vec<u8>,
}

impl Stream {
    fn new(pipe: File) -> Self {
        Self { pipe: Some(pipe), said: Vec::new() }
    }

    /// Takes what is there. From a program that prints without end no more is taken.
    fn read(&mut self) {
        let mut chunk = [0; 16 * 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(length @ 1..) if self.said.len() < LONGEST => self.said.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => self.pipe = None,
            }
        }
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }
}

/// Ends a child, and those of its group.
fn kill(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill();
    wait(child, ENDING);
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Err(_) => return None,
            Ok(None) if Instant::now() >= end => return None,
            Ok(None) => std::thread::sleep(STEP),
        }
    }
}

/// While it is there the kernel tells how children end, also where the caller ignores SIGCHLD, and with it all ends.
struct EndsAreTold(SigAction);

impl EndsAreTold {
    fn new() -> nix::Result<Self> {
        let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action is no function of ours.
        unsafe { sigaction(Signal::SIGCHLD, &action) }.map(Self)
    }
}

impl Drop for EndsAreTold {
    fn drop(&mut self) {
        // SAFETY: it is as it was before.
        let _ = unsafe { sigaction(Signal::SIGCHLD, &self.0) };
    }
}

/// Where a program is: in the usual folders, as far as root alone can have put it there.
pub fn find(name: &Path) -> Option<PathBuf> {
    let paths = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    paths.into_iter().find(|path| path.is_file() && files::are_roots_alone(path))
}

/// Whether there is such a program in the usual folders.
pub fn is_installed(name: &str) -> bool {
    find(Path::new(name)).is_some()
}

/// A program that is going to run: with a known small environment, in the root folder, without a descriptor of ours or of
/// our caller's.
pub struct Program {
    command: Command,
    name: String,
    is_there: bool,
    limit: Duration,
}

impl Program {
    /// A program by its path, or by its name in the usual folders.
    pub fn new(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref();
        let path = if program.is_absolute() { Some(program.to_owned()) } else { find(program) };
        let mut command = Command::new(path.as_deref().unwrap_or(program));
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { command, name, is_there: path.is_some(), limit: USUAL }
    }

    /// How long it may take.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Its arguments.
    pub fn words<W: AsRef<std::ffi::OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.command.args(words);
        self
    }

    /// What it reads on stdin.
    pub fn reading(mut self, text: &str) -> Result<Self> {
        let file = files::in_memory(text.as_bytes()).map_err(|error| self.cannot(&error))?;
        self.command.stdin(file);
        Ok(self)
    }

    /// Runs it; it has to succeed. What it says.
    pub fn run(mut self) -> Result<String> {
        match self.prepare().and_then(|()| answer(&mut self.command, self.limit)) {
            Ok(Some(Answer { status, out, .. })) if status.success() => Ok(out),
            Ok(Some(Answer { status, err, .. })) => Err(failed(&self.name, status, &err)),
            Ok(None) => {
                let what = format!("{} did not end within {} seconds", self.name, self.limit.as_secs());
                Err(Error::new(what, "Run it in a shell to see what is wrong."))
            }
            Err(error) => Err(self.cannot(&error)),
        }
    }

    fn cannot(&self, error: &io::Error) -> Error {
        Error::new(format!("cannot run {}: {}", self.name, reason(error)), "See whether it is installed.")
    }

    /// What its process does before it is the program.
    fn prepare(&mut self) -> io::Result<()> {
        if !self.is_there {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let prepare = || {
            nix::unistd::setsid()?;
            // What the reaper ignores it must hear.
            hear_all_signals()?;
            close_by_exec(3);
            Ok(())
        };
        // SAFETY: system calls only: no memory is asked for, no lock taken.
        unsafe { self.command.pre_exec(prepare) };
        Ok(())
    }
}

fn failed(name: &str, status: ExitStatus, said: &str) -> Error {
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim().to_owned();
    Error::new(format!("{name} failed ({status}): {last}"), "Run it in a shell to see what is wrong.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command
    }

    fn within(script: &str, seconds: u64) -> Option<Answer> {
        answer(&mut sh(script), Duration::from_secs(seconds)).unwrap()
    }

    #[test]
    fn it_is_its_end_that_counts() {
        let Answer { status, out, err } = within("echo said; sleep 1000 & echo $! >&2; exit 3", 10).unwrap();
        assert_eq!((status.code(), out.as_str()), (Some(3), "said\n"));
        nix::sys::signal::kill(Pid::from_raw(err.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
        assert!(within("exec >&- 2>&-; sleep 1000", 1).is_none());
        assert!(answer(&mut Command::new("/missing"), USUAL).is_err());
    }

    #[test]
    fn all_of_it_is_read_but_not_without_end() {
        assert_eq!(within("head -c 300000 /dev/zero; head -c 5 /dev/zero >&2", 10).unwrap().out.len(), 300_000);
        let length = within("exec yes", 10).unwrap().out.len();
        assert!((LONGEST..LONGEST + (1 << 20)).contains(&length));
    }

    #[test]
    fn only_what_root_alone_can_change_is_executed() {
        let is_executed = |path: &Path| files::are_roots_alone(path);
        assert!(is_executed(Path::new("/bin/sh")) && !is_executed(Path::new("/missing")));
        let folder = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
        let link = folder.path().join("sh");
        std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
        assert!(!is_executed(&link), "whoever may write to /tmp decides where it leads");
        assert!(find(Path::new("../../tmp")).is_none());
        let error = Program::new("no-such-program").run().unwrap_err().to_string();
        assert!(error.starts_with("cannot run no-such-program: No such file"), "{error}");
    }
}
