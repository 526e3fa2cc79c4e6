//! Whether a guest's kernel can ask for an address on the card that it gets.

use crate::argv::inspect::{QemuLine, asks_by_kernel};
use crate::check::{Check, Topic};
use crate::kernel::Config;
use crate::text;
use std::collections::BTreeSet;

/// Of a kernel whose configuration is not known.
pub const UNKNOWN: Topic =
    Topic("kernel", "It would tell whether the kernel knows the card and can ask for an address.");
const DHCP: Topic = Topic(
    "kernel-dhcp",
    "ip=dhcp on the kernel's command line is obeyed by a kernel that was built with CONFIG_IP_PNP_DHCP only.",
);
const DRIVER: Topic = Topic("kernel-driver", "Without the driver of its card the guest has no network card.");

/// For the beginnings of models' names, the drivers that serve them: one of them is needed, and all that stand behind it.
const DRIVERS: [(&str, &[&str], &[&str]); 14] = [
    ("virtio-net-device", &["CONFIG_VIRTIO_NET"], &["CONFIG_VIRTIO_MMIO"]),
    ("virtio-net-ccw", &["CONFIG_VIRTIO_NET"], &["CONFIG_S390_GUEST"]),
    ("virtio-net", &["CONFIG_VIRTIO_NET"], &["CONFIG_VIRTIO_PCI"]),
    ("virtio", &["CONFIG_VIRTIO_NET"], &["CONFIG_VIRTIO_PCI"]),
    ("e1000e", &["CONFIG_E1000E"], &[]),
    ("e1000", &["CONFIG_E1000"], &[]),
    ("igb", &["CONFIG_IGB"], &[]),
    ("rtl8139", &["CONFIG_8139CP", "CONFIG_8139TOO"], &[]),
    ("vmxnet3", &["CONFIG_VMXNET3"], &[]),
    ("pcnet", &["CONFIG_PCNET32"], &[]),
    ("ne2k_pci", &["CONFIG_NE2K_PCI"], &[]),
    ("i82", &["CONFIG_E100"], &[]),
    ("tulip", &["CONFIG_TULIP", "CONFIG_DE2104X"], &[]),
    ("usb-net", &["CONFIG_USB_NET_CDCETHER", "CONFIG_USB_NET_RNDIS_HOST"], &[]),
];

/// Whether a kernel with this configuration can do what it has to; `models` are those of all network cards.
pub fn checks(config: &Config, line: &QemuLine, models: &[String]) -> Vec<Check> {
    let mut seen = BTreeSet::new();
    let models = models.iter().filter(|model| seen.insert(*model));
    std::iter::once(dhcp(config, line)).chain(models.map(|model| driver(config, model, line.has_initrd))).collect()
}

fn dhcp(config: &Config, line: &QemuLine) -> Check {
    const FIX: &str = "scripts/config -e IP_PNP -e IP_PNP_DHCP && make olddefconfig bzImage";
    let is_asked = line.append.as_deref().is_some_and(asks_by_kernel);
    if config.get("CONFIG_IP_PNP_DHCP") == Some("y") {
        return DHCP.ok("it has CONFIG_IP_PNP_DHCP=y");
    }
    let by_initrd = "it lacks CONFIG_IP_PNP_DHCP: only a DHCP client in the initrd or on the disk can ask";
    let by_nobody = "it lacks CONFIG_IP_PNP_DHCP, and there is no initrd that could ask";
    match (line.has_initrd, is_asked) {
        (true, false) => DHCP.ok(by_initrd),
        (true, true) => DHCP.warning(by_initrd, FIX),
        (false, false) => DHCP.warning(by_nobody, FIX),
        (false, true) => DHCP.failure(by_nobody, FIX),
    }
}

fn driver(config: &Config, model: &str, has_initrd: bool) -> Check {
    let Some((_, any, all)) = DRIVERS.iter().find(|(start, ..)| model.starts_with(start)) else {
        return DRIVER.ok(format!("which driver {} needs is not known here", text::one_line(model)));
    };
    let has = |value: &'static str| move |option: &&&str| config.get(option) == Some(value);
    // One that is built in before a module, and a module before none.
    let best = any.iter().find(has("y")).or_else(|| any.iter().find(has("m"))).or(any.first());
    let needed: Vec<&str> = best.into_iter().chain(*all).copied().collect();
    let with = |value: Option<&str>| -> Vec<&str> {
        needed.iter().copied().filter(|option| config.get(option) == value).collect()
    };
    let enable = |options: &[&str]| {
        let options = options.iter().map(|option| format!("-e {}", option.trim_start_matches("CONFIG_")));
        format!("scripts/config {} && make olddefconfig bzImage", options.collect::<Vec<_>>().join(" "))
    };
    let missing = with(None);
    if !missing.is_empty() {
        return DRIVER.failure(format!("for {model} it lacks {}", missing.join(" and ")), enable(&missing));
    }
    let values = needed.iter().filter_map(|option| Some(format!("{option}={}", config.get(option)?)));
    let observed = format!("for {model} it has {}", values.collect::<Vec<_>>().join(" and "));
    let modules = with(Some("m"));
    match (modules.is_empty(), has_initrd) {
        (true, _) => DRIVER.ok(observed),
        (false, true) => DRIVER.ok(format!("{observed}: a module, which the initrd has to load")),
        (false, false) => {
            DRIVER.failure(format!("{observed}: a module, and there is no initrd to load it from"), enable(&modules))
        }
    }
}
