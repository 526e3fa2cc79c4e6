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

/// What is in a folder that tests/clients/build made, if it is there.
fn built(variable: &str, folder: &str, file: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(folder);
    let folder = std::env::var_os(variable).map_or(default, PathBuf::from);
    let found = Some(folder.join(file)).filter(|path| path.exists());
    if found.is_none() {
        skip(&format!("there is no {} (tests/clients/build target)", folder.join(file).display()));
    }
    found
}

/// A program of virtme-ng's virtual environment.
fn of_pypi(program: &str) -> Option<PathBuf> {
    built("KVM_BRIDGE_VIRTME", "virtme", &format!("bin/{program}"))
}

/// A program of a package that is unpacked and not installed, then at its place in /usr, for this test.
fn of_packages(program: &str) -> Option<()> {
    let found = built("KVM_BRIDGE_CLIENTS", "clients", &format!("root/usr/bin/{program}"))?;
    let usr = found.ancestors().nth(2).expect("a folder");
    let layers = format!("lowerdir={}:/usr", usr.display());
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("overlay"), "/usr", Some("overlay"), flags, Some(layers.as_str())).expect("lay over /usr");
    Some(())
}

/// Where a caller has its files.
fn folder(lab: &Lab) -> PathBuf {
    let folder = lab.new_file("files");
    fs::create_dir(&folder).expect("make a folder");
    folder
}

/// Boots a guest with virtme-ng, and tells what was said on its console.
#[track_caller]
fn virtme(lab: &Lab, variable: &str, options: &str) -> Option<String> {
    let (vng, (kernel, initramfs)) = (of_pypi("vng")?, real::linux()?);
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

/// What libvirt's daemon of the system writes to, for this test alone.
fn own_libvirt() {
    namespaces::read_only("/run/etc").expect("protect the real /etc");
    for folder in ["/var/log", "/var/cache"] {
        namespaces::hide(folder).expect("hide a folder");
    }
    let _ = fs::remove_file("/etc/libvirt");
    fs::create_dir("/etc/libvirt").expect("make a folder");
    // It looks for its user before it reads that it is not to change to that one.
    for (file, line) in
        [("passwd", "libvirt-qemu:x:985:985::/:/bin/false"), ("group", "libvirt-qemu:x:985:\nkvm:x:104:")]
    {
        let file = Path::new("/etc").join(file);
        let text = fs::read_to_string(&file).expect("read the accounts");
        fs::remove_file(&file).expect("remove a link");
        fs::write(&file, format!("{text}{line}\n")).expect("write the accounts");
    }
    // Nobody to change to, no confinement, and no process that writes logs.
    let conf = "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nnamespaces = []\n\
        cgroup_controllers = []\nstdio_handler = \"file\"\n";
    fs::write("/etc/libvirt/qemu.conf", conf).expect("configure libvirt");
}

#[test]
fn libvirts_system_has_its_own_card_on_the_bridge_and_ours() {
    const ITS_OWN: &str = "52:54:00:5e:00:06";
    let Some(lab) = lab() else { return };
    if !["libvirtd", "virsh"].into_iter().all(have) {
        return;
    }
    let Some((kernel, initramfs)) = real::linux() else { return };
    own_libvirt();
    let cmd = client(&lab, "libvirt-system").arg(folder(&lab)).arg(SHIM).arg(&kernel).arg(&initramfs).arg("br0");
    let cmd = cmd.arg(ITS_OWN).words("alice").env("KVM_BRIDGE_OF_DOMAIN", "br0");
    let (mut libvirt, mut line) = with_a_line_to_come(cmd);
    wait_for("the domain to run", 60, || {
        assert!(libvirt.is_running(), "{}{}", libvirt.out(), libvirt.err());
        libvirt.out().contains("running").then_some(())
    });
    let guest = real::qemu_called(&lab, "alice");
    let macs: Vec<&str> = guest.command.split("\"mac\":\"").skip(1).map(|rest| &rest[..17]).collect();
    assert!(macs.len() == 2 && macs.contains(&ITS_OWN), "{}", guest.command);
    for mac in macs {
        lab.lan.lease_of(mac, 60);
    }
    line.write_all(b"\n").expect("it reads");
    let ended = libvirt.end().succeeds();
    assert!(!ended.err.contains("error"), "{}", ended.err);
    lab.becomes_as_before();
}

#[test]
fn qemu_qmp_leads_a_guest_on_the_bridge() {
    let Some(lab) = lab() else { return };
    let Some(python) = of_pypi("python") else { return };
    let cmd = lab.program(python).arg(Path::new(CLIENTS).join("qmp.py")).arg(lab.new_file("socket")).arg(SHIM);
    let words = format!("--bridge br0 {IPXE} {QUIET} -name alice");
    let (program, mut line) = with_a_line_to_come(cmd.words(&words).env("KVM_BRIDGE_QEMU", QEMU));
    let qemu = real::qemu_called(&lab, "alice");
    assert_eq!(qemu.stat().parent, program.pid(), "it is the very process that was started");
    lab.lan.lease_of(&real::mac_of(&qemu), 60);
    line.write_all(b"\n").expect("it reads");
    let ended = program.end().succeeds();
    assert!(ended.out.contains("prelaunch then running") && ended.out.contains("host-qmp-quit"), "{}", ended.out);
    lab.becomes_as_before();
}

#[test]
fn packer_builds_on_the_bridge() {
    let Some(lab) = lab() else { return };
    let (Some((kernel, initramfs)), Some(())) = (real::linux(), of_packages("packer")) else { return };
    let cmd = client(&lab, "packer").arg(folder(&lab)).arg(SHIM).arg(kernel).arg(initramfs);
    let ended = cmd.start().end_within(120).succeeds();
    assert_eq!(leased(&ended.out).len(), 1, "{}{}", ended.out, ended.err);
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(listed.contains("name:alice") && listed.contains(&leased(&ended.out)[0]), "{listed}");
    lab.becomes_as_before();
}

/// One that finds its QEMU on PATH, and gives its guest a card of QEMU's user network besides.
fn finds_us_on_path(program: &str, script: &str, qemu: &str) {
    let Some(lab) = lab() else { return };
    let (Some((kernel, initramfs)), Some(())) = (real::linux(), of_packages(program)) else { return };
    let (_, path) = path_with_us(&lab, &[qemu]);
    let cmd = client(&lab, script).arg(folder(&lab)).arg(kernel).arg(initramfs);
    let ended = cmd.env("PATH", path).env("KVM_BRIDGE", "br0").start().end_within(120).succeeds();
    let macs = leased(&ended.out);
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    assert!(macs.len() == 1 && listed.contains(&macs[0]), "{listed}{}{}", ended.out, ended.err);
    lab.becomes_as_before();
}

#[test]
fn debvm_gets_a_bridge_by_the_environment() {
    finds_us_on_path("debvm-run", "debvm", "qemu-system-x86_64");
}

#[test]
fn mkosi_gets_a_bridge_by_the_environment() {
    finds_us_on_path("mkosi", "mkosi", "qemu-kvm");
}

#[test]
fn autopkgtest_has_its_guest_on_the_bridge() {
    let Some(lab) = lab() else { return };
    let Some(testbed) = built("KVM_BRIDGE_CLIENTS", "clients", "testbed") else { return };
    let (Some((kernel, initramfs)), Some(())) = (real::linux(), of_packages("autopkgtest-virt-qemu")) else { return };
    let both = lab.new_file("initramfs");
    let parts = [initramfs, testbed].map(|part| fs::read(part).expect("read an initramfs"));
    fs::write(&both, parts.concat()).expect("write an initramfs");
    // It waits a second for a shell to answer and then gives up: a machine with much to do may take longer.
    let mut tries = (0..3).map(|_| {
        let cmd = client(&lab, "autopkgtest").arg(folder(&lab)).arg(SHIM).arg(&kernel).arg(&both);
        cmd.env("KVM_BRIDGE", "br0").start().end_within(180)
    });
    let is_out_of_time =
        |said: &str| ["Timeout", "timed out", "does not start a root shell"].iter().any(|word| said.contains(word));
    let ended = tries.find(|ended| !is_out_of_time(&ended.err)).expect("one that was in time").succeeds();
    let listed = lab.kvm_bridge("mac list").run().succeeds().out;
    let mac = listed.split_whitespace().find(|word| word.len() == 17).expect("a MAC");
    let address = lab.lan.lease_of(mac, 1);
    // The guest itself says so, to a command that was run in it.
    assert!(ended.out.contains(&format!("inet {address}/24")), "{}{}", ended.out, ended.err);
    lab.becomes_as_before();
}
