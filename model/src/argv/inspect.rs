//! What a command line of QEMU's says of its network cards and its kernel: of one that runs, or of one that is asked
//! about. Only looked at, never changed: that is `argv`'s.
#![forbid(unsafe_code)]

use crate::argv::Params;
use crate::mac::Mac;
use crate::options::{Arity, arity};
use crate::optstr;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

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
    /// The sockets on which its monitors for programs listen (`-qmp`, or `-mon` and `-chardev`), as they are written.
    pub monitors: Vec<OsString>,
    /// Whether libvirt has started it.
    pub is_libvirts: bool,
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
        let (mut sockets, mut of_programs): (Vec<Socket>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        while let Some(word) = rest.next() {
            let Some(name) = word.as_bytes().strip_prefix(b"-") else { continue };
            let name = name.strip_prefix(b"-").unwrap_or(name);
            match arity(name) {
                Arity::Value => {
                    let Some(value) = rest.next().map(|value| value.as_bytes()) else { continue };
                    match name {
                        b"chardev" => sockets.extend(Socket::of(value)),
                        b"mon" if optstr::get(value, "mode", "chardev").as_deref() == Some(b"control") => {
                            of_programs.extend(optstr::get(value, "chardev", "chardev"));
                        }
                        b"qmp" | b"qmp-pretty" => {
                            line.monitors
                                .extend(value.strip_prefix(b"unix:").and_then(|path| listens_on(path, "path")));
                        }
                        _ => line.look(name, value),
                    }
                }
                Arity::Alone | Arity::Unknown => line.has_serial_console |= name == b"nographic",
            }
        }
        // Its monitor is handed to it.
        line.is_libvirts = sockets.iter().any(|socket| socket.id == b"charmonitor");
        let is_of_programs = |socket: &Socket| of_programs.contains(&socket.id);
        line.monitors.extend(sockets.into_iter().filter(is_of_programs).filter_map(|socket| socket.path));
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

/// A `-chardev socket`.
struct Socket {
    id: Vec<u8>,
    /// Where it listens, if that is a file.
    path: Option<OsString>,
}

impl Socket {
    fn of(value: &[u8]) -> Option<Self> {
        let get = |key| optstr::get(value, key, "backend");
        let is_socket = get("backend").as_deref() == Some(b"socket");
        is_socket.then(|| Some(Self { id: get("id")?, path: listens_on(value, "backend") })).flatten()
    }
}

/// The file on which a socket listens; `first` is the key of a first word without one.
fn listens_on(value: &[u8], first: &str) -> Option<OsString> {
    let is_on = |key: &str| {
        let found = optstr::parse(value).into_iter().rev().find(|param| param.key.as_deref() == Some(key.as_bytes()));
        found.is_some_and(|param| param.value.is_none_or(|value| matches!(value.as_slice(), b"on" | b"yes" | b"true")))
    };
    let path = optstr::get(value, "path", first)?;
    (is_on("server") && !is_on("abstract")).then(|| OsString::from_vec(path))
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
    fn the_monitors_for_programs_are_found() {
        for (text, monitors) in [
            ("-qmp unix:/a,server=on,wait=off -monitor stdio", &["/a"][..]),
            ("-qmp unix:/a,server,nowait -qmp-pretty unix:b,,c,server=on", &["/a", "b,c"]),
            ("-mon chardev=m,mode=control -chardev socket,id=m,path=/m,server=on,wait=off", &["/m"]),
            ("-chardev socket,path=/m,server=on,wait=off,id=m -mon m,mode=control,pretty=on", &["/m"]),
            ("-qmp unix:/a -qmp tcp:localhost:4444,server=on -qmp stdio", &[]),
            ("-qmp unix:/a,server=off -chardev socket,id=m,path=/m,server=on -mon chardev=m,mode=readline", &[]),
            ("-chardev socket,id=m,path=/m,server=on -append -qmp -qmp unix:/x,abstract=on,server=on", &[]),
        ] {
            let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
            let line = QemuLine::read(&words);
            assert_eq!(line.monitors, monitors, "{text}");
            assert!(!line.is_libvirts);
        }
        let libvirts =
            "-chardev socket,id=charmonitor,fd=30,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control";
        let words: Vec<OsString> = libvirts.split_whitespace().map(OsString::from).collect();
        let line = QemuLine::read(&words);
        assert!(line.is_libvirts && line.monitors.is_empty());
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
