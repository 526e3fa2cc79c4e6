//! The permanent set-ups of docs/managers.md, carried out with the managers that they are for: the commands are the page's,
//! as they are printed for this host where `attach=port` is refused, and afterwards `--bridge br0` just joins.

use crate::docs::blocks;
use crate::support::files::path;
use crate::support::managers::{Managed, Manager, Mode};
use crate::support::wait_for;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Stands in for systemd: what these units of the host's do. Process 1 is not the laboratory's.
const SYSTEMCTL: &str = r#"#!/bin/sh
case "$*" in
"stop dhcpcd") dhcpcd -x ;;
"start dhcpcd") dhcpcd -b -q ;;
"restart connman") kill "$(cat /run/manager.pid)"; timeout 10 tail -s 0.02 --pid="$(cat /run/manager.pid)" -f /dev/null; connmand >/dev/null 2>&1 ;;
"enable --now "*) sed -n 's/^ExecStart=//p' "/etc/systemd/system/$3" | sh -e ;;
"stop systemd-networkd.service"*) kill "$(cat /run/manager.pid)"; timeout 10 tail -s 0.02 --pid="$(cat /run/manager.pid)" -f /dev/null ;;
"start "*systemd-networkd*) /lib/systemd/systemd-networkd >/dev/null 2>&1 & ;;
*) exit 0 ;;
esac
"#;

/// The block of the page, with this host's names in the place of the examples'.
fn on_the_page(heading: &str, number: usize, host: &Managed) -> String {
    let page = fs::read_to_string(path("docs/managers.md")).expect("read the page");
    let block = blocks(&page).into_iter().find(|block| block.place == (heading.to_owned(), number));
    let text = block.unwrap_or_else(|| panic!("{heading} has no block {number}")).text;
    text.trim_end()
        .replace("52:54:00:aa:bb:cc", host.a_link("eth0")["address"].as_str().expect("a MAC"))
        .replace("192.0.2.10/24", "10.77.0.2/24")
        .replace("192.0.2.1", "10.77.0.1")
}

/// What doctor prints for this host is the page's. As it is, indented, it is pasted into a shell.
fn as_printed(said: &str, commands: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let wanted: Vec<&str> = commands.lines().map(str::trim).collect();
    let at = (0..lines.len()).find(|at| lines[*at..].starts_with(&wanted));
    let at = at.unwrap_or_else(|| panic!("{commands}\nis not in what is said:\n{said}"));
    said.lines().skip(at).take(wanted.len()).map(|line| format!("{line}\n")).collect()
}

/// What is printed is carried out; the bridge has the host's address then, and is joined.
fn is_set_up_and_joined(place: (&str, usize, (Manager, Mode))) {
    let (heading, number, (manager, mode)) = place;
    let Some(host) = Managed::new(manager, mode) else { return };
    host.wait_at_most(Duration::from_secs(20));
    let said = names_the_manager(&host);
    let commands = as_printed(&said, &on_the_page(heading, number, &host));
    if manager == Manager::Udhcpc {
        host.sh("kill $(cat /run/udhcpc.eth0.pid)").run().succeeds();
    }
    set_up(&host, &commands);
    // The server knows these hosts under another identity then.
    let is_new = mode == Mode::Dhcp && matches!(manager, Manager::Networkd | Manager::Netplan | Manager::Udhcpc);
    if is_new || manager == Manager::Netplan {
        wait_for("br0 to have an address", 90, || {
            host.addresses("br0").into_iter().find(|ip| ip.starts_with("10.77."))
        });
    } else {
        let wanted = format!("{}/24", host.address);
        wait_for("br0 to have the host's address", 90, || host.addresses("br0").contains(&wanted).then_some(()));
        host.is_on("br0");
    }
    is_joined(&host);
}

/// What is said of the host's manager; none of one that only its process tells of.
fn manager_of(host: &Managed) -> Option<&'static str> {
    match host.manager {
        Manager::NetworkManager => Some("NetworkManager"),
        Manager::Networkd => Some("systemd-networkd"),
        Manager::Netplan => Some("netplan (systemd-networkd)"),
        Manager::Ifupdown => Some("ifupdown"),
        Manager::Dhcpcd => Some("dhcpcd"),
        Manager::Connman => Some("connman"),
        Manager::Udhcpc => None,
    }
}

/// Doctor, status and the dry run say who it is, and that the uplink is shared; what is said where it is to be a port.
fn names_the_manager(host: &Managed) -> String {
    let name = manager_of(host);
    let status = host.kvm_bridge("status").run().succeeds().out;
    let by = name.map(|name| format!(", is managed by {name}")).unwrap_or_default();
    assert!(status.contains(&format!("eth0  has the default route{by}: ")), "{status}");
    let json: Value = serde_json::from_str(&host.kvm_bridge("status --json").run().succeeds().out).expect("JSON");
    let uplink = &json["uplinks"][0];
    assert_eq!((&uplink["name"], &uplink["manager"]), (&"eth0".into(), &name.into()), "{uplink}");
    if matches!(host.manager, Manager::Connman | Manager::Dhcpcd) {
        return refuses_to_share(host);
    }
    let by = name.map(|name| format!(", which {name} manages,")).unwrap_or_default();
    let dry = host.shim("--bridge-dry-run --bridge br0").run().succeeds().out;
    assert!(dry.contains(&format!("# eth0{by} is shared: ")), "{dry}");
    let doctor = host.kvm_bridge("doctor br0 --quick --verbose").run().out;
    assert!(doctor.contains(&format!("ok       uplink of br0: eth0{by} would be shared")), "{doctor}");
    host.is_untouched();
    let refused = host.shim("--bridge br0,uplink=eth0,attach=port").run().exits_with(125).err;
    let why = format!("eth0 cannot be a port: the host has {}/24", host.address);
    for part in [&why, "on it, which a port would cut off", "Leave attach=port out, and it is shared."] {
        assert!(refused.contains(part), "{refused}");
    }
    host.is_untouched();
    if name.is_some() {
        // Doctor has the same commands.
        let commands: Vec<&str> = refused.lines().filter(|line| line.starts_with("    ")).map(str::trim).collect();
        assert!(!commands.is_empty(), "{refused}");
        for command in commands {
            assert!(doctor.contains(command), "{command} is not in {doctor}");
        }
    }
    refused
}

/// It takes all links that it is not told to leave alone: that it is not is said, with what to tell it; and a permanent
/// bridge is shown as for any other.
fn refuses_to_share(host: &Managed) -> String {
    for words in ["--bridge br0", "--bridge-dry-run --bridge br0"] {
        let refused = host.shim(words).run().exits_with(125).err;
        let (name, how) = match host.manager {
            Manager::Connman => ("connman", "NetworkInterfaceBlacklist in /etc/connman/main.conf"),
            _ => ("dhcpcd", "Add 'denyinterfaces kvb*' to /etc/dhcpcd.conf"),
        };
        assert!(refused.contains(&format!("{name} takes every new link, also those that this needs")), "{refused}");
        assert!(refused.contains(how), "{refused}");
    }
    host.is_untouched();
    let refused = host.shim("--bridge br0,uplink=eth0,attach=port").run().exits_with(125).err;
    assert!(refused.contains("eth0 cannot be a port: the host has "), "{refused}");
    host.is_untouched();
    refused
}

fn set_up(host: &Managed, commands: &str) {
    let bin = std::path::Path::new("/run/bin");
    fs::create_dir_all(bin).expect("make a folder");
    // There is no udevd here.
    for (name, script) in [("systemctl", SYSTEMCTL), ("udevadm", "#!/bin/sh\n")] {
        fs::write(bin.join(name), script).expect("write a program");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    fs::create_dir_all("/etc/systemd/system").expect("make a folder");
    let daemons = ["/lib/systemd/systemd-networkd", "connmand"];
    let process =
        host.all_processes().into_iter().find(|process| daemons.iter().any(|d| process.command.starts_with(d)));
    fs::write("/run/manager.pid", process.map(|process| process.pid.to_string()).unwrap_or_default()).expect("write");
    let shell = host.program("sh").arg("-ec").arg(commands);
    let ended = shell.env("PATH", "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin").start().end_within(60);
    assert!(ended.status.success(), "{commands}\n{}{}", ended.out, ended.err);
}

/// Joined, and nothing else: no journal, no process of ours, the TAP nobody else's, and afterwards all as it was.
fn is_joined(host: &Managed) {
    host.comes_to_rest();
    host.tolerates_what_runs();
    host.baseline();
    let mut guest = host.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(host.lan.mac()), "{}", guest.err());
    assert!(!host.run_dir().join("br0.json").exists(), "there is a journal");
    assert!(host.reapers().is_empty());
    // The manager has seen the TAP by then, and done what it does.
    host.comes_to_rest();
    assert_eq!(host.ports("br0"), ["eth0", "kvb0"]);
    assert_eq!(host.addresses("kvb0"), [""; 0], "the manager has taken kvb0");
    assert_eq!(guest.err(), "", "nothing is to be said");
    let status = host.kvm_bridge("status br0").run().succeeds().out;
    let by = match host.manager {
        // Started by a unit.
        Manager::Connman | Manager::Udhcpc => String::new(),
        _ => manager_of(host).map(|name| format!("managed by {name}, ")).unwrap_or_default(),
    };
    assert!(status.starts_with(&format!("br0  found, {by}")), "{status}");
    guest.terminate();
    host.becomes_as_before();
}

#[test]
fn network_manager() {
    is_set_up_and_joined(("NetworkManager", 1, (Manager::NetworkManager, Mode::Dhcp)));
}

#[test]
fn network_manager_with_a_static_address() {
    is_set_up_and_joined(("NetworkManager", 2, (Manager::NetworkManager, Mode::Static)));
}

#[test]
fn networkd() {
    is_set_up_and_joined(("systemd-networkd", 1, (Manager::Networkd, Mode::Dhcp)));
}

#[test]
fn networkd_with_a_static_address() {
    is_set_up_and_joined(("systemd-networkd", 2, (Manager::Networkd, Mode::Static)));
}

#[test]
fn netplan() {
    is_set_up_and_joined(("netplan", 1, (Manager::Netplan, Mode::Dhcp)));
}

#[test]
fn netplan_with_a_static_address() {
    is_set_up_and_joined(("netplan", 2, (Manager::Netplan, Mode::Static)));
}

#[test]
fn ifupdown() {
    is_set_up_and_joined(("ifupdown", 1, (Manager::Ifupdown, Mode::Dhcp)));
}

#[test]
fn ifupdown_with_a_static_address() {
    is_set_up_and_joined(("ifupdown", 1, (Manager::Ifupdown, Mode::Static)));
}

#[test]
fn dhcpcd() {
    is_set_up_and_joined(("dhcpcd", 1, (Manager::Dhcpcd, Mode::Dhcp)));
}

#[test]
fn dhcpcd_with_a_static_address() {
    is_set_up_and_joined(("dhcpcd", 1, (Manager::Dhcpcd, Mode::Static)));
}

#[test]
fn connman() {
    is_set_up_and_joined(("connman", 1, (Manager::Connman, Mode::Dhcp)));
}

#[test]
fn another_client() {
    is_set_up_and_joined(("Another client", 1, (Manager::Udhcpc, Mode::Dhcp)));
}
