//! What the values of QEMU's own options tell: whose VM it is, which ids are taken, what machine it will be.
#![forbid(unsafe_code)]

use crate::argv::devices;
use crate::argv::image;
use crate::argv::image::Place;
use crate::argv::json;
use crate::argv::needs::Opening;
use crate::argv::readconfig::Section;
use crate::argv::scan::{Environment, Line, UserDevice};
use crate::options::Arity;
use crate::optstr;
use crate::request::Nic;
use std::collections::HashMap;

/// A VM's identity, as far as the command line tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// `vm=` or `-name`.
    Name(Vec<u8>),
    /// `-uuid`.
    Uuid(Vec<u8>),
    /// The first disk image, by its path as it was written.
    Disk(Vec<u8>),
    /// The same where it is no file of this host.
    DiskElsewhere(Vec<u8>),
    /// The kernel image, as it was written.
    Kernel(Vec<u8>),
    /// Nothing on the line tells VMs apart.
    Unnamed,
}

/// What may be a disk image.
#[derive(Default)]
struct Image {
    place: Option<Place>,
    /// The option that nobody knows and whose value this may be.
    behind: Option<Vec<u8>>,
    /// `id` of a drive, `node-name` of a node.
    id: Option<Vec<u8>>,
    /// The node that this one is made of.
    of: Option<Vec<u8>>,
}

impl Image {
    fn at(place: Option<Place>) -> Self {
        Self { place, ..Self::default() }
    }
}

impl From<Place> for Identity {
    fn from(place: Place) -> Self {
        match place {
            Place::Local(path) => Self::Disk(path),
            Place::Elsewhere(text) => Self::DiskElsewhere(text),
        }
    }
}

/// What was found on the way along the line.
#[derive(Default)]
pub(super) struct Found {
    name: Option<Vec<u8>>,
    uuid: Option<Vec<u8>>,
    /// The disk images, in order.
    images: Vec<Image>,
    /// The ids of those that the machine has its firmware in.
    firmware: Vec<Vec<u8>>,
    kernel: Option<Vec<u8>>,
    cdrom: Option<Place>,
    smp: HashMap<&'static str, u32>,
    /// The netdevs that words name, in order.
    wanted: Vec<Vec<u8>>,
    /// `-net nic` without a netdev.
    lone: Vec<UserDevice>,
    /// Whether there is another `-net`, which such a card is on.
    has_net: bool,
    /// Whether all netdevs of the line are known.
    is_open: bool,
    /// Whether QEMU is only asked something.
    pub(super) is_probe: bool,
}

impl Found {
    /// A bare word: a disk image. `behind` is the unknown option before it, whose value it may be.
    pub(super) fn bare(&mut self, word: &[u8], behind: Option<&[u8]>, line: &mut Line) {
        let known = line.needs.files.len();
        line.needs.add_image(&String::from_utf8_lossy(word), word, Opening::DRIVE);
        line.needs.files[known..].iter_mut().for_each(|file| file.behind = behind.map(<[u8]>::to_vec));
        self.images.push(Image { behind: behind.map(<[u8]>::to_vec), ..Image::at(image::of_name(word)) });
    }

    /// An option without a value.
    pub(super) fn flag(&mut self, name: &[u8], line: &mut Line) {
        self.is_probe |= matches!(name, b"h" | b"help" | b"version" | b"audio-help");
        match name {
            b"enable-kvm" => {
                line.accel = Some(b"kvm".to_vec());
                line.needs.add_accels(line.accel.clone());
            }
            b"nodefaults" => line.devices.has_no_defaults = true,
            b"preconfig" => self.is_open = true,
            b"snapshot" => line.needs.is_snapshot = true,
            _ => {}
        }
    }

    /// An option and its value, which is the word of this number.
    pub(super) fn look(&mut self, option: &[u8], value: &[u8], at: usize, line: &mut Line) {
        self.is_probe |= asks_for_help(option, value);
        if matches!(option, b"netdev" | b"nic" | b"net") {
            line.net_words.push(at);
        }
        if option == b"set" {
            line.set_words.push(at);
        }
        let shown = format!("-{} {}", String::from_utf8_lossy(option), String::from_utf8_lossy(value));
        self.take(option, &Params::of(value), &shown, line);
    }

    /// A file of options that could not be read.
    pub(super) fn is_missing_some(&mut self) {
        self.is_open = true;
    }

    /// A part of a file that `-readconfig` names.
    pub(super) fn look_into(&mut self, section: &Section, line: &mut Line) {
        let shown = format!("[{}]", String::from_utf8_lossy(&section.group));
        self.take(&section.group, &Params::Section(section), &shown, line);
    }

    fn take(&mut self, option: &[u8], params: &Params, shown: &str, line: &mut Line) {
        let get = |key: &str| params.get(key, "");
        line.ids.extend(get("id"));
        line.needs.look(option, params, shown);
        match option {
            b"name" => {
                let name = params.get("guest", "guest").filter(|name| !name.is_empty());
                self.name = name.or(self.name.take());
            }
            b"uuid" => self.uuid = params.whole().or(self.uuid.take()),
            b"kernel" => self.kernel = params.whole().or(self.kernel.take()),
            b"pflash" => line.needs.add_image(shown, &params.whole().unwrap_or_default(), Opening::DRIVE),
            b"cdrom" => {
                line.needs.add_image(shown, &params.whole().unwrap_or_default(), Opening::CD);
                self.cdrom = params.whole().and_then(|name| image::of_name(&name)).or(self.cdrom.take());
            }
            b"hda" | b"hdb" | b"hdc" | b"hdd" | b"fda" | b"fdb" | b"sd" | b"mtdblock" => {
                line.needs.add_image(shown, &params.whole().unwrap_or_default(), Opening::DRIVE);
                self.images.push(Image::at(params.whole().and_then(|name| image::of_name(&name))));
            }
            b"drive" => {
                let place = match get("file") {
                    Some(name) => image::of_name(&name),
                    None => image::of_options(&params.object("file")),
                };
                match (get("file"), &place) {
                    (Some(name), _) => line.needs.add_image(shown, &name, Opening::of_drive(params)),
                    (None, Some(Place::Local(path))) if get("driver").as_deref() != Some(b"vvfat") => {
                        line.needs.add_node(shown, path.clone(), params);
                    }
                    _ => {}
                }
                match (get("if").as_deref(), get("media").as_deref()) {
                    // Firmware is shared by many VMs.
                    (Some(b"pflash"), _) => {}
                    (_, Some(b"cdrom")) => self.cdrom = self.cdrom.take().or(place),
                    _ => self.images.push(Image { id: get("id"), ..Image::at(place) }),
                }
            }
            b"blockdev" => {
                let place = image::of_options(&params.object("driver"));
                match &place {
                    Some(Place::Local(path)) if !shown.contains("vvfat") => {
                        line.needs.add_node(shown, path.clone(), params);
                    }
                    _ => line.needs.put_on_node(params),
                }
                self.images.push(Image { id: get("node-name"), of: get("file"), ..Image::at(place) });
            }
            b"device" => {
                let driver = params.get("driver", "driver").unwrap_or_default();
                put_on_netdev(params, driver, Some("mac"), line);
                line.has_json_device |= matches!(params, Params::Json(_));
                line.devices.add(params, line.parts.len());
                self.wanted.extend(get("netdev"));
            }
            b"net" if params.get("type", "type").as_deref() == Some(b"nic") => {
                let driver = get("model").unwrap_or_default();
                let driver = if driver == b"virtio" { b"virtio-net".to_vec() } else { driver };
                match get("netdev") {
                    None if !matches!(params, Params::Section(_)) => {
                        let place = Some((line.parts.len(), "macaddr"));
                        self.lone.push(UserDevice { place, ..own_device(params, driver, None, line) });
                    }
                    _ => put_on_netdev(params, driver, Some("macaddr"), line),
                }
                self.wanted.extend(get("netdev"));
                line.devices.cards += 1;
            }
            b"net" => {
                let is_none = params.get("type", "type").as_deref() == Some(b"none");
                self.has_net |= !is_none;
                line.netdevs.extend(get("id"));
            }
            b"nic" => {
                line.devices.cards += usize::from(params.get("type", "type").as_deref() != Some(b"none"));
                line.netdevs.extend(get("id"));
            }
            b"netdev" => {
                put_on_netdev(params, Vec::new(), None, line);
                line.netdevs.extend(get("id"));
                self.wanted.extend(get("netdev"));
            }
            // Filters.
            b"object" => self.wanted.extend(get("netdev")),
            b"set" => self.set(params, line),
            b"global" => line.devices.globals.extend(devices::global(params)),
            b"vga" => line.devices.vga = params.whole(),
            b"virtfs" => line.devices.add(&Params::Text(b"virtio-9p-pci"), line.parts.len()),
            b"watchdog" | b"balloon" | b"audio" | b"soundhw" | b"usbdevice" => line.devices.has_more = true,
            b"machine" | b"M" => {
                line.machine = params.get("type", "type").or(line.machine.take());
                line.accel = get("accel").or(line.accel.take());
                self.kernel = get("kernel").or(self.kernel.take());
                self.firmware.extend(["pflash0", "pflash1"].into_iter().filter_map(get));
            }
            b"incoming" => line.run.is_incoming = true,
            b"accel" => line.accel = line.accel.take().or(params.get("accel", "accel")),
            b"smp" | b"smp-opts" => {
                // What several of them say is put together.
                self.smp.extend(smp(params));
                line.cpus = cpus(&self.smp);
            }
            _ => {}
        }
    }

    /// `-set GROUP.ID.KEY=VALUE`.
    fn set(&self, params: &Params, line: &mut Line) {
        let Some(whole) = params.whole() else { return };
        let text = String::from_utf8_lossy(&whole);
        let Some((name, value)) = text.split_once('=') else { return };
        let Some((id, key)) = name.strip_prefix("device.").and_then(|name| name.rsplit_once('.')) else { return };
        line.devices.set(id.as_bytes(), key, value);
        if key == "mac" {
            let its = line.devices_on.values_mut().filter(|own| own.id.as_deref() == Some(id.as_bytes()));
            its.for_each(|own| own.mac = value.parse().ok().or(own.mac));
        }
    }

    /// Gives our cards what a line written by hand has left for them: the netdevs that words name and none defines, and
    /// `-net nic`s that are on nothing, where there are as many as cards that lack them.
    pub(super) fn hand_over(&mut self, line: &mut Line) {
        let mut missing: Vec<Vec<u8>> = Vec::new();
        for id in std::mem::take(&mut self.wanted) {
            let is_ours = line.nics.iter().any(|nic| nic.id.as_ref().is_some_and(|own| own.as_bytes() == id));
            if !is_ours && !line.netdevs.contains(&id) && !missing.contains(&id) {
                missing.push(id);
            }
        }
        if self.is_open {
            missing.clear();
        }
        let is_id = |id: &[u8]| std::str::from_utf8(id).is_ok_and(crate::request::is_id);
        let mut free: Vec<&mut Nic> = line.nics.iter_mut().filter(|nic| nic.id.is_none()).collect();
        if free.len() == missing.len() && missing.iter().all(|id| is_id(id)) {
            for (nic, id) in free.iter_mut().zip(missing.drain(..)) {
                nic.id = String::from_utf8(id).ok();
            }
        }
        line.needs.netdevs = missing;
        let has_own = |nic: &Nic| nic.id.as_ref().is_some_and(|id| line.devices_on.contains_key(id.as_bytes()));
        let without: Vec<usize> = (0..line.nics.len()).filter(|at| !has_own(&line.nics[*at])).collect();
        if self.has_net || without.len() != self.lone.len() {
            line.lone_cards = if self.has_net { 0 } else { self.lone.len() };
            return;
        }
        for (at, mut own) in without.into_iter().zip(std::mem::take(&mut self.lone)) {
            let used = |id: &String, nics: &[Nic]| {
                let is_ours = nics.iter().any(|nic| nic.id.as_ref() == Some(id));
                is_ours || line.ids.contains(id.as_bytes()) || line.devices_on.contains_key(id.as_bytes())
            };
            let mut ids = (0..).map(|number| format!("bridge{number}"));
            let Some(id) = line.nics[at].id.clone().or_else(|| ids.find(|id| !used(id, &line.nics))) else { return };
            if own.driver.is_empty() {
                own.model = line.nics[at].model.clone();
            }
            own.lacks_netdev = true;
            line.devices_on.insert(id.clone().into_bytes(), own);
            line.nics[at].id = Some(id);
        }
    }

    /// `vm=`, else `-name`, else `-uuid`, else the first disk image, else the kernel, else a CD.
    pub(super) fn identity(self, nics: &[Nic], environment: &impl Environment) -> Identity {
        let vm = nics.iter().find_map(|nic| nic.vm.clone()).map(String::into_bytes);
        let first_disk = || {
            let firmware = firmware(self.firmware, &self.images);
            let is_firmware = |image: &Image| image.id.as_ref().is_some_and(|id| firmware.contains(id));
            let is_value =
                |image: &Image| image.behind.as_ref().is_some_and(|option| environment.arity(option) == Arity::Value);
            let mut disks = self.images.into_iter().filter(|image| image.place.is_some());
            disks.find(|image| !is_firmware(image) && !is_value(image)).and_then(|image| image.place)
        };
        (vm.or(self.name).map(Identity::Name))
            .or(self.uuid.map(Identity::Uuid))
            .or_else(|| first_disk().map(Identity::from))
            .or(self.kernel.map(Identity::Kernel))
            .or(self.cdrom.map(Identity::from))
            .unwrap_or(Identity::Unnamed)
    }
}

/// Notes what an option puts on a netdev; `key` is that of its address, if it can have one.
fn put_on_netdev(params: &Params, driver: Vec<u8>, key: Option<&'static str>, line: &mut Line) {
    let Some(netdev) = params.get("netdev", "") else { return };
    let own = own_device(params, driver, key, line);
    line.devices_on.insert(netdev, own);
}

/// What an option puts somewhere.
fn own_device(params: &Params, driver: Vec<u8>, key: Option<&'static str>, line: &Line) -> UserDevice {
    let mac = params.get("mac", "").or_else(|| params.get("macaddr", ""));
    // The next part is going to be the value that is being looked at.
    let can_be_given = mac.is_none() && !matches!(params, Params::Section(_));
    let place = key.filter(|_| can_be_given).map(|key| (line.parts.len(), key));
    let has_mac = mac.is_some();
    let mac = mac.and_then(|mac| String::from_utf8(mac).ok()?.parse().ok());
    let id = params.get("id", "");
    let has_mq = matches!(params.object("driver").get("mq"), Some(serde_json::Value::Bool(true)))
        || matches!(params.get("mq", "").as_deref(), Some(b"on" | b"yes" | b"true" | b"y"));
    UserDevice { driver, mac, has_mac, place, id, lacks_netdev: false, has_mq, model: None }
}

/// The nodes of the machine's firmware, which is shared by many VMs, and all that these are made of.
fn firmware(mut nodes: Vec<Vec<u8>>, images: &[Image]) -> Vec<Vec<u8>> {
    let mut at = 0;
    while let Some(node) = nodes.get(at) {
        let image = images.iter().find(|image| image.id.as_ref() == Some(node));
        let of = image.and_then(|image| image.of.clone()).filter(|of| !nodes.contains(of));
        nodes.extend(of);
        at += 1;
    }
    nodes
}

/// The numbers that an `-smp` gives.
fn smp(params: &Params) -> HashMap<&'static str, u32> {
    let number = |key: &'static str, first: &str| {
        let text = String::from_utf8(params.get(key, first)?).ok()?;
        text.parse().ok().filter(|number: &u32| *number > 0).map(|number| (key, number))
    };
    let all = ["cpus", "maxcpus"].into_iter().chain(SMP_PARTS);
    all.filter_map(|key| number(key, "cpus")).collect()
}

/// What CPUs are counted by.
const SMP_PARTS: [&str; 8] = ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"];

/// How many CPUs the guest starts with, as smp_parse of QEMU's hw/core/machine-smp.c has it.
fn cpus(smp: &HashMap<&str, u32>) -> u32 {
    let product = || SMP_PARTS.iter().filter_map(|part| smp.get(part).copied()).fold(1, u32::saturating_mul);
    smp.get("cpus").or_else(|| smp.get("maxcpus")).copied().unwrap_or_else(product)
}

/// The value of an option, in one of QEMU's spellings.
pub enum Params<'a> {
    /// As one word, with its commas.
    Text(&'a [u8]),
    /// In JSON.
    Json(serde_json::Value),
    /// As a section of -readconfig.
    Section(&'a Section),
}

impl<'a> Params<'a> {
    /// qobject_input_visitor_new_str() of QEMU takes a value that begins with a brace for JSON.
    pub fn of(value: &'a [u8]) -> Self {
        match value.first() {
            Some(b'{') => Self::Json(json::parse(value)),
            _ => Self::Text(value),
        }
    }

    /// The value as it stands, of an option that has no keys.
    pub(super) fn whole(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.to_vec()),
            Self::Json(_) | Self::Section(_) => None,
        }
    }

    /// All of it as JSON has it; `first` is the key that a first word without one stands for. A flag is `true`.
    pub fn object(&self, first: &str) -> serde_json::Value {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let pairs: Vec<(String, serde_json::Value)> = match self {
            Self::Json(json) => return json.clone(),
            Self::Text(text_) => {
                let pairs = optstr::parse(text_).into_iter().map(|param| {
                    let key = param.key.map_or_else(|| first.to_owned(), text);
                    (key, param.value.map_or(true.into(), |value| text(value).into()))
                });
                pairs.collect()
            }
            Self::Section(section) => {
                section.params().map(|(key, value)| (text(key.clone()), text(value.clone()).into())).collect()
            }
        };
        serde_json::Value::Object(pairs.into_iter().collect())
    }

    /// The value of a key; `first` is the key that a first word without one stands for.
    pub fn get(&self, key: &str, first: &str) -> Option<Vec<u8>> {
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
            Self::Section(section) if key == "id" => section.id.clone(),
            Self::Section(section) => section.get(key),
        }
    }
}

/// Options of which QEMU lists the values if the first word asks for help.
const LISTS: &str = "L accel action add-fd audio audiodev boot chardev cpu d device display drive fsdev global iscsi \
    machine M msg net netdev nic object overcommit plugin rtc smp soundhw spice tpmdev trace vga vnc watchdog";
/// Options of which it lists the keys if a later word does: those above, and these.
const KEYED: &str = "fw_cfg icount m mon name sandbox smbios";

/// Whether QEMU answers a question and ends on this value.
fn asks_for_help(option: &[u8], value: &[u8]) -> bool {
    let is_in = |list: &str| list.split_ascii_whitespace().any(|one| one.as_bytes() == option);
    let (lists, keyed) = (is_in(LISTS), is_in(LISTS) || is_in(KEYED));
    let is_help = |text: &[u8]| matches!(text, b"help" | b"?");
    // -d also takes `trace:PATTERN`.
    let is_trace = |text: &[u8]| option == b"d" && text.strip_prefix(b"trace:").is_some_and(is_help);
    optstr::parse(value).iter().any(|param| match (param.key.as_deref(), param.value.as_deref()) {
        (None, Some(first)) => lists && is_help(first) || is_trace(first),
        (Some(flag), None) => keyed && is_help(flag) || is_trace(flag),
        (Some(b"model" | b"type" | b"driver"), Some(value)) => lists && is_help(value),
        (Some(b"format"), Some(value)) => option == b"drive" && is_help(value),
        (Some(b"enable"), Some(value)) => option == b"trace" && is_help(value),
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
            assert_eq!(cpus(&super::smp(&Params::of(smp.as_bytes()))), count, "{smp}");
        }
    }
}
