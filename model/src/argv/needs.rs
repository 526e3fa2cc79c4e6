//! What QEMU is certain to refuse a line for: files that it opens at its start, options that it does not have.
//!
//! Only what it names itself, and what it can't do without, is listed: a file that it would look for elsewhere, or go on
//! without, is none of these.
#![forbid(unsafe_code)]

use crate::argv::image;
use crate::argv::image::Place;
use crate::argv::values::Params;

/// What a file is for, which decides on QEMU's words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A disk, floppy, CD or flash image.
    Image,
    /// What the machine boots.
    Kernel,
    /// Its initial RAM disk: several, with arguments, for some kernels.
    Initrd,
    /// Firmware, which may be in QEMU's own folders.
    Firmware,
    /// Anything else that is read at the start.
    Data,
    /// A folder that the guest gets.
    Folder,
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
}

/// What a line needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files.
    pub files: Vec<File>,
    /// Options that are not in our table, by their names.
    pub unknown: Vec<Vec<u8>>,
    /// The last word of the line, where it is an option that lacks its value.
    pub cut: Option<Vec<u8>>,
    /// Netdevs that words name and none defines.
    pub netdevs: Vec<Vec<u8>>,
    /// Folders of `-L`, where firmware is looked for.
    pub folders: Vec<Vec<u8>>,
}

impl Needs {
    /// Notes a file.
    pub(super) fn add(&mut self, shown: &str, path: Vec<u8>, kind: Kind) {
        // Descriptors of the caller's are no files.
        if !path.is_empty() && !path.starts_with(b"/dev/fdset/") {
            self.files.push(File { shown: shown.to_owned(), path, kind, behind: None });
        }
    }

    /// Notes the image of a name, if it is a file of this host.
    pub(super) fn add_image(&mut self, shown: &str, name: &[u8]) {
        let is_folder =
            name.starts_with(b"fat:") || name.starts_with(b"json:") && name.windows(5).any(|w| w == b"vvfat");
        if let Some(Place::Local(path)) = image::of_name(name).filter(|_| !is_folder) {
            self.add(shown, path, Kind::Image);
        }
    }

    /// Notes what an option names, besides images.
    pub(super) fn look(&mut self, option: &[u8], params: &Params, shown: &str) {
        let get = |key: &str| params.get(key, "");
        let first = || params.whole();
        let (path, kind) = match option {
            b"kernel" => (first(), Kind::Kernel),
            b"initrd" => (first(), Kind::Initrd),
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
                _ => (get("romfile"), Kind::Firmware),
            },
            b"object" => match params.get("qom-type", "qom-type").as_deref() {
                Some(b"secret") => (get("file"), Kind::Data),
                _ => return,
            },
            b"machine" | b"M" => {
                let more = [("kernel", Kind::Kernel), ("initrd", Kind::Initrd), ("firmware", Kind::Firmware)];
                for (key, kind) in more {
                    if let Some(path) = get(key) {
                        self.add(shown, path, kind);
                    }
                }
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
