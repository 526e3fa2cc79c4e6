//! The access rules: who may put a TAP on which bridge.
//!
//! Two files are read, and those that they include. `/etc/qemu/bridge.conf` has QEMU's own grammar and means what it means
//! to QEMU's helper, or less: where that one is lenient by accident, this one refuses. `/etc/kvm-bridge/bridge.conf` may
//! say more: `user`, `group` and `max`. In both the order does not matter, what no rule allows is denied, and one `deny`
//! outweighs every `allow`.
//!
//! A rule that cannot be understood refuses everybody, with its line: it may have been meant to deny. Pure: the files come
//! from whoever calls, who reads them with the rights of the person that the answer is for.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

mod line;

pub(crate) use line::MAX_NAME;
pub use line::Who;
use line::{Bridge, Grammar, Line, Said};
use port::{Guard, Policy, Vlans};
use std::cmp::Ordering;

/// QEMU's file.
pub const QEMU: &str = "/etc/qemu/bridge.conf";
/// Our own, read in addition.
pub const OURS: &str = "/etc/kvm-bridge/bridge.conf";
/// Files that include files that include files: more than anybody has.
const MAX_DEPTH: usize = 8;
/// How many files, however they include each other.
const MAX_FILES: usize = 4096;

/// What became of a file that was to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    /// All of it.
    Text(Vec<u8>),
    /// There is none of this name.
    Missing,
    /// It is not for the person that asks. An included one is passed over: that is how QEMU's users give rules to groups.
    Unreadable,
    /// It can't be taken for rules, and why.
    Unfit(String),
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Rc<PathBuf>,
    /// The line's number, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, line {}", show(self.file.as_os_str().as_bytes()), self.line)
    }
}

/// Bytes for a terminal, which none of them is to command.
pub fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() || turns_text(c)) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The characters by which a terminal may show a text in another order than it has.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A word of a command that is shown, as it is where no shell minds.
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-+.,:/@%=".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Why the rules can't be gone by, as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

impl Fault {
    fn at(place: &Place, why: impl fmt::Display) -> Self {
        Self(format!("{place}: {why}"))
    }
}

#[derive(Debug, Clone)]
struct Rule {
    allows: bool,
    bridge: Bridge,
    who: Who,
    said: Said,
    place: Place,
}

/// All rules.
#[derive(Debug, Clone, Default)]
pub struct Acl {
    rules: Vec<Rule>,
    /// Those of the two files that there are.
    pub files: Vec<PathBuf>,
}

/// A rule that allows no bridge, since none can have been meant by the name that it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slip {
    /// Where it stands.
    pub place: Place,
    /// What it was probably meant to be.
    pub meant: String,
}

impl fmt::Display for Slip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} allows no bridge of any name; write {}", self.place, self.meant)
    }
}

/// A rule for a user or a group that the accounts of this host do not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Where it stands.
    pub place: Place,
    /// Whether it names a user; else a group.
    pub is_user: bool,
    /// The name.
    pub name: Vec<u8>,
}

impl Unknown {
    /// What is wrong with it, as the end of a sentence about its place.
    pub fn problem(&self) -> String {
        let (what, file) = if self.is_user { USERS } else { GROUPS };
        format!("is for the {what} {}, and there is none in {file}", show(&self.name))
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.place, self.problem())
    }
}

/// What a name is of, and where it is looked up.
const USERS: (&str, &str) = ("user", "/etc/passwd");
const GROUPS: (&str, &str) = ("group", "/etc/group");

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's number.
    pub uid: u32,
    /// The numbers of all groups.
    pub gids: Vec<u32>,
}

/// What somebody is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// How many TAPs at once, and where that is said; `None` for any number.
    pub max: Option<(u32, Place)>,
    /// What each of them is held to as a port.
    pub policy: Policy,
    /// Whether the guest's address has to be told: a rule says `guard`, and is not satisfied by any address.
    pub needs_address: bool,
}

/// What the rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and what.
    Allowed(Grant),
    /// No, by this line.
    Denied(Place),
    /// Nobody said yes.
    NoRule,
}

/// Where the numbers of users and groups are found by their names. A text that can't be had is a fault: the rule that
/// needs it may be the one that restricts the caller.
pub trait Names {
    /// The text of /etc/passwd.
    fn users(&self) -> Result<&[u8], Fault>;
    /// The text of /etc/group.
    fn groups(&self) -> Result<&[u8], Fault>;
}

impl Acl {
    /// Reads both files, and what they include, by means of `read`.
    pub fn read(mut read: impl FnMut(&Path) -> File) -> Result<Self, Fault> {
        let mut acl = Self::default();
        let mut count = 0;
        for (path, grammar) in [(QEMU, Grammar::Qemu), (OURS, Grammar::Ours)] {
            match read(Path::new(path)) {
                File::Text(text) => {
                    acl.files.push(path.into());
                    acl.add(Path::new(path), &text, grammar, &mut read, 1, &mut count)?;
                }
                File::Missing => {}
                // It may deny what the other one allows.
                File::Unreadable => return Err(Fault(format!("you may not read {path}"))),
                File::Unfit(why) => return Err(Fault(format!("{path} {why}"))),
            }
        }
        Ok(acl)
    }

    fn add(
        &mut self,
        path: &Path,
        text: &[u8],
        grammar: Grammar,
        read: &mut dyn FnMut(&Path) -> File,
        depth: usize,
        count: &mut usize,
    ) -> Result<(), Fault> {
        let file = Rc::new(path.to_owned());
        for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let place = Place { file: file.clone(), line: number + 1 };
            match Line::parse(line, grammar).map_err(|why| Fault::at(&place, why))? {
                Line::Nothing => {}
                Line::Rule { allows, bridge, who, said } => {
                    self.rules.push(Rule { allows, bridge, who, said, place });
                }
                Line::Include(path) => {
                    let path = Path::new(OsStr::from_bytes(path));
                    *count += 1;
                    if depth >= MAX_DEPTH || *count > MAX_FILES {
                        let why = format!("files include each other more than {MAX_DEPTH} deep, or {MAX_FILES} in all");
                        return Err(Fault::at(&place, why));
                    }
                    match read(path) {
                        File::Text(text) => self.add(path, &text, grammar, read, depth + 1, count)?,
                        File::Missing | File::Unreadable => {}
                        File::Unfit(why) => {
                            return Err(Fault::at(&place, format!("{} {why}", show(path.as_os_str().as_bytes()))));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The rules that allow nothing by mistake. The kernel lets a link be called `br0,br1`, so it is no fault.
    pub fn slips(&self) -> impl Iterator<Item = Slip> {
        let allowing = self.rules.iter().filter(|rule| rule.allows);
        allowing.filter_map(|rule| Some(Slip { place: rule.place.clone(), meant: rule.bridge.slip()? }))
    }

    /// The rules for names that nobody has. Of a text that can't be had nothing is known.
    pub fn unknown<'a>(&'a self, names: &'a dyn Names) -> impl Iterator<Item = Unknown> + 'a {
        self.rules.iter().filter_map(|rule| {
            let (name, text, is_user) = match &rule.who {
                Who::Anybody => return None,
                Who::User(name) => (name, names.users().ok()?, true),
                Who::Group(name) => (name, names.groups().ok()?, false),
            };
            let is_known = number(name).is_some() || id_of(text, name).is_some();
            (!is_known).then(|| Unknown { place: rule.place.clone(), is_user, name: name.clone() })
        })
    }

    /// Where those whom rules name are let on a bridge by rules that say nothing of ports: the first of these rules of each.
    pub fn silent<'a>(&'a self, bridge: &'a [u8]) -> impl Iterator<Item = &'a Place> {
        self.silent_groups(bridge).map(|rule| &rule.place)
    }

    /// Of these those that name somebody, beside one for everybody that says what ports are held to: it does not count for whom
    /// they name. That place, and what it says, follow. (`guard on` holds for whoever is told nothing, too.)
    pub fn overruling(&self) -> Vec<(&Place, &Place, Policy)> {
        let names = self.rules.iter().filter_map(|rule| match &rule.bridge {
            Bridge::Named(name) => Some(name.as_slice()),
            // Whatever else there is.
            Bridge::All => Some(&b""[..]),
            Bridge::Words(_) => None,
        });
        let mut found: Vec<(&Place, &Place, Policy)> = Vec::new();
        for bridge in names {
            let everybodys = self.allowing(bridge).filter(|rule| rule.who == Who::Anybody).collect::<Vec<_>>();
            let Some(said) = everybodys.iter().find(|rule| !rule.said.is_silent()) else { continue };
            let Ok(Grant { policy, .. }) = granted(&everybodys) else { continue };
            let policy = beyond_default(policy);
            for rule in self.silent_groups(bridge).filter(|rule| rule.who != Who::Anybody && !policy.is_free()) {
                if found.iter().all(|(place, ..)| **place != rule.place) {
                    found.push((&rule.place, &said.place, policy.clone()));
                }
            }
        }
        found
    }

    fn allowing<'a>(&'a self, bridge: &'a [u8]) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.allows && rule.bridge.is(bridge))
    }

    /// The first rules of those for the same people, none of which says anything of ports.
    fn silent_groups<'a>(&'a self, bridge: &'a [u8]) -> impl Iterator<Item = &'a Rule> {
        self.allowing(bridge).filter(move |rule| {
            let of_same = || self.allowing(bridge).filter(|other| other.who == rule.who);
            of_same().all(|other| other.said.is_silent())
                && of_same().next().is_some_and(|first| first.place == rule.place)
        })
    }

    /// Whether `caller` may put a TAP on `bridge`.
    pub fn judge(&self, bridge: &[u8], caller: &Caller, names: &dyn Names) -> Result<Verdict, Fault> {
        let mut closest: (u8, Vec<&Rule>) = (0, Vec::new());
        for rule in self.rules.iter().filter(|rule| rule.bridge.is(bridge)) {
            let Some(closeness) = closeness(rule, caller, names)? else { continue };
            if !rule.allows {
                return Ok(Verdict::Denied(rule.place.clone()));
            }
            match closeness.cmp(&closest.0) {
                Ordering::Less => {}
                Ordering::Equal => closest.1.push(rule),
                Ordering::Greater => closest = (closeness, vec![rule]),
            }
        }
        if closest.1.is_empty() { Ok(Verdict::NoRule) } else { granted(&closest.1).map(Verdict::Allowed) }
    }
}

/// What the rules that name the caller most closely grant together: of what several of them say the strictest.
///
/// Who is not root is guarded where no rule says that they need not be: a frame by which a switch takes the host for a switch
/// has the host's own port shut, and one with another's address takes what is for that.
fn granted(rules: &[&Rule]) -> Result<Grant, Fault> {
    let said = || rules.iter().map(|rule| &rule.said);
    let limited = rules.iter().filter_map(|rule| Some((rule.said.max?, &rule.place)));
    let max = limited.min_by_key(|(max, _)| *max).map(|(max, place)| (max, place.clone()));
    let mut vlans: Option<(&Vlans, &Place)> = None;
    for (its, place) in rules.iter().filter_map(|rule| Some((rule.said.vlans.as_ref()?, &rule.place))) {
        match vlans {
            Some((others, at)) if others != its => {
                return Err(Fault::at(place, format!("gives other VLANs than {at}")));
            }
            _ => vlans = Some((its, place)),
        }
    }
    let policy = Policy {
        guard: said().filter_map(|said| said.guard).max().unwrap_or(Guard::Mac),
        isolated: said().any(|said| said.isolated),
        vlans: vlans.map(|(vlans, _)| vlans.clone()),
        rate: said().filter_map(|said| said.rate).min(),
    };
    let needs_address = policy.is_guarded() && said().any(|said| said.guard.is_some());
    Ok(Grant { max, policy, needs_address })
}

/// What of a policy a user's port is not held to, if no rule says anything.
pub fn beyond_default(policy: Policy) -> Policy {
    let guard = if policy.guard == Guard::Ip { Guard::Ip } else { Guard::Off };
    Policy { guard, ..policy }
}

/// How closely a rule names the caller; `None` if it is not for them.
fn closeness(rule: &Rule, caller: &Caller, names: &dyn Names) -> Result<Option<u8>, Fault> {
    let (name, closeness) = match &rule.who {
        Who::Anybody => return Ok(Some(0)),
        Who::User(name) => (name, 2),
        Who::Group(name) => (name, 1),
    };
    let is_user = closeness == 2;
    let own = if is_user { std::slice::from_ref(&caller.uid) } else { &caller.gids };
    if let Some(id) = number(name) {
        return Ok(own.contains(&id).then_some(closeness));
    }
    let text = if is_user { names.users() } else { names.groups() };
    let text = text.map_err(|Fault(why)| Fault::at(&rule.place, why))?;
    // A rule that allows and has no max restricts nobody.
    let restricts = !rule.allows || rule.said.restricts();
    match id_of(text, name) {
        Some(id) => Ok(own.contains(&id).then_some(closeness)),
        None if !restricts => Ok(None),
        // Whoever is known here by other names is not meant.
        None if rule.allows && own.iter().all(|id| name_of(text, *id).is_some()) => Ok(None),
        // It may be the caller, known by a directory service that a privileged program does not ask.
        None => {
            let (what, file) = if is_user { USERS } else { GROUPS };
            Err(Fault::at(&rule.place, format!("there is no {what} {} in {file}; write the number", show(name))))
        }
    }
}

fn number(name: &[u8]) -> Option<u32> {
    let is_number = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(name).ok().filter(|_| is_number)?.parse().ok()
}

/// What a rule that allows this bridge was probably meant to be, where no bridge can be meant by it.
pub fn slip_of(bridge: &[u8]) -> Option<String> {
    line::Bridge::named(bridge).slip()
}

/// The number of a name in the text of /etc/passwd (passwd(5)) or /etc/group (group(5)), which agree this far.
pub fn id_of(text: &[u8], name: &[u8]) -> Option<u32> {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let is_it = fields.next()? == name && !name.is_empty();
        if is_it { number(fields.nth(1)?) } else { None }
    })
}

/// The name of a number there.
pub fn name_of(text: &[u8], id: u32) -> Option<&[u8]> {
    let mut lines = text.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (number(fields.nth(1)?)? == id).then_some(name)
    })
}

#[cfg(test)]
mod tests;
