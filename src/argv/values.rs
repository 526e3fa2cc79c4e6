//! What the values of QEMU's own options tell: whose VM it is, which ids are taken, what machine it will be.
#![forbid(unsafe_code)]

use super::readconfig::Section;
use super::scan::{Line, Outside};
use super::table::Arity;
use crate::optstr;
use crate::request::Nic;

/// A VM's identity, as far as the command line tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// `vm=` or `-name`.
    Name(Vec<u8>),
    /// `-uuid`.
    Uuid(Vec<u8>),
    /// The first disk image, as it was written.
    Disk(Vec<u8>),
    /// The kernel image, as it was written.
    Kernel(Vec<u8>),
    /// Nothing on the line tells VMs apart.
    Unnamed,
}

/// What was found on the way along the line.
#[derive(Default)]
pub(super) struct Found {
    name: Option<Vec<u8>>,
    uuid: Option<Vec<u8>>,
    disk: Option<Vec<u8>>,
    kernel: Option<Vec<u8>>,
    cdrom: Option<Vec<u8>>,
    /// Bare words behind options that nobody knows, with these: a disk image or a value.
    unsure: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether QEMU is only asked something.
    pub(super) is_probe: bool,
}

impl Found {
    /// A bare word: a disk image. `behind` is the unknown option before it, whose value it may be.
    pub(super) fn bare(&mut self, word: &[u8], behind: Option<&[u8]>) {
        match behind {
            Some(option) if self.disk.is_none() => self.unsure.push((option.to_vec(), word.to_vec())),
            Some(_) => {}
            None => {
                self.disk.get_or_insert_with(|| word.to_vec());
            }
        }
    }

    /// An option without a value.
    pub(super) fn flag(&mut self, name: &[u8], line: &mut Line) {
        self.is_probe |= matches!(name, b"h" | b"help" | b"version" | b"audio-help");
        if name == b"enable-kvm" {
            line.accel = Some(b"kvm".to_vec());
        }
    }

    /// An option and its value.
    pub(super) fn look(&mut self, option: &[u8], value: &[u8], line: &mut Line) {
        self.is_probe |= asks_for_help(option, value);
        self.take(option, &Params::of(value), line);
    }

    /// A part of a file that `-readconfig` names.
    pub(super) fn look_into(&mut self, section: &Section, line: &mut Line) {
        line.ids.extend(section.id.clone());
        self.take(&section.group, &Params::Section(section), line);
    }

    fn take(&mut self, option: &[u8], params: &Params, line: &mut Line) {
        let get = |key: &str| params.get(key, "");
        line.ids.extend(get("id"));
        match option {
            b"name" => {
                let name = params.get("guest", "guest").filter(|name| !name.is_empty());
                self.name = name.or(self.name.take());
            }
            b"uuid" => self.uuid = params.whole().or(self.uuid.take()),
            b"kernel" => self.kernel = params.whole().or(self.kernel.take()),
            b"cdrom" => self.cdrom = params.whole().or(self.cdrom.take()),
            b"hda" | b"hdb" | b"hdc" | b"hdd" | b"sd" | b"mtdblock" => self.disk = self.disk.take().or(params.whole()),
            b"drive" => match (get("if").as_deref(), get("media").as_deref()) {
                // Firmware is shared by many VMs.
                (Some(b"pflash"), _) => {}
                (_, Some(b"cdrom")) => self.cdrom = self.cdrom.take().or(get("file")),
                _ => self.disk = self.disk.take().or(get("file")).or_else(|| get("file.filename")),
            },
            b"blockdev" => {
                let file = get("filename").or_else(|| get("file.filename"));
                self.disk = self.disk.take().or(file);
            }
            b"device" => {
                let driver = params.get("driver", "driver").unwrap_or_default();
                line.devices_on.extend(get("netdev").map(|netdev| (netdev, driver)));
                line.has_json_device |= matches!(params, Params::Json(_));
                line.has_placed_device |= get("addr").is_some();
            }
            b"machine" | b"M" => {
                line.machine = params.get("type", "type").or(line.machine.take());
                line.accel = get("accel").or(line.accel.take());
                self.kernel = get("kernel").or(self.kernel.take());
            }
            b"accel" => line.accel = line.accel.take().or(params.get("accel", "accel")),
            b"smp" | b"smp-opts" => line.cpus = cpus(params),
            _ => {}
        }
    }

    /// `vm=`, else `-name`, else `-uuid`, else the first disk image, else the kernel, else a CD.
    pub(super) fn identity(self, nics: &[Nic], outside: &impl Outside) -> Identity {
        let vm = nics.iter().find_map(|nic| nic.vm.clone()).map(String::into_bytes);
        let (unsure, disk) = (self.unsure, self.disk);
        let first_disk = || {
            let mut images = unsure.into_iter().filter(|(option, _)| outside.arity(option) != Arity::Value);
            images.next().map(|(_, word)| word).or(disk)
        };
        (vm.or(self.name).map(Identity::Name))
            .or(self.uuid.map(Identity::Uuid))
            .or_else(|| first_disk().map(Identity::Disk))
            .or(self.kernel.map(Identity::Kernel))
            .or(self.cdrom.map(Identity::Disk))
            .unwrap_or(Identity::Unnamed)
    }
}

/// How many CPUs the guest starts with, as smp_parse of QEMU's hw/core/machine-smp.c has it.
fn cpus(params: &Params) -> u32 {
    let number = |key: &str, first: &str| {
        let text = String::from_utf8(params.get(key, first)?).ok()?;
        text.parse().ok().filter(|number: &u32| *number > 0)
    };
    let parts = ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"];
    let product = || parts.iter().filter_map(|part| number(part, "")).fold(1, u32::saturating_mul);
    number("cpus", "cpus").or_else(|| number("maxcpus", "")).unwrap_or_else(product)
}

/// The value of an option, in one of QEMU's spellings.
pub(crate) enum Params<'a> {
    Text(&'a [u8]),
    Json(serde_json::Value),
    Section(&'a Section),
}

impl<'a> Params<'a> {
    /// qobject_input_visitor_new_str() of QEMU takes a value that begins with a brace for JSON.
    pub(crate) fn of(value: &'a [u8]) -> Self {
        match value.first() {
            Some(b'{') => Self::Json(serde_json::from_slice(value).unwrap_or_default()),
            _ => Self::Text(value),
        }
    }

    /// The value as it stands, of an option that has no keys.
    fn whole(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.to_vec()),
            Self::Json(_) | Self::Section(_) => None,
        }
    }

    /// The value of a key; `first` is the key that a first word without one stands for.
    pub(crate) fn get(&self, key: &str, first: &str) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => optstr::get(text, key, first),
            Self::Json(json) => {
                // QEMU takes `{"file.filename": x}` for `{"file": {"filename": x}}`.
                let nested = || key.split('.').try_fold(json, |json, part| json.get(part));
                match json.get(key).or_else(nested)? {
                    serde_json::Value::String(text) => Some(text.as_bytes().to_vec()),
                    serde_json::Value::Number(number) => Some(number.to_string().into_bytes()),
                    _ => None,
                }
            }
            Self::Section(section) => section.get(key),
        }
    }
}

/// Whether QEMU answers a question and ends, or starts without a machine, on this value.
fn asks_for_help(option: &[u8], value: &[u8]) -> bool {
    let lists = [
        "accel", "audio", "audiodev", "boot", "chardev", "cpu", "d", "device", "display", "drive", "machine", "M",
        "msg", "net", "netdev", "nic", "object", "plugin", "rtc", "smp", "soundhw", "spice", "tpmdev", "trace", "vga",
        "watchdog",
    ];
    if !lists.iter().any(|list| list.as_bytes() == option) {
        return false;
    }
    let is_machine = matches!(option, b"machine" | b"M");
    optstr::parse(value).iter().any(|param| match (param.key.as_deref(), param.value.as_deref()) {
        (Some(b"help" | b"?"), None) => true,
        (Some(b"model" | b"type" | b"driver"), Some(b"help" | b"?")) | (None, Some(b"help" | b"?")) => true,
        (None | Some(b"type"), Some(b"none")) => is_machine,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_as_qemu_does() {
        for (smp, count) in [
            ("4", 4),
            ("cpus=3,maxcpus=8", 3),
            ("sockets=2,cores=2,threads=2", 8),
            ("maxcpus=6", 6),
            ("4,sockets=2,cores=2", 4),
            ("cores=2", 2),
            ("", 1),
            ("nonsense", 1),
        ] {
            assert_eq!(cpus(&Params::of(smp.as_bytes())), count, "{smp}");
        }
    }
}
