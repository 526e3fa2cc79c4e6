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

/// DHCP clients, by the names of their programs; `busybox udhcpc` is one too.
const CLIENTS: [&str; 11] = [
    "dhclient",
    "dhcpcd",
    "dhcpcd-bin",
    "udhcpc",
    "udhcpc6",
    "dhcp6c",
    "odhcp6c",
    "connmand",
    "pump",
    "wickedd-dhcp4",
    "wickedd-dhcp6",
];

/// A DHCP client that runs in this network namespace and names the interface, or none: then it is for all of them.
fn dhcp_client(link: &Link) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let namespace = |process: &Path| fs::metadata(process.join("ns/net")).ok().map(|file| (file.dev(), file.ino()));
    let own = namespace(Path::new("/proc/thread-self"))?;
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").ok()?;
    let others: Vec<&str> = (interfaces.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())))
        .filter(|name| *name != link.name.as_str())
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit)).find_map(|entry| {
        let process = entry.path();
        let line = fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<&str> = line.split(['\0', ' ']).filter(|word| !word.is_empty()).collect();
        let program = |word: &&str| {
            let name = word.rsplit('/').next().unwrap_or_default().trim_end_matches(':').to_owned();
            CLIENTS.contains(&name.as_str()).then_some(name)
        };
        let is_busybox = words.first()?.rsplit('/').next() == Some("busybox");
        let client = words.get(usize::from(is_busybox)).and_then(program)?;
        let names = |interface: &str| words.iter().any(|word| word.trim_start_matches("-i") == interface);
        let is_others = others.iter().any(|other| names(other)) && !names(link.name.as_str());
        let is_here = !is_others && namespace(&process) == Some(own);
        is_here.then(|| format!("{client} ({})", entry.file_name().to_string_lossy()))
    })
}
