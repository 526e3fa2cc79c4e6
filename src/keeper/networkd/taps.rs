//! Whether systemd-networkd would take a TAP or a bridge of ours for its own, and how it is kept from that where it is not
//! told of an uplink. A file that matches everything takes them too: networkd then asks the guests for DHCP, and takes a
//! TAP off a bridge that the file does not name.
#![forbid(unsafe_code)]

use super::{FILES, OURS, bring_in, can_be_told, files_of, path, reload, runs, unmanaged};
use crate::error::Result;
use crate::keeper::{in_shell, pattern, remove};
use crate::name::IfName;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The commands that keep it from that, and from a bridge that is not its own either.
pub fn mend(bridge: Option<&IfName>) -> String {
    let names = bridge.map(|bridge| format!(" {bridge}")).unwrap_or_default();
    format!(
        "printf '%s\\n' '[Match]' 'Name=tap*{names}' '[Link]' Unmanaged=yes \\\n    \
         >/etc/systemd/network/00-tap.network\nnetworkctl reload"
    )
}

/// The file by which a networkd that runs would configure a TAP of ours, if it would.
pub fn taken_by() -> Option<PathBuf> {
    taken_as("tap0")
}

fn taken_as(name: &str) -> Option<PathBuf> {
    taken(&Looks::tap_called(name), |_| true).filter(|_| runs())
}

/// The file by which a networkd that runs, and can be told, would take a bridge that is to be made, or a TAP on it. Our
/// own files go with their own bridges, and do not count.
pub fn would_take(bridge: &IfName) -> Option<PathBuf> {
    let is_not_ours = |path: &Path| !path.to_string_lossy().starts_with(&format!("{FILES}/{OURS}"));
    let file = [Looks::bridge(bridge.as_str()), Looks::tap()].iter().find_map(|looks| taken(looks, is_not_ours))?;
    (runs() && can_be_told()).then_some(file)
}

/// Has it leave a bridge of ours and our TAPs alone.
pub fn spare(bridge: &IfName) -> Result<()> {
    bring_in([spared(bridge)])
}

/// Takes that back. It forgets a file that is gone only when it is told, and a kill may have come between the two.
pub fn spare_no_more(bridge: &IfName) -> Result<()> {
    remove(&spared(bridge).0)?;
    if runs() { reload() } else { Ok(()) }
}

/// The same as `spare`, as lines for a shell.
pub fn commands(bridge: &IfName) -> Vec<String> {
    let (path, text) = spared(bridge);
    vec![in_shell(&path, &text), "networkctl reload".to_owned()]
}

fn spared(bridge: &IfName) -> (PathBuf, String) {
    (path(bridge, ""), unmanaged(&format!("{} tap*", pattern(bridge))))
}

/// The file by which it would configure what looks so.
fn taken(looks: &Looks, counts: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    // Its own note of its state: the folder alone is there with every systemd.
    if !Path::new("/run/systemd/netif/state").exists() {
        return None;
    }
    let files = files_of("", "network").filter(|path| counts(path));
    let mut decisions = files.filter_map(|path| Some((decides(&fs::read_to_string(&path).ok()?, looks)?, path)));
    decisions.next().filter(|(decision, _)| *decision == Decision::Takes).map(|(_, path)| path)
}

/// What a file can match of a link.
struct Looks<'a> {
    name: &'a str,
    types: &'static [&'static str],
    kind: &'static str,
}

impl<'a> Looks<'a> {
    /// As the kernel numbers them.
    fn tap() -> Self {
        Self::tap_called("tap0")
    }

    fn tap_called(name: &'a str) -> Self {
        Self { name, types: &["ether"], kind: "tun" }
    }

    /// Its type is "ether" where udev has not told networkd more.
    fn bridge(name: &'a str) -> Self {
        Self { name, types: &["bridge", "ether"], kind: "bridge" }
    }
}

/// What people should know before their guest is cut off without a word.
pub fn word<'a>(taps: impl IntoIterator<Item = Option<&'a IfName>>) -> Option<String> {
    let names: BTreeSet<&str> = taps.into_iter().map(|name| name.map_or("tap0", IfName::as_str)).collect();
    let file = names.into_iter().find_map(taken_as)?;
    Some(format!(
        "systemd-networkd takes TAPs too, by {}, and may take this guest's off its bridge\n  \
         'kvm-bridge doctor' shows how to keep it from that",
        file.display()
    ))
}

/// What a file means for a link that it matches.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Takes,
    LeavesAlone,
}

/// `None` for a file that does not match; one that is masked is empty.
fn decides(text: &str, looks: &Looks) -> Option<Decision> {
    let (mut section, mut is_unmanaged, mut is_empty) = ("", false, true);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        is_empty = false;
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            continue;
        }
        let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else { continue };
        match (section, key) {
            ("Match", "Name" | "OriginalName") if !fits(looks.name, value) => return None,
            ("Match", "Type") if !looks.types.iter().any(|kind| fits(kind, value)) => return None,
            ("Match", "Kind" | "Driver") if !fits(looks.kind, value) => return None,
            ("Match", "Name" | "OriginalName" | "Type" | "Kind" | "Driver") => {}
            // Of the others some may be true of a TAP: what is not known is not warned of.
            ("Match", _) => return None,
            ("Link", "Unmanaged") => is_unmanaged = ["1", "yes", "y", "true", "t", "on"].contains(&value),
            _ => {}
        }
    }
    let decision = if is_unmanaged { Decision::LeavesAlone } else { Decision::Takes };
    (!is_empty).then_some(decision)
}

/// Whether a name is one of a list of globs (systemd.network(5)); an exclamation mark before the list turns it round.
pub(in crate::keeper) fn fits(name: &str, list: &str) -> bool {
    let (list, is_wanted) = match list.strip_prefix('!') {
        Some(list) => (list, false),
        None => (list, true),
    };
    list.split_whitespace().any(|glob| is_like(name.as_bytes(), glob.as_bytes())) == is_wanted
}

fn is_like(name: &[u8], glob: &[u8]) -> bool {
    match (name, glob) {
        (_, [b'*', rest @ ..]) => (0..=name.len()).any(|at| is_like(&name[at..], rest)),
        ([_, name @ ..], [b'?', rest @ ..]) => is_like(name, rest),
        ([first, name @ ..], [wanted, rest @ ..]) => first == wanted && is_like(name, rest),
        (name, glob) => name.is_empty() && glob.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broad_files_take_taps() {
        for broad in ["Type=ether", "Name=*", "Name=eth* t?p*", "Name=!eth* en*", "Kind=tun", "Type=ether\nName=!wl*"] {
            assert_eq!(
                decides(&format!("[Match]\n{broad}\n[Network]\nDHCP=yes\n"), &Looks::tap()),
                Some(Decision::Takes),
                "{broad}"
            );
        }
        for narrow in ["Name=eth0", "Name=en*", "Name=!tap*", "Type=wlan", "Kind=veth", "Type=ether\nMACAddress=x"] {
            assert_eq!(decides(&format!("[Match]\n{narrow}\n[Network]\nDHCP=yes\n"), &Looks::tap()), None, "{narrow}");
        }
        assert_eq!(
            decides("[Match]\nName=tap*\n\n[Link]\nUnmanaged=yes\n", &Looks::tap()),
            Some(Decision::LeavesAlone)
        );
        assert_eq!(decides("", &Looks::tap()), None);
    }

    #[test]
    fn some_take_bridges() {
        for broad in ["Type=ether", "Type=bridge", "Name=*", "Name=br*", "Kind=bridge"] {
            let text = format!("[Match]\n{broad}\n[Network]\nDHCP=yes\n");
            assert_eq!(decides(&text, &Looks::bridge("br7")), Some(Decision::Takes), "{broad}");
        }
        for narrow in ["Name=br0", "Kind=tun", "Kind=!bridge", "Type=wlan"] {
            assert_eq!(decides(&format!("[Match]\n{narrow}\n"), &Looks::bridge("br7")), None, "{narrow}");
        }
    }
}
