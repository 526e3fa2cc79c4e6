//! Who looks after an interface: a network manager or DHCP client that would not know where its addresses went, and at
//! the next renewal would put them back. It tells so in its run-time files, or runs.
#![forbid(unsafe_code)]

use crate::host::Link;
use std::fs;
use std::path::Path;

/// The one that looks after this interface, for people.
pub fn keeper(link: &Link) -> Option<String> {
    network_manager(link)
        .or_else(|| networkd(link))
        .or_else(|| dhcp_client(link))
        .or_else(|| link.layer3.has_leases().then(|| "a DHCP client (its address has an end)".to_owned()))
}

/// NetworkManager's own file for a device that it manages by one of its connections.
fn network_manager(link: &Link) -> Option<String> {
    let text = fs::read_to_string(format!("/run/NetworkManager/devices/{}", link.index)).ok()?;
    let has = |start: &str| text.lines().any(|line| line.trim().starts_with(start));
    (has("managed=true") && has("connection-uuid=")).then(|| "NetworkManager".to_owned())
}

/// systemd-networkd's state of a link (sd-network(3) reads the same).
fn networkd(link: &Link) -> Option<String> {
    let text = fs::read_to_string(format!("/run/systemd/netif/links/{}", link.index)).ok()?;
    let is_managed = text.lines().any(|line| line.starts_with("NETWORK_FILE="))
        && !text.lines().any(|line| line == "ADMIN_STATE=unmanaged");
    is_managed.then(|| "systemd-networkd".to_owned())
}

/// A DHCP client that runs in this network namespace and names the interface, or all of them.
fn dhcp_client(link: &Link) -> Option<String> {
    let own = fs::metadata("/proc/self/ns/net").ok()?;
    let is_here = |process: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(process.join("ns/net")).is_ok_and(|other| (other.dev(), other.ino()) == (own.dev(), own.ino()))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)).find_map(|entry| {
        let process = entry.path();
        let client = fs::read_to_string(process.join("comm")).ok()?.trim_end().to_owned();
        if !["dhclient", "dhcpcd", "udhcpc", "dhcpcd-bin", "connmand"].contains(&client.as_str()) || !is_here(&process)
        {
            return None;
        }
        let line = fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split(['\0', ' ']).filter(|word| !word.is_empty());
        let names_it = words.clone().any(|word| word == link.name.as_str());
        // dhcpcd's one process for all interfaces, and connman, name none.
        let is_for_all = client == "connmand" || words.any(|word| word == "[manager]" || word == "[master]");
        (names_it || is_for_all).then(|| format!("{client} ({})", entry.file_name().to_string_lossy()))
    })
}
