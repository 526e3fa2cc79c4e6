//! Those who call QEMU, with us in its place: each to an address for its guest.

use crate::support::command::{Cmd, Running};
use crate::support::programs;
use crate::support::real::{self, IPXE, QEMU, QUIET};
use crate::support::{Lab, have, namespaces, skip, wait_for};
use std::fs;
use std::io::{PipeWriter, Write, pipe};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

const SHIM: &str = env!("CARGO_BIN_EXE_qemu-kvm");
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// A laboratory with a bridge and a DHCP server, where the real QEMU is.
fn lab() -> Option<Lab> {
    let lab = Lab::with_bridge("br0")?;
    (have("qemu-system-x86_64") && lab.lan.serve_dhcp()).then_some(lab)
}

fn client<'lab>(lab: &'lab Lab, name: &str) -> Cmd<'lab> {
    lab.program(Path::new(CLIENTS).join(name)).env("KVM_BRIDGE_QEMU", QEMU)
}

/// A script that goes on when a line comes in.
fn with_a_line_to_come(cmd: Cmd<'_>) -> (Running<'_>, PipeWriter) {
    let (reader, line) = pipe().expect("make a pipe");
    (cmd.stdin(reader).start(), line)
}

/// A folder with the shim under these names, on PATH before all others.
fn path_with_us(lab: &Lab, names: &[&str]) -> (PathBuf, String) {
    let folder = lab.new_file("bin");
    fs::create_dir(&folder).expect("make a folder");
    for name in names {
        symlink(SHIM, folder.join(name)).expect("make a link");
    }
    let path = format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
    (folder, path)
}

#[test]
fn a_shell_script_for_qemu_kvm_gets_its_guest_on_the_bridge_by_the_environment() {
    let Some(lab) = lab() else { return };
    let (_, path) = path_with_us(&lab, &["qemu-kvm"]);
    let pidfile = lab.new_file("pid");
    let cmd = client(&lab, "script").words("alice").arg(&pidfile).env("PATH", path).env("KVM_BRIDGE", "br0");
    let script = cmd.env("TMPDIR", lab.dir.path()).start();
    let qemu = real::qemu_called(&lab, "alice");
    lab.lan.lease_of(&real::mac_of(&qemu), 60);
    assert_eq!(fs::read_to_string(&pidfile).expect("a PID").trim(), qemu.pid.to_string());
    assert!(script.out().contains("iPXE"), "{}{}", script.out(), script.err());
    script.terminate().exits_with(143);
    lab.becomes_as_before();
}

#[test]
fn a_supervisor_that_ends_a_whole_process_group_leaves_nothing() {
    let Some(lab) = lab() else { return };
    let service = format!("{SHIM} --bridge br1,uplink=none --bridge br0 {IPXE} {QUIET} -name alice");
    let (supervisor, mut line) = with_a_line_to_come(client(&lab, "supervisor").words(&service));
    let qemu = real::qemu_called(&lab, "alice");
    assert_eq!(qemu.stat().session, qemu.pid);
    let (_, mac) = qemu.command.rsplit_once("mac=").expect("the second card's MAC");
    lab.lan.lease_of(mac.split(' ').next().expect("a word"), 60);
    // Who looks after the bridge that was made is of no group of the service.
    assert_ne!(lab.reaper_of("br1").stat().session, qemu.pid);
    line.write_all(b"\n").expect("it reads");
    supervisor.end().succeeds();
    lab.becomes_as_before();
}

/// virtme-ng, if it is installed.
fn vng() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/target/virtme");
    let folder = PathBuf::from(std::env::var_os("KVM_BRIDGE_VIRTME").unwrap_or_else(|| default.into()));
    let vng = folder.join("bin/vng");
    if !vng.exists() {
        skip("virtme-ng is not installed (tests/clients/build installs it)");
        return None;
    }
    Some(vng)
}

/// Boots a guest with virtme-ng, and tells what was said on its console.
#[track_caller]
fn virtme(lab: &Lab, variable: &str, options: &str) -> Option<String> {
    let (vng, (kernel, initramfs)) = (vng()?, real::linux()?);
    if !have("script") {
        return None;
    }
    let (folder, _) = path_with_us(lab, &["qemu-system-x86_64"]);
    let cmd = client(lab, "virtme").arg(lab.dir.path()).arg(vng).arg(folder.join("qemu-system-x86_64"));
    let ended = cmd.arg(kernel).arg(initramfs).words(options).env("KVM_BRIDGE", variable).start().end_within(120);
    Some(ended.out + &ended.err)
}

/// The MACs for which the console tells of an address.
fn leased(console: &str) -> Vec<String> {
    let lines = console.lines().filter(|line| line.contains("guest: ") && line.contains(" leased 10.77.0."));
    lines.filter_map(|line| line.split_whitespace().find(|word| word.len() == 17).map(str::to_owned)).collect()
}

#[test]
fn virtme_ng_gets_a_bridge_by_the_environment() {
    let Some(lab) = lab() else { return };
    let Some(console) = virtme(&lab, "br0,model=virtio-net-pci", "") else { return };
    let macs = leased(&console);
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(macs.len() == 1 && listed.contains(&macs[0]) && listed.contains("virtme-ng"), "{listed}{console}");
    lab.becomes_as_before();
}

#[test]
fn virtme_ng_has_its_own_way_to_a_bridge_still() {
    let Some(lab) = lab() else { return };
    fs::create_dir_all("/etc/qemu").expect("make a folder");
    fs::write("/etc/qemu/bridge.conf", "allow br0\n").expect("write a file");
    for (variable, count) in [("", 1), ("br0", 2)] {
        let Some(console) = virtme(&lab, variable, "--network bridge=br0") else { return };
        assert_eq!(leased(&console).len(), count, "{console}");
    }
    lab.becomes_as_before();
}

#[test]
fn virtme_ngs_own_card_is_replaced() {
    let Some(lab) = lab() else { return };
    let Some(console) = virtme(&lab, "br0,replace=user", "--network user") else { return };
    let macs = leased(&console);
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(
        macs.len() == 1 && listed.contains(&macs[0]) && console.contains(&format!("eth0 {}", macs[0])),
        "{listed}{console}"
    );
    lab.becomes_as_before();
}

/// A user of the machine, with nothing but the right to change this network, and copies of what is needed.
#[test]
fn libvirts_session_runs_us_as_an_emulator() {
    let Some(lab) = lab() else { return };
    if !["libvirtd", "virsh", "setpriv"].into_iter().all(have) {
        return;
    }
    namespaces::hide("/dev/net").expect("hide /dev/net");
    let tun = nix::sys::stat::makedev(10, 200);
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
    nix::sys::stat::mknod("/dev/net/tun", kind, mode, tun).expect("make a device");
    fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666)).expect("let users in");
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755)).expect("let users in");
    let (folder, qemu) = (lab.new_file("user"), lab.new_file("qemu-kvm"));
    fs::create_dir(&folder).expect("make a folder");
    chown(&folder, Some(65534), Some(65534)).expect("give it to the user");
    programs::copy(SHIM, &qemu);
    let script = lab.new_file("libvirt");
    programs::copy(Path::new(CLIENTS).join("libvirt"), &script);

    let cmd = lab.program(&script).env("KVM_BRIDGE_QEMU", QEMU).arg(&folder).arg(&qemu).words("br0 alice");
    let user = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+net_admin --ambient-caps=+net_admin";
    let (libvirt, mut line) = with_a_line_to_come(cmd.through(user));
    let what = "the domain to run";
    wait_for(what, 60, || libvirt.out().contains("running").then_some(()));
    let guest = real::qemu_called(&lab, "alice");
    let (_, mac) = guest.command.split_once("\"mac\":\"").expect("our card, in JSON as the others");
    lab.lan.lease_of(&mac[..17], 60);
    line.write_all(b"\n").expect("it reads");
    let ended = libvirt.end().succeeds();
    assert!(!ended.err.contains("error"), "{}", ended.err);
    // The daemon has no more to do with it.
    lab.becomes_as_before();
    namespaces::show_again("/dev/net").expect("show /dev/net again");
}
