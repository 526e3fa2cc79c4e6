//! Finds our options among QEMU's.
#![forbid(unsafe_code)]

use super::table::{Arity, arity};
use crate::error::{Error, Result};
use crate::optstr;
use crate::request::Nic;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What the command line wants of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Set the network up and run QEMU.
    Launch,
    /// `--bridge-dry-run`: say what would be done.
    DryRun,
    /// `--bridge-help`.
    Help,
}

/// One piece of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A word of QEMU's, untouched.
    Word(OsString),
    /// Here stood the `--bridge` for the network card of this number.
    Nic(usize),
}

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

/// A command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// All behind argv\[0\], in order.
    pub parts: Vec<Part>,
    /// The network cards that are asked for, on the line first, then in the environment.
    pub nics: Vec<Nic>,
    /// What is to be done.
    pub mode: Mode,
    /// Whose leases these are.
    pub vm: Identity,
    /// Every id that a word of QEMU's gives to something.
    pub ids: HashSet<Vec<u8>>,
    /// The netdevs that `-device` words of the user's name.
    pub devices_on: HashSet<Vec<u8>>,
}

/// Whether a word can be one of our options; where none is, nothing else of this module is needed.
pub fn may_be_ours(word: &OsStr) -> bool {
    own_option(word.as_bytes()).is_some()
}

/// The name of our option behind its dashes, `bridge` or `bridge-...`, and the value behind `=`.
fn own_option(word: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let name = option_name(word)?;
    let (name, value) = match name.iter().position(|byte| *byte == b'=') {
        Some(at) => (&name[..at], Some(&name[at + 1..])),
        None => (name, None),
    };
    (name == b"bridge" || name.starts_with(b"bridge-")).then_some((name, value))
}

/// An option's name without its one or two dashes; `None` for a bare word.
fn option_name(word: &[u8]) -> Option<&[u8]> {
    let name = word.strip_prefix(b"-")?;
    Some(name.strip_prefix(b"-").unwrap_or(name))
}

/// Reads the words behind argv\[0\], and the values of the environment variable if they count.
///
/// Where the caller asks QEMU about itself (`-version`, `-device help`, `-machine none` ...) no guest will run: there is
/// nothing to set up and nothing to be said, and the line has no network cards.
pub fn scan(words: &[OsString], environment: impl FnOnce() -> Result<Vec<String>>) -> Result<Line> {
    let mut found = Found::default();
    let mut line = Line {
        parts: Vec::with_capacity(words.len()),
        nics: Vec::new(),
        mode: Mode::Launch,
        vm: Identity::Unnamed,
        ids: HashSet::new(),
        devices_on: HashSet::new(),
    };
    let mut complete = true;
    let mut rest = words.iter().peekable();
    while let Some(word) = rest.next() {
        if let Some((name, value)) = own_option(word.as_bytes()) {
            match (name, value) {
                (b"bridge", Some(value)) => line.add_nic(value)?,
                (b"bridge", None) => match rest.next() {
                    Some(value) => line.add_nic(value.as_bytes())?,
                    None => return Err(Error::new("--bridge has no value", "Name a bridge: --bridge br0.")),
                },
                (b"bridge-dry-run", None) => line.mode = Mode::DryRun,
                (b"bridge-help", None) => line.mode = Mode::Help,
                _ => {
                    let remedy = "Ours are --bridge, --bridge-dry-run and --bridge-help.";
                    return Err(Error::new(format!("there is no option {}", word.to_string_lossy()), remedy));
                }
            }
            continue;
        }
        line.parts.push(Part::Word(word.clone()));
        let Some(name) = option_name(word.as_bytes()) else {
            found.disk.get_or_insert_with(|| word.as_bytes().to_vec());
            continue;
        };
        let takes = match arity(name) {
            Arity::Alone => false,
            Arity::Value => true,
            // Only a word of ours that follows would make a difference, and it is ours rather than the value of an
            // option that nobody knows.
            Arity::Unknown => false,
        };
        found.is_probe |= matches!(name, b"h" | b"help" | b"version" | b"audio-help");
        if takes {
            match rest.next() {
                Some(value) => {
                    found.look(name, value.as_bytes(), &mut line);
                    line.parts.push(Part::Word(value.clone()));
                }
                None => complete = false,
            }
        }
    }
    // A word behind an option that lacks its value would become that value; QEMU will refuse this line by itself.
    if found.is_probe {
        line.nics.clear();
        line.parts.retain(|part| matches!(part, Part::Word(_)));
    } else if complete {
        for value in environment()? {
            line.add_nic(value.as_bytes()).map_err(|error| error.of("the environment variable KVM_BRIDGE"))?;
        }
    }
    crate::request::check_together(&line.nics)?;
    line.vm = found.identity(&line.nics);
    Ok(line)
}

impl Line {
    fn add_nic(&mut self, value: &[u8]) -> Result<()> {
        self.parts.push(Part::Nic(self.nics.len()));
        self.nics.push(Nic::parse(value)?);
        Ok(())
    }
}

/// What the values of QEMU's options tell on the way.
#[derive(Default)]
struct Found {
    name: Option<Vec<u8>>,
    uuid: Option<Vec<u8>>,
    disk: Option<Vec<u8>>,
    kernel: Option<Vec<u8>>,
    cdrom: Option<Vec<u8>>,
    is_probe: bool,
}

impl Found {
    fn look(&mut self, option: &[u8], value: &[u8], line: &mut Line) {
        let params = Params::of(value);
        let get = |key: &str| params.get(key);
        line.ids.extend(get("id"));
        match option {
            b"name" => {
                let name = optstr::get(value, "guest", "guest").filter(|name| !name.is_empty());
                self.name = name.or(self.name.take());
            }
            b"uuid" => self.uuid = Some(value.to_vec()),
            b"kernel" => self.kernel = Some(value.to_vec()),
            b"cdrom" => self.cdrom = Some(value.to_vec()),
            b"hda" | b"hdb" | b"hdc" | b"hdd" | b"sd" | b"mtdblock" => {
                self.disk.get_or_insert_with(|| value.to_vec());
            }
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
            b"device" => line.devices_on.extend(get("netdev")),
            _ => {}
        }
        self.is_probe |= asks_for_help(option, value);
    }

    /// `vm=`, else `-name`, else `-uuid`, else the first disk image, else the kernel, else a CD.
    fn identity(self, nics: &[Nic]) -> Identity {
        let vm = nics.iter().find_map(|nic| nic.vm.clone()).map(String::into_bytes);
        (vm.or(self.name).map(Identity::Name))
            .or(self.uuid.map(Identity::Uuid))
            .or(self.disk.map(Identity::Disk))
            .or(self.kernel.map(Identity::Kernel))
            .or(self.cdrom.map(Identity::Disk))
            .unwrap_or(Identity::Unnamed)
    }
}

/// The value of an option, in either of QEMU's two spellings.
enum Params<'a> {
    Text(&'a [u8]),
    Json(serde_json::Value),
}

impl<'a> Params<'a> {
    /// qobject_input_visitor_new_str() of QEMU takes a value that begins with a brace for JSON.
    fn of(value: &'a [u8]) -> Self {
        match value.first() {
            Some(b'{') => Self::Json(serde_json::from_slice(value).unwrap_or_default()),
            _ => Self::Text(value),
        }
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => optstr::get(text, key, ""),
            Self::Json(json) => {
                // QEMU takes `{"file.filename": x}` for `{"file": {"filename": x}}`.
                let nested = || key.split('.').try_fold(json, |json, part| json.get(part));
                Some(json.get(key).or_else(nested)?.as_str()?.as_bytes().to_vec())
            }
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

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    fn line(text: &str) -> Line {
        scan(&words(text), || Ok(Vec::new())).unwrap()
    }

    fn bridges(text: &str) -> Vec<String> {
        line(text).nics.iter().map(|nic| nic.bridge.to_string()).collect()
    }

    #[test]
    fn an_option_is_ours_where_qemu_would_read_an_option() {
        assert_eq!(bridges("--bridge br0 -m 64 -bridge br1 --bridge=br2 -bridge=br3"), ["br0", "br1", "br2", "br3"]);
        assert_eq!(bridges("-append --bridge -name -bridge=br0 disk.img"), [""; 0]);
        assert_eq!(bridges("-nographic --bridge br0"), ["br0"]);
        assert_eq!(bridges("-from-the-future --bridge br0"), ["br0"]);
        assert_eq!(bridges("-bridged br0 -bridges"), [""; 0]);
    }

    #[test]
    fn the_first_identity_in_the_documented_order_counts() {
        let vm = |text: &str| line(&format!("--bridge br0 {text}")).vm;
        assert_eq!(vm("-uuid u disk -name process=x,guest=n -kernel k"), Identity::Name(b"n".to_vec()));
        assert_eq!(vm("-kernel k disk -uuid u"), Identity::Uuid(b"u".to_vec()));
        assert_eq!(vm("-kernel k -cdrom c -drive if=pflash,file=f -drive file=d"), Identity::Disk(b"d".to_vec()));
        assert_eq!(vm("-drive media=cdrom,file=c -kernel k"), Identity::Kernel(b"k".to_vec()));
        assert_eq!(vm("-cdrom c"), Identity::Disk(b"c".to_vec()));
        assert_eq!(vm(r#"-blockdev {"driver":"file","filename":"d"}"#), Identity::Disk(b"d".to_vec()));
        assert_eq!(vm(r#"-blockdev {"driver":"qcow2","file":{"filename":"d"}}"#), Identity::Disk(b"d".to_vec()));
        assert_eq!(vm("-drive driver=qcow2,file.filename=d"), Identity::Disk(b"d".to_vec()));
        assert_eq!(vm("-name guest= -uuid u"), Identity::Uuid(b"u".to_vec()));
        assert_eq!(vm("-m 64"), Identity::Unnamed);
        assert_eq!(line("--bridge br0,vm=v -name n").vm, Identity::Name(b"v".to_vec()));
    }

    #[test]
    fn ids_and_devices_of_the_line_are_known() {
        let line = line(r#"-netdev user,id=a -device e1000,netdev=b,id=c -device {"driver":"e1000","netdev":"d"}"#);
        let has = |set: &HashSet<Vec<u8>>, id: &str| set.contains(id.as_bytes());
        assert!(["a", "c"].iter().all(|id| has(&line.ids, id)), "{line:?}");
        assert!(has(&line.devices_on, "b") && has(&line.devices_on, "d") && !has(&line.devices_on, "a"));
    }

    #[test]
    fn a_question_to_qemu_is_a_probe() {
        for probe in [
            "-version",
            "--help",
            "-device ?",
            "-device help",
            "-device e1000,help",
            "-M help",
            "-machine ?",
            "-net nic,model=?",
            "-cpu help",
            "-S -machine none,accel=kvm:tcg",
            "-d help",
            "-object help",
        ] {
            let line = scan(&words(&format!("--bridge br0 {probe}")), || Ok(vec!["?".to_owned()])).unwrap();
            assert!(line.nics.is_empty() && line.parts.len() == words(probe).len(), "{probe}: {line:?}");
        }
        for other in ["-name help", "-append ?", "-vga none", "-display none", "-nic none", "-net none", "help"] {
            assert_eq!(line(&format!("--bridge br0 {other}")).nics.len(), 1, "{other}");
        }
    }

    #[test]
    fn nothing_of_the_environment_becomes_the_value_of_a_truncated_option() {
        let environment = || Ok(vec!["br0".to_owned()]);
        assert_eq!(scan(&words("-m 64"), environment).unwrap().nics.len(), 1);
        assert_eq!(scan(&words("-m 64 -append"), environment).unwrap().nics.len(), 0);
    }
}
