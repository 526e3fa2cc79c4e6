//! systemd-networkd, with netplan above it or without.
//!
//! It renews on the bridge itself: files in /run/systemd/network, which come before all others, say that the uplink and
//! our TAPs are not its own, and that the bridge is what the uplink was. It would give the addresses up if it lost the
//! uplink first, so it hears of all this after the move.
#![forbid(unsafe_code)]

pub mod taps;

use super::hold::{clear, hold};
use super::{Keeper, Place, clients, in_shell, pattern, remove, write};
use crate::error::Result;
use crate::host::Link;
use crate::name::IfName;
use crate::net::rtnl::Netlink;
use crate::sys::process;
use crate::sys::program::Program;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Its run-time configuration and state.
const FILES: &str = "/run/systemd/network";
const STATE: &str = "/run/systemd/netif";
/// Where it looks for files, the first before the others (systemd.network(5)).
const FOLDERS: [&str; 5] = [
    "/etc/systemd/network",
    FILES,
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
    "/lib/systemd/network",
];

/// What systemd-networkd has configured an interface by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The interface.
    pub interface: IfName,
    /// The file that it uses.
    pub file: PathBuf,
    /// The sections of it that are about addresses, with those of its drop-ins.
    pub settings: String,
    /// The identity under which it has its lease (IAID), where it has one that follows from the interface.
    pub identity: Option<u32>,
}

/// The network that systemd-networkd has found for this interface, if it runs and looks after it.
pub(super) fn recognise(link: &Link) -> Option<Keeper> {
    let file = PathBuf::from(value_of(link.index, "NETWORK_FILE").filter(|file| !file.is_empty())?);
    let state = value_of(link.index, "ADMIN_STATE");
    if state.as_deref() == Some("unmanaged") {
        return None;
    }
    let name = "systemd-networkd";
    if !runs() {
        return Some(Keeper::stranger(name, "it does not run, so that it cannot be told"));
    }
    if !can_be_told() {
        let why = "it has not 'networkctl reload', by which it would be told: systemd 244 is the first that has";
        return Some(Keeper::stranger(name, why));
    }
    if state.as_deref() == Some("configuring") && link.layer3.is_empty() {
        return Some(Keeper::stranger(name, "it has no address for it yet"));
    }
    let Some(settings) = settings(&file) else {
        return Some(Keeper::stranger(name, format!("its file {} cannot be read", file.display())));
    };
    let lease = fs::read_to_string(format!("{STATE}/leases/{}", link.index)).unwrap_or_default();
    let identity = lease.lines().find_map(|line| line.strip_prefix("CLIENTID=")).and_then(identity);
    Some(Keeper::Networkd(Network { interface: link.name.clone(), file, settings, identity }))
}

/// What its file of a link says.
fn value_of(index: u32, key: &str) -> Option<String> {
    let state = fs::read_to_string(format!("{STATE}/links/{index}")).ok()?;
    state.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
}

/// Whether it runs in this network namespace.
fn runs() -> bool {
    process::all().any(|(path, pid)| {
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        // In which namespace another's process is, is for root to see.
        name.trim_end() == "systemd-network" && (clients::Process::here(pid).is_some() || !process::is_root())
    })
}

/// Whether its version is one that reads its files again when it is told to.
fn can_be_told() -> bool {
    const FIRST: u32 = 244;
    let said = Program::new("networkctl").words(["--version"]).run().unwrap_or_default();
    said.split_whitespace().nth(1).and_then(|version| version.parse().ok()).is_some_and(|version: u32| version >= FIRST)
}

/// Its files with this ending, in this folder of each of its own, in their order: of two of one name the first folder's counts.
fn files_of(folder: &str, ending: &str) -> impl Iterator<Item = PathBuf> {
    let mut files = BTreeMap::new();
    for from in FOLDERS.iter().rev() {
        for entry in fs::read_dir(Path::new(from).join(folder)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == ending) {
                files.insert(entry.file_name(), entry.path());
            }
        }
    }
    files.into_values()
}

/// What a file and its drop-ins say of addresses; `None` where one can't be read.
fn settings(file: &Path) -> Option<String> {
    let mut all = of_addresses(&fs::read_to_string(file).ok()?);
    let name = format!("{}.d", file.file_name()?.to_str()?);
    for path in files_of(&name, "conf") {
        all += &of_addresses(&fs::read_to_string(path).ok()?);
    }
    Some(all)
}

/// The sections of a file that are about addresses, and not about what the interface is or carries.
fn of_addresses(text: &str) -> String {
    const SECTIONS: [&str; 14] = [
        "Network",
        "Address",
        "Neighbor",
        "Route",
        "NextHop",
        "RoutingPolicyRule",
        "DHCP",
        "DHCPv4",
        "DHCPv6",
        "DHCPPrefixDelegation",
        "IPv6AcceptRA",
        "IPv6AddressLabel",
        "IPv6Prefix",
        "DHCPServer",
    ];
    const OF_THE_LINK: [&str; 14] = [
        "Bridge",
        "Bond",
        "VLAN",
        "MACVLAN",
        "MACVTAP",
        "IPVLAN",
        "IPVTAP",
        "VXLAN",
        "Tunnel",
        "VRF",
        "Xfrm",
        "IPoIB",
        "BatmanAdvanced",
        "Description",
    ];
    let mut kept = String::new();
    let mut is_wanted = false;
    let mut goes_on = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_wanted = SECTIONS.contains(&section);
        } else if !goes_on && trimmed.split_once('=').is_some_and(|(key, _)| OF_THE_LINK.contains(&key.trim())) {
            continue;
        }
        goes_on = trimmed.ends_with('\\');
        if is_wanted && !trimmed.is_empty() && !trimmed.starts_with(['#', ';']) {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// The IAID in a client identifier (RFC 4361): ff, four bytes of it, the DUID.
fn identity(client: &str) -> Option<u32> {
    client.strip_prefix("ff").and_then(|rest| u32::from_str_radix(rest.get(..8)?, 16).ok())
}

impl Network {
    /// Whether netplan wrote the file (its `networkd` renderer).
    pub fn is_of_netplan(&self) -> bool {
        self.file.file_name().is_some_and(|name| name.to_string_lossy().contains("-netplan-"))
    }

    /// The files, and what is in them.
    fn files(&self, bridge: &IfName, takes_part: bool) -> [(PathBuf, String); 3] {
        let of_bridge = match takes_part {
            true => self.settings_on(bridge),
            false => unmanaged(&pattern(bridge)),
        };
        [
            (path(bridge, ""), of_bridge),
            (path(bridge, ":tap"), unmanaged("tap*")),
            (path(bridge, ":uplink"), unmanaged(&pattern(&self.interface))),
        ]
    }

    /// The settings for another interface, on which they find the addresses already.
    fn settings_on(&self, interface: &IfName) -> String {
        let mut text = format!("[Match]\nName={}\n\n{}", pattern(interface), self.settings);
        text += "\n[Network]\nKeepConfiguration=dhcp\nIgnoreCarrierLoss=yes\n\n[DHCPv4]\nSendRelease=no\n";
        if let Some(identity) = self.identity {
            text += &format!("IAID={identity}\n\n[DHCPv6]\nIAID={identity}\n");
        }
        text
    }

    pub(super) fn commands(&self, bridge: &IfName) -> [Vec<String>; 2] {
        let [of_bridge, of_taps, of_uplink] = self.files(bridge, true).map(|(path, text)| in_shell(&path, &text));
        let reload = || "networkctl reload".to_owned();
        [vec![of_bridge, of_taps, reload()], vec![of_uplink, reload()]]
    }

    /// It takes a bridge the moment that it sees it, by whatever file it has then.
    pub(super) fn silence(&self, place: &Place) -> Result<()> {
        let [of_bridge, of_taps, _] = self.files(place.bridge, place.takes_part);
        bring_in([of_bridge, of_taps])
    }

    /// The uplink is not its own any more when it has nothing on it.
    pub(super) fn renew(&self, place: &Place) -> Result<()> {
        bring_in(self.files(place.bridge, place.takes_part))
    }

    pub(super) fn wake(&self, place: &Place, netlink: &mut Netlink) -> Result<()> {
        let _ = clear(netlink, place.index);
        // A kill may have come between the two.
        let mut is_told = value_of(place.index, "ADMIN_STATE").as_deref() == Some("unmanaged");
        for (path, _) in self.files(place.bridge, place.takes_part) {
            is_told |= remove(&path)?;
        }
        let is_at_it = value_of(place.index, "ADMIN_STATE").as_deref() == Some("configuring");
        if !(is_told || is_at_it) || !runs() {
            return Ok(());
        }
        hold(place.index, || {
            if is_told {
                reload()?;
            }
            wait_until_configured(place.index, netlink);
            Ok(())
        })
    }
}

/// It waits for the interface's own IPv6 address, and does not see one that was there before it took the interface back:
/// it is told again of it. That it is content is not worth an error.
fn wait_until_configured(index: u32, netlink: &mut Netlink) {
    let is_configured = || value_of(index, "ADMIN_STATE").as_deref() == Some("configured");
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        if is_configured() {
            return;
        }
        if let Ok(layer3) = netlink.layer3(index) {
            let _ = netlink.change(layer3.announcing());
        }
    }
}

/// No file of the user's comes before these, as 00-eth0.network would before a letter: the first that matches counts.
const OURS: &str = "+kvm-bridge-";

/// No name of an interface has a colon.
fn path(bridge: &IfName, what: &str) -> PathBuf {
    Path::new(FILES).join(format!("{OURS}{bridge}{what}.network"))
}

fn unmanaged(names: &str) -> String {
    format!("[Match]\nName={names}\n\n[Link]\nUnmanaged=yes\n")
}

/// Has it read the files that are not there yet. One that is written again would have it configure all anew.
fn bring_in<const N: usize>(files: [(PathBuf, String); N]) -> Result<()> {
    let mut is_new = false;
    for (path, text) in &files {
        if !fs::read_to_string(path).is_ok_and(|there| there == *text) {
            write(path, text)?;
            is_new = true;
        }
    }
    if is_new { reload() } else { Ok(()) }
}

fn reload() -> Result<()> {
    Program::new("networkctl").words(["reload"]).run().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_addresses_is_kept() {
        let text = "[Match]\nName=eth0\n[Link]\nMTUBytes=9000\n# x\n[Network]\nDHCP=yes\nVLAN=vlan7\nDNS=10.0.0.1\n\
                    [DHCPv4]\nRouteMetric=7\n[CAKE]\nBandwidth=1M\n";
        assert_eq!(of_addresses(text), "[Network]\nDHCP=yes\nDNS=10.0.0.1\n[DHCPv4]\nRouteMetric=7\n");
    }

    #[test]
    fn the_identity_is_in_the_client_identifier() {
        assert_eq!(identity("ff83625a6500020000ab11dede0fabf5e9fca3"), Some(0x8362_5a65));
        assert_eq!(identity("0152540012345"), None);
    }
}
