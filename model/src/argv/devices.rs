//! The devices of a command line, and which slot of the PCI bus each is going to have.
//!
//! A device without an address gets the first slot that is free when it is made (do_pci_register_device in QEMU's
//! hw/pci/pci.c): those of the machine first, then `-device` by `-device`, JSON after the rest. So a card of ours belongs
//! where a person would write it, but where a later device has its slot for an address: then QEMU would refuse that one.
#![forbid(unsafe_code)]

use crate::argv::scan::{Line, Part};
use crate::argv::values::Params;
use std::collections::BTreeSet;

/// A `-device`, or its like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// The number of the part that its value is.
    at: usize,
    driver: String,
    /// Its id.
    pub(super) id: Option<Vec<u8>>,
    /// Where it is on its bus, if that is said.
    slot: Option<u8>,
    bus: Option<String>,
    is_json: bool,
}

/// `-global DRIVER.PROPERTY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Whose property it is.
    pub driver: String,
    /// Which one.
    pub property: String,
    /// What it is set to.
    pub value: String,
}

/// What of a line decides on the slots of PCI devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    list: Vec<Device>,
    /// In the order of the line.
    pub globals: Vec<Global>,
    /// `-vga`.
    pub(super) vga: Option<Vec<u8>>,
    /// `-nodefaults`.
    pub(super) has_no_defaults: bool,
    /// The cards of `-nic` and `-net nic`, which the machine makes.
    pub(super) cards: usize,
    /// Whether there may be more that the machine makes.
    pub(super) has_more: bool,
}

/// Devices that turn QEMU's usual screen off (default_list in its softmmu/vl.c).
const SCREENS: [&str; 7] = ["VGA", "isa-vga", "cirrus-vga", "vmware-svga", "qxl-vga", "virtio-vga", "virtio-vga-gl"];
/// Beginnings of the names of devices that are on no PCI bus.
const ELSEWHERE: [&str; 24] = [
    "usb-",
    "isa-",
    "scsi-",
    "ide-",
    "hda-",
    "tpm-",
    "virtserialport",
    "virtconsole",
    "loader",
    "guest-loader",
    "pc-dimm",
    "nvdimm",
    "vmcoreinfo",
    "vmgenid",
    "pvpanic",
    "nvme-ns",
    "floppy",
    "ccid-card",
    "u2f-",
    "ib700",
    "sga",
    "ipmi-",
    "isa",
    "pc-testdev",
];
/// Beginnings of the names of those that are.
const PCI: [&str; 36] = [
    "virtio-",
    "e1000",
    "rtl8139",
    "vmxnet3",
    "ne2k_pci",
    "pcnet",
    "i82",
    "igb",
    "tulip",
    "nvme",
    "ahci",
    "ich9-",
    "piix",
    "qemu-xhci",
    "nec-usb-xhci",
    "usb-ehci",
    "pci-",
    "VGA",
    "bochs-display",
    "qxl",
    "cirrus-vga",
    "vmware-svga",
    "secondary-vga",
    "ati-vga",
    "intel-hda",
    "AC97",
    "ES1370",
    "i6300esb",
    "ivshmem-",
    "vfio-pci",
    "pcie-root-port",
    "ioh3420",
    "megasas",
    "mptsas1068",
    "pvscsi",
    "lsi53c",
];

impl Device {
    fn is_on_main_bus(&self) -> bool {
        self.bus.as_deref().is_none_or(|bus| ["pci.0", "pcie.0", "pci"].contains(&bus))
    }

    /// Whether it takes a slot of the first PCI bus; `None` if that is not known.
    fn is_pci(&self) -> Option<bool> {
        if !self.is_on_main_bus() {
            return Some(false);
        }
        is_pci(&self.driver)
    }
}

/// Whether a device is one for a PCI bus, as its name tells.
pub(super) fn is_pci(driver: &str) -> Option<bool> {
    let begins = |list: &[&str]| list.iter().any(|beginning| driver.starts_with(beginning));
    let is_controller = ["usb-ehci"].contains(&driver) || driver.ends_with("-uhci") || driver.ends_with("-ohci");
    match () {
        () if driver.ends_with("-pci") || driver.ends_with("-pci-non-transitional") || is_controller => Some(true),
        () if driver.ends_with("-device") || driver.ends_with("-ccw") || driver.ends_with("-cpu") => Some(false),
        () if begins(&ELSEWHERE) => Some(false),
        () if begins(&PCI) => Some(true),
        () => None,
    }
}

/// The slot of an address: `SLOT[.FUNCTION]`, in hexadecimal (set_pci_devfn of hw/core/qdev-properties-system.c).
fn slot(addr: &str) -> Option<u8> {
    let slot = addr.split('.').next().unwrap_or_default().trim();
    let digits = slot.strip_prefix("0x").or_else(|| slot.strip_prefix("0X")).unwrap_or(slot);
    u8::from_str_radix(digits, 16).ok().filter(|slot| *slot < 32)
}

impl Devices {
    /// Notes a `-device` whose value is going to be part `at`.
    pub(super) fn add(&mut self, params: &Params, at: usize) {
        let driver = params.get("driver", "driver").unwrap_or_default();
        let text = |key: &str| params.get(key, "").map(|value| String::from_utf8_lossy(&value).into_owned());
        let slot = match params.object("driver").get("addr") {
            // A number is slot and function in one.
            Some(serde_json::Value::Number(number)) => number.as_u64().and_then(|devfn| u8::try_from(devfn >> 3).ok()),
            _ => text("addr").as_deref().and_then(slot),
        };
        self.list.push(Device {
            at,
            driver: String::from_utf8_lossy(&driver).into_owned(),
            id: params.get("id", ""),
            slot,
            bus: text("bus"),
            is_json: matches!(params, Params::Json(_)),
        });
    }

    /// Notes that the property of the device of this id is set, by `-set`.
    pub(super) fn set(&mut self, id: &[u8], property: &str, value: &str) {
        for device in self.list.iter_mut().filter(|device| device.id.as_deref() == Some(id)) {
            match property {
                "addr" => device.slot = slot(value),
                "bus" => device.bus = Some(value.to_owned()),
                _ => {}
            }
        }
    }

    /// What the line sets for all devices of this name.
    pub fn global(&self, drivers: &[&str], property: &str) -> Option<&str> {
        let its = |global: &&Global| drivers.contains(&global.driver.as_str()) && global.property == property;
        self.globals.iter().rev().find(its).map(|global| global.value.as_str())
    }

    fn slot_of(&self, device: &Device) -> Option<u8> {
        device.slot.or_else(|| self.global(&[&device.driver], "addr").and_then(slot))
    }

    /// Whether the machine has QEMU's usual screen.
    fn has_screen(&self) -> bool {
        match self.vga.as_deref() {
            Some(vga) => vga != b"none",
            None => !self.has_no_defaults && !self.list.iter().any(|device| SCREENS.contains(&device.driver.as_str())),
        }
    }

    /// The slots that are surely taken before the first `-device`, and how many more may be.
    fn of_machine(&self, machine: Option<&[u8]>, system: Option<&str>) -> (BTreeSet<u8>, u8) {
        let machine = String::from_utf8_lossy(machine.unwrap_or_default()).into_owned();
        let screen = |slot: u8| self.has_screen().then_some(slot);
        let (mut taken, mut more): (BTreeSet<u8>, u8) = match (system, machine.as_str()) {
            (Some("x86_64" | "i386"), machine) if machine.starts_with("pc-q35") || machine == "q35" => {
                ([0, 31].into_iter().chain(screen(1)).collect(), 0)
            }
            (Some("x86_64" | "i386"), machine)
                if machine.is_empty() || machine == "pc" || machine.starts_with("pc-") =>
            {
                ([0, 1].into_iter().chain(screen(2)).collect(), 0)
            }
            (Some("aarch64" | "arm" | "riscv32" | "riscv64"), machine) if machine.starts_with("virt") => {
                ([0].into(), 0)
            }
            _ => (BTreeSet::new(), 4),
        };
        for _ in 0..self.cards {
            let free = first_free(&taken);
            taken.extend(free);
        }
        more += u8::from(self.has_more);
        (taken, more)
    }
}

fn first_free(taken: &BTreeSet<u8>) -> Option<u8> {
    (0..32).find(|slot| !taken.contains(slot))
}

/// Whether the card that stands at this part has to be made after all others: where it stands, it would get a slot that a
/// later device has for its address.
pub(super) fn has_to_be_last(line: &Line, card: usize, own: impl Fn(usize) -> Option<(String, Option<u8>)>) -> bool {
    let devices = &line.devices;
    let is_json = line.has_json_device;
    let is_before = |device: &&Device| if device.is_json == is_json { device.at < card } else { !device.is_json };
    let (mut before, after): (Vec<&Device>, Vec<&Device>) = devices.list.iter().partition(is_before);
    let claimed: BTreeSet<u8> =
        after.iter().filter(|device| device.is_on_main_bus()).filter_map(|device| devices.slot_of(device)).collect();
    if claimed.is_empty() {
        return false;
    }
    // Our own cards before this one are devices as well.
    let ours: Vec<Device> = (line.parts.iter().enumerate().take(card))
        .filter_map(|(at, part)| match part {
            Part::Nic(number) => {
                own(*number).map(|(driver, slot)| Device { at, driver, slot, is_json, ..Device::default() })
            }
            Part::Word(_) => None,
        })
        .collect();
    before.extend(&ours);
    before.sort_by_key(|device| (device.is_json, device.at));
    let (mut least, more) = devices.of_machine(line.machine.as_deref(), line.system.as_deref());
    let mut most = least.clone();
    for _ in 0..more {
        let free = first_free(&most);
        most.extend(free);
    }
    for device in before {
        match (devices.slot_of(device), device.is_pci()) {
            (Some(slot), _) if device.is_on_main_bus() => {
                least.insert(slot);
                most.insert(slot);
            }
            (_, Some(false)) => {}
            (_, is_pci) => {
                // What may be none takes no slot at the least.
                let (first, last) = (is_pci.and_then(|_| first_free(&least)), first_free(&most));
                least.extend(first);
                most.extend(last);
            }
        }
    }
    match (first_free(&least), first_free(&most)) {
        (Some(least), Some(most)) => claimed.range(least..=most.max(least)).next().is_some(),
        _ => false,
    }
}

/// `DRIVER.PROPERTY=VALUE`, or the same as three keys.
pub(super) fn global(params: &Params) -> Option<Global> {
    let text = |key: &str| params.get(key, "").map(|value| String::from_utf8_lossy(&value).into_owned());
    if let (Some(driver), Some(property), Some(value)) = (text("driver"), text("property"), text("value")) {
        return Some(Global { driver, property, value });
    }
    let Params::Text(whole) = params else { return None };
    let whole = std::str::from_utf8(whole).ok()?;
    let (name, value) = whole.split_once('=')?;
    let (driver, property) = name.split_once('.')?;
    Some(Global { driver: driver.to_owned(), property: property.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::scan;
    use std::ffi::OsString;

    /// Whether the first card of a line has to be last.
    fn is_last(text: &str, system: &str) -> bool {
        let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        let mut line = scan(&words, || Ok(Vec::new())).unwrap();
        line.system = Some(system.to_owned());
        let card = line.parts.iter().rposition(|part| matches!(part, Part::Nic(_))).unwrap();
        has_to_be_last(&line, card, |_| Some(("e1000".to_owned(), None)))
    }

    #[test]
    fn addresses_are_hexadecimal() {
        for (addr, is) in
            [("3", 3), ("0x3", 3), ("03.0", 3), ("0x1f.0x2", 31), ("10", 16), ("3.1", 3), ("1F", 31), ("0X2", 2)]
        {
            assert_eq!(slot(addr), Some(is), "{addr}");
        }
        assert_eq!(["-1", "", "x", "20", "100"].map(slot), [None; 5]);
    }

    #[test]
    fn a_card_stays_where_it_stands_unless_a_later_device_has_its_slot() {
        for (line, system, last) in [
            // Slot 3 of a PC with a screen.
            ("--bridge br0 -device virtio-rng-pci,addr=3", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci,addr=0x3", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci,addr=03.0", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci,addr=3.1", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci,addr=4", "x86_64", false),
            ("--bridge br0 -device virtio-rng-pci -device virtio-balloon-pci,addr=0x10", "x86_64", false),
            ("-device virtio-rng-pci --bridge br0 -device virtio-balloon-pci,addr=4", "x86_64", true),
            ("-device virtio-rng-pci --bridge br0 -device virtio-balloon-pci,addr=3", "x86_64", false),
            ("-device virtio-rng-pci,addr=3 --bridge br0 -device virtio-balloon-pci,addr=5", "x86_64", false),
            ("-device virtio-rng-pci,addr=3 --bridge br0 -device virtio-balloon-pci,addr=4", "x86_64", true),
            ("-device usb-kbd --bridge br0 -device virtio-balloon-pci,addr=4", "x86_64", false),
            ("--bridge br0 --bridge br0 -device virtio-rng-pci,addr=4", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci,id=v -set device.v.addr=0x3", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci,id=v -set device.w.addr=0x3", "x86_64", false),
            ("--bridge br0 -device virtio-rng-pci -global virtio-rng-pci.addr=3", "x86_64", true),
            ("--bridge br0 -device virtio-rng-pci -global driver=virtio-rng-pci,property=addr,value=3", "x86_64", true),
            (r#"--bridge br0 -device {"driver":"virtio-rng-pci","addr":"0x3"}"#, "x86_64", true),
            (r#"--bridge br0 -device {"driver":"virtio-rng-pci","addr":24}"#, "x86_64", true),
            (r#"--bridge br0 -device {"driver":"virtio-rng-pci","addr":32}"#, "x86_64", false),
            // JSON is made after the rest.
            (r#"-device {"driver":"virtio-blk-pci"} --bridge br0 -device virtio-rng-pci,addr=3"#, "x86_64", false),
            // On another bus.
            ("--bridge br0 -device virtio-rng-pci,bus=pci.1,addr=3", "x86_64", false),
            ("--bridge br0 -device virtio-rng-pci,bus=pci.0,addr=3", "x86_64", true),
            // Without a screen it is slot 2; with a card of the machine's 4.
            ("--bridge br0 -nodefaults -device virtio-rng-pci,addr=2", "x86_64", true),
            ("--bridge br0 -vga none -device virtio-rng-pci,addr=3", "x86_64", false),
            ("--bridge br0 -nodefaults -vga std -device virtio-rng-pci,addr=3", "x86_64", true),
            ("--bridge br0 -nic user -device virtio-rng-pci,addr=4", "x86_64", true),
            ("--bridge br0 -net nic -net user -device virtio-rng-pci,addr=3", "x86_64", false),
            ("--bridge br0 -M q35 -device virtio-rng-pci,addr=2", "x86_64", true),
            ("--bridge br0 -M q35 -device virtio-rng-pci,addr=1", "x86_64", false),
            ("--bridge br0 -M q35 -vga none -device virtio-rng-pci,id=v -set device.v.addr=0x1", "x86_64", true),
            ("--bridge br0 -M virt -device virtio-rng-pci,addr=1", "aarch64", true),
            ("--bridge br0 -M virt -device virtio-rng-pci,addr=2", "aarch64", false),
            // Where it is not known, none is in the way of another.
            ("--bridge br0 -M pseries -device virtio-rng-pci,addr=2", "ppc64", true),
            ("-device from-the-future --bridge br0 -device virtio-rng-pci,addr=3", "x86_64", true),
            ("-device from-the-future --bridge br0 -device virtio-rng-pci,addr=4", "x86_64", true),
            ("-device from-the-future --bridge br0 -device virtio-rng-pci,addr=5", "x86_64", false),
        ] {
            assert_eq!(is_last(line, system), last, "{system} {line}");
        }
    }
}
