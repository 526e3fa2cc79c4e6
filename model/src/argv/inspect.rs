//! What a command line of QEMU's says of its network cards and its kernel: of one that runs, or of one that is asked
//! about. Only looked at, never changed: that is `argv`'s.
#![forbid(unsafe_code)]

use crate::argv::Params;
use crate::mac::Mac;
use crate::options::{Arity, arity};
use crate::optstr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// A command line, as far as the network goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QemuLine {
    /// `-netdev`, and the backend half of `-nic`.
    pub netdevs: Vec<Netdev>,
    /// `-device`s that name a netdev or are network cards by their name, `-net nic`s that name one, and the front half of
    /// `-nic`.
    pub devices: Vec<Device>,
    /// `-net`, QEMU's oldest way.
    pub has_net: bool,
    /// Whether `-nic none` or `-net none` says that there is to be no card.
    pub has_none: bool,
    /// `-name`.
    pub name: Option<String>,
    /// `-kernel`.
    pub kernel: Option<String>,
    /// Whether there is an `-initrd`.
    pub has_initrd: bool,
    /// `-append`.
    pub append: Option<String>,
    /// Whether the console is the terminal: `-nographic`, or `-serial stdio` and its like.
    pub has_serial_console: bool,
}

/// A backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Netdev {
    /// Its id; of a `-nic` a number that no option can name.
    pub id: String,
    /// `tap`, `bridge`, `user` and so on.
    pub kind: String,
    /// The TAP's name.
    pub ifname: Option<String>,
    /// The TAP's descriptors.
    pub fds: Vec<i32>,
}

/// A front end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its model.
    pub driver: String,
    /// The netdev that it is on.
    pub netdev: Option<String>,
    /// Its address, if one was given.
    pub mac: Option<Mac>,
}

/// Network cards whose netdev may have been forgotten, by the beginnings of their names.
const CARDS: [&str; 12] = [
    "e1000",
    "rtl8139",
    "virtio-net",
    "vmxnet3",
    "ne2k_",
    "pcnet",
    "i82",
    "igb",
    "tulip",
    "usb-net",
    "lan9118",
    "sungem",
];

impl QemuLine {
    /// Reads the words behind argv\[0\].
    pub fn read(words: &[OsString]) -> Self {
        let mut line = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let Some(name) = word.as_bytes().strip_prefix(b"-") else { continue };
            let name = name.strip_prefix(b"-").unwrap_or(name);
            match arity(name) {
                Arity::Value => {
                    if let Some(value) = rest.next() {
                        line.look(name, value.as_bytes());
                    }
                }
                Arity::Alone | Arity::Unknown => line.has_serial_console |= name == b"nographic",
            }
        }
        line
    }

    fn look(&mut self, option: &[u8], value: &[u8]) {
        let text = || String::from_utf8_lossy(value).into_owned();
        match option {
            b"netdev" => self.netdevs.push(Netdev::of(&Params::of(value), String::new())),
            b"device" => {
                let device = Device::of(&Params::of(value), "driver");
                let is_card = CARDS.iter().any(|card| device.driver.starts_with(card));
                if device.netdev.is_some() || is_card {
                    self.devices.push(device);
                }
            }
            b"nic" => {
                let params = Params::of(value);
                let id = format!("-nic {}", self.netdevs.len());
                let (netdev, device) = (Netdev::of(&params, id.clone()), Device::of(&params, "model"));
                self.has_none |= netdev.kind == "none";
                if netdev.kind != "none" {
                    self.netdevs.push(Netdev { id: id.clone(), ..netdev });
                    self.devices.push(Device { netdev: Some(id), ..device });
                }
            }
            b"net" if value == b"none" => self.has_none = true,
            b"net" => {
                self.has_net = true;
                let device = Device::of(&Params::of(value), "model");
                let is_nic = Params::of(value).get("type", "type").as_deref() == Some(b"nic");
                // Without a netdev it is on the hub of all -net options.
                self.devices.extend(Some(device).filter(|device| is_nic && device.netdev.is_some()));
            }
            b"name" => self.name = optstr::get(value, "guest", "guest").map(lossy),
            b"kernel" => self.kernel = Some(text()),
            b"initrd" => self.has_initrd = true,
            b"append" => self.append = Some(text()),
            b"serial" => self.has_serial_console |= text().contains("stdio"),
            _ => {}
        }
    }

    /// The address of the card whose TAP has this name, or one of these descriptors.
    pub fn mac_on(&self, tap: &str, fds: &[i32]) -> Option<Mac> {
        let is_its =
            |netdev: &&Netdev| netdev.ifname.as_deref() == Some(tap) || netdev.fds.iter().any(|fd| fds.contains(fd));
        let netdev = self.netdevs.iter().find(is_its)?;
        self.devices.iter().find(|device| device.netdev.as_ref() == Some(&netdev.id))?.mac
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Netdev {
    fn of(params: &Params, id: String) -> Self {
        let get = |key| params.get(key, "type").map(lossy);
        let fds = get("fds").or_else(|| get("fd")).unwrap_or_default();
        Self {
            id: get("id").unwrap_or(id),
            kind: get("type").unwrap_or_default(),
            ifname: get("ifname"),
            fds: fds.split(':').filter_map(|fd| fd.parse().ok()).collect(),
        }
    }
}

impl Device {
    /// `model` is the key that names the model.
    fn of(params: &Params, model: &str) -> Self {
        // The first word of -nic is the backend's type.
        let get = |key| params.get(key, if model == "driver" { "driver" } else { "type" }).map(lossy);
        Self {
            driver: get(model).unwrap_or_default(),
            netdev: get("netdev"),
            mac: get("mac").or_else(|| get("macaddr")).and_then(|mac| mac.parse().ok()),
        }
    }
}

/// Whether `-append` has the kernel itself ask for an address (Documentation/admin-guide/nfs/nfsroot.rst).
pub fn asks_by_kernel(append: &str) -> bool {
    ip_of(append).is_some_and(|value| ["dhcp", "on", "any", "both"].contains(&protocol(value)))
}

/// The value of `ip=` on a kernel's command line.
pub fn ip_of(append: &str) -> Option<&str> {
    append.split_whitespace().rev().find_map(|word| word.strip_prefix("ip="))
}

/// `dhcp` of `ip=dhcp` and of `ip=::::host:eth0:dhcp`.
fn protocol(value: &str) -> &str {
    match value.contains(':') {
        true => value.split(':').nth(6).unwrap_or_default(),
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> QemuLine {
        QemuLine::read(&text.split_whitespace().map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn a_card_is_found_by_its_tap() {
        let mac = |text: &str, tap: &str, fds: &[i32]| line(text).mac_on(tap, fds).map(|mac| mac.to_string());
        let known = Some("02:00:00:00:00:01".to_owned());
        let device = "-device e1000,netdev=n,mac=02:00:00:00:00:01";
        assert_eq!(mac(&format!("-netdev tap,id=n,fd=7 {device}"), "tap0", &[7]), known);
        assert_eq!(mac(&format!("-netdev tap,id=n,fds=8:7 {device}"), "tap0", &[7, 8]), known);
        assert_eq!(mac(&format!("-netdev tap,id=n,ifname=tap0 {device}"), "tap0", &[]), known);
        assert_eq!(mac(&format!("-netdev tap,id=m,ifname=tap0 {device}"), "tap0", &[]), None);
        assert_eq!(mac("-nic tap,ifname=tap0,mac=02:00:00:00:00:01,model=e1000", "tap0", &[]), known);
        assert_eq!(mac("-netdev tap,id=n,fd=7 -net nic,netdev=n,macaddr=02:00:00:00:00:01", "tap0", &[7]), known);
        let json = r#"-netdev {"type":"tap","id":"n","fd":"7"} -device {"driver":"e1000","netdev":"n","mac":"02:00:00:00:00:01"}"#;
        assert_eq!(mac(json, "tap0", &[7]), known);
    }

    #[test]
    fn words_that_are_values_are_no_options() {
        let line =
            line("-append -nographic -kernel bzImage -initrd i -name x,process=y -device virtio-rng-pci -nic none");
        assert_eq!((line.kernel.as_deref(), line.name.as_deref()), (Some("bzImage"), Some("x")));
        assert!(line.has_initrd && !line.has_serial_console && line.devices.is_empty() && line.netdevs.is_empty());
    }
}
