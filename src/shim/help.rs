//! The help text of the shim.
#![forbid(unsafe_code)]

use model::request::KEYS;

/// What `--bridge-version` prints.
pub fn version() -> String {
    concat!("kvm-bridge ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

/// What `--bridge-help` prints.
pub fn shim() -> String {
    let keys = KEYS.iter().map(|(key, form, meaning)| format!("  {:<20} {meaning}\n", format!("{key}={form}")));
    format!(
        "\
Usage: qemu-kvm [--bridge BR[,key=value...]]... QEMU-ARGUMENTS

kvm-bridge {}: runs QEMU with its guest on the bridge BR: joins the bridge or makes it, gives the
guest a TAP and a MAC address of its own, and becomes QEMU. All other arguments
reach QEMU as they are; without --bridge nothing else happens.

  --bridge BR[,...]    one network card on the bridge BR; may be given again
  --bridge-dry-run     print the commands that would do the same; change nothing
  --bridge-verbose     tell of each step, with the time that it took until then
  --bridge-help        print this
  --bridge-version     print the version of kvm-bridge

Keys, in QEMU's own grammar (a comma in a value is written twice):
{}
Environment:
  KVM_BRIDGE           values of --bridge for callers that can't give options
  KVM_BRIDGE_QEMU      the real QEMU: a path, or a name on PATH
  KVM_BRIDGE_VERBOSE   if it is not empty, as --bridge-verbose

/etc/kvm-bridge/config.toml may set qemu, model and how bridges are made. Exit status, if QEMU
does not run: 125 an error of ours, 126 QEMU cannot be executed, 127 there is none.
More: man qemu-kvm-bridge

Examples:
  qemu-kvm --bridge br0 -kernel bzImage -initrd initramfs \\
      -append \"ip=dhcp console=ttyS0\" -nographic
  qemu-kvm --bridge br0,uplink=eth1 disk.qcow2
  qemu-kvm --bridge lab,uplink=none,model=virtio-net-pci -name alice disk.qcow2
",
        env!("CARGO_PKG_VERSION"),
        keys.collect::<String>()
    )
}
