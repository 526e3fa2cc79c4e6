//! The help text of the shim.
#![forbid(unsafe_code)]

use crate::request::KEYS;

/// Where what a key is for begins, and the most columns of a line.
const COLUMN: usize = 25;
const WIDTH: usize = 80;

/// A key, and beside it what it is for, in lines that fit a terminal.
fn lines(key: &str, form: &str, meaning: &str) -> String {
    let (mut text, mut line) = (String::new(), format!("  {key}={form}"));
    let mut is_full = line.len() >= COLUMN;
    for word in meaning.split_whitespace() {
        if is_full || line.len() + 1 + word.len() > WIDTH {
            text += &line;
            text.push('\n');
            line.clear();
            is_full = false;
        }
        let column = COLUMN.max(line.len() + 1);
        line = format!("{line:<column$}{word}");
    }
    text + &line + "\n"
}

/// What `--bridge-help` prints, of this version.
pub fn text(version: &str) -> String {
    let keys = KEYS.iter().map(|(key, form, meaning)| lines(key, form, meaning));
    format!(
        "\
Usage: qemu-kvm [--bridge BR[,key=value...]]... QEMU-ARGUMENTS

kvm-bridge {version} runs QEMU with its guest on the bridge BR. It joins the bridge or
creates it, gives the guest a TAP device and a MAC address of its own, and
executes QEMU. QEMU gets all other arguments unchanged. Without --bridge,
qemu-kvm only executes QEMU.

  --bridge BR[,...]      a network card on the bridge BR; can be given several times
  --bridge-dry-run       print the equivalent commands; change nothing
  --bridge-verbose       print each step with the time since the start
  --bridge-help          print this text
  --bridge-version       print the version of kvm-bridge

Keys, in QEMU's own grammar (write a comma in a value twice):
{}
Environment:
  KVM_BRIDGE             values of --bridge, for callers that cannot give options
  KVM_BRIDGE_QEMU        the real QEMU: a path, or a name on PATH
  KVM_BRIDGE_VERBOSE     if not empty, the same as --bridge-verbose

/etc/kvm-bridge/config.toml can set the QEMU program, the card model and how
bridges are created. Exit status if QEMU does not run: 125 error of kvm-bridge,
126 QEMU cannot be executed, 127 QEMU not found.
More: man qemu-kvm-bridge

Examples:
  qemu-kvm --bridge br0 -kernel bzImage -initrd initramfs \\
      -append \"ip=dhcp console=ttyS0\" -nographic
  qemu-kvm --bridge br0,uplink=eth1 disk.qcow2
  qemu-kvm --bridge lab,uplink=none,model=virtio-net-pci -name alice disk.qcow2
",
        keys.collect::<String>()
    )
}
