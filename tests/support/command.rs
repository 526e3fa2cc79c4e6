//! Our programs, run in the laboratory: what goes in, what comes out, and an end to every wait.

use super::lab::Lab;
use super::processes::Process;
use super::processes::is_alive;
use super::record::Record;
use super::wait::{patiently, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// No program here has a reason to take longer than this; guests say their own limit.
const RUN_LIMIT: u64 = 60;

/// The known small environment that every program gets.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that is going to run, with the fake QEMU as the real one.
pub struct Cmd<'lab> {
    lab: &'lab Lab,
    words: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Stdio,
    files: Files,
}

/// Where a run leaves its output. Files, not pipes: nobody who inherits them can keep a test waiting.
#[derive(Clone)]
struct Files {
    out: PathBuf,
    err: PathBuf,
    record: PathBuf,
}

impl<'lab> Cmd<'lab> {
    pub fn new(lab: &'lab Lab, program: impl AsRef<OsStr>) -> Self {
        let stem = lab.new_file("run");
        let file = |end: &str| stem.with_extension(end);
        let files = Files { out: file("out"), err: file("err"), record: file("record") };
        let env = [
            ("PATH", OsString::from(PATH)),
            ("HOME", "/run/home".into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("KVM_BRIDGE_QEMU", fake_qemu().into()),
            ("FAKE_QEMU_RECORD", files.record.clone().into()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self { lab, words: vec![program.as_ref().to_owned()], env, stdin: Stdio::null(), files }
    }

    /// Words divided by blanks; `arg` takes any other.
    pub fn words(mut self, words: &str) -> Self {
        self.words.extend(words.split_whitespace().map(OsString::from));
        self
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self = self.without_env(name);
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    /// The program's own search for QEMU, on a PATH of the test.
    pub fn finding_qemu_on(self, path: impl AsRef<OsStr>) -> Self {
        self.without_env("KVM_BRIDGE_QEMU").env("PATH", path)
    }

    /// What the fake QEMU does once it has recorded everything.
    pub fn then(self, deeds: &str) -> Self {
        self.env("FAKE_QEMU_THEN", deeds)
    }

    /// Runs it by way of another program: `env --ignore-signal=PIPE`, `strace -o file`.
    pub fn through(mut self, launcher: &str) -> Self {
        self.words.splice(0..0, launcher.split_whitespace().map(OsString::from));
        self
    }

    /// Kills it at its Nth of these system calls, which is not carried out; false if it does not come so far.
    #[track_caller]
    pub fn dies_at(self, calls: &str, nth: usize) -> bool {
        let strace = format!("strace -qq -e trace={calls} -e inject={calls}:signal=KILL:when={nth} -o /dev/null");
        self.through(&strace).run().signal() == Some(Signal::SIGKILL as i32)
    }

    /// Runs it from a shell script in which `"$0" "$@"` is the program.
    pub fn through_sh(mut self, script: &str) -> Self {
        self.words.splice(0..0, ["sh", "-c", script].map(OsString::from));
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn run(self) -> Ended {
        self.start().end()
    }

    /// Starts it with a QEMU that stays, and waits until that QEMU runs.
    #[track_caller]
    pub fn boot(self) -> Running<'lab> {
        let mut running = self.then("hold").start();
        running.qemu();
        running
    }

    #[track_caller]
    pub fn start(self) -> Running<'lab> {
        self.lab.mark_before_first_run();
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env_clear().envs(self.env).stdin(self.stdin);
        let output = |path: &Path| File::create(path).expect("create an output file");
        command.stdout(output(&self.files.out)).stderr(output(&self.files.err));
        let child = command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", self.words[0]));
        Running { child, files: self.files, record: None, _lab: self.lab }
    }

    /// The bare command, for a test that needs other pipes or terminals.
    pub fn into_command(self) -> Command {
        self.lab.mark_before_first_run();
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env_clear().envs(self.env);
        command
    }
}

/// A program in the background; killed by its PID when the test lets go of it.
pub struct Running<'lab> {
    child: Child,
    files: Files,
    record: Option<Record>,
    _lab: &'lab Lab,
}

impl Running<'_> {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What the fake QEMU recorded; waits until it has.
    #[track_caller]
    pub fn qemu(&mut self) -> &Record {
        if self.record.is_none() {
            let found = patiently(Duration::from_secs(RUN_LIMIT), || {
                let ended = self.child.try_wait().expect("wait for the program").is_some();
                read_record(&self.files.record).map(Some).or_else(|| ended.then_some(None))
            });
            let Some(record) = found.flatten().or_else(|| read_record(&self.files.record)) else {
                panic!("QEMU never ran; stderr:\n{}", self.err());
            };
            self.record = Some(record);
        }
        self.record.as_ref().expect("just read")
    }

    pub fn out(&self) -> String {
        text(&self.files.out)
    }

    pub fn err(&self) -> String {
        text(&self.files.err)
    }

    /// It, as /proc has it.
    pub fn process(&self) -> Process {
        Process { pid: self.pid(), command: String::new() }
    }

    /// Waits until it has done all that it can, and waits for something to happen.
    #[track_caller]
    pub fn waits(&self) {
        wait_for("it to wait for something", 10, || self.process().is_waiting().then_some(()));
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the program runs");
    }

    #[track_caller]
    pub fn end(self) -> Ended {
        self.end_within(RUN_LIMIT)
    }

    #[track_caller]
    pub fn end_within(mut self, seconds: u64) -> Ended {
        let what = format!("the end of process {}; stderr so far:\n{}", self.pid(), self.err());
        let status = wait_for(&what, seconds, || self.child.try_wait().expect("wait for the program"));
        Ended {
            status,
            pid: self.pid(),
            out: self.out(),
            err: self.err(),
            record: read_record(&self.files.record),
            daemon: fs::read_to_string(self.files.record.with_extension("record.daemon"))
                .ok()
                .and_then(|pid| pid.parse().ok()),
        }
    }

    /// Ends it as a shutdown does.
    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.end()
    }

    #[track_caller]
    pub fn kill(self) -> Ended {
        self.signal(Signal::SIGKILL);
        self.end()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if is_alive(self.pid()) && self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub struct Ended {
    pub status: ExitStatus,
    pub pid: i32,
    pub out: String,
    pub err: String,
    record: Option<Record>,
    /// The process that goes on after `daemonize`.
    pub daemon: Option<i32>,
}

impl Ended {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits_with(0)
    }

    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{:?}\nstdout:\n{}\nstderr:\n{}", self.status, self.out, self.err);
        self
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    pub fn qemu_ran(&self) -> bool {
        self.record.is_some()
    }

    #[track_caller]
    pub fn qemu(&self) -> &Record {
        match &self.record {
            Some(record) => record,
            None => panic!("QEMU never ran: {:?}; stderr:\n{}", self.status, self.err),
        }
    }
}

fn read_record(path: &Path) -> Option<Record> {
    fs::read_to_string(path).ok().map(|text| Record::parse(&text))
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Cargo builds examples into a folder beside the one of the tests.
pub fn fake_qemu() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let fake = test.parent().and_then(Path::parent).expect("target/debug").join("examples/fake-qemu");
    assert!(fake.is_file(), "{} is not built: cargo build --examples", fake.display());
    fake
}
