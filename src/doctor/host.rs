//! The machine: KVM, /dev/net/tun, QEMU.

use crate::doctor::{Check, Context, Verdict};
use crate::launch;
use crate::launch::kvm;
use crate::sys::tap;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

const KVM: &str = "/dev/kvm";
/// Its numbers (Documentation/admin-guide/devices.txt).
const KVM_DEVICE: u64 = nix::sys::stat::makedev(10, 232);

pub(super) fn checks(context: &Context) -> Vec<Check> {
    vec![kvm_device(Path::new(KVM)), tun(), qemu(context)]
}

fn kvm_device(path: &Path) -> Check {
    const WHY: &str = "Without KVM the guest's processor is emulated, many times slower.";
    let warning = |observed: &str, fix: &str| Check::warning("kvm", format!("{} {observed}", path.display()), WHY, fix);
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
        Ok(_) => Check::ok("kvm", "/dev/kvm can be opened", WHY),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            warning("may not be opened by this user", &kvm::let_in().replace(", and", "   # and"))
        }
        Err(_) => warning("cannot be opened", "dmesg | grep -i kvm"),
    }
}

fn tun() -> Check {
    const WHY: &str = "A guest's network card is a TAP on this host, which is made with this device.";
    match tap::open_device() {
        Ok(_) => Check::ok("tun", "/dev/net/tun can be opened", WHY),
        Err(error) => Check::of_error("tun", Verdict::Failure, &error, WHY),
    }
}

fn qemu(context: &Context) -> Check {
    const WHY: &str = "qemu-kvm sets the network up and then becomes this program.";
    match launch::find("qemu-kvm".as_ref(), &context.config) {
        Ok(qemu) => Check::ok("qemu", format!("{} is going to be run: {}", qemu.path().display(), qemu.why()), WHY),
        Err(error) => Check::of_error("qemu", Verdict::Failure, &error, WHY),
    }
}
