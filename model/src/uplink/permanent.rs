//! How a permanent bridge is set up, in each manager's own manner: the commands of docs/managers.md, with a host's names in
//! the place of the examples'. The page is the only source, and its blocks are what the tests carry out.

use crate::host::Link;
use crate::ifname::IfName;
use crate::manager::{Manager, is_of_netplan};

const PAGE: &str = include_str!("../../managers.md");

/// The commands that set up a permanent bridge with this uplink, a line of its own each and indented, to be pasted.
pub fn setup(manager: Option<&Manager>, bridge: &IfName, link: &Link) -> String {
    let is_static = addresses(link).next().is_some() && !link.addresses.iter().any(|address| address.expires);
    let blocks = blocks(section(manager));
    let block = blocks.get(usize::from(is_static)).or_else(|| blocks.first());
    let mut lines: Vec<String> = block.into_iter().flatten().map(|line| filled_in(line, bridge, link)).collect();
    if is_static && manager.is_none() {
        // Nothing tells whether a client gave it: udhcpc's addresses have no end.
        let (first, gateway) = (addresses(link).next().unwrap_or_default(), link.gateway);
        let route = gateway.map(|gateway| format!(" and 'ExecStart=ip route add default via {gateway} dev {bridge}'"));
        let route = route.unwrap_or_default();
        lines.insert(
            0,
            format!(
                "# if no DHCP client gave {} its address, with 'ExecStart=ip address add {first} dev {bridge}'{route} in the \
                 place of dhclient:",
                link.name
            ),
        );
    }
    let others: Vec<String> = addresses(link).skip(1).collect();
    if is_static && !others.is_empty() {
        lines.push(format!("# and give {bridge} the other addresses of {} too: {}", link.name, others.join(", ")));
    }
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

/// The heading on the page under which its commands are.
fn section(manager: Option<&Manager>) -> &'static str {
    match manager {
        Some(Manager::NetworkManager) => "NetworkManager",
        Some(Manager::Networkd(file)) if is_of_netplan(file) => "netplan",
        Some(Manager::Networkd(_)) => "systemd-networkd",
        Some(Manager::Ifupdown) => "ifupdown",
        Some(Manager::Dhcpcd) => "dhcpcd",
        Some(Manager::Connman) => "connman",
        None => "Another client",
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
fn filled_in(line: &str, bridge: &IfName, link: &Link) -> String {
    // Each place is filled in once: a name may be another's example.
    let unit = link.name.as_str().replace('-', "\\x2d");
    let examples = [
        ("devices-eth0.", format!("devices-{unit}.")),
        ("52:54:00:aa:bb:cc", link.mac.map(|mac| mac.to_string()).unwrap_or_default()),
        ("192.0.2.10/24", addresses(link).next().unwrap_or_else(|| "ADDRESS/24".to_owned())),
        ("192.0.2.1", link.gateway.map_or_else(|| "GATEWAY".to_owned(), |gateway| gateway.to_string())),
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
    link.addresses.iter().filter(|address| address.ip.is_ipv4()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac::Mac;

    #[test]
    fn each_manager_has_its_commands() {
        let [uplink, bridge] = ["br0-nic", "eth0x"].map(|name| IfName::new(name).unwrap());
        let link = Link { mac: Some(Mac([2, 0, 0, 0, 0, 1])), ..Link::bare(2, uplink) };
        for (manager, wanted) in [
            (Some(Manager::NetworkManager), "nmcli connection add type bridge ifname eth0x con-name eth0x stp no"),
            (
                Some(Manager::Networkd("/etc/systemd/network/x.network".into())),
                "Name=br0-nic '[Network]' Bridge=eth0x >/etc/systemd/network/00-eth0x-port.network",
            ),
            (Some(Manager::Networkd("/run/systemd/network/10-netplan-eth0.network".into())), "netplan"),
            (Some(Manager::Ifupdown), "ifdown br0-nic && sed -i -e 's/\\bbr0-nic\\b/eth0x/'"),
            (Some(Manager::Dhcpcd), "1i denyinterfaces br0-nic"),
            (Some(Manager::Connman), "ve-,vb-,br0-nic,eth0x,"),
            (None, "BindsTo=sys-subsystem-net-devices-br0\\x2dnic.device"),
        ] {
            let text = setup(manager.as_ref(), &bridge, &link);
            assert!(text.contains(wanted), "{manager:?}: {text}");
            assert!(!text.contains("52:54:00:aa:bb:cc"), "{manager:?}: {text}");
        }
    }
}
