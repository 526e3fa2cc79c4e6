//! What has to be set up once for users who are not root: the helper with its right, rules, links.
//! It may not change the network.
//!
//! What is made is written down before it is, so that it can be taken back, and nothing else. Everything may be run again:
//! what is there is left as it is.

mod check;
mod record;
pub mod sudo;
mod undo;

use crate::network::helper;
use crate::network::helper::{Right, right_of};
use crate::network::user::Person;
use crate::output::errno::{again_as_root, reason};
use crate::sys::{files, lock};
use kvm_bridge_helper::access;
use kvm_bridge_helper::acl::{self, Verdict};
use model::error::{Error, Result};
use model::ifname::IfName;
use model::text::shell::quote;
use record::{Identity, Made, Record};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use check::{Finding, check, faults};
pub use record::RECORD;
pub use undo::uninstall;

/// Where links to the shim are made.
pub const LINKS: &str = "/usr/local/bin";
/// The first line of a file of rules that was made.
const HEADER: &str = "# Who may put guests on which bridge: see kvm-bridge-helper(8).\n";

/// One `--allow`: a bridge, or `all`, and a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    bridge: String,
    user: Option<String>,
}

impl FromStr for Allow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (bridge, user) = match text.split_once(':') {
            Some((bridge, user)) => (bridge, Some(user)),
            None => (text, None),
        };
        if bridge != "all" {
            IfName::new(bridge)?;
        }
        if acl::slip_of(bridge.as_bytes()).is_some() || bridge.contains('#') {
            let what = format!("'{bridge}' can be meant for no bridge's name: rules have no lists, quotes or patterns");
            return Err(Error::new(what, "Give --allow once for each bridge, or --allow all."));
        }
        if user.is_some_and(|user| user.is_empty() || user.contains(|c: char| c.is_whitespace() || "#:".contains(c))) {
            return Err(Error::new(
                format!("'{text}' names no user"),
                "Write --allow br0:alice, or --allow br0 for everybody.",
            ));
        }
        Ok(Self { bridge: bridge.to_owned(), user: user.map(str::to_owned) })
    }
}

impl Allow {
    /// The file that it belongs into, and its line. Rules for everybody are in QEMU's file, where its own helper finds them.
    fn rule(&self) -> Result<(&'static str, String)> {
        let Some(user) = &self.user else { return Ok((acl::QEMU, format!("allow {}", self.bridge))) };
        // The helper knows the names in /etc/passwd, and numbers.
        let is_known = acl::id_of(&fs::read("/etc/passwd").unwrap_or_default(), user.as_bytes()).is_some();
        let user = if is_known { user.clone() } else { self.person()?.caller.uid.to_string() };
        Ok((acl::OURS, format!("allow {} user {user}", self.bridge)))
    }

    /// Whom it is for, which is everybody if it names nobody.
    fn person(&self) -> Result<Person> {
        let Some(user) = &self.user else { return Ok(Person::anybody()) };
        let unknown = || Error::new(format!("there is no user {user}"), "See who there is: getent passwd");
        Person::named(user).ok_or_else(unknown)
    }

    fn verdict(&self) -> Result<Verdict> {
        let judged = access::judge(self.bridge.as_bytes(), &self.person()?.caller);
        judged.map(|(verdict, _)| verdict).map_err(|fault| {
            Error::new(format!("the rules cannot be gone by: {}", fault.0), "Mend that, or move the file away.")
        })
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!(":{user}")).unwrap_or_default();
        write!(out, "{}", quote(format!("{}{user}", self.bridge)))
    }
}

/// Sets all of it up, and tells what was made, a line for each thing.
pub fn install(allows: &[Allow], links: &[String]) -> Result<String> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::new("install: only root can set this up", again_as_root()));
    }
    let _lock = lock_record()?;
    let mut work = Work { record: Record::read()?, told: String::new() };
    // Checked before anything is made.
    let mut wanted = Vec::new();
    for allow in allows {
        match allow.verdict()? {
            Verdict::Allowed(_) => {}
            Verdict::NoRule => {
                let rule = allow.rule()?;
                // Asked for twice, it is written once.
                if !wanted.contains(&rule) {
                    wanted.push(rule);
                }
            }
            Verdict::Denied(place) => {
                let what = format!("{place} denies {}, which outweighs every rule that allows it", allow.bridge);
                return Err(Error::new(what, format!("Take that line out first: sudoedit {}", place.file.display())));
            }
        }
    }
    let shim = links.iter().map(|name| Ok((name, check_link(name)?))).collect::<Result<Vec<_>>>()?;
    work.helper()?;
    for (file, line) in wanted {
        work.rule(Path::new(file), &line)?;
    }
    for (name, target) in shim {
        work.link(&Path::new(LINKS).join(name), &target)?;
    }
    let sudo = if work.told.is_empty() { None } else { sudo::hint() };
    work.told += &sudo.map(|hint| format!("{hint}\n")).unwrap_or_default();
    for hint in check::device().into_iter().chain(check::closed(allows)?) {
        work.told += &format!("still missing: {hint}\n");
    }
    Ok(if work.told.is_empty() { "There is nothing to do: all of it is there.\n".to_owned() } else { work.told })
}

fn lock_record() -> Result<File> {
    let path = Path::new(RECORD).with_extension("lock");
    lock::wait(&path, lock::Hold::Alone, |error| cannot("lock", &path, error))
}

/// What a link of this name would lead to: the shim that is installed with this program.
fn check_link(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name.starts_with(['-', '.']) {
        return Err(Error::new(
            format!("'{name}' is no name for a link"),
            "Write --link or --link=qemu-system-x86_64.",
        ));
    }
    let shim = std::env::current_exe().map(|program| program.with_file_name("qemu-kvm"));
    let shim =
        shim.map_err(|error| Error::new(format!("cannot find this program: {}", reason(&error)), "Mount /proc."))?;
    let path = Path::new(LINKS).join(name);
    match (shim.exists(), path.symlink_metadata()) {
        (false, _) => Err(Error::new(format!("there is no {}", shim.display()), "Install qemu-kvm beside kvm-bridge.")),
        (true, Ok(_)) if !same_file(&path, &shim) => {
            let what = format!("{} is there and leads elsewhere", path.display());
            Err(Error::new(what, "Move it away, or give the link another name."))
        }
        _ => Ok(shim),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    identity(one).is_some() && identity(one) == identity(other)
}

struct Work {
    record: Record,
    told: String,
}

impl Work {
    fn tell(&mut self, what: std::fmt::Arguments) {
        self.told += &format!("{what}\n");
    }

    /// The helper in a place of root's own, with its right.
    fn helper(&mut self) -> Result<()> {
        let beside = helper::beside_us();
        // In the folder of this program it may be one that was just built, out of the reach of users.
        let installed = beside.iter().take(1).cloned().chain(helper::OURS.map(PathBuf::from));
        let installed = installed.into_iter().find(|path| is_roots_own(path));
        let built = beside.into_iter().find(|path| path.is_file());
        // Who has built this program has built the helper.
        let builder = std::env::current_exe().and_then(|program| program.metadata()).map(|program| program.uid()).ok();
        let path = match (installed, built) {
            (Some(path), Some(built)) if self.record.made_helper(&path)? && !same_text(&path, &built) => {
                check_closed(&built, builder)?;
                self.copy(&built, &path)?;
                path
            }
            (Some(path), _) => path,
            (None, Some(built)) => {
                check_closed(&built, builder)?;
                let path = PathBuf::from(helper::OURS[0]);
                self.folder_of(&path)?;
                check_closed(path.parent().unwrap_or(&path), None)?;
                self.copy(&built, &path)?;
                path
            }
            (None, None) => {
                let what = format!("there is no {} to be installed", helper::NAME);
                return Err(Error::new(what, format!("Put it beside this program, or at {}", helper::OURS[1])));
            }
        };
        match right_of(&path) {
            Right::Capability | Right::Setuid => Ok(()),
            Right::Nosuid => {
                let what = format!("{} is on a file system that is mounted nosuid", path.display());
                Err(Error::new(what, "Have it mounted with suid, or install under another prefix."))
            }
            Right::Closed => {
                let what = format!("nobody can execute {}", path.display());
                Err(Error::new(what, format!("Make it executable: sudo chmod a+rx {}", path.display())))
            }
            Right::Missing => {
                if !self.record.made_helper(&path)? {
                    self.record.gave_right(&path)?;
                }
                let how = give_right(&path)?;
                self.tell(format_args!("gave {} {how}", path.display()));
                Ok(())
            }
        }
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.folder_of(to)?;
        self.record.makes_helper(to, None)?;
        let new = record::draft_of(to);
        let text = fs::read(from).map_err(|error| cannot("read", from, &error))?;
        // What a kill left there.
        let _ = fs::remove_file(&new);
        let copied = files::write_new(&new, &text, 0o755).and_then(|_| chown(&new, Some(0), Some(0)));
        copied.map_err(|error| cannot("write", &new, &error))?;
        give_right(&new)?;
        self.record.makes_helper(to, Identity::of(&new)?)?;
        fs::rename(&new, to).map_err(|error| cannot("write", to, &error))?;
        self.tell(format_args!("made {}, a copy of {}", to.display(), from.display()));
        Ok(())
    }

    fn folder_of(&mut self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            self.record.add(Made::Folder(folder.to_owned()))?;
            files::create_folder_of(&folder.join("x")).map_err(|error| cannot("make", folder, &error))?;
        }
        Ok(())
    }

    fn rule(&mut self, file: &Path, line: &str) -> Result<()> {
        self.folder_of(file)?;
        if !file.exists() {
            self.record.add(Made::Rules(file.to_owned()))?;
            let made = files::replace(file, &record::draft_of(file), HEADER.as_bytes(), true);
            made.map_err(|error| cannot("make", file, &error))?;
        }
        let text = fs::read(file).map_err(|error| cannot("read", file, &error))?;
        self.record.add(Made::Rule { file: file.to_owned(), line: line.to_owned() })?;
        let start = if text.last().is_none_or(|byte| *byte == b'\n') { "" } else { "\n" };
        let added = OpenOptions::new().append(true).open(file).and_then(|mut rules| {
            rules.write_all(format!("{start}{line}\n").as_bytes())?;
            rules.sync_all()
        });
        added.map_err(|error| cannot("write", file, &error))?;
        self.tell(format_args!("wrote '{line}' into {}", file.display()));
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        if same_file(path, target) {
            return Ok(());
        }
        self.folder_of(path)?;
        self.record.add(Made::Link { path: path.to_owned(), target: target.to_owned() })?;
        symlink(target, path).map_err(|error| cannot("make", path, &error))?;
        self.tell(format_args!("made {}, a link to {}", path.display(), target.display()));
        Ok(())
    }
}

fn same_text(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// Whether nobody but root can put another program in a file's place.
fn is_roots_own(path: &Path) -> bool {
    path.is_file() && open_part(path, None).is_none()
}

/// What others than root, and a user who is trusted with it, can write to: a file, or a folder above it. One that can't be looked
/// at counts.
fn open_part(path: &Path, trusted: Option<u32>) -> Option<PathBuf> {
    let Ok(whole) = path.canonicalize() else { return Some(path.to_owned()) };
    let is_closed = |(above, part): &(usize, &Path)| {
        part.symlink_metadata().is_ok_and(|file| {
            let is_roots = file.uid() == 0;
            // Nobody else replaces a folder of root's in one like /tmp.
            let is_sticky = *above > 1 && is_roots && file.mode() & 0o1000 != 0;
            // The group of a folder of the system is one of admins (Debian's staff).
            let is_admins = file.gid() == 0 || is_roots && file.is_dir();
            (is_roots || trusted == Some(file.uid()))
                && (file.mode() & 0o002 == 0 || is_sticky)
                && (file.mode() & 0o020 == 0 || is_admins && !may_have_acl(part))
        })
    };
    whole.ancestors().enumerate().find(|part| !is_closed(part)).map(|(_, part)| part.to_owned())
}

/// Whether a file has an access control list, or that can't be told: then the mode of its group is the most that anybody in it
/// may do (acl(5)).
fn may_have_acl(path: &Path) -> bool {
    use rustix::io::Errno;
    let size = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0; 0][..]);
    !matches!(size, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// What gets a right has to be written by root, or by who is trusted with it, alone.
fn check_closed(path: &Path, trusted: Option<u32>) -> Result<()> {
    open_part(path, trusted).map_or(Ok(()), |part| {
        let what = format!("others than root can write to {}, on the way to the helper", part.display());
        let remedy = match part.metadata().is_ok_and(|file| file.uid() == 0) {
            true => format!("Close it: sudo chmod go-w {}", quote(&part)),
            // What is in it may be theirs.
            false => "Install kvm-bridge and its helper again, as root, where only root can write.".to_owned(),
        };
        Err(Error::new(what, remedy))
    })
}

/// The file capability; on a file system that has none, setuid root.
fn give_right(path: &Path) -> Result<&'static str> {
    match rustix::fs::setxattr(path, helper::ATTRIBUTE, &helper::capability(), rustix::fs::XattrFlags::empty()) {
        Ok(()) => Ok("the capability cap_net_admin"),
        Err(rustix::io::Errno::OPNOTSUPP) => fs::set_permissions(path, fs::Permissions::from_mode(0o4755))
            .map(|()| "setuid root: its file system has no capabilities")
            .map_err(|error| cannot("make setuid", path, &error)),
        Err(error) => Err(cannot("give a capability to", path, &error.into())),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::new(format!("cannot {what} {}: {}", path.display(), reason(error)), "Mend that, and run it again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_read() {
        let allow = |text: &str| text.parse::<Allow>().map(|allow| (allow.bridge, allow.user));
        assert_eq!(allow("br0"), Ok(("br0".into(), None)));
        assert_eq!(allow("all"), Ok(("all".into(), None)));
        assert_eq!(allow("br0:alice"), Ok(("br0".into(), Some("alice".into()))));
        for bad in [
            "",
            ":alice",
            "br0:",
            "br0:a b",
            "br0:a\nallow all",
            "br0:a:b",
            "a b",
            "br0\nallow all",
            "sixteen-bytes-xy",
            "br*:alice",
            "br0,br1",
            "\"br0\"",
            "br0;:alice",
            "br0#x",
        ] {
            assert!(allow(bad).is_err(), "{bad:?}");
        }
    }
}
