//! Programs of others that are run for us: with a known small environment, in the root folder, without a descriptor of
//! ours or of our caller's, and with an end to every wait.

use crate::error::{Error, Result, reason};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for; the reaper has no environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a command may take that tells somebody something.
const TELLING: Duration = Duration::from_secs(20);
/// How long a daemon may take to put itself into the background; after that it is left to itself.
const STARTING: Duration = Duration::from_secs(4);

/// A program that is going to run.
pub struct Program {
    command: Command,
    name: String,
    group: Option<String>,
    dies_with_us: bool,
}

impl Program {
    /// A program by its path, or by its name on a usual PATH.
    pub fn new(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { command, name, group: None, dies_with_us: false }
    }

    /// Its arguments.
    pub fn words<W: AsRef<std::ffi::OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.command.args(words);
        self
    }

    /// The name that it is called by, where that is another one than its own.
    pub fn called(mut self, name: &str) -> Self {
        self.command.arg0(name);
        self
    }

    /// The control group that it is to live in, if there is such a one: that of the service whose part it takes.
    pub fn in_group(mut self, group: Option<&str>) -> Self {
        self.group = group.map(str::to_owned);
        self
    }

    /// Until it is in the background it is killed when we are: nobody would find it where it is executed after that.
    pub fn dying_with_us(mut self) -> Self {
        self.dies_with_us = true;
        self
    }

    /// Runs it; it has to succeed. What it says.
    pub fn run(mut self) -> Result<String> {
        let (mut out, mut err) = (file()?, file()?);
        let mut child = self.spawn(&out, &err)?;
        match wait(&mut child, TELLING) {
            Some(status) if status.success() => Ok(text(&mut out)),
            Some(status) => Err(failed(&self.name, status, &text(&mut err))),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                let what = format!("{} did not end within {} seconds", self.name, TELLING.as_secs());
                Err(Error::new(what, "See whether it works when it is run by hand."))
            }
        }
    }

    /// Starts a daemon, and waits until it has put itself into the background, if it does so soon.
    pub fn start(mut self) -> Result<()> {
        let (out, mut err) = (file()?, file()?);
        let mut child = self.spawn(&out, &err)?;
        match wait(&mut child, STARTING) {
            Some(status) if !status.success() => Err(failed(&self.name, status, &text(&mut err))),
            _ => Ok(()),
        }
    }

    fn spawn(&mut self, out: &File, err: &File) -> Result<Child> {
        let cannot = |error: io::Error| {
            let what = format!("cannot run {}: {}", self.name, reason(&error));
            Error::new(what, "See whether it is installed.")
        };
        self.command.stdout(out.try_clone().map_err(cannot)?).stderr(err.try_clone().map_err(cannot)?);
        let mut group = self.group.as_deref().and_then(group_file);
        let parent = self.dies_with_us.then(nix::unistd::getpid);
        let prepare = move || {
            if let Some(parent) = parent {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                if nix::unistd::getppid() != parent {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
            // It is there, or it is not: no reason to fail.
            if let Some(file) = &mut group {
                let _ = file.write_all(b"0");
            }
            nix::unistd::setsid()?;
            // What the reaper ignores a daemon must hear.
            super::process::hear_all_signals()?;
            super::process::close_by_exec(3);
            Ok(())
        };
        // SAFETY: system calls only: no memory is asked for, no lock taken.
        unsafe { self.command.pre_exec(prepare) };
        self.command.spawn().map_err(cannot)
    }
}

/// Where a control group takes its processes (cgroups(7), version 2).
fn group_file(group: &str) -> Option<File> {
    File::options().write(true).open(format!("/sys/fs/cgroup{group}/cgroup.procs")).ok()
}

/// A file for what a program says. Not a pipe, which a daemon would hold open.
fn file() -> Result<File> {
    memfd_create(c"said", MFdFlags::MFD_CLOEXEC).map(File::from).map_err(|error| {
        Error::new(format!("cannot make a file in memory: {}", error.desc()), "See whether memory is left: free")
    })
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind();
    let _ = file.take(64 * 1024).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Err(_) => return None,
            Ok(None) if Instant::now() >= end => return None,
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn failed(name: &str, status: ExitStatus, said: &str) -> Error {
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim().to_owned();
    Error::new(format!("{name} failed ({status}): {last}"), "See whether it works when it is run by hand.")
}
