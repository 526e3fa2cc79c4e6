//! What becomes of the command line.

use crate::support::Lab;
use crate::support::record::{bytes, key};

/// The words that QEMU gets, with the kernel's and the lease's part of them replaced by FD and MAC.
#[track_caller]
fn rewritten(lab: &Lab, line: &str) -> String {
    let ended = lab.shim(line).run().succeeds();
    let qemu = ended.qemu();
    let mut line = qemu.line();
    for netdev in qemu.values_of("-netdev") {
        if let Some(fd) = key(&netdev, "fd") {
            line = line.replace(&format!(",fd={fd}"), ",fd=FD");
        }
    }
    for mac in qemu.macs() {
        line = line.replace(&mac, "MAC");
    }
    line
}

#[test]
fn the_option_is_replaced_where_it_stands() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for spelling in ["--bridge br0", "-bridge br0", "--bridge=br0", "-bridge=br0"] {
        assert_eq!(
            rewritten(&lab, &format!("-m 64 {spelling} -nographic")),
            "-m 64 -netdev tap,id=bridge0,fd=FD -device e1000,netdev=bridge0,mac=MAC -nographic",
            "{spelling}"
        );
    }
}

#[test]
fn each_option_becomes_one_nic_in_its_order() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    assert_eq!(
        rewritten(&lab, "--bridge br0 -m 64 --bridge br0,model=virtio-net-pci"),
        "-netdev tap,id=bridge0,fd=FD -device e1000,netdev=bridge0,mac=MAC -m 64 \
         -netdev tap,id=bridge1,fd=FD -device virtio-net-pci,netdev=bridge1,mac=MAC"
    );
}

#[test]
fn ids_that_the_line_uses_are_left_to_it() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    for taken in ["-netdev user,id=bridge0", "-chardev null,id=bridge0", "-device e1000,id=bridge0"] {
        let line = rewritten(&lab, &format!("--bridge br0 {taken}"));
        assert!(line.starts_with("-netdev tap,id=bridge1,fd=FD -device e1000,netdev=bridge1,mac=MAC"), "{line}");
        assert!(line.ends_with(taken), "{line}");
    }
}

#[test]
fn an_id_of_the_users_is_used() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let line = rewritten(&lab, "--bridge br0,id=lan");
    assert_eq!(line, "-netdev tap,id=lan,fd=FD -device e1000,netdev=lan,mac=MAC");
}

#[test]
fn a_device_of_the_users_is_left_as_it_is() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let device = "-device virtio-net-pci,netdev=lan,mac=02:00:00:00:00:07,bus=pci.0";
    let ended = lab.shim(&format!("{device} --bridge br0,id=lan -m 64")).run().succeeds();
    let netdev = ended.qemu().value_of("-netdev");
    assert_eq!(ended.qemu().line(), format!("{device} -netdev {netdev} -m 64"));
}

#[test]
fn a_device_in_json_is_seen_too() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let device = r#"{"driver":"virtio-net-pci","netdev":"lan","mac":"02:00:00:00:00:07"}"#;
    let ended = lab.shim("--bridge br0,id=lan -device").arg(device).run().succeeds();
    assert_eq!(ended.qemu().values_of("-device"), [device]);
}

#[test]
fn a_value_that_looks_like_our_option_is_a_value() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let line = rewritten(&lab, "-append --bridge -m 64 --bridge br0 -name -bridge");
    assert_eq!(
        line,
        "-append --bridge -m 64 -netdev tap,id=bridge0,fd=FD -device e1000,netdev=bridge0,mac=MAC -name -bridge"
    );
}

#[test]
fn odd_bytes_around_it_stay() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let odd = [bytes(b"\xff\xfe"), bytes(b"a b"), bytes(b"")];
    let cmd = lab.shim("-append").arg(&odd[0]).words("--bridge br0 -name").arg(&odd[1]).words("-append").arg(&odd[2]);
    let argv = cmd.run().succeeds().qemu().argv.clone();
    assert_eq!((&argv[2], &argv[argv.len() - 3], &argv[argv.len() - 1]), (&odd[0], &odd[1], &odd[2]));
}

#[test]
fn the_environment_adds_nics_at_the_end() {
    let Some(lab) = Lab::with_bridge("br0") else { return };
    let ended = lab.shim("-m 64").env("KVM_BRIDGE", "br0,mac=02:00:00:00:00:01 br0,model=rtl8139").run().succeeds();
    let qemu = ended.qemu();
    assert!(qemu.line().starts_with("-m 64 -netdev tap,id=bridge0,"), "{}", qemu.line());
    assert_eq!(qemu.macs()[0], "02:00:00:00:00:01");
    assert!(qemu.values_of("-device")[1].starts_with("rtl8139,netdev=bridge1,"), "{}", qemu.line());
}

#[test]
fn an_empty_environment_variable_is_none() {
    let Some(lab) = Lab::new() else { return };
    assert_eq!(lab.shim("-m 64").env("KVM_BRIDGE", "").run().succeeds().qemu().line(), "-m 64");
}

#[test]
fn a_probe_of_qemu_starts_no_bridge() {
    let Some(lab) = Lab::new() else { return };
    for probe in ["-version", "--version", "-help", "-h", "-device help", "-machine none -S"] {
        let ended = lab.shim(probe).env("KVM_BRIDGE", "br0,uplink=none").run().succeeds();
        assert_eq!(ended.qemu().line(), probe);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""), "{probe}");
    }
    lab.is_untouched();
}
