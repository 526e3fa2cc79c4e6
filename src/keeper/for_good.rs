//! How a bridge is made for good, in each manager's own manner: the commands of docs/managers.md, with a host's names in
//! the place of the examples'. The page is the only source, and its blocks are what is carried out in the tests.
#![forbid(unsafe_code)]

use super::{Keeper, is_of_ifupdown};
use crate::host::Link;
use crate::name::IfName;

const PAGE: &str = include_str!("../../docs/managers.md");

/// The commands that make a bridge with this uplink for good, a line of its own each and indented, to be pasted.
pub fn for_good(keeper: &Keeper, bridge: &IfName, link: &Link) -> String {
    let is_static = link.layer3.has_ipv4() && !link.layer3.has_leases();
    let blocks = blocks(section(keeper, &link.name));
    let block = blocks.get(usize::from(is_static)).or_else(|| blocks.first());
    let mut lines: Vec<String> =
        block.into_iter().flatten().map(|line| filled_in(line, keeper, bridge, link)).collect();
    let others: Vec<String> = addresses(link).skip(1).collect();
    if is_static && !others.is_empty() {
        lines.push(format!("# and give {bridge} the other addresses of {} too: {}", link.name, others.join(", ")));
    }
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

/// The heading on the page under which its commands are.
fn section(keeper: &Keeper, uplink: &IfName) -> &'static str {
    match keeper {
        Keeper::Networkd(network) if network.is_of_netplan() => "netplan",
        _ => match keeper.name().split(' ').next().unwrap_or_default() {
            "NetworkManager" => "NetworkManager",
            "systemd-networkd" => "systemd-networkd",
            "dhcpcd" => "dhcpcd",
            "connmand" => "connman",
            "ifupdown" => "ifupdown",
            _ if is_of_ifupdown(uplink) => "ifupdown",
            _ => "Another client",
        },
    }
}

/// The blocks of commands under a heading: the first where the address is by DHCP, the second, if any, where it is static.
fn blocks(section: &str) -> Vec<Vec<&'static str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    let mut is_open = false;
    let behind = PAGE.lines().skip_while(|line| line.strip_prefix("### ") != Some(section)).skip(1);
    for line in behind.take_while(|line| !line.starts_with('#')) {
        match line.strip_prefix("    ") {
            Some(line) if is_open => blocks.last_mut().into_iter().for_each(|block| block.push(line)),
            Some(line) => blocks.push(vec![line]),
            None => {}
        }
        is_open = line.starts_with("    ");
    }
    blocks
}

/// A line of the page with this host's names in it.
fn filled_in(line: &str, keeper: &Keeper, bridge: &IfName, link: &Link) -> String {
    // Each place is filled in once: a name may be another's example.
    let unit = link.name.as_str().replace('-', "\\x2d");
    let gateway = link.layer3.default_gateways(link.index).into_iter().find(|gateway| gateway.is_ipv4());
    let identity = match keeper {
        Keeper::Networkd(network) => network.identity.map(|identity| format!("IAID={identity}")),
        _ => None,
    };
    let examples = [
        (" '[DHCPv4]' IAID=1", identity.map_or_else(String::new, |identity| format!(" '[DHCPv4]' {identity}"))),
        ("devices-eth0.", format!("devices-{unit}.")),
        ("52:54:00:aa:bb:cc", link.mac.map(|mac| mac.to_string()).unwrap_or_default()),
        ("192.0.2.10/24", addresses(link).next().unwrap_or_else(|| "ADDRESS/24".to_owned())),
        ("192.0.2.1", gateway.map_or_else(|| "GATEWAY".to_owned(), |gateway| gateway.to_string())),
        ("eth0", link.name.to_string()),
        ("br0", bridge.to_string()),
    ];
    let mut filled = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        match examples.iter().find(|(example, _)| rest.starts_with(example)) {
            Some((example, own)) => {
                filled += own;
                rest = &rest[example.len()..];
            }
            None => {
                filled.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    filled
}

fn addresses(link: &Link) -> impl Iterator<Item = String> {
    link.layer3.address_texts().into_iter().filter(|address| !address.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    #[test]
    fn each_manager_has_its_commands() {
        let [uplink, bridge] = ["br0-nic", "eth0x"].map(|name| IfName::new(name).unwrap());
        let link = Link { mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..Link::bare(2, uplink) };
        for (name, wanted) in [
            ("NetworkManager", "nmcli connection add type bridge ifname eth0x con-name eth0x stp no"),
            ("systemd-networkd", "Name=br0-nic '[Network]' Bridge=eth0x >/etc/systemd/network/00-eth0x-port.network"),
            ("ifupdown with dhclient", "ifdown br0-nic && sed -i -e 's/\\bbr0-nic\\b/eth0x/'"),
            ("dhcpcd", "1i denyinterfaces br0-nic tap*"),
            ("connmand (7)", "ve-,vb-,br0-nic,eth0x,tap' /etc/connman/main.conf"),
            ("pump (7)", "BindsTo=sys-subsystem-net-devices-br0\\x2dnic.device"),
        ] {
            let text = for_good(&Keeper::stranger(name, ""), &bridge, &link);
            assert!(text.contains(wanted), "{name}: {text}");
            assert!(!text.contains("52:54:00:aa:bb:cc") && !text.contains("IAID=1"), "{name}: {text}");
        }
    }
}
