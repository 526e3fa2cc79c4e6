//! Writes what `kvm-bridge up --save` did into the configuration, and leaves all else in the file as it was, comments
//! and order included.

use crate::output::errno::reason;
use crate::state::config::SYSTEM;
use crate::sys::files;
use crate::sys::lock::Passing;
use model::config::read::{line_of, no_toml};
use model::error::{Error, Result};
use model::ifname::IfName;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

/// What is to be kept of one bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Its uplink, or `none`; nothing of a bridge that somebody else makes.
    pub uplink: Option<String>,
    /// How the uplink is attached, if that was said; said once, it is for the next time too.
    pub attach: Option<String>,
    /// Whether the bridge follows the default route.
    pub follow: bool,
    /// The subnet of a network of the host's own, if it was asked for.
    pub net: Option<String>,
    /// Its MTU, if it was asked for.
    pub mtu: Option<u32>,
    /// Its TAPs and their users.
    pub taps: Vec<(IfName, String)>,
}

/// The system's configuration, about to be changed.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    document: DocumentMut,
}

impl File {
    /// Reads it, before anything else is done: what can't be read can't be changed.
    pub fn open() -> Result<Self> {
        // A link to it stays one.
        let path = std::fs::canonicalize(SYSTEM).unwrap_or_else(|_| SYSTEM.into());
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| failed(&path, "read", &error))?,
        };
        let document = text.parse().map_err(|error: toml_edit::TomlError| {
            let fault = no_toml(&text, error.span(), error.message());
            let line = line_of(text.as_bytes(), fault.at);
            let what = format!("cannot change {}: line {line}: {}", path.display(), fault.error.what());
            Error::new(what, "Mend the file first, or leave --save out.")
        })?;
        Ok(Self { path, document })
    }

    /// Writes what is to be kept of a bridge, and tells where. Nobody else does meanwhile, and what others have written since
    /// the file was opened is in it.
    pub fn save(self, bridge: &IfName, saved: &Saved) -> Result<PathBuf> {
        let _lock = Self::lock(&self.path)?;
        Self::open()?.write(bridge, saved)
    }

    /// Where it is written before it takes the old one's place.
    fn new_path(path: &Path) -> PathBuf {
        path.with_extension("toml.new")
    }

    fn lock(path: &Path) -> Result<Passing> {
        Passing::wait(path.with_extension("toml.lock"), 0, |error| failed(path, "write", error))
    }

    fn write(mut self, bridge: &IfName, saved: &Saved) -> Result<PathBuf> {
        if !change(&mut self.document, bridge, saved) {
            let what = format!("cannot change {}: bridge is no table in it", self.path.display());
            return Err(Error::new(what, format!("Write [bridge.{bridge}] in it.")));
        }
        let text = self.document.to_string();
        replace(&self.path, text.as_bytes()).map_err(|error| failed(&self.path, "write", &error))?;
        Ok(self.path)
    }
}

/// Removes what a kill has left.
pub fn tidy() -> Result<()> {
    let path = fs::canonicalize(SYSTEM).unwrap_or_else(|_| SYSTEM.into());
    let new = File::new_path(&path);
    if new.exists() {
        let _lock = File::lock(&path)?;
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&new, "remove", &error)),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the file whole. It stays whose it is, with its mode; a new one is for all users to read, whatever the umask.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = File::new_path(path);
    // What a kill left there.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = files::create(&new)?;
    let before = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    if let Some(before) = &before {
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(before.map_or(Permissions::from_mode(0o644), |before| before.permissions()))?;
    file.write_all(text)?;
    file.sync_all()?;
    files::rename_to_last(&new, path)
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    let what = format!("cannot {what} {}: {}", path.display(), reason(error));
    Error::new(what, "Make it writable, or leave --save out and write it yourself: man qemu-kvm-bridge")
}

/// The tables on the way are made where they are missing; `false` if something else is in their place.
fn change(document: &mut DocumentMut, bridge: &IfName, saved: &Saved) -> bool {
    let Some(bridges) = table(document.as_table_mut(), "bridge", true) else { return false };
    let Some(own) = table(bridges, bridge.as_str(), false) else { return false };
    if let Some(uplink) = &saved.uplink {
        set(own, "uplink", value(uplink));
        set(own, "keep", value(true));
    }
    if let Some(attach) = &saved.attach {
        set(own, "attach", value(attach));
    }
    if saved.follow {
        set(own, "follow", value(true));
    }
    if let Some(net) = &saved.net {
        set(own, "net", value(net));
    }
    if let Some(mtu) = saved.mtu {
        set(own, "mtu", value(i64::from(mtu)));
    }
    if saved.taps.is_empty() {
        return true;
    }
    let Some(taps) = table(own, "taps", false) else { return false };
    for (tap, user) in &saved.taps {
        set(taps, tap.as_str(), value(user));
    }
    true
}

fn table<'a>(parent: &'a mut dyn TableLike, key: &str, is_implicit: bool) -> Option<&'a mut dyn TableLike> {
    if parent.get(key).is_none() {
        let mut new = Table::new();
        new.set_implicit(is_implicit);
        parent.insert(key, Item::Table(new));
    }
    parent.get_mut(key)?.as_table_like_mut()
}

/// Sets a value; what stands around the old one stays: a comment behind it belongs to the line.
fn set(table: &mut dyn TableLike, key: &str, new: Item) {
    let decor = table.get(key).and_then(Item::as_value).map(|old| old.decor().clone());
    let mut new = new;
    if let (Some(decor), Some(new)) = (decor, new.as_value_mut()) {
        *new.decor_mut() = decor;
    }
    match table.get_mut(key) {
        Some(old) => *old = new,
        None => {
            table.insert(key, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::config::Config;

    fn changed(text: &str, saved: &Saved) -> String {
        let mut document: DocumentMut = text.parse().unwrap();
        assert!(change(&mut document, &IfName::new("br0").unwrap(), saved));
        let text = document.to_string();
        let bridge = Config::parse_bytes(text.as_bytes()).unwrap().bridge(&IfName::new("br0").unwrap());
        assert_eq!(bridge.keep, saved.uplink.as_ref().map(|_| true), "{text}");
        text
    }

    fn saved(taps: &[(&str, &str)]) -> Saved {
        let taps = taps.iter().map(|(tap, user)| (IfName::new(tap).unwrap(), (*user).to_owned())).collect();
        Saved { uplink: Some("eth1".to_owned()), taps, ..Saved::default() }
    }

    #[test]
    fn an_empty_file_becomes_a_whole_one() {
        let text = changed("", &saved(&[("tap0", "alice")]));
        assert_eq!(text, "[bridge.br0]\nuplink = \"eth1\"\nkeep = true\n\n[bridge.br0.taps]\ntap0 = \"alice\"\n");
        assert_eq!(changed(&text, &saved(&[("tap0", "alice")])), text, "twice is once");
    }

    #[test]
    fn what_the_user_wrote_stays() {
        let text = "# mine\nmodel = \"e1000e\" # fast\n\n[bridge.lab] # the other\nuplink = \"none\"\n\n\
                    [bridge.br0]\n# up to now\nuplink = \"eth0\" # the first card\n";
        let expected = "# mine\nmodel = \"e1000e\" # fast\n\n[bridge.lab] # the other\nuplink = \"none\"\n\n\
                        [bridge.br0]\n# up to now\nuplink = \"eth1\" # the first card\nkeep = true\n";
        assert_eq!(changed(text, &saved(&[])), expected);
        let inline = "bridge.br0 = { uplink = \"eth0\", taps = { tap0 = \"bob\" } }\n";
        let text = changed(inline, &saved(&[("tap1", "alice")]));
        assert!(text.contains("tap0 = \"bob\"") && text.contains("tap1 = \"alice\""), "{text}");
    }

    #[test]
    fn what_is_no_table_is_left_alone() {
        let mut document: DocumentMut = "bridge = 5\n".parse().unwrap();
        assert!(!change(&mut document, &IfName::new("br0").unwrap(), &saved(&[])));
        assert_eq!(document.to_string(), "bridge = 5\n");
    }
}
