//! Which network cards a guest of the real QEMU has, where they are and to what they are connected.

use crate::lifecycle::{lab, monitor};
use crate::support::real::{self, QEMU, QUIET, Qmp, mac, shim};
use crate::support::{Lab, have};
use std::fs;

#[test]
fn no_nic_that_nobody_asked_for_is_beside_ours() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    for (more, nics) in [
        ("", 1),
        ("-nodefaults", 1),
        ("-nic none", 1),
        ("-net none", 1),
        ("-nodefaults -nic none --bridge br0,model=virtio-net-pci", 2),
        ("-nic user,model=rtl8139", 2),
        ("-netdev user,id=own -device e1000,netdev=own", 2),
        ("--bridge br0,model=e1000e --bridge br0,model=rtl8139 --bridge br0,model=vmxnet3", 4),
        ("-device qemu-xhci --bridge br0,model=usb-net", 2),
        ("--bridge br0,model=virtio-net-pci,queues=4", 2),
    ] {
        let (socket, words) = monitor(&lab);
        let guest = shim(&lab, &format!("--bridge br0 -accel tcg -S {QUIET} {words} {more}")).start();
        let mut qmp = Qmp::connect(&socket);
        let network = qmp.say("info network");
        let cards = network.lines().filter(|line| line.contains("type=nic") && line.contains("index=0")).count();
        let users = network.lines().filter(|line| line.contains("type=user")).count();
        let own = usize::from(more.contains("user"));
        assert_eq!((cards, users), (nics, own), "{more}:\n{network}");
        assert!(network.contains("bridge0") && !network.contains("hub"), "{more}:\n{network}");
        guest.terminate().succeeds();
    }
}

/// The slot of the Ethernet card with this MAC's model, as QEMU tells it; `None` where QEMU does not start.
fn slot_of_the_card(guest: crate::support::command::Running, socket: &std::path::Path) -> String {
    let text = Qmp::connect(socket).say("info pci");
    guest.terminate().succeeds();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.contains("Ethernet controller")).expect("a card");
    lines[at - 1].trim().to_owned()
}

#[test]
fn a_card_has_the_slot_that_it_has_on_a_line_by_hand() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    let rng = "-device virtio-rng-pci";
    for more in [
        &format!("--bridge br0 {rng},addr=0x10"),
        &format!("--bridge br0 {rng} {rng},addr=0x10"),
        &format!("--bridge br0 {rng} {rng},id=v -set device.v.addr=0x10"),
        &format!("{rng} --bridge br0 {rng},addr=5"),
        &format!("-nodefaults --bridge br0 {rng},addr=3"),
        &format!("-M q35 -vga none --bridge br0 {rng},addr=2 {rng}"),
    ] {
        let line = format!("-accel tcg -S {QUIET} {more}");
        let (socket, words) = monitor(&lab);
        let ours = slot_of_the_card(shim(&lab, &format!("{line} {words}")).start(), &socket);
        let by_hand = line.replace("--bridge br0", "-netdev user,id=u -device e1000,netdev=u");
        let (socket, words) = monitor(&lab);
        let theirs = slot_of_the_card(lab.program(QEMU).words(&format!("{by_hand} {words}")).start(), &socket);
        assert_eq!(ours, theirs, "{more}");
    }
    // By hand these would be refused: the slot is that of another device.
    for more in [
        &format!("--bridge br0 {rng},addr=3"),
        &format!("--bridge br0 {rng},id=v -set device.v.addr=0x3"),
        &format!("-M q35 -nodefaults --bridge br0 {rng},id=v -set device.v.addr=0x1"),
    ] {
        let (socket, words) = monitor(&lab);
        slot_of_the_card(shim(&lab, &format!("-accel tcg -S {QUIET} {more} {words}")).start(), &socket);
    }
}

#[test]
fn a_device_may_have_the_id_of_its_netdev_and_a_line_by_hand_its_netdev_from_us() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    for more in [
        "--bridge br0,id=net0 -device e1000-82545em,netdev=net0,id=net0",
        "--bridge br0,id=net0 -chardev null,id=net0 -object rng-random,id=net0",
        "--bridge br0 -device e1000,netdev=net0",
        "--bridge br0 -device e1000,netdev=net0,id=net0",
        "--bridge br0 -net nic",
        "--bridge br0 -net nic,model=virtio",
        "--bridge br0 -net nic,macaddr=02:00:00:00:00:07",
    ] {
        let (socket, words) = monitor(&lab);
        let guest = shim(&lab, &format!("-accel tcg -S {QUIET} {words} {more}")).start();
        let network = Qmp::connect(&socket).say("info network");
        // The one card and its TAP, each under the other, and nothing that is connected to nothing.
        assert_eq!(network.matches("type=nic").count(), 1, "{more}:\n{network}");
        assert!(network.contains("type=tap") && !network.contains("hub"), "{more}:\n{network}");
        assert!(!more.contains("macaddr") || network.contains("02:00:00:00:00:07"), "{more}:\n{network}");
        guest.terminate().succeeds();
    }
    for (more, says) in [
        ("--bridge br0,id=lan -device e1000,netdev=net0", "--bridge br0,id=net0"),
        ("--bridge br0,id=lan -netdev user,id=lan", "that of another netdev"),
        ("--bridge br0,id=lan -nic user,id=lan", "that of another netdev"),
    ] {
        let ended = shim(&lab, more).run().exits_with(125);
        assert!(ended.err.contains(says), "{}", ended.err);
    }
}

#[test]
fn a_user_mode_card_that_is_replaced_leaves_its_place_to_ours() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    for (line, card, slot) in [
        ("-netdev user,id=n -device virtio-net-pci,netdev=n,addr=9", "virtio-net-pci", 9),
        ("-netdev user,id=n -device e1000e,netdev=n", "e1000e", 3),
        (r#"-netdev {"type":"user","id":"n"} -device {"driver":"e1000","netdev":"n","addr":"9"}"#, "e1000", 9),
        ("-nic user,model=rtl8139 -device virtio-rng-pci", "rtl8139", 3),
        ("-device virtio-rng-pci -nic user", "e1000", 3),
        ("-net nic,model=virtio,addr=9 -net user", "virtio-net-pci", 9),
    ] {
        let (socket, words) = monitor(&lab);
        let guest = shim(&lab, &format!("--bridge br0,replace=user -accel tcg -S {QUIET} {words} {line}")).start();
        let mut qmp = Qmp::connect(&socket);
        let (network, slots) = (qmp.say("info network"), qmp.say("info pci"));
        let count = |what: &str| network.matches(what).count();
        assert_eq!(
            (count("type=nic"), count("type=tap"), count("type=user"), count("hub")),
            (1, 1, 0, 0),
            "{line}:\n{network}"
        );
        assert!(network.contains(&format!("model={card}")), "{line}:\n{network}");
        let at = slots.find(&format!("device {slot:3}, function 0")).expect("a device in the slot");
        assert!(slots[at..].lines().nth(1).is_some_and(|line| line.contains("Ethernet")), "{line}:\n{slots}");
        guest.terminate().succeeds();
    }
}

#[test]
fn machines_without_pci_have_a_card_that_fits() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-x86_64") {
        return;
    }
    for (machine, card) in [("microvm", "virtio-net-device"), ("isapc", "ne2k_isa")] {
        let (socket, words) = monitor(&lab);
        let guest = shim(&lab, &format!("--bridge br0 -M {machine} -accel tcg -S {QUIET} {words}")).start();
        let network = Qmp::connect(&socket).say("info network");
        assert!(network.contains(&format!("model={card}")), "{machine}:\n{network}");
        assert!(guest.err().contains(&format!("its network card on br0 is {card}")), "{}", guest.err());
        guest.terminate().succeeds();
    }
}

#[test]
fn a_card_on_board_has_our_address_and_our_tap() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    if !have("qemu-system-arm") {
        return;
    }
    let shim = |line: &str| lab.shim(line).env("KVM_BRIDGE_QEMU", "/usr/bin/qemu-system-arm");
    for (line, cards) in [
        ("-M mps2-an385 --bridge br0", "lan9118"),
        ("-M mps2-an385 --bridge br0,model=lan9118", "lan9118"),
        ("-M mps2-an385 --bridge br0,id=lan -net nic,netdev=lan", "lan9118"),
        ("-M mps2-an385 -nic user --bridge br0,replace=user", "lan9118"),
        ("-M realview-pb-a8 --bridge br0", "lan9118"),
        ("-M xilinx-zynq-a9 --bridge br0 --bridge br0", "cadence_gem cadence_gem"),
        ("-M sabrelite --bridge br0", "imx.enet"),
        ("-M versatilepb --bridge br0", "e1000"),
    ] {
        let (socket, words) = monitor(&lab);
        let mut guest = shim(&format!("{line} -accel tcg -S -name board {QUIET} {words}")).start();
        let network = Qmp::connect(&socket).say("info network");
        let cards: Vec<&str> = cards.split(' ').collect();
        // Each card with its TAP under it, and our address, in their order.
        let macs = macs(&mut guest);
        assert_eq!(macs.len(), cards.len(), "{line}");
        let lines: Vec<&str> = network.lines().map(str::trim_end).collect();
        for (number, (card, mac)) in cards.iter().zip(&macs).enumerate() {
            let id = if line.contains("id=lan") { "lan".to_owned() } else { format!("bridge{number}") };
            let at = lines.iter().position(|line| line.starts_with(&format!(" \\ {id}: index=0,type=tap")));
            let on = lines[at.unwrap_or_else(|| panic!("{line}: no TAP in\n{network}")) - 1];
            let has_mac = on.contains(mac) || *card == "cadence_gem";
            assert!(on.starts_with(card) && on.contains("type=nic") && has_mac, "{line}:\n{network}");
        }
        let is_told = !line.contains("model=") && !line.contains("nic") && !line.contains("versatile");
        assert_eq!(guest.err().contains("this machine has no PCI"), is_told, "{line}: {}", guest.err());
        guest.terminate().succeeds();
    }
    for (line, says) in [
        ("-M musca-a --bridge br0", "the machine musca-a has no place for a network card"),
        (
            "-M mps2-an385 --bridge br0,model=e1000",
            "has no PCI\n  Leave model= out, for the lan9118 that it has on board.",
        ),
        ("-M connex --bridge br0,model=virtio-net-pci", "Leave model= out, for the smc91c111 that it has on board."),
        ("-M mps2-an385 --bridge br0 --bridge br0", "has one network card, which is on board, and the line wants more"),
        ("-M mps2-an385 --bridge br0 -nic user", "has one network card, which is on board, and the line wants more"),
    ] {
        let ended = shim(line).run().exits_with(125);
        assert!(ended.err.contains(says), "{}", ended.err);
    }
}

/// The MACs on the line of a QEMU that was started by itself.
fn macs(guest: &mut crate::support::command::Running) -> Vec<String> {
    let line = fs::read_to_string(format!("/proc/{}/cmdline", guest.pid())).expect("it runs");
    let macs = line.split(['\0', ',']).filter_map(|word| word.strip_prefix("mac=").or(word.strip_prefix("macaddr=")));
    macs.map(str::to_owned).collect()
}

#[test]
fn frames_go_through_a_virtio_card_with_many_queues() {
    let Some(lab) = lab() else { return };
    let Some((kernel, initramfs)) = real::linux() else { return };
    let card = "--bridge br0,uplink=eth0,model=virtio-net-pci,queues=auto -smp 2 -accel tcg -m 256 -nographic";
    let cmd = shim(&lab, &format!("{card} -kernel")).arg(kernel).words("-initrd").arg(initramfs);
    let mut guest = cmd.words("-append").arg("ip=dhcp console=ttyS0 quiet guest.then=hold").start();
    let address = lab.lan.lease_of(&mac(&mut guest), 90);
    assert!(lab.lan.reaches(&address), "{address} is silent; console:\n{}", guest.out());
    let tap = lab.a_link("kvb0");
    assert_eq!(
        (&tap["linkinfo"]["info_data"]["multi_queue"], &tap["linkinfo"]["info_data"]["numqueues"]),
        (&true.into(), &2.into()),
        "{tap}"
    );
    guest.terminate().succeeds();
    lab.becomes_as_before();
}
