//! The TAP: what the kernel and QEMU see of it.

use crate::support::Lab;
use crate::support::record::key;
use std::fs;

#[test]
fn qemu_inherits_the_tap_under_the_number_that_argv_says() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.shim("--bridge br0").run().succeeds();
    let (netdev, tap) = (ended.qemu().value_of("-netdev"), ended.qemu().tap());
    assert!(netdev.starts_with("tap,"), "{netdev}");
    assert_eq!(key(&netdev, "fd"), Some(tap.fd.to_string()));
}

#[test]
fn the_tap_is_a_plain_one_that_goes_with_qemu() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0").boot();
    let tap = guest.qemu().tap();
    assert!(tap.vnet_hdr);
    assert!(!tap.persistent && !tap.packet_information && !tap.multi_queue, "{tap:?}");
    assert!(lab.link(&tap.name).is_some());
    guest.kill();
    lab.waits_until_gone(&tap.name);
}

#[test]
fn the_tap_has_the_bridges_mtu_a_high_mac_and_no_ipv6() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("link set eth0 mtu 1400");
    lab.ip("link set br0 mtu 1400");
    let mut guest = lab.shim("--bridge br0").boot();
    let tap = guest.qemu().tap().name;
    let link = lab.a_link(&tap);
    assert_eq!(link["mtu"], 1400);
    assert!(link["address"].as_str().is_some_and(|mac| mac.starts_with("fe:")), "{link}");
    assert_eq!(lab.addresses(&tap), [""; 0]);
    let own = fs::read_to_string("/proc/thread-self/net/if_inet6").expect("the IPv6 addresses");
    assert!(!own.contains(&tap), "{own}");
}

#[test]
fn the_tap_is_up_and_a_port_of_the_bridge() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0").boot();
    let link = lab.a_link(&guest.qemu().tap().name);
    assert_eq!(link["master"], "br0");
    assert!(link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP")), "{link}");
    assert_eq!(link["linkinfo"]["info_slave_data"]["state"], "forwarding");
}

#[test]
fn the_alias_of_the_tap_names_the_vm() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 -name alice").boot();
    let alias = lab.a_link(&guest.qemu().tap().name)["ifalias"].clone();
    assert!(alias.as_str().is_some_and(|alias| alias.contains("alice")), "{alias}");
}

#[test]
fn the_tap_can_be_given_a_name() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0,ifname=alice-net").boot();
    assert_eq!(guest.qemu().tap().name, "alice-net");
    assert!(lab.ports("br0").contains(&"alice-net".to_owned()));
}

#[test]
fn without_a_name_the_kernel_numbers_the_tap() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guests: Vec<_> = (0..3).map(|_| lab.shim("--bridge br0").boot()).collect();
    let names: Vec<String> = guests.iter_mut().map(|guest| guest.qemu().tap().name).collect();
    assert_eq!(names, ["kvb0", "kvb1", "kvb2"]);
}

#[test]
fn frames_cross_the_tap_in_both_directions_whatever_its_name() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for options in ["", ",ifname=alice-net", ",mac=02:00:5e:10:20:30", ",mtu=1500", ",model=virtio-net-pci"] {
        let mut guest = lab.shim(&format!("--bridge br0{options}")).then("arp:10.77.0.1,hold").start();
        assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()), "{options}");
    }
}

#[test]
fn two_nics_on_one_bridge_both_carry_frames() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let mut guest = lab.shim("--bridge br0 --bridge br0").then("arp:10.77.0.1,hold").start();
    let (answers, macs) = (["bridge0", "bridge1"].map(|id| guest.qemu().answer(id)), guest.qemu().macs());
    assert_eq!(answers, [Some(lab.lan.mac()), Some(lab.lan.mac())]);
    assert_ne!(macs[0], macs[1]);
}

#[test]
fn a_persistent_tap_of_the_users_is_used_and_stays() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("tuntap add dev tap-p mode tap vnet_hdr");
    lab.ip("link set dev tap-p master br0 addrgenmode none alias mine up");
    // With IPv6 its first carrier, whoever brings it, would add a multicast route.
    fs::write("/proc/sys/net/ipv6/conf/tap-p/disable_ipv6", "1").expect("switch IPv6 off");
    lab.settle();
    for _ in 0..2 {
        let mut guest = lab.shim("--bridge br0,ifname=tap-p").then("arp:10.77.0.1,hold").start();
        assert_eq!(guest.qemu().tap().name, "tap-p");
        assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
        assert_eq!(lab.a_link("tap-p")["ifalias"], "mine");
        guest.kill();
        lab.becomes_as_before();
    }
}

#[test]
fn beside_the_tap_all_is_as_if_qemu_had_been_called() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let script = r#"exec env --ignore-signal=PIPE --block-signal=USR1 "$0" "$@" 7</dev/null"#;
    let direct = lab.program(crate::support::command::fake_qemu()).through_sh(script).run().succeeds();
    let ended = lab.shim("--bridge br0").through_sh(script).run().succeeds();
    let (direct, ours) = (direct.qemu(), ended.qemu());
    assert_eq!(ours.pid(), ended.pid);
    for field in ["ppid", "pgid", "sid", "blocked", "ignored", "caught"] {
        assert_eq!(ours.number(field), direct.number(field), "{field}");
    }
    // One TAP more, and the lock on the VM's MAC.
    let more: Vec<String> = (ours.fds().into_iter())
        .filter(|(fd, _)| !direct.fds().iter().any(|(known, _)| known == fd))
        .map(|(_, link)| link)
        .collect();
    assert!(more.contains(&"/dev/net/tun".to_owned()), "{more:?}");
    let expected = |link: &String| link == "/dev/net/tun" || link.starts_with("/var/lib/kvm-bridge");
    assert!(more.iter().all(expected) && more.len() <= 2, "{more:?}");
}

#[test]
fn a_signal_to_the_shim_at_any_moment_leaves_nothing() {
    use nix::sys::signal::Signal;
    let Some(lab) = Lab::new() else { return };
    if !crate::support::have("strace") {
        return;
    }
    let calls = lab.new_file("calls");
    let shim = || lab.shim("--bridge br0,uplink=none");
    shim().run().succeeds();
    shim().through(&format!("strace -qq -o {}", calls.display())).run().succeeds();
    let calls = std::fs::read_to_string(&calls).expect("a trace");
    let names: Vec<&str> = calls.lines().filter_map(|line| Some(line.split_once('(')?.0)).collect();
    let mut ended = 0;
    // A sweep over all that the shim does, and its QEMU but for the end of that.
    for at in (0..names.len() - 1).step_by(names.len() / 20) {
        let (name, nth) = (names[at], names[..=at].iter().filter(|name| **name == names[at]).count());
        let strace = format!("strace -qq -e trace={name} -e inject={name}:signal=TERM:when={nth} -o /dev/null");
        // What it finds of the one before makes it do more or less.
        ended += usize::from(shim().through(&strace).run().signal() == Some(Signal::SIGTERM as i32));
    }
    assert!(ended > 10, "only {ended} came so far");
    lab.shim("--bridge br0,uplink=none").run().succeeds();
    lab.becomes_as_before();
}

#[test]
fn standard_files_that_the_caller_closed_stay_closed() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for closed in ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"] {
        let script = format!(r#"exec "$0" "$@" {closed}"#);
        let direct = lab.program(crate::support::command::fake_qemu()).through_sh(&script).run().succeeds();
        let ended = lab.shim("--bridge br0").through_sh(&script).run().succeeds();
        let standard = |record: &crate::support::record::Record| {
            record.fds().iter().map(|(fd, _)| *fd).filter(|fd| *fd < 3).collect::<Vec<_>>()
        };
        assert_eq!(standard(ended.qemu()), standard(direct.qemu()), "{closed}");
        assert!(ended.qemu().tap().fd > 2, "{closed}");
    }
}

#[test]
fn a_persistent_tap_that_is_down_is_set_up() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    lab.ip("tuntap add dev tap-p mode tap vnet_hdr");
    lab.ip("link set dev tap-p master br0 addrgenmode none");
    let mut guest = lab.shim("--bridge br0,ifname=tap-p").then("arp:10.77.0.1,hold").start();
    assert_eq!(guest.qemu().answer("bridge0"), Some(lab.lan.mac()));
    lab.ends_here();
}
