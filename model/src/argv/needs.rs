//! What QEMU is certain to refuse a line for: files that it opens at its start, options that it does not have.
//!
//! Only what it names itself, and what it can't do without, is listed: a file that it would look for elsewhere, or go on
//! without, is none of these.
#![forbid(unsafe_code)]

use crate::argv::Line;
use crate::argv::image;
use crate::argv::image::Place;
use crate::argv::values::Params;

/// The first byte that QEMU locks of an image, for what it does with it, and for what it lets others do (RAW_LOCK_PERM_BASE and
/// RAW_LOCK_SHARED_BASE of its block/file-posix.c); the second of each stands for writing (BLK_PERM_WRITE).
const WRITES: u64 = 100 + 1;
const LETS_NOBODY_WRITE: u64 = 200 + 1;

/// What a file is for, which decides on QEMU's words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A disk, floppy, CD or flash image.
    Image,
    /// What the machine boots.
    Kernel,
    /// Its initial RAM disk: several, with arguments, for some kernels.
    Initrd,
    /// Its device tree, which some machines have no use for.
    DeviceTree,
    /// The machine's firmware, which may be in QEMU's own folders.
    Firmware,
    /// A device's, which may be there as well.
    Rom,
    /// Anything else that is read at the start.
    Data,
    /// A folder that the guest gets.
    Folder,
}

impl Kind {
    /// Whether a machine has one, so that of several the last counts.
    fn is_single(self) -> bool {
        matches!(self, Self::Kernel | Self::Initrd | Self::DeviceTree | Self::Firmware)
    }
}

/// How QEMU opens an image, as far as that is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opening {
    /// Whether it goes by the header of a qcow2 image.
    pub is_qcow2: bool,
    /// Whether it opens the image that this one is based on, by the name in its header.
    pub opens_backing: bool,
    /// Whether it locks it, and for writing.
    pub writes: Option<bool>,
}

/// A file that QEMU opens at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The words that name it, as QEMU's own errors have them.
    pub shown: String,
    /// Its path, as it was written.
    pub path: Vec<u8>,
    /// What it is for.
    pub kind: Kind,
    /// The option before it, if nobody knows it: the word may be that one's value.
    pub behind: Option<Vec<u8>>,
    /// Of an image: how it is opened.
    pub opening: Opening,
    /// Of an image: the node of that name, and whether what is put on it locks it for writing, if that is certain.
    node: Option<(Vec<u8>, Option<bool>)>,
}

impl File {
    /// Whether the machine of the line is certain to open it. Who is asked tells whether a kernel that is there begins as Linux's
    /// for x86 does.
    pub fn is_needed(&self, line: &Line, is_bz_image: impl Fn(&[u8]) -> bool) -> bool {
        let system = line.system.as_deref().unwrap_or_default();
        let machine = line.machine.as_deref().unwrap_or_default();
        let begins = |names: &[&str]| names.iter().any(|name| machine.starts_with(name.as_bytes()));
        match self.kind {
            // Several, or one with arguments.
            Kind::Initrd => !self.path.iter().any(|byte| b", ".contains(byte)),
            // Other machines may have no use for it.
            Kind::Firmware if line.needs.has_flash => false,
            Kind::Firmware => match system {
                "x86_64" | "i386" => machine.is_empty() || begins(&["pc", "q35", "microvm", "isapc"]),
                "aarch64" | "arm" | "riscv64" | "riscv32" => begins(&["virt"]),
                _ => false,
            },
            Kind::DeviceTree => {
                let mut kernels = line.needs.files.iter().filter(|file| file.kind == Kind::Kernel);
                kernels.next().is_some_and(|kernel| match system {
                    "x86_64" | "i386" => is_bz_image(&kernel.path),
                    "aarch64" | "arm" => begins(&["virt"]),
                    _ => false,
                })
            }
            _ => true,
        }
    }

    /// The byte of the file that another process has locked if QEMU could not lock it; none if QEMU can share it, or if that is not
    /// certain. `is_qcow2` says what it begins as.
    pub fn byte_of_lock(&self, line: &Line, is_qcow2: bool) -> Option<u64> {
        // A guest that moves in has its image from the one that leaves.
        match self.opening.writes.filter(|_| !line.run.is_incoming)? {
            true if !line.needs.is_snapshot => Some(LETS_NOBODY_WRITE),
            // What lies in other formats can be shared.
            _ => is_qcow2.then_some(WRITES),
        }
    }
}

/// Whether a kernel that begins like this has the header of Linux's boot protocol on x86, which has a place for a device tree since
/// version 2.09.
pub fn is_bz_image(start: &[u8]) -> bool {
    let version = |header: &[u8]| u16::from_le_bytes([header[4], header[5]]);
    start.get(0x202..0x208).is_some_and(|header| header.starts_with(b"HdrS") && version(header) >= 0x209)
}

/// What a line needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files.
    pub files: Vec<File>,
    /// All options, by their names.
    pub options: Vec<Vec<u8>>,
    /// The last word of the line, where it is an option that lacks its value.
    pub cut: Option<Vec<u8>>,
    /// Netdevs that words name and none defines.
    pub netdevs: Vec<Vec<u8>>,
    /// Folders of `-L`, where firmware is looked for.
    pub folders: Vec<Vec<u8>>,
    /// Whether the machine has its firmware in flash memory.
    pub has_flash: bool,
    /// The devices, CPU, screen and window that it names: the option, and the value.
    pub models: Vec<(Model, String)>,
    /// All accelerators that QEMU may try.
    pub accels: Vec<String>,
    /// Whether drives are not written to (`-snapshot`).
    pub is_snapshot: bool,
}

/// What a QEMU may have or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// `-device`.
    Device,
    /// `-cpu`.
    Cpu,
    /// `-vga`.
    Vga,
    /// `-display`.
    Display,
}

impl Needs {
    /// Notes a file.
    pub(super) fn add(&mut self, shown: &str, path: Vec<u8>, kind: Kind) {
        self.add_as(shown, path, kind, Opening::default(), None);
    }

    fn add_as(
        &mut self,
        shown: &str,
        path: Vec<u8>,
        kind: Kind,
        opening: Opening,
        node: Option<(Vec<u8>, Option<bool>)>,
    ) {
        self.files.retain(|file| !kind.is_single() || file.kind != kind);
        // Descriptors of the caller's are no files.
        if !path.is_empty() && !path.starts_with(b"/dev/fdset/") {
            self.files.push(File { shown: shown.to_owned(), path, kind, behind: None, opening, node });
        }
    }

    /// Notes the image of a name, if it is a file of this host.
    pub(super) fn add_image(&mut self, shown: &str, name: &[u8], opening: Opening) {
        let is_folder =
            name.starts_with(b"fat:") || name.starts_with(b"json:") && name.windows(5).any(|w| w == b"vvfat");
        if let Some(Place::Local(path)) = image::of_name(name).filter(|_| !is_folder) {
            // Between other drivers and the file, nothing is certain.
            let is_plain = path == name || name.starts_with(b"file:");
            self.add_as(shown, path, Kind::Image, if is_plain { opening } else { Opening::default() }, None);
        }
    }

    /// Notes the image of a `-drive` or `-blockdev`, by the driver that is in front of its file.
    pub(super) fn add_node(&mut self, shown: &str, path: Vec<u8>, params: &Params) {
        let opening = Opening::of_blockdev(params);
        let is_file = params.get("driver", "driver").as_deref() == Some(b"file");
        // A file itself is not locked.
        let node = params.get("node-name", "").filter(|_| is_file).map(|name| (name, opening.writes));
        let writes = opening.writes.filter(|_| !is_file);
        self.add_as(shown, path, Kind::Image, Opening { writes, ..opening }, node);
    }

    /// Notes a format on a node that an earlier option has described.
    pub(super) fn put_on_node(&mut self, params: &Params) {
        let Some(of) = params.get("file", "") else { return };
        let mut nodes = self.files.iter_mut().rev();
        let node =
            nodes.find_map(|file| Some((&mut file.opening, file.node.as_ref().filter(|(name, _)| *name == of)?)));
        let Some((opening, (_, writes))) = node else { return };
        let format = Opening::of_blockdev(params);
        *opening = Opening { writes: format.writes.and(*writes), ..format };
    }

    /// Notes accelerators, which have colons between them.
    pub(super) fn add_accels(&mut self, accels: Option<Vec<u8>>) {
        let accels = String::from_utf8(accels.unwrap_or_default()).unwrap_or_default();
        self.accels.extend(accels.split(':').filter(|accel| !accel.is_empty()).map(str::to_owned));
    }

    /// Notes what a QEMU may have or not.
    fn add_model(&mut self, model: Model, name: Option<Vec<u8>>) {
        self.models.extend(name.and_then(|name| Some((model, String::from_utf8(name).ok()?))));
    }

    /// Notes what an option names, besides images.
    pub(super) fn look(&mut self, option: &[u8], params: &Params, shown: &str) {
        let get = |key: &str| params.get(key, "");
        let first = || params.whole();
        if option == b"device" {
            self.add_model(Model::Device, params.get("driver", "driver"));
        }
        let (path, kind) = match option {
            b"kernel" => (first(), Kind::Kernel),
            b"initrd" => (first(), Kind::Initrd),
            b"dtb" => (first(), Kind::DeviceTree),
            b"bios" => (first().filter(|name| name != b"none" && name != b"default"), Kind::Firmware),
            b"fw_cfg" => (get("file"), Kind::Data),
            b"smbios" => (get("file"), Kind::Data),
            b"acpitable" => {
                let list = get("file").or_else(|| get("data")).unwrap_or_default();
                for path in list.split(|byte| *byte == b':') {
                    self.add(shown, path.to_vec(), Kind::Data);
                }
                return;
            }
            b"readconfig" => (first(), Kind::Data),
            b"fsdev" | b"virtfs" if params.get("fsdriver", "fsdriver").as_deref() == Some(b"local") => {
                (get("path"), Kind::Folder)
            }
            b"device" => match params.get("driver", "driver").as_deref() {
                Some(b"loader") => (get("file"), Kind::Data),
                // Without a BAR it is optional.
                _ if get("rombar").is_some() => return,
                _ => (get("romfile"), Kind::Rom),
            },
            b"object" => match params.get("qom-type", "qom-type").as_deref() {
                Some(b"secret") => (get("file"), Kind::Data),
                Some(b"rng-random") => (get("filename"), Kind::Data),
                _ => return,
            },
            b"machine" | b"M" => {
                const FILES: [(&str, Kind); 4] = [
                    ("kernel", Kind::Kernel),
                    ("initrd", Kind::Initrd),
                    ("dtb", Kind::DeviceTree),
                    ("firmware", Kind::Firmware),
                ];
                for (key, kind) in FILES {
                    if let Some(path) = get(key) {
                        self.add(shown, path, kind);
                    }
                }
                self.has_flash |= get("pflash0").is_some();
                self.add_accels(get("accel"));
                return;
            }
            b"cpu" => {
                self.models.retain(|(model, _)| *model != Model::Cpu);
                return self.add_model(Model::Cpu, params.get("type", "type"));
            }
            b"accel" => return self.add_accels(params.get("accel", "accel")),
            b"vga" => return self.add_model(Model::Vga, params.get("type", "type")),
            b"display" => return self.add_model(Model::Display, params.get("type", "type")),
            b"pflash" => {
                self.has_flash = true;
                return;
            }
            b"drive" => {
                self.has_flash |= get("if").as_deref() == Some(b"pflash");
                return;
            }
            b"L" => {
                self.folders.extend(first());
                return;
            }
            _ => return,
        };
        if let Some(path) = path {
            self.add(shown, path, kind);
        }
    }
}

impl Opening {
    /// That of a drive that is named by itself (`-hda`).
    pub(super) const DRIVE: Self = Self { is_qcow2: true, opens_backing: true, writes: Some(true) };
    /// That of a CD.
    pub(super) const CD: Self = Self { writes: Some(false), ..Self::DRIVE };

    /// That of `-drive file=`.
    pub(super) fn of_drive(params: &Params) -> Self {
        let is_on = |key: &str| params.get(key, "").is_some_and(|value| value == b"on");
        let object = params.object("file");
        let has = |words: &[&str]| has_key(&object, words);
        let format = params.get("format", "").or_else(|| params.get("driver", ""));
        let is_read_only = ["readonly", "read-only", "snapshot"].into_iter().any(is_on)
            || params.get("media", "").as_deref() == Some(b"cdrom");
        let is_odd = has(&["locking", "force-share", "auto-read-only"]);
        Self {
            is_qcow2: format.is_none_or(|format| format == b"qcow2"),
            opens_backing: !has(&["backing"]),
            writes: (!is_odd).then_some(!is_read_only),
        }
    }

    /// That of a `-blockdev`, which says all of it, or of a drive that is written in that way.
    fn of_blockdev(params: &Params) -> Self {
        let object = params.object("driver");
        let has = |words: &[&str]| has_key(&object, words);
        let driver = params.get("driver", "driver");
        let is_odd = has(&["locking", "force-share", "auto-read-only", "read-only", "readonly", "snapshot"]);
        let is_file = driver.as_deref() == Some(b"file");
        let is_qcow2 = driver.as_deref() == Some(b"qcow2");
        Self {
            is_qcow2,
            opens_backing: is_qcow2 && !has(&["backing"]),
            writes: ((is_qcow2 || is_file) && !is_odd).then_some(true),
        }
    }
}

/// Whether options have a key, or a part of one, of these.
fn has_key(options: &serde_json::Value, words: &[&str]) -> bool {
    options.as_object().is_some_and(|options| {
        let is_one = |key: &String| key.split('.').any(|part| words.contains(&part));
        options.iter().any(|(key, value)| is_one(key) || has_key(value, words))
    })
}
