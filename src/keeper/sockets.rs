//! A DHCP client of an unknown name, by the sockets that it cannot be without: one on the client's port of UDP (RFC 2131)
//! at an address of the interface, or one that gets IP frames of the interface as they are.
#![forbid(unsafe_code)]

use super::Keeper;
use crate::host::Link;
use crate::sys::process;
use std::fs;
use std::path::Path;

const ETH_P_ALL: &str = "0003";
const ETH_P_IP: &str = "0800";
/// Port 68, bootpc.
const CLIENTS_PORT: &str = "0044";

/// Who has such sockets on this interface. In /proc/PID/fd of all users' processes only root can look.
pub(super) fn recognise(link: &Link) -> Option<Keeper> {
    if !process::is_root() {
        return None;
    }
    let read = |table: &str| fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let raw = raw_sockets(&read("packet"), link.index);
    let udp = udp_sockets(&read("udp"));
    if raw.is_empty() && udp.is_empty() {
        return None;
    }
    let addresses = link.layer3.address_texts();
    let addresses: Vec<&str> = addresses.iter().filter_map(|address| address.split('/').next()).collect();
    let is_client = |inodes: &[u64]| {
        let has = |inode: &u64| inodes.contains(inode);
        let takes_ip = raw.iter().any(|(protocol, inode)| protocol == ETH_P_IP && has(inode));
        let takes_all = raw.iter().any(|(protocol, inode)| protocol == ETH_P_ALL && has(inode));
        let is_bound = udp.iter().any(|(address, inode)| has(inode) && addresses.contains(&address.as_str()));
        // Who takes all frames may only be curious.
        takes_ip || is_bound || takes_all && udp.iter().any(|(_, inode)| has(inode))
    };
    let (path, pid) = process::all().find(|(path, _)| is_client(&sockets_of(path)))?;
    let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
    let why = "it has a DHCP client's socket there, and how it could be told to leave an interface alone is not known";
    Some(Keeper::stranger(format!("{} ({pid})", name.trim_end()), why))
}

/// The protocols and inodes of the packet sockets on an interface (/proc/net/packet).
fn raw_sockets(table: &str, index: u32) -> Vec<(String, u64)> {
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let index = index.to_string();
    let here = fields.filter(|fields| fields.get(4) == Some(&index.as_str()));
    here.filter_map(|fields| Some(((*fields.get(3)?).to_owned(), fields.get(8)?.parse().ok()?))).collect()
}

/// The addresses and inodes of the sockets on the client's port (/proc/net/udp).
fn udp_sockets(table: &str) -> Vec<(String, u64)> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(1)?.split_once(':')?;
        // As the processor has it.
        let address = std::net::Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
        (port == CLIENTS_PORT).then_some((address.to_string(), fields.get(9)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

fn sockets_of(process: &Path) -> Vec<u64> {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_read() {
        let packet = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                      ffff888003b3a000 3      3    0003   10    1 0      0      12345\n\
                      ffff888003b3b000 3      2    0800   3     1 0      0      12346\n";
        assert_eq!(raw_sockets(packet, 10), [("0003".to_owned(), 12345)]);
        let udp = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n \
                   1052: 02004D0A:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 777 2 0 0\n \
                   1053: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 778 2 0 0\n";
        if cfg!(target_endian = "little") {
            assert_eq!(udp_sockets(udp), [("10.77.0.2".to_owned(), 777)]);
        }
    }
}
