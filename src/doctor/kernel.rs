//! Whether a guest's kernel can ask for an address on the card that it gets.
#![forbid(unsafe_code)]

use crate::doctor::ikconfig;
use crate::doctor::ikconfig::Found;
use crate::doctor::{Check, Verdict};
use model::argv::inspect::{QemuLine, asks_by_kernel};
use model::text;
use model::text::shell::quote;
use std::path::{Path, PathBuf};

const IMAGE: &str = "QEMU boots this kernel itself.";
const DHCP: &str =
    "ip=dhcp on the kernel's command line is obeyed by a kernel that was built with CONFIG_IP_PNP_DHCP only.";
const DRIVER: &str = "Without the driver of its card the guest has no network card.";

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

/// `models` are those of all network cards; `folder` is where relative paths begin.
pub(super) fn checks(line: &QemuLine, models: &[String], folder: &Path) -> Vec<Check> {
    let Some(kernel) = &line.kernel else { return Vec::new() };
    let image = folder.join(kernel);
    // Somebody else may have called it so.
    let (name, kernel, copy) = (text::one_line(kernel), quote(kernel), quote(format!("{kernel}.config")));
    let found = match ikconfig::find(&image) {
        Err(error) => {
            let observed = format!("cannot read {name}: {}", crate::output::errno::reason(&error));
            return vec![Check::failure("kernel", observed, IMAGE, format!("ls -l {kernel}"))];
        }
        Ok(None) => {
            let observed = format!("the configuration of {name} is neither in it nor beside it nor under /boot");
            let fix =
                format!("cp .config {copy}   # in the tree that it was built in; or build it with CONFIG_IKCONFIG=y");
            return vec![Check::warning(
                "kernel",
                observed,
                "It would tell whether the kernel knows the card and can ask for an address.",
                fix,
            )];
        }
        Ok(Some(found)) => found,
    };
    let place = if found.place == image { PathBuf::from("it") } else { found.place.clone() };
    let mut checks = vec![Check::ok(
        "kernel",
        format!("the configuration of {name} is in {}", text::one_line(&place.to_string_lossy())),
        IMAGE,
    )];
    checks.push(dhcp(&found, line));
    let mut seen = Vec::new();
    for model in models {
        if !seen.contains(&model) {
            checks.push(driver(&found, model, line.has_initrd));
            seen.push(model);
        }
    }
    checks
}

fn dhcp(found: &Found, line: &QemuLine) -> Check {
    let is_set = found.get("CONFIG_IP_PNP_DHCP") == Some("y");
    let is_asked = line.append.as_deref().is_some_and(asks_by_kernel);
    match (is_set, line.has_initrd) {
        (true, _) => Check::ok("kernel-dhcp", "it has CONFIG_IP_PNP_DHCP=y", DHCP),
        (false, true) => Check::new(
            "kernel-dhcp",
            if is_asked { Verdict::Warning } else { Verdict::Ok },
            "it lacks CONFIG_IP_PNP_DHCP: only a DHCP client in the initrd or on the disk can ask",
            DHCP,
        )
        .fixed("scripts/config -e IP_PNP -e IP_PNP_DHCP && make olddefconfig bzImage", is_asked),
        (false, false) => Check::new(
            "kernel-dhcp",
            if is_asked { Verdict::Failure } else { Verdict::Warning },
            "it lacks CONFIG_IP_PNP_DHCP, and there is no initrd that could ask",
            DHCP,
        )
        .fixed("scripts/config -e IP_PNP -e IP_PNP_DHCP && make olddefconfig bzImage", true),
    }
}

fn driver(found: &Found, model: &str, has_initrd: bool) -> Check {
    let Some((_, any, all)) = DRIVERS.iter().find(|(start, ..)| model.starts_with(start)) else {
        return Check::ok(
            "kernel-driver",
            format!("which driver {} needs is not known here", text::one_line(model)),
            DRIVER,
        );
    };
    let value = |option: &&str| found.get(option).map(|value| format!("{option}={value}"));
    let best = any.iter().find(|option| found.get(option) == Some("y"));
    let best = best.or_else(|| any.iter().find(|option| found.get(option) == Some("m")));
    let needed: Vec<&str> = best.into_iter().chain(*all).copied().collect();
    let missing: Vec<&str> = match best {
        None => any.iter().take(1).chain(*all).copied().filter(|option| found.get(option).is_none()).collect(),
        Some(_) => needed.iter().copied().filter(|option| found.get(option).is_none()).collect(),
    };
    let enable = |options: &[&str]| {
        let options = options.iter().map(|option| format!("-e {}", option.trim_start_matches("CONFIG_")));
        format!("scripts/config {} && make olddefconfig bzImage", options.collect::<Vec<_>>().join(" "))
    };
    if !missing.is_empty() {
        let observed = format!("for {model} it lacks {}", missing.join(" and "));
        return Check::failure("kernel-driver", observed, DRIVER, enable(&missing));
    }
    let has: Vec<String> = needed.iter().filter_map(value).collect();
    let modules: Vec<&str> = needed.iter().copied().filter(|option| found.get(option) == Some("m")).collect();
    match (modules.is_empty(), has_initrd) {
        (true, _) => Check::ok("kernel-driver", format!("for {model} it has {}", has.join(" and ")), DRIVER),
        (false, true) => Check::ok(
            "kernel-driver",
            format!("for {model} it has {}: a module, which the initrd has to load", has.join(" and ")),
            DRIVER,
        ),
        (false, false) => Check::failure(
            "kernel-driver",
            format!("for {model} it has {}: a module, and there is no initrd to load it from", has.join(" and ")),
            DRIVER,
            enable(&modules),
        ),
    }
}

impl Check {
    fn fixed(mut self, fix: &str, is_needed: bool) -> Self {
        self.fix = is_needed.then(|| fix.to_owned());
        self
    }
}
