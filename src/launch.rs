//! Finds the real QEMU, and becomes it, with what it inherits.
//! It may not change the network.

pub mod board;
pub mod environment;
pub mod inherited;
pub mod kept;
mod known;
pub mod kvm;
pub mod refusal;

use crate::output;
use crate::output::errno;
use crate::state::config;
use crate::sys::program;
use crate::sys::program::Answer;
use crate::sys::{entry, files, process};
use model::chain::{Chain, FileId};
use model::config::Config;
use model::error::{CANNOT_EXECUTE, Error, NOT_FOUND, Result};
use model::options::Arity;
use model::text::shell::quote;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve, geteuid};
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The environment variable that says which QEMU to run: a path, or a name on PATH.
pub const QEMU: &str = "KVM_BRIDGE_QEMU";
/// Why it is the QEMU of that variable.
const NAMED: &str = "KVM_BRIDGE_QEMU names it";
/// The environment variable with network cards for callers that can't give an option.
pub const NICS: &str = "KVM_BRIDGE";
/// The environment variable that has each step told.
pub const VERBOSE: &str = "KVM_BRIDGE_VERBOSE";
/// Tells those after us who has run to find one QEMU.
const DEPTH: &str = "KVM_BRIDGE_DEPTH";
/// More of us in a row than anybody has copies and wrappers.
const MAX_DEPTH: u32 = 8;

/// How long QEMU may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where distributions put a QEMU that is not on PATH: RHEL and its kin.
const ELSEWHERE: [&str; 1] = ["/usr/libexec/qemu-kvm"];

/// A QEMU that is going to be executed.
#[derive(Debug)]
pub struct Qemu {
    path: PathBuf,
    chain: Chain,
    /// What was found before it and has led back to us already.
    back: Option<PathBuf>,
    why: &'static str,
}

impl Qemu {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why this one, as a sentence without its full stop.
    pub fn why(&self) -> &'static str {
        self.why
    }

    /// Whether it was not named for this start.
    pub fn is_chosen(&self) -> bool {
        self.why != NAMED
    }

    /// What it emulates, as the end of its full name tells: `x86_64` of qemu-system-x86_64. Links are followed; a name
    /// that does not tell is one for this machine.
    pub fn system(&self) -> String {
        let system = |path: &Path| Some(path.file_name()?.to_str()?.strip_prefix("qemu-system-")?.to_owned());
        system(&self.path)
            .or_else(|| system(&self.path.canonicalize().ok()?))
            .unwrap_or_else(|| architecture().to_owned())
    }

    /// Asks it something that it answers at once: its exit status and what it printed; `None` if it does not answer. For the
    /// rare line that can't be understood without: a second process is no matter of every launch.
    pub fn ask(&self, words: &[&OsStr]) -> Option<(i32, String)> {
        let answer = self.talk(words, Stdio::null())?;
        Some((answer.status.code()?, answer.out + &answer.err))
    }

    /// Tells it something on its stdin, and returns what it says to that; `None` if it does not end.
    fn tell<W: AsRef<OsStr>>(&self, words: &[W], text: &str) -> Option<Answer> {
        process::hold_standard_places().ok()?;
        // As little as this fits into a pipe that nobody reads yet.
        let (stdin, mut ours) = files::pipe().ok()?;
        ours.write_all(text.as_bytes()).ok()?;
        drop(ours);
        self.talk(words, stdin)
    }

    fn talk<W: AsRef<OsStr>>(&self, words: &[W], stdin: impl Into<Stdio>) -> Option<Answer> {
        // Where the caller has closed them, the pipe would get their numbers.
        process::hold_standard_places().ok()?;
        let mut command = self.question();
        command.args(words).stdin(stdin);
        program::answer(&mut command, PATIENCE).ok()?
    }

    /// Checks, for who is going to change the network, that no wrapper has brought us here again: it would do so for ever.
    pub fn check_not_again(&self) -> Result<()> {
        self.back.as_deref().map_or(Ok(()), |back| Err(leads_back(back)))
    }

    /// What it says of an option that we do not know (QEMU looks at the options behind `-version` before it obeys it).
    pub fn arity(&self, option: &[u8]) -> Arity {
        let word = OsString::from_vec([b"-", option].concat());
        match self.ask(&["-version".as_ref(), &word]) {
            Some((_, said)) if said.contains("requires an argument") => Arity::Value,
            Some((0, said)) if !said.contains("invalid option") => Arity::Alone,
            _ => Arity::Unknown,
        }
    }

    /// A command that asks it something, without our own variables. It is a group of its own, which ends with it: QEMU may
    /// be a script.
    pub fn question(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.process_group(0).env_remove(NICS).env(DEPTH, self.next_chain());
        command
    }

    /// What it finds in the environment of who has run before it.
    fn next_chain(&self) -> String {
        let file = |path: &Path| path.metadata().ok().map(|metadata| id_of(&metadata));
        self.chain.next(file("/proc/self/exe".as_ref()), file(&self.path)).to_string()
    }
}

fn id_of(metadata: &Metadata) -> FileId {
    FileId(metadata.dev(), metadata.ino())
}

/// Finds QEMU for a program that was called `name` (argv\[0\]): what the environment or the configuration says, else for
/// `qemu-system-ARCH` that program, else what distributions call QEMU for this machine. Never ourselves.
pub fn find(name: &OsStr, config: &Config) -> Result<Qemu> {
    find_with(name, || Ok(config.qemu.clone()))
}

/// The same where nothing else of the configuration is needed: it is read only if it decides, and `tell` hears of what is
/// wrong with it.
pub fn find_alone(name: &OsStr, tell: impl FnMut(&Error)) -> Result<Qemu> {
    find_with(name, || Ok(config::qemu_alone(tell)))
}

fn find_with(name: &OsStr, configured: impl FnOnce() -> Result<Option<PathBuf>>) -> Result<Qemu> {
    let chain = Chain::read(&env::var(DEPTH).unwrap_or_default(), std::process::id());
    let ((path, back), why) = match env::var_os(QEMU).filter(|value| !value.is_empty()) {
        Some(value) => ((named(Path::new(&value), QEMU)?, None), NAMED),
        None => match configured()? {
            Some(value) => ((named(&value, "qemu in the configuration")?, None), "the configuration names it"),
            None => (search(name, &chain)?, "it is the first on PATH"),
        },
    };
    let has_led_back = path.metadata().is_ok_and(|metadata| chain.has_executed(id_of(&metadata)));
    match chain.depth >= MAX_DEPTH || has_led_back {
        true => Err(leads_back(&path)),
        false => Ok(Qemu { path, chain, back, why }),
    }
}

fn leads_back(path: &Path) -> Error {
    let what = format!("{} leads back to this program, again and again", path.display());
    let remedy =
        format!("Say which is the real QEMU: {QEMU}=/path/to/qemu, or qemu = in {}", crate::state::config::SYSTEM);
    Error::new(what, remedy).with_status(CANNOT_EXECUTE)
}

/// A QEMU that somebody named has to be there and has to be one.
fn named(value: &Path, whence: &str) -> Result<PathBuf> {
    let has_folder = value.as_os_str().as_bytes().contains(&b'/');
    let path = match has_folder {
        true => Some(value.to_owned()),
        false => on_path(value.as_os_str()).find(|path| path.exists()),
    };
    let missing = || {
        let what = format!("there is no {}, which {whence} names", value.display());
        Error::new(what, "Name a QEMU that is installed.").with_status(NOT_FOUND)
    };
    let path = path.ok_or_else(missing)?;
    let Ok(metadata) = path.metadata() else { return Err(missing()) };
    let fault = if is_ourselves(&metadata) {
        "is this program itself"
    } else if !is_program(&path, &metadata) {
        "cannot be executed"
    } else {
        return Ok(path);
    };
    let what = format!("{}, which {whence} names, {fault}", path.display());
    Err(Error::new(what, "Name the real QEMU.").with_status(CANNOT_EXECUTE))
}

/// What is found, and what was passed over because it has led back to us.
fn search(name: &OsStr, chain: &Chain) -> Result<(PathBuf, Option<PathBuf>)> {
    let base = Path::new(name).file_name().unwrap_or(name);
    let system = format!("qemu-system-{}", architecture());
    let names: Vec<&OsStr> = match base.as_bytes().starts_with(b"qemu-system-") {
        // RHEL has the QEMU for this machine under the other names only.
        true if base == OsStr::new(&system) => vec![base, "qemu-kvm".as_ref(), "kvm".as_ref()],
        true => vec![base],
        false => vec!["qemu-kvm".as_ref(), "kvm".as_ref(), system.as_ref()],
    };
    // What was called comes first; then folder by folder, so that a QEMU of one's own in the first of them is found.
    let (called, others) = names.split_at(1);
    let elsewhere = |of: &[&OsStr]| {
        let is_kvm = of.contains(&OsStr::new("qemu-kvm"));
        ELSEWHERE.iter().map(PathBuf::from).filter(move |_| is_kvm)
    };
    let rest = folders_of_path().flat_map(|folder| others.iter().map(move |name| folder.join(name)));
    let found = on_path(called[0]).chain(elsewhere(called)).chain(rest).chain(elsewhere(others));
    let (mut back, mut strange) = (None, None);
    let usable = found.filter(|path| {
        let is_usable = |metadata: &Metadata| {
            is_program(path, metadata) && !is_ourselves(metadata) && !chain.has_copy(id_of(metadata))
        };
        path.metadata().is_ok_and(|metadata| is_usable(&metadata))
    });
    for path in usable {
        // Whose PATH it is root need not know: who can write there would be root.
        if geteuid().is_root() && !files::are_roots_also_in_tmp(&path) {
            strange = strange.or(Some(path));
            continue;
        }
        match path.metadata().is_ok_and(|metadata| chain.has_executed(id_of(&metadata))) {
            true => back = back.or(Some(path)),
            false => return Ok((path, back)),
        }
    }
    if let (None, Some(path)) = (&back, strange) {
        let what =
            format!("{} is not executed as root: others than root can write it, or a folder above it", path.display());
        let remedy = format!("If you trust it, name it: {QEMU}={}", quote(&path));
        return Err(Error::new(what, remedy).with_status(CANNOT_EXECUTE));
    }
    Err(back.as_deref().map(leads_back).unwrap_or_else(|| {
        let names: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
        let what = format!("cannot find QEMU: no other {} on PATH", names.join(", "));
        let package = "apt install qemu-system-x86, dnf install qemu-kvm, apk add qemu-system-x86_64";
        Error::new(what, format!("Install it ({package}), or say where it is: {QEMU}=/path/to/qemu"))
            .with_status(NOT_FOUND)
    }))
}

/// Where a file of this name may be in the folders of PATH, in order. An empty folder is the current one, as for execvp(3).
fn on_path(name: &OsStr) -> impl Iterator<Item = PathBuf> {
    let name = name.to_owned();
    folders_of_path().map(move |folder| folder.join(&name))
}

fn folders_of_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.into_iter().map(|folder| if folder.as_os_str().is_empty() { ".".into() } else { folder })
}

fn is_program(path: &Path, metadata: &Metadata) -> bool {
    metadata.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// Where the shim is, seen from the folder of `kvm-bridge`, which looks for the same QEMU.
const SHIMS: [&str; 2] = ["qemu-kvm", "../lib/kvm-bridge/qemu-kvm"];

/// Whether a file is the program that runs, or the shim beside `kvm-bridge`: links, symbolic or hard, do not hide it.
fn is_ourselves(metadata: &Metadata) -> bool {
    let own = Path::new("/proc/self/exe");
    let is = |path: &Path| path.metadata().is_ok_and(|own| id_of(&own) == id_of(metadata));
    let is_beside = || {
        let folder = own.canonicalize().map(|own| own.with_file_name("")).unwrap_or_default();
        SHIMS.iter().any(|shim| is(&folder.join(shim)))
    };
    is(own) || env::args_os().next().is_some_and(|name| name.as_bytes().ends_with(b"kvm-bridge")) && is_beside()
}

/// Whether a command of this name is a program that somebody else brought: a distribution's own `qemu-kvm` is not the shim,
/// and knows no option of ours. A script may call the shim, and what is not there may be an alias of it.
pub fn is_foreign(name: &OsStr) -> bool {
    let is_program = |path: &PathBuf| path.metadata().is_ok_and(|metadata| is_program(path, &metadata));
    let path = match name.as_bytes().contains(&b'/') {
        true => Some(PathBuf::from(name)).filter(is_program),
        false => on_path(name).find(is_program),
    };
    let mut start = [0; 2];
    path.is_some_and(|path| {
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut start));
        !path.metadata().is_ok_and(|metadata| is_ourselves(&metadata)) && read.is_ok() && start != *b"#!"
    })
}

/// QEMU's name for the machine that this program was built for.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86" => "i386",
        "powerpc" => "ppc",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// Becomes QEMU: `words` with argv\[0\] first. Returns only when that fails.
///
/// The environment is the caller's but for two variables: the network cards in it are set up now, and a copy of us that
/// turns out to be what we execute shall not do so again.
pub fn exec(qemu: &Qemu, words: &[OsString]) -> Error {
    let is_ours = |entry: &&CStr| {
        let name = entry.to_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        name == NICS.as_bytes() || name == DEPTH.as_bytes()
    };
    // All these came from C strings, so none has a NUL in it.
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).unwrap_or_default();
    let depth = c_string(format!("{DEPTH}={}", qemu.next_chain()).as_ref());
    let mut environment = entry::environment();
    environment.retain(|entry| !is_ours(entry));
    environment.push(&depth);
    output::step(|| format!("executes {}", qemu.path.display()));
    let words: Vec<CString> = words.iter().map(|word| c_string(word)).collect();
    let Err(errno) = execve(&c_string(qemu.path.as_os_str()), &words, &environment);
    let what = format!("cannot execute {}: {}", qemu.path.display(), errno::words(errno));
    let remedy = match errno {
        Errno::E2BIG => "Put options into a file: -readconfig FILE.".to_owned(),
        _ => format!("Mend it, or name another QEMU: {QEMU}=/path/to/qemu"),
    };
    Error::new(what, remedy).with_status(CANNOT_EXECUTE)
}
