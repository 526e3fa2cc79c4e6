//! Many hosts, one network: three hosts with FRR and QEMU, as `tests/fabric/run` makes them.

use crate::support::{lacks, real, skip};
use std::path::Path;
use std::process::Command;

/// What the script exits with where the machine lacks FRR, and where its kernel has no VXLAN.
const NO_PACKAGE: i32 = 77;
const NO_KERNEL: i32 = 78;

#[test]
fn guests_of_three_hosts_are_on_one_network() {
    let Some((_, initramfs)) = real::linux() else { return };
    let binaries = Path::new(env!("CARGO_BIN_EXE_qemu-kvm")).parent().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut script = Command::new(root.join("tests/fabric/run"));
    script
        .arg("--brief")
        .arg(binaries)
        .arg(initramfs.parent().expect("a folder"))
        .arg(root.join("target/fabric/check"));
    let ended = script.output().expect("run it");
    let told = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    match ended.status.code() {
        Some(0) => assert!(told.lines().count() > 8, "{told}"),
        Some(NO_PACKAGE) => skip(&told),
        Some(NO_KERNEL) => lacks(&told),
        _ => panic!("{told}"),
    }
}
