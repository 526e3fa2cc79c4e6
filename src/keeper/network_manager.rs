//! NetworkManager.
//!
//! By `nmcli` the uplink is none of its own until further notice, which leaves everything on it, and by a run-time file
//! neither are the bridge and the TAPs. It has no client for a bridge that is not its own, so the reaper renews.
#![forbid(unsafe_code)]

use super::hold::{clear, hold};
use super::renewal::Lease;
use super::{Keeper, Place, in_shell, pattern, remove, write};
use crate::error::{Error, Result};
use crate::host::Link;
use crate::name::IfName;
use crate::net::rtnl::Netlink;
use crate::sys::program::Program;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long it may take to bring a connection up again, with its DHCP.
const ACTIVATION: Duration = Duration::from_secs(10);

/// Where it notes its leases, one file for each connection and interface.
const LEASES: &str = "/var/lib/NetworkManager";

/// A device of NetworkManager's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The connection that is active on it.
    pub connection: String,
    /// The lease that it has by DHCP.
    pub lease: Option<Lease>,
}

/// The file in which it keeps a device over its own restart.
fn state_file(index: u32) -> PathBuf {
    format!("/run/NetworkManager/devices/{index}").into()
}

/// The device that this interface is for a NetworkManager that runs, by one of its connections.
pub(super) fn recognise(link: &Link) -> Option<Keeper> {
    let state = fs::read_to_string(state_file(link.index)).ok()?;
    let value = |key: &str| state.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    let connection = value("connection-uuid")?.to_owned();
    if value("managed") != Some("true") {
        return None;
    }
    let name = "NetworkManager";
    let fields = "GENERAL.STATE,DHCP4.OPTION,DHCP6.OPTION";
    let said = match nmcli(["-t", "-e", "no", "-f", fields, "device", "show", link.name.as_str()]) {
        Ok(said) => said,
        // Where it was stopped it would take the uplink back when it starts again.
        Err(_) => return Some(Keeper::stranger(name, "it does not answer to nmcli, by which it would be told")),
    };
    let shown = Shown::of(&said);
    if shown.is_external {
        return None;
    }
    if shown.has_dhcp6 {
        return Some(Keeper::stranger(name, "it has an address by DHCPv6, which is not renewed for it"));
    }
    match shown.lease() {
        Err(missing) => Some(Keeper::stranger(name, format!("it does not tell the {missing} of its lease"))),
        Ok(lease) => Some(Keeper::NetworkManager(Device { connection, lease })),
    }
}

/// What nmcli shows of a device.
struct Shown<'a> {
    is_external: bool,
    has_dhcp6: bool,
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Shown<'a> {
    fn of(text: &'a str) -> Self {
        let is_external = text.lines().any(|line| line.starts_with("GENERAL.STATE:") && line.contains("(externally)"));
        let has_dhcp6 = text.lines().any(|line| line.starts_with("DHCP6.OPTION["));
        let options = text.lines().filter(|line| line.starts_with("DHCP4.OPTION["));
        let options = options.filter_map(|line| line.split_once(':')?.1.split_once(" = ")).collect();
        Self { is_external, has_dhcp6, options }
    }

    fn lease(&self) -> std::result::Result<Option<Lease>, &'static str> {
        let value = |wanted: &str| self.options.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        if self.options.is_empty() {
            return Ok(None);
        }
        Ok(Some(Lease {
            address: value("ip_address").and_then(|text| text.parse().ok()).ok_or("address")?,
            server: value("dhcp_server_identifier").and_then(|text| text.parse().ok()).ok_or("server")?,
            seconds: value("dhcp_lease_time").and_then(|text| text.parse().ok()).ok_or("time")?,
            client: value("dhcp_client_identifier").map(|text| text.replace(':', "")),
            host_name: host_name(),
        }))
    }
}

/// The name that it tells the server, as it does by default.
fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_owned();
    (!name.is_empty() && name != "(none)" && !name.starts_with("localhost")).then_some(name)
}

fn nmcli<const N: usize>(words: [&str; N]) -> Result<String> {
    Program::new("nmcli").words(words).run()
}

/// Whether it runs and is to be talked to.
fn runs() -> bool {
    nmcli(["-t", "-f", "RUNNING", "general"]).is_ok_and(|said| said.trim() == "running")
}

impl Device {
    fn file(bridge: &IfName) -> PathBuf {
        format!("/run/NetworkManager/conf.d/90-kvm-bridge-{bridge}.conf").into()
    }

    fn text(bridge: &IfName) -> String {
        format!("[keyfile]\nunmanaged-devices+=interface-name:{};interface-name:tap*\n", pattern(bridge))
    }

    pub(super) fn commands(&self, bridge: &IfName, uplink: &IfName) -> [Vec<String>; 2] {
        let before = vec![
            in_shell(&Self::file(bridge), &Self::text(bridge)),
            "nmcli general reload conf".to_owned(),
            format!("nmcli device set {uplink} managed no"),
        ];
        [before, Vec::new()]
    }

    pub(super) fn note(&self, bridge: &IfName) -> Option<String> {
        self.lease.as_ref().map(|lease| {
            format!("A process of ours then renews the lease of {} on {bridge}, from {}", lease.address, lease.server)
        })
    }

    pub(super) fn silence(&self, place: &Place) -> Result<()> {
        let Some(uplink) = &place.uplink else {
            return Err(Error::new("the interface went away in this moment", "Try again."));
        };
        write(&Self::file(place.bridge), &Self::text(place.bridge))?;
        nmcli(["general", "reload", "conf"])?;
        nmcli(["-w", "10", "device", "set", uplink.as_str(), "managed", "no"])?;
        Ok(())
    }

    pub(super) fn wake(&self, place: &Place, netlink: &mut Netlink) -> Result<()> {
        let _ = clear(netlink, place.index);
        remove(&Self::file(place.bridge))?;
        self.forget_other_lease(place.called)?;
        if !runs() {
            return self.wake_sleeping(place.index);
        }
        // Also where the file is gone: a kill may have come between the two.
        nmcli(["general", "reload", "conf"])?;
        let Some(uplink) = &place.uplink else { return Ok(()) };
        let woken = hold(place.index, || {
            // Where it could not be told it has not let go.
            if !is_managed(uplink) {
                nmcli(["-w", "10", "device", "set", uplink.as_str(), "managed", "yes"])?;
            }
            if !has_come_up(uplink) {
                nmcli(["-w", "15", "connection", "up", "uuid", &self.connection, "ifname", uplink.as_str()])?;
            }
            Ok(())
        });
        match woken {
            // No DHCP server answers. It goes on asking by itself; what it had is there as long as it may.
            Err(_) if matches!(state(uplink).0, Some(40..100)) => Ok(()),
            woken => woken,
        }
    }

    /// Where another address was given on the bridge it would ask for its former one first, and be refused, or not be
    /// answered at all for a time. Without its note of that it asks for any, and gets the one that its identity has.
    fn forget_other_lease(&self, uplink: &IfName) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        for client in ["internal", "dhclient"] {
            let note = PathBuf::from(format!("{LEASES}/{client}-{}-{uplink}.lease", self.connection));
            if fs::read_to_string(&note).is_ok_and(|text| !names(&text, lease.address)) {
                remove(&note)?;
            }
        }
        Ok(())
    }

    /// When it starts again it reads what we told it.
    fn wake_sleeping(&self, index: u32) -> Result<()> {
        let path = state_file(index);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let managed = format!("managed=true\nconnection-uuid={}", self.connection);
        match text.contains("managed=false") {
            true => write(&path, &text.replace("managed=false", &managed)),
            false => Ok(()),
        }
    }
}

/// Whether a text has this address in it.
fn names(text: &str, address: Ipv4Addr) -> bool {
    text.split(|sign: char| !sign.is_ascii_digit() && sign != '.').any(|word| word.parse() == Ok(address))
}

fn is_managed(uplink: &IfName) -> bool {
    let said = nmcli(["-t", "-f", "GENERAL.NM-MANAGED", "device", "show", uplink.as_str()]);
    said.is_ok_and(|said| said.trim() == "GENERAL.NM-MANAGED:yes")
}

/// Its state for a device, as a number, and whether it only looks on.
fn state(uplink: &IfName) -> (Option<u32>, bool) {
    let said = nmcli(["-t", "-e", "no", "-f", "GENERAL.STATE", "device", "show", uplink.as_str()]).unwrap_or_default();
    let state = said.trim().strip_prefix("GENERAL.STATE:").and_then(|state| state.split(' ').next()?.parse().ok());
    (state, Shown::of(&said).is_external)
}

/// Waits until one of its connections is active on a device by itself; false if none is going to be, or if it only looks
/// on ("externally"): that is what it does where it finds addresses before it has begun.
fn has_come_up(uplink: &IfName) -> bool {
    let end = Instant::now() + ACTIVATION;
    loop {
        // NMDeviceState: 30 is "disconnected", 40 to 90 "connecting", 100 "activated", more is on its way down.
        let (state, is_external) = state(uplink);
        match state {
            Some(100) => return !is_external,
            Some(0..=30 | 101..) | None if Instant::now() + ACTIVATION.mul_f32(0.8) > end => return false,
            _ if Instant::now() > end => return false,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_a_note_of_a_lease() {
        let address = Ipv4Addr::new(10, 77, 0, 20);
        assert!(names("# private\nADDRESS=10.77.0.20\n", address));
        assert!(names("lease {\n  fixed-address 10.77.0.20;\n}\n", address));
        assert!(!names("ADDRESS=10.77.0.200\n", address));
    }

    #[test]
    fn a_lease_is_told_whole_or_not_at_all() {
        let text = "GENERAL.STATE:100 (connected)\nDHCP4.OPTION[1]:dhcp_client_identifier = 01:2e:52\n\
                    DHCP4.OPTION[2]:dhcp_lease_time = 120\nDHCP4.OPTION[3]:dhcp_server_identifier = 10.77.0.1\n";
        assert_eq!(Shown::of(text).lease(), Err("address"));
        let whole = format!("{text}DHCP4.OPTION[4]:ip_address = 10.77.0.9\n");
        let lease = Shown::of(&whole).lease().unwrap().unwrap();
        assert_eq!((lease.client.as_deref(), lease.seconds), (Some("012e52"), 120));
        assert_eq!(Shown::of("GENERAL.STATE:100 (connected)\n").lease(), Ok(None));
        assert!(Shown::of("GENERAL.STATE:100 (connected (externally))\n").is_external);
    }
}
