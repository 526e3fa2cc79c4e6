//! The lasting set-ups of docs/managers.md, carried out with the managers that they are for: the commands are the page's,
//! as `kvm-bridge doctor` prints them for this host, and afterwards `--bridge br0` just joins.

use crate::docs::blocks;
use crate::shipped::path;
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
"restart connman") kill "$(cat /run/manager.pid)"; sleep 1; connmand >/dev/null 2>&1 ;;
"enable --now "*) sed -n 's/^ExecStart=//p' "/etc/systemd/system/$3" | sh -e ;;
"stop systemd-networkd.service"*) kill "$(cat /run/manager.pid)"; sleep 1 ;;
"start "*systemd-networkd*) /lib/systemd/systemd-networkd >/dev/null 2>&1 & ;;
*) exit 0 ;;
esac
"#;

/// The block of the page, with this host's names in the place of the examples'.
fn on_the_page(heading: &str, number: usize, host: &Managed) -> String {
    let page = fs::read_to_string(path("docs/managers.md")).expect("read the page");
    let block = blocks(&page).into_iter().find(|block| block.place == (heading.to_owned(), number));
    let text = block.unwrap_or_else(|| panic!("{heading} has no block {number}")).text;
    let lease = fs::read_to_string("/run/systemd/netif/leases/10").unwrap_or_default();
    let client = lease.lines().find_map(|line| line.strip_prefix("CLIENTID=ff")).unwrap_or("00000001");
    let identity = u32::from_str_radix(&client[..8], 16).expect("an IAID");
    text.trim_end()
        .replace("52:54:00:aa:bb:cc", host.a_link("eth0")["address"].as_str().expect("a MAC"))
        .replace("192.0.2.10/24", "10.77.0.2/24")
        .replace("192.0.2.1", "10.77.0.1")
        .replace("IAID=1", &format!("IAID={identity}"))
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
    let said = names_the_keeper(&host);
    let commands = as_printed(&said, &on_the_page(heading, number, &host));
    if manager == Manager::Udhcpc {
        host.sh("kill $(cat /run/udhcpc.eth0.pid)").run().succeeds();
    }
    set_up(&host, &commands);
    // The server knows these hosts under another identity then.
    if matches!(manager, Manager::Netplan | Manager::Udhcpc) {
        wait_for("br0 to have an address", 30, || {
            host.addresses("br0").into_iter().find(|ip| ip.starts_with("10.77."))
        });
    } else {
        let wanted = format!("{}/24", host.address);
        wait_for("br0 to have the host's address", 30, || host.addresses("br0").contains(&wanted).then_some(()));
        host.is_on("br0");
    }
    is_joined(&host);
}

/// Doctor, status and the dry run say who it is; what doctor says.
fn names_the_keeper(host: &Managed) -> String {
    let (name, by) = match host.manager {
        Manager::NetworkManager => ("NetworkManager", "its connection 11111111-2222-4333-8444-555555555555"),
        Manager::Networkd => ("systemd-networkd", "/etc/systemd/network/20-wired.network"),
        Manager::Netplan => ("systemd-networkd", "/run/systemd/network/10-netplan-eth0.network"),
        Manager::Ifupdown if host.mode == Mode::Static => ("ifupdown", "/run/network/ifstate"),
        Manager::Ifupdown => ("ifupdown with dhclient", "process "),
        Manager::Dhcpcd => ("dhcpcd", "process "),
        Manager::Udhcpc => ("udhcpc", "process "),
        Manager::Connman => return refuses_connman(host),
    };
    let status = host.kvm_bridge("status").run().succeeds().out;
    let line = format!("eth0  has the default route, is no bridge, {name} (by {by}");
    assert!(status.contains(&line), "{status}");
    let json: Value = serde_json::from_str(&host.kvm_bridge("status --json").run().succeeds().out).expect("JSON");
    let uplink = &json["uplinks"][0];
    assert_eq!((&uplink["name"], &uplink["keeper"]), (&"eth0".into(), &name.into()), "{uplink}");
    assert!(uplink["keeper_by"].as_str().is_some_and(|said| said.starts_with(by)), "{uplink}");
    assert!(uplink["keeper_why_not"].is_null(), "{uplink}");
    let dry = host.shim("--bridge-dry-run --bridge br0").run().succeeds().out;
    assert!(dry.contains(&format!("# eth0 is run by {name}, ")), "{dry}");
    let said = host.kvm_bridge("doctor br0 --quick").run().out;
    assert!(said.contains(&format!("ok       keeper of br0: {name} (by {by}")), "{said}");
    host.is_untouched();
    said
}

/// It is named, with its set-up, and nothing is touched.
fn refuses_connman(host: &Managed) -> String {
    let refused = host.shim("--bridge br0").run().exits_with(125).err;
    assert!(refused.contains("eth0 cannot be the uplink: connmand ("), "{refused}");
    assert!(refused.contains(" looks after it, and it has no way to leave one interface alone"), "{refused}");
    let status = host.kvm_bridge("status").run().succeeds().out;
    assert!(status.contains("is no bridge, connmand (") && status.contains(" looks after it, and it has "), "{status}");
    let dry = host.shim("--bridge-dry-run --bridge br0").run().exits_with(125).err;
    assert!(dry.contains("connmand ("), "{dry}");
    host.is_untouched();
    let said = host.kvm_bridge("doctor br0 --quick").run().exits_with(1).out;
    assert!(said.contains("failure  uplink of br0:") && said.contains("connmand ("), "{said}");
    // Whose process it is, root alone sees.
    let nobody = "setpriv --reuid nobody --clear-groups --inh-caps=-all";
    let as_nobody = host.kvm_bridge("doctor br0 --quick").through(nobody).run().out;
    assert!(
        as_nobody.contains("warning  keeper of br0: who looks after eth0, if anybody does, is seen"),
        "{as_nobody}"
    );
    host.is_untouched();
    as_printed(&refused, &on_the_page("connman", 1, host));
    said
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
    std::thread::sleep(Duration::from_secs(2));
    host.is_content();
    assert_eq!(host.ports("br0"), ["eth0", "tap0"]);
    assert_eq!(host.addresses("tap0"), [""; 0], "the manager has taken tap0");
    assert_eq!(guest.err(), "", "nothing is to be said");
    let status = host.kvm_bridge("status br0").run().succeeds().out;
    let keeper = match host.manager {
        Manager::NetworkManager => "NetworkManager",
        Manager::Networkd | Manager::Netplan => "systemd-networkd",
        Manager::Ifupdown if host.mode == Mode::Static => "ifupdown",
        Manager::Ifupdown => "ifupdown with dhclient",
        Manager::Dhcpcd => "dhcpcd",
        // Started by a unit.
        Manager::Connman | Manager::Udhcpc => "dhclient",
    };
    assert!(status.starts_with(&format!("br0  found, {keeper} looks after it, ")), "{status}");
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

/// Status and doctor say who leaves the uplink alone, as long as it is taken.
fn is_named_while_it_is_taken(manager: Manager, name: &str) {
    let Some(host) = Managed::new(manager, Mode::Dhcp) else { return };
    host.wait_at_most(Duration::from_secs(20));
    let mut guest = host.shim("--bridge br0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(host.lan.mac()), "{}", guest.err());
    let status = host.kvm_bridge("status").run().succeeds().out;
    assert!(status.starts_with("br0  made by kvm-bridge, "), "{status}");
    assert!(status.contains(&format!(", {name} leaves its uplink alone\n")), "{status}");
    let json: Value = serde_json::from_str(&host.kvm_bridge("status --json").run().succeeds().out).expect("JSON");
    let bridge = &json["bridges"][0];
    assert_eq!((&bridge["uplink"], &bridge["uplink_keeper"]), (&"eth0".into(), &name.into()), "{bridge}");
    let said = host.kvm_bridge("doctor br0 --quick").run().succeeds().out;
    assert!(said.contains(&format!("ok       keeper of br0: {name} (by ")), "{said}");
    assert!(said.contains(" leaves the uplink alone, as it was told to, as long as br0 is there\n"), "{said}");
    assert!(!said.contains("takes TAPs"), "{said}");
    guest.terminate();
    host.waits_until_gone("br0");
    host.becomes_as_before();
    host.is_on("eth0");
}

#[test]
fn network_manager_is_named_while_its_uplink_is_taken() {
    is_named_while_it_is_taken(Manager::NetworkManager, "NetworkManager");
}

#[test]
fn networkd_of_netplan_is_named_while_its_uplink_is_taken() {
    is_named_while_it_is_taken(Manager::Netplan, "systemd-networkd");
}

/// A file of networkd's that matches everything takes TAPs too, where the set-up's own file is not there. Doctor says so,
/// and what it says helps.
#[test]
fn a_broad_file_is_warned_of() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Dhcp) else { return };
    let said = host.kvm_bridge("doctor br0 --quick").run().out;
    let commands = as_printed(&said, &on_the_page("systemd-networkd", 1, &host));
    let but_one: Vec<&str> = commands.lines().filter(|line| !line.contains("tap*")).collect();
    set_up(&host, &but_one.join("\n"));
    let wanted = format!("{}/24", host.address);
    wait_for("br0 to have the host's address", 30, || host.addresses("br0").contains(&wanted).then_some(()));
    host.comes_to_rest();
    let mut guest = host.shim("--bridge br0").then("hold").start();
    guest.qemu();
    let word = "qemu-kvm: systemd-networkd takes TAPs too, by /etc/systemd/network/20-wired.network, and may take";
    assert!(guest.err().contains(word), "{}", guest.err());
    // Whether it takes the TAP off the bridge depends on the moment.
    let log =
        wait_for("networkd to take tap0", 20, || Some(host.log()).filter(|log| log.contains("tap0: Configuring")));
    assert!(log.contains("tap0: Configuring with /etc/systemd/network/20-wired.network"), "{log}");
    guest.terminate();
    let said = host.kvm_bridge("doctor br0 --quick").run().succeeds().out;
    let warning = "warning  keeper of br0: systemd-networkd takes TAPs too, by /etc/systemd/network/20-wired.network\n";
    assert!(said.contains(warning), "{said}");
    let mend = said.split("mend: ").find(|mend| mend.starts_with("printf")).expect("the mend");
    set_up(&host, mend.split("ok  ").next().expect("the mend alone"));
    is_joined(&host);
    let said = host.kvm_bridge("doctor br0 --quick").run().succeeds().out;
    assert!(!said.contains("takes TAPs"), "{said}");
}

#[test]
fn doctor_tells_that_networkd_is_kept_from_a_bridge_without_an_uplink() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Static) else { return };
    let said = host.kvm_bridge("doctor lab --quick -- --bridge lab,uplink=none").run().out;
    assert!(
        said.contains("ok       keeper of lab: systemd-networkd would take lab and its TAPs, and is told"),
        "{said}"
    );
}
