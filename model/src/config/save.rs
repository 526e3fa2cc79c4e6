//! Writes what `kvm-bridge up --save` did into the text of a configuration, and leaves all else in it as it was, comments
//! and order included.
#![forbid(unsafe_code)]

use crate::config::read::{line_of, no_toml};
use crate::error::{Error, Result};
use crate::ifname::IfName;
use toml_edit::{DocumentMut, Item, Table, TableLike, TomlError, value};

/// What is to be kept of one bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// Its uplink, or `none`; nothing of a bridge that somebody else makes.
    pub uplink: Option<String>,
    /// How the uplink is attached, if that was said; said once, it is for the next time too.
    pub attach: Option<String>,
    /// Whether the bridge follows the default route.
    pub follow: bool,
    /// Whether the bridge filters VLANs.
    pub vlan_filtering: bool,
    /// The subnet of a network of the host's own, if it was asked for.
    pub net: Option<String>,
    /// Its MTU, if it was asked for.
    pub mtu: Option<u32>,
    /// Its TAPs and their users.
    pub taps: Vec<(IfName, String)>,
}

/// Whether a text can be changed.
pub fn check(text: &str) -> Result<()> {
    parse(text).map(drop)
}

fn parse(text: &str) -> Result<DocumentMut> {
    text.parse().map_err(|error: TomlError| {
        let fault = no_toml(text, error.span(), error.message());
        let what = format!("line {}: {}", line_of(text.as_bytes(), fault.at), fault.error.what());
        Error::new(what, "Mend the file first, or leave --save out.")
    })
}

/// The text with what is to be kept of a bridge in it.
pub fn changed(text: &str, bridge: &IfName, saved: &Saved) -> Result<String> {
    let mut document = parse(text)?;
    match change(&mut document, bridge, saved) {
        Some(()) => Ok(document.to_string()),
        None => Err(Error::new("bridge is no table in it", format!("Write [bridge.{bridge}] in it."))),
    }
}

/// The tables on the way are made where they are missing; `None` if something else is in their place.
fn change(document: &mut DocumentMut, bridge: &IfName, saved: &Saved) -> Option<()> {
    let own = table(table(document.as_table_mut(), "bridge", true)?, bridge.as_str(), false)?;
    let values = [
        ("uplink", saved.uplink.as_ref().map(value)),
        ("keep", saved.uplink.as_ref().map(|_| value(true))),
        ("attach", saved.attach.as_ref().map(value)),
        ("follow", saved.follow.then(|| value(true))),
        ("vlan_filtering", saved.vlan_filtering.then(|| value(true))),
        ("net", saved.net.as_ref().map(value)),
        ("mtu", saved.mtu.map(|mtu| value(i64::from(mtu)))),
    ];
    for (key, value) in values.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        set(own, key, value);
    }
    if !saved.taps.is_empty() {
        let taps = table(own, "taps", false)?;
        for (tap, user) in &saved.taps {
            set(taps, tap.as_str(), value(user));
        }
    }
    Some(())
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
    use crate::config::Config;

    fn written(text: &str, saved: &Saved) -> String {
        let br0 = IfName::new("br0").unwrap();
        let text = changed(text, &br0, saved).unwrap();
        let bridge = Config::parse_bytes(text.as_bytes()).unwrap().bridge(&br0);
        assert_eq!(bridge.keep, saved.uplink.as_ref().map(|_| true), "{text}");
        text
    }

    fn saved(taps: &[(&str, &str)]) -> Saved {
        let taps = taps.iter().map(|(tap, user)| (IfName::new(tap).unwrap(), (*user).to_owned())).collect();
        Saved { uplink: Some("eth1".to_owned()), taps, ..Saved::default() }
    }

    #[test]
    fn an_empty_file_becomes_a_whole_one() {
        let text = written("", &saved(&[("tap0", "alice")]));
        assert_eq!(text, "[bridge.br0]\nuplink = \"eth1\"\nkeep = true\n\n[bridge.br0.taps]\ntap0 = \"alice\"\n");
        assert_eq!(written(&text, &saved(&[("tap0", "alice")])), text, "twice is once");
    }

    #[test]
    fn what_the_user_wrote_stays() {
        let text = "# mine\nmodel = \"e1000e\" # fast\n\n[bridge.lab] # the other\nuplink = \"none\"\n\n\
                    [bridge.br0]\n# up to now\nuplink = \"eth0\" # the first card\n";
        let expected = "# mine\nmodel = \"e1000e\" # fast\n\n[bridge.lab] # the other\nuplink = \"none\"\n\n\
                        [bridge.br0]\n# up to now\nuplink = \"eth1\" # the first card\nkeep = true\n";
        assert_eq!(written(text, &saved(&[])), expected);
        let inline = "bridge.br0 = { uplink = \"eth0\", taps = { tap0 = \"bob\" } }\n";
        let text = written(inline, &saved(&[("tap1", "alice")]));
        assert!(text.contains("tap0 = \"bob\"") && text.contains("tap1 = \"alice\""), "{text}");
    }

    #[test]
    fn what_is_no_table_is_left_alone() {
        let error = changed("bridge = 5\n", &IfName::new("br0").unwrap(), &saved(&[])).unwrap_err();
        assert_eq!(error.to_string(), "bridge is no table in it\n  Write [bridge.br0] in it.");
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let error = check("model = \"e1000\"\nqemu = \n").unwrap_err();
        assert_eq!(error.what().to_string(), "line 2: 'qemu =' is no TOML");
    }
}
