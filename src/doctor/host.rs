//! The machine: KVM, /dev/net/tun, QEMU.

use crate::doctor::Context;
use crate::launch;
use crate::launch::kvm;
use crate::sys::{linux, tap};
use model::check::{Check, Topic, Verdict};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

const KVM: &str = "/dev/kvm";
/// Its numbers (Documentation/admin-guide/devices.txt).
const KVM_DEVICE: u64 = nix::sys::stat::makedev(10, 232);

pub(super) fn checks(context: &Context) -> Vec<Check> {
    vec![kernel(), kvm_device(Path::new(KVM)), tun(), qemu(context)]
}

fn kernel() -> Check {
    const LINUX: Topic = Topic("linux", "Older kernels lack some of what is asked of this one.");
    if let Err(error) = linux::check() {
        return LINUX.error(Verdict::Failure, &error);
    }
    let release = linux::release();
    if linux::is_untried(&release) {
        let observed = format!("this is Linux {release}, and nothing before {} is tested", linux::TRIED);
        return LINUX.warning(observed, "Boot a newer kernel if something fails.");
    }
    LINUX.ok(format!("this is Linux {release}"))
}

fn kvm_device(path: &Path) -> Check {
    const TOPIC: Topic = Topic("kvm", "Without KVM the guest's processor is emulated, many times slower.");
    let warning = |observed: &str, fix: &str| TOPIC.warning(format!("{} {observed}", path.display()), fix);
    match path.metadata() {
        Err(_) => {
            return warning(
                "is missing",
                "modprobe kvm_intel || modprobe kvm_amd   # and switch virtualisation on in the firmware",
            );
        }
        Ok(found) if !found.file_type().is_char_device() || found.rdev() != KVM_DEVICE => {
            return warning("is not KVM's device", "rm /dev/kvm; mknod -m 660 /dev/kvm c 10 232");
        }
        Ok(_) => {}
    }
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => TOPIC.ok("/dev/kvm can be opened"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            warning("may not be opened by this user", &kvm::let_in().replace(", and", "   # and"))
        }
        Err(_) => warning("cannot be opened", "dmesg | grep -i kvm"),
    }
}

fn tun() -> Check {
    const TUN: Topic = Topic("tun", "A guest's network card is a TAP on this host, which is made with this device.");
    match tap::open_device() {
        Ok(_) => TUN.ok("/dev/net/tun can be opened"),
        Err(error) => TUN.error(Verdict::Failure, &error),
    }
}

fn qemu(context: &Context) -> Check {
    const QEMU: Topic = Topic("qemu", "qemu-kvm sets the network up and then becomes this program.");
    match launch::find("qemu-kvm".as_ref(), &context.config) {
        Ok(qemu) => QEMU.ok(format!("{} is going to be run: {}", qemu.path().display(), qemu.why())),
        Err(error) => QEMU.error(Verdict::Failure, &error),
    }
}
