//! What is missing.
#![forbid(unsafe_code)]

use crate::install::{Allow, is_roots_own, open_part};
use crate::network::helper;
use crate::network::helper::right_of;
use crate::network::user::Person;
use crate::output;
use crate::state::config;
use crate::sys::{files, tap};
use kvm_bridge_helper::acl::{self, Acl, Place, Unknown, Verdict, beyond_default, show};
use kvm_bridge_helper::files::{Accounts, rules};
use model::error::{Error, Result};
use model::slips;
use model::text::shell::quote;
use nix::unistd::{AccessFlags, Group, User};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// Something that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where it stands: the file, and the line if it is one line's.
    pub place: Option<(PathBuf, Option<usize>)>,
    /// What is wrong, with its subject but for a place.
    pub problem: String,
    /// What fixes it.
    pub fix: Option<String>,
}

impl Finding {
    fn new(problem: impl Into<String>, fix: Option<String>) -> Self {
        Self { place: None, problem: problem.into(), fix }
    }

    fn of_file(path: &Path, problem: impl Into<String>, fix: Option<String>) -> Self {
        Self { place: Some((path.to_owned(), None)), ..Self::new(problem, fix) }
    }

    fn of_line(place: &Place, problem: impl Into<String>, fix: Option<String>) -> Self {
        Self { place: Some((place.file.to_path_buf(), Some(place.line))), ..Self::new(problem, fix) }
    }

    /// As `--json` has it.
    pub fn to_json(&self) -> serde_json::Value {
        let (file, line) = self.place.clone().unzip();
        let problem = match line.flatten() {
            Some(_) => self.to_string(),
            None => self.problem.clone(),
        };
        serde_json::json!({ "file": file, "line": line.flatten(), "problem": problem, "fix": self.fix })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fix = self.fix.as_deref().unwrap_or_default();
        match &self.place {
            Some((file, Some(line))) => {
                let between = if fix.is_empty() { "" } else { "; " };
                write!(out, "{}, line {line} {}{between}{fix}", show(file.as_os_str().as_encoded_bytes()), self.problem)
            }
            _ => write!(out, "{}{}{fix}", self.problem, if fix.is_empty() { "" } else { ": " }),
        }
    }
}

/// What a look at all of it has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What is there: lines.
    pub there: String,
    /// What is missing or wrong.
    pub findings: Vec<Finding>,
    /// What to do about these.
    remedy: String,
}

impl Checked {
    /// All that is missing.
    pub fn error(&self) -> Option<Error> {
        let findings: Vec<String> = self.findings.iter().map(Finding::to_string).collect();
        (!findings.is_empty()).then(|| Error::new(findings.join("\n  "), self.remedy.clone()))
    }
}

/// Looks at what is there and what is missing. Changes nothing, and needs no right.
pub fn check(allows: &[Allow]) -> Result<Checked> {
    let (mut there, mut missing) = (String::new(), Vec::new());
    let mut commands = String::from("sudo kvm-bridge install");
    match helper::ours() {
        None => missing.push(Finding::new(format!("no {} is installed", helper::NAME), None)),
        Some(path) => match right_of(&path) {
            _ if !is_roots_own(&path) => {
                let part = open_part(&path, None).unwrap_or_else(|| path.clone());
                let (whole, part) = (path.display(), part.display());
                let problem = format!("others than root can replace {whole}, since they can write to {part}");
                missing.push(Finding::of_file(&path, problem, Some(format!("sudo chmod go-w {part}"))));
            }
            right if right.is_there() => there += &format!("{} {right}\n", path.display()),
            right => missing.push(Finding::of_file(&path, format!("{} {right}", path.display()), None)),
        },
    }
    missing.extend(device());
    let closed = closed(allows)?;
    let is_open = closed.is_empty();
    missing.extend(closed);
    let mut has_broken_rules = false;
    let mut ask_for = |allow: &dyn fmt::Display| commands += &format!(" --allow {allow}");
    match Acl::read(rules) {
        // It is among what is closed.
        Err(_) if !is_open => {}
        Err(fault) => {
            has_broken_rules = true;
            missing.push(broken(&fault.0));
        }
        Ok(acl) if acl.files.is_empty() => {
            let problem = format!("no bridge is allowed to anybody: there is neither {} nor {}", acl::QEMU, acl::OURS);
            missing.push(Finding::new(problem, None));
            match allows {
                [] => ask_for(&"BRIDGE:USER"),
                allows => allows.iter().for_each(|allow| ask_for(allow)),
            }
        }
        Ok(acl) => {
            let files: Vec<String> = acl.files.iter().map(|file| file.display().to_string()).collect();
            there += &format!("rules are read from {}\n", files.join(" and "));
            missing.extend(faults(&acl));
            for allow in allows {
                let of = allow.person()?.name;
                match allow.verdict()? {
                    Verdict::Allowed(_) => there += &format!("{} is allowed to {of}\n", allow.bridge),
                    Verdict::Denied(place) => {
                        let problem = format!("denies {} to {of}", allow.bridge);
                        missing.push(Finding::of_line(&place, problem, None));
                    }
                    Verdict::NoRule => {
                        missing.push(Finding::new(format!("no rule allows {} to {of}", allow.bridge), None));
                        ask_for(allow);
                    }
                }
            }
        }
    }
    output::step(|| format!("looked at the helper, {} and the rules", tap::DEVICE));
    let remedy = match has_broken_rules {
        true => format!("Mend that line with an editor, as root; then: {commands}"),
        false => format!("To set up what can be: {commands}"),
    };
    Ok(Checked { there, findings: missing, remedy })
}

/// The rules that allow nothing by mistake, those for users and groups that nobody knows, and those that hold ports to less than
/// one would think.
pub fn faults(acl: &Acl) -> Vec<Finding> {
    let slips = acl.slips().map(|slip| {
        Finding::of_line(&slip.place, "allows no bridge of any name", Some(format!("write {}", slip.meant)))
    });
    let accounts = Accounts::read();
    let unknown = acl
        .unknown(&accounts)
        .map(|unknown| Finding::of_line(&unknown.place, unknown.problem(), Some(meant(&unknown))));
    let overruling = acl.overruling().into_iter().map(|(place, wider, policy)| {
        let problem = format!("says nothing of ports: whom it names is not held to what {wider} says ({policy})");
        Finding::of_line(place, problem, Some(SAY.to_owned()))
    });
    slips.chain(unknown).chain(overruling).chain(laxer_than_roots(acl)).collect()
}

/// What to add to a rule so that it says something of ports.
const SAY: &str = "say that there too, or that it is meant to be so: guard on";

/// The rules that hold users' guests to less than the configuration holds root's to.
fn laxer_than_roots(acl: &Acl) -> Vec<Finding> {
    let config = match config::system() {
        Ok(config) => config,
        Err(error) => return vec![Finding::new(error.what(), None)],
    };
    let mut findings: Vec<Finding> = Vec::new();
    for (bridge, configured) in &config.bridges {
        let policy = beyond_default(configured.policy());
        for place in acl.silent(bridge.as_str().as_bytes()).filter(|_| !policy.is_free()) {
            let problem = format!(
                "says nothing of ports: users' guests on {bridge} are not held to what {} says ({policy})",
                config::SYSTEM
            );
            findings.push(Finding::of_line(place, problem, Some(SAY.to_owned())));
        }
    }
    findings
}

/// What to write in place of a name that the helper does not find.
fn meant(unknown: &Unknown) -> String {
    let name = String::from_utf8_lossy(&unknown.name);
    let number = match unknown.is_user {
        true => User::from_name(&name).ok().flatten().map(|user| user.uid.as_raw()),
        false => Group::from_name(&name).ok().flatten().map(|group| group.gid.as_raw()),
    };
    if let Some(number) = number {
        return format!("the helper asks no directory service: write the number, {number}");
    }
    let text = fs::read_to_string(if unknown.is_user { "/etc/passwd" } else { "/etc/group" }).unwrap_or_default();
    let known = text.lines().filter_map(|line| line.split(':').next());
    let near = slips::near(&name, known).map(|near| format!("is {near} meant? ")).unwrap_or_default();
    format!("{near}write another name, or take the line out: sudoedit {}", quote(&*unknown.place.file))
}

/// Rules that can't be gone by, in the reader's words, which begin with the place if it is one line.
fn broken(why: &str) -> Finding {
    let place = why.split_once(", line ").and_then(|(file, rest)| {
        let (line, why) = rest.split_once(": ")?;
        Some((PathBuf::from(file), line.parse().ok()?, why))
    });
    match place {
        Some((file, line, why)) => {
            let problem = format!("keeps the rules from being gone by: {why}");
            Finding { place: Some((file, Some(line))), ..Finding::new(problem, None) }
        }
        None => Finding::new(format!("the rules cannot be gone by: {why}"), None),
    }
}

/// What keeps users from /dev/net/tun, which is everybody's on usual distributions.
pub(super) fn device() -> Option<Finding> {
    let path = Path::new(tap::DEVICE);
    let Ok(device) = path.metadata() else {
        return Some(Finding::of_file(
            path,
            format!("there is no {}", tap::DEVICE),
            Some("sudo modprobe tun".to_owned()),
        ));
    };
    let mode = device.permissions().mode() & 0o777;
    let is_open = mode & 0o006 == 0o006 || mode & 0o060 == 0o060;
    (!is_open).then(|| {
        let problem = format!("{} is not for users (mode {mode:04o}; most distributions have 0666)", tap::DEVICE);
        Finding::of_file(path, problem, Some(format!("sudo chmod 666 {}", tap::DEVICE)))
    })
}

/// What keeps those whom it is about from the helper and the rules, which they read with their own rights: everybody, if
/// nobody is named and root asks.
pub(super) fn closed(allows: &[Allow]) -> Result<Vec<Finding>> {
    let mut people = allows.iter().map(Allow::person).collect::<Result<Vec<_>>>()?;
    if people.is_empty() {
        people.push(if nix::unistd::geteuid().is_root() { Person::anybody() } else { Person::caller() });
    }
    let files = helper::ours().map(|path| (path, EXECUTE)).into_iter();
    let files: Vec<(PathBuf, Need)> = files.chain([acl::QEMU, acl::OURS].map(|path| (path.into(), READ))).collect();
    let of = |person: Person| files.iter().filter_map(move |(path, need)| need.is_missing(path, &person));
    let mut closed: Vec<Finding> = people.into_iter().flat_map(of).collect();
    closed.dedup();
    Ok(closed)
}

/// What a user has to be able to do with a file: its name, access(2)'s flag and the mode's bit for it, and what gives it.
struct Need(&'static str, AccessFlags, u32, &'static str);

const EXECUTE: Need = Need("execute", AccessFlags::X_OK, 1, "a+rx");
const READ: Need = Need("read", AccessFlags::R_OK, 4, "a+r");

impl Need {
    /// That the person cannot, and the command that lets them.
    fn is_missing(&self, path: &Path, person: &Person) -> Option<Finding> {
        let Self(verb, flag, bit, mode) = *self;
        let is_anybody = *person == Person::anybody();
        // A list of access rights can give more than the mode does.
        let can = || matches!(files::check_access(path, flag), Ok(()) | Err(nix::Error::ENOENT));
        if !is_anybody && person.look(can).unwrap_or_default() {
            return None;
        }
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let parts: Vec<&Path> = whole.ancestors().collect();
        parts.into_iter().rev().find_map(|part| {
            let file = part.metadata().ok()?;
            let (bit, mode) = if file.is_dir() { (1, "a+rx") } else { (bit, mode) };
            let may = if person.caller.uid == file.uid() {
                file.mode() >> 6
            } else if person.caller.gids.contains(&file.gid()) {
                file.mode() >> 3
            } else if is_anybody && file.gid() != 0 {
                // Who is in that group may: so it was meant.
                file.mode() | file.mode() >> 3
            } else {
                file.mode()
            };
            let (shown, name) = (file.mode() & 0o7777, if is_anybody { "users" } else { &person.name });
            (may & bit == 0).then(|| {
                let (whole, part) = (path.display(), part.display());
                let problem = format!("{name} cannot {verb} {whole}: {part} has mode {shown:04o}");
                Finding::of_file(path, problem, Some(format!("sudo chmod {mode} {part}")))
            })
        })
    }
}
