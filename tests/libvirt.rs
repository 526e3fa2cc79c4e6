//! A real client of the helper: libvirt, as a user who is not root runs it (`qemu:///session`).

use crate::support::user::{ALICE, Helper, Right, helpers};
use crate::support::{Lab, have, wait_for};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::process::Command;

const MAC: &str = "52:54:00:5e:00:05";
const DOMAIN: &str = "<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>64</memory>
  <os><type machine='pc'>hvm</type><boot dev='network'/></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <interface type='bridge'>
      <source bridge='br0'/>
      <mac address='MAC'/>
      <model type='e1000'/>
    </interface>
  </devices>
</domain>
";

/// What alice gives libvirt: where its files are, and which helper it is to call.
fn configure(helper: &Helper) {
    for folder in ["run", "config/libvirt", "cache"] {
        fs::create_dir_all(format!("/run/alice/{folder}")).expect("make a folder");
    }
    let text = format!("bridge_helper = \"{}\"\nstdio_handler = \"file\"\n", helper.path.display());
    fs::write("/run/alice/config/libvirt/qemu.conf", text).expect("configure libvirt");
    fs::write("/run/alice/guest.xml", DOMAIN.replace("MAC", MAC)).expect("write the domain");
    let given = Command::new("chown").args(["-R", "1000:1000", "/run/alice"]).status();
    assert!(given.is_ok_and(|status| status.success()));
}

#[test]
fn a_session_has_a_guest_on_the_bridge() {
    if !(have("libvirtd") && have("virsh") && have("qemu-system-x86_64")) {
        return;
    }
    for right in [Right::Capability, Right::Setuid] {
        for (path, is_ours) in helpers() {
            let Some(lab) = Lab::with_bridge("br0").and_then(Lab::with_users) else { return };
            if !lab.lan.serve_dhcp() {
                return;
            }
            let helper = lab.install_helper(&path, is_ours, right);
            lab.allow("allow br0\n");
            configure(&helper);
            let of_alice = |program: &str| {
                let program = lab.as_user(ALICE, program).env("XDG_RUNTIME_DIR", "/run/alice/run");
                program.env("XDG_CONFIG_HOME", "/run/alice/config").env("XDG_CACHE_HOME", "/run/alice/cache")
            };
            let virsh = |words: &str| of_alice("/usr/bin/virsh").words("-q -c qemu:///session").words(words);
            let daemon = of_alice("/usr/sbin/libvirtd").words("--timeout 120").start();
            wait_for("libvirt's socket", 30, || {
                Path::new("/run/alice/run/libvirt/libvirt-sock").exists().then_some(())
            });
            let created = virsh("create /run/alice/guest.xml").run();
            assert!(created.status.success(), "{}{}\n{}", created.out, created.err, daemon.err());
            lab.lan.lease_of(MAC, 60);
            assert!(virsh("domiflist guest").run().succeeds().out.contains("br0"));
            virsh("destroy guest").run().succeeds();
            lab.waits_until_gone("tap0");
            // What the rules refuse is an error there, too. (Which words of the helper's it passes on is a race in libvirt.)
            lab.allow("allow br0\ndeny br0\n");
            let refused = virsh("create /run/alice/guest.xml").run();
            assert!(!refused.status.success() && refused.err.contains("bridge helper"), "{}", refused.err);
            daemon.signal(Signal::SIGTERM);
            daemon.end();
        }
    }
}
