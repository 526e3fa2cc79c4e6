//! Uplinks that can or can't be bridged, and clients that can't be worked with: each has its right answer, and nothing is
//! touched.

use crate::support::managers::{Managed, Manager, Mode};
use crate::support::namespaces::hide;
use crate::support::{Lab, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Refused by the shim, the dry run and doctor alike, in these words; nothing is touched. What the shim says.
#[track_caller]
fn is_refused(lab: &Lab, bridge: &str, words: &[&str]) -> String {
    let shim = lab.shim(&format!("--bridge {bridge}")).run().exits_with(125).err;
    let dry = lab.shim(&format!("--bridge-dry-run --bridge {bridge}")).run().exits_with(125).err;
    let doctor = lab.kvm_bridge(&format!("doctor --quick -- --bridge {bridge}")).run().exits_with(1).out;
    for said in [&shim, &dry, &doctor] {
        for word in words {
            assert!(said.contains(word), "'{word}' is not in:\n{said}");
        }
    }
    lab.is_untouched();
    shim
}

fn program(path: &str, script: &str) {
    fs::write(path, script).expect("write a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn a_dhcp_client_of_an_unknown_name_is_found_by_its_sockets() {
    let Some(host) = Managed::new(Manager::Udhcpc, Mode::Dhcp) else { return };
    host.sh("kill -KILL $(cat /run/udhcpc.eth0.pid)").run().succeeds();
    fs::create_dir_all("/run/bin").expect("make a folder");
    fs::copy("/usr/sbin/dhclient", "/run/bin/netd").expect("copy a program");
    host.lab.ip("addr flush dev eth0");
    host.sh("/run/bin/netd -pf /run/netd.pid -lf /run/netd.leases eth0").start().end_within(30).succeeds();
    wait_for("an address", 10, || host.addresses("eth0").into_iter().find(|ip| ip.starts_with("10.77.")));
    host.comes_to_rest();
    host.tolerates_what_runs();
    host.baseline();
    let pid = fs::read_to_string("/run/netd.pid").expect("its pid");
    let netd = format!("netd ({}) looks after it, and it has a DHCP client's socket there", pid.trim());
    let said = is_refused(&host, "br0", &["eth0 cannot be the uplink: ", &netd, "force=on"]);
    assert!(said.contains("'ExecStart=ip link set eth0 master br0 up'"), "{said}");
    let status = host.kvm_bridge("status").run().succeeds().out;
    assert!(status.contains(&netd), "{status}");
    // That its address has no end does not make it nobody's.
    let address = host.addresses("eth0").into_iter().find(|ip| ip.starts_with("10.77.")).expect("its address");
    host.lab.ip(&format!("addr change {address} dev eth0 valid_lft forever preferred_lft forever"));
    host.baseline();
    is_refused(&host, "br0", &[&netd]);
}

#[test]
fn an_address_that_nobody_renews_is_left_alone() {
    let Some(lab) = Lab::new() else { return };
    lab.ip("addr add 10.77.0.2/24 dev eth0 valid_lft 1000 preferred_lft 1000");
    lab.ip("route add default via 10.77.0.1");
    let said = is_refused(&lab, "br0", &["its address has an end", "cloud-init or an initramfs", "bridge-br0.service"]);
    assert!(said.contains("ExecStart=dhclient br0"), "{said}");
}

/// Nothing of what was told stays, when a NetworkManager has not the means or fails.
#[test]
fn a_network_manager_without_the_means_is_left_alone() {
    let Some(host) = Managed::new(Manager::NetworkManager, Mode::Dhcp) else { return };
    hide("/usr/local").expect("hide a folder");
    fs::create_dir_all("/usr/local/sbin").expect("make a folder");
    let set_up = "nmcli connection add type bridge ifname br0 con-name br0";
    program(
        "/usr/local/sbin/nmcli",
        "#!/bin/sh\ncase \"$*\" in *'device set'*) echo \"Error: property 'managed' is not known.\" >&2; exit 2 ;; esac\n\
         exec /usr/bin/nmcli \"$@\"\n",
    );
    let refused = host.shim("--bridge br0").run().exits_with(125).err;
    assert!(refused.contains("NetworkManager") && refused.contains("'managed' is not known"), "{refused}");
    assert!(refused.contains("kvm-bridge doctor br0"), "{refused}");
    host.becomes_as_before();
    host.is_on("eth0");
    assert!(!fs::exists("/run/NetworkManager/conf.d/90-kvm-bridge-br0.conf").expect("look"));
    let doctor = host.kvm_bridge("doctor br0 --quick").run().out;
    assert!(doctor.contains(set_up), "{doctor}");
    program("/usr/local/sbin/nmcli", "#!/bin/sh\necho 'Error: Could not create NMClient object' >&2; exit 1\n");
    is_refused(&host, "br0", &["NetworkManager looks after it, and it does not answer to nmcli", set_up]);
    fs::remove_file("/usr/local/sbin/nmcli").expect("remove a program");
    host.is_content();
}

#[test]
fn a_networkd_that_is_too_old_is_left_alone() {
    let Some(host) = Managed::new(Manager::Networkd, Mode::Dhcp) else { return };
    hide("/usr/local").expect("hide a folder");
    fs::create_dir_all("/usr/local/sbin").expect("make a folder");
    program("/usr/local/sbin/networkctl", "#!/bin/sh\necho 'systemd 241 (241)'\n");
    let why = "systemd-networkd looks after it, and it has not 'networkctl reload'";
    let said = is_refused(&host, "br0", &[why, "Name=br0 Kind=bridge"]);
    assert!(said.contains("networkctl reload || systemctl restart systemd-networkd"), "{said}");
    fs::remove_file("/usr/local/sbin/networkctl").expect("remove a program");
    assert!(!fs::exists("/run/systemd/network/+kvm-bridge-br0.network").expect("look"));
}

#[test]
fn wifi_is_told_why_and_what_else_there_is() {
    let Some(lab) = Lab::with_address() else { return };
    hide("/sys/class/net").expect("an empty folder");
    fs::create_dir_all("/sys/class/net/eth0/phy80211").expect("make a folder");
    let why = "it is Wi-Fi: a station's 802.11 frames have three addresses";
    is_refused(&lab, "br0,uplink=eth0", &[why, "-nic user", "uplink=none"]);
    is_refused(&lab, "br0", &[why, "-nic user"]);
}

#[test]
fn a_macvlan_lets_nothing_in_for_guests() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link add mv0 link eth0 type macvlan mode bridge");
    lab.ip("link set mv0 up");
    lab.settle();
    lab.baseline();
    is_refused(&lab, "br0,uplink=mv0", &["it is a macvlan, which lets in no frame that is for another address"]);
    // That is so: the answer to a guest does not come in.
    lab.ip("link add name br7 type bridge");
    lab.ip("link set mv0 master br7");
    lab.ip("link set br7 up");
    lab.settle();
    lab.baseline();
    let ended = lab.shim("--bridge br7").then("arp:10.77.0.1").run().succeeds();
    assert_eq!(ended.qemu().answer("bridge0"), None);
    lab.ip("link del br7");
    lab.ip("link del mv0");
    // In this mode it does.
    lab.ip("link add mv0 link eth0 type macvlan mode passthru");
    lab.ip("link set mv0 up");
    lab.settle();
    lab.baseline();
    let mut guest = lab.shim("--bridge br0,uplink=mv0").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()), "{}", guest.err());
    guest.terminate();
    lab.becomes_as_before();
    lab.ip("link del mv0");
    lab.ends_here();
}

#[test]
fn what_stands_on_an_uplink_is_named() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link add mv0 link eth0 type macvlan mode bridge");
    lab.settle();
    lab.baseline();
    is_refused(&lab, "br0", &["mv0 stands on it and takes its frames", "ip link del mv0"]);
    lab.ip("link del mv0");
    lab.ends_here();
}

#[test]
fn a_port_of_another_bridge_is_told_of_it() {
    let Some(lab) = Lab::with_bridge("br7") else { return };
    lab.ip("link set eth0 master br7");
    lab.settle();
    lab.baseline();
    let words = ["it is a port of the bridge br7 already", "--bridge br7", "ip link set dev eth0 nomaster"];
    is_refused(&lab, "br0,uplink=eth0", &words);
}

#[test]
fn a_tunnel_of_ip_packets_is_no_uplink() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("tuntap add dev tun0 mode tun");
    lab.ip("link set tun0 up");
    lab.ip("route replace default dev tun0");
    lab.settle();
    lab.baseline();
    // As with a VPN that has the default route.
    let said = is_refused(&lab, "br0", &["tun0", "a tunnel of IP packets"]);
    assert!(said.contains("--bridge br0,uplink=eth0"), "{said}");
    lab.ip("link del tun0");
    lab.ends_here();
}
