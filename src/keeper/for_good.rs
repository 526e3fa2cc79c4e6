//! How a bridge is made for good, in each manager's own manner; what docs/managers.md has at length.
#![forbid(unsafe_code)]

use crate::host::Link;
use crate::name::IfName;

/// The lines that make a bridge with this uplink for good, for the manager of this name; for people, with an empty line
/// of each.
pub fn for_good(manager: &str, bridge: &IfName, link: &Link) -> String {
    let uplink = &link.name;
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let lines: Vec<String> = match manager.split(' ').next().unwrap_or_default() {
        "NetworkManager" => vec![
            format!(
                "nmcli connection add type bridge ifname {bridge} con-name {bridge} stp no bridge.mac-address {mac}"
            ),
            format!("nmcli connection add type ethernet ifname {uplink} con-name {bridge}-{uplink} master {bridge}"),
            format!("nmcli connection up {bridge}-{uplink}"),
        ],
        "systemd-networkd" => vec![
            format!("# /etc/systemd/network/10-{bridge}.netdev: [NetDev] Name={bridge} Kind=bridge MACAddress={mac}"),
            format!("# /etc/systemd/network/10-{bridge}-port.network: [Match] Name={uplink} [Network] Bridge={bridge}"),
            format!("# /etc/systemd/network/10-{bridge}.network: [Match] Name={bridge} [Network] DHCP=yes"),
            "networkctl reload".to_owned(),
        ],
        "dhclient" | "udhcpc" | "ifupdown" => vec![
            format!("# /etc/network/interfaces, in place of {uplink}'s (with the package bridge-utils):"),
            format!("auto {bridge}"),
            format!("iface {bridge} inet dhcp"),
            format!("    bridge_ports {uplink}"),
            format!("    bridge_hw {mac}"),
            format!("ifdown {uplink} && ifup {bridge}"),
        ],
        "dhcpcd" => vec![
            format!("# /etc/dhcpcd.conf: denyinterfaces {uplink}, and interface {bridge}"),
            format!("# before dhcpcd starts: ip link add {bridge} address {mac} type bridge"),
            format!("# and: ip link set {uplink} master {bridge} up; ip link set {bridge} up"),
        ],
        "connmand" => vec![
            format!("# /etc/connman/main.conf: [General] NetworkInterfaceBlacklist={uplink},tap"),
            format!(
                "# at boot: ip link add {bridge} address {mac} type bridge; ip link set {uplink} master {bridge} up"
            ),
            format!("# and a DHCP client on {bridge}"),
        ],
        _ => vec![
            format!("# at boot, before the DHCP client: ip link add {bridge} address {mac} type bridge"),
            format!("# and: ip link set {uplink} master {bridge} up; ip link set {bridge} up"),
            format!("# the DHCP client then runs on {bridge}, not on {uplink}"),
        ],
    };
    lines.iter().map(|line| format!("\n    {line}")).collect()
}
