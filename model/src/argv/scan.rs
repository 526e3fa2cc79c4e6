//! Finds our options among QEMU's.
#![forbid(unsafe_code)]

use crate::argv::devices::Devices;
use crate::argv::needs::Needs;
use crate::argv::readconfig;
use crate::argv::replace;
use crate::argv::replace::Replaced;
use crate::argv::values::Found;
use crate::error::{Error, Result};
use crate::mac::Mac;
use crate::options::{Arity, arity};
use crate::request::Nic;
use crate::slips;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

pub use crate::argv::values::Identity;

/// Our options on QEMU's command line, without their dashes.
pub const OURS: [&str; 5] = ["bridge", "bridge-dry-run", "bridge-help", "bridge-verbose", "bridge-version"];

/// What the command line wants of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Set the network up and run QEMU.
    Launch,
    /// `--bridge-dry-run`: say what would be done.
    DryRun,
    /// `--bridge-help`.
    Help,
    /// `--bridge-version`.
    Version,
}

/// One piece of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A word of QEMU's, untouched.
    Word(OsString),
    /// Here stood the `--bridge` for the network card of this number.
    Nic(usize),
}

/// What the user has put on a netdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDevice {
    /// The network card; empty if it is not said.
    pub driver: Vec<u8>,
    /// Its address, if it has one.
    pub mac: Option<Mac>,
    /// Whether its own words give it one.
    pub has_mac: bool,
    /// Where it can be given one: the number of the part that its value is, and the key.
    pub place: Option<(usize, &'static str)>,
    /// Its own id.
    pub id: Option<Vec<u8>>,
    /// Whether it is a `-net nic` that is on nothing, and has to be told its netdev.
    pub lacks_netdev: bool,
    /// Whether its own words have it use several queues.
    pub has_mq: bool,
    /// The model that such a one lacks as well.
    pub model: Option<String>,
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
    /// `--bridge-verbose`: tell of each step.
    pub is_verbose: bool,
    /// Whether QEMU is only asked about itself.
    pub is_probe: bool,
    /// Whose leases these are.
    pub vm: Identity,
    /// Which run of it this is.
    pub run: Run,
    /// Every id that a word of QEMU's gives to something.
    pub ids: HashSet<Vec<u8>>,
    /// The ids of its netdevs alone, which ours may not have.
    pub netdevs: HashSet<Vec<u8>>,
    /// The netdevs that words of the user's put something on.
    pub devices_on: HashMap<Vec<u8>, UserDevice>,
    /// Whether some of these are written as JSON; QEMU makes all those after the others, wherever they stand.
    pub has_json_device: bool,
    /// What decides on the slots of PCI devices.
    pub devices: Devices,
    /// What QEMU can't do without.
    pub needs: Needs,
    /// The values of `-netdev`, `-nic` and `-net`: the numbers of the words.
    pub(super) net_words: Vec<usize>,
    /// Those of `-set`.
    pub(super) set_words: Vec<usize>,
    /// What of the line's own got lost where a card of ours is in its place: sentences.
    pub lost: Vec<String>,
    /// How many `-net nic`s are on nothing and belong to no card of ours.
    pub lone_cards: usize,
    /// What QEMU emulates, as the end of its full name tells; known once the line is settled.
    pub system: Option<String>,
    /// The type of the machine, if it is said.
    pub machine: Option<Vec<u8>>,
    /// The accelerator, or several between colons, if it is said.
    pub accel: Option<Vec<u8>>,
    /// How many CPUs the guest starts with.
    pub cpus: u32,
}

/// Which of a VM's runs a line starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Run {
    /// Whether a guest that runs moves in (`-incoming`).
    pub is_incoming: bool,
    /// Its slot, if that is said (`slot=`).
    pub slot: Option<usize>,
}

/// What a line alone does not tell. A closure with the network cards of the environment is one that knows no more.
pub trait Environment {
    /// The values in the environment variable.
    fn nics(&self) -> Result<Vec<String>>;

    /// Asks QEMU about an option that we do not know. Called only where the answer makes a difference.
    fn arity(&self, _option: &[u8]) -> Arity {
        Arity::Unknown
    }

    /// The text of a file that `-readconfig` names; `None` for what can't be read, or only once.
    fn config(&self, _path: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

impl<F: Fn() -> Result<Vec<String>>> Environment for F {
    fn nics(&self) -> Result<Vec<String>> {
        self()
    }
}

/// QEMU's own words of these.
pub fn without_ours(words: &[OsString]) -> Vec<OsString> {
    let Ok(line) = scan(words, || Ok(Vec::new())) else { return words.to_vec() };
    let words = line.parts.into_iter().filter_map(|part| match part {
        Part::Word(word) => Some(word),
        Part::Nic(_) => None,
    });
    words.collect()
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
pub(super) fn option_name(word: &[u8]) -> Option<&[u8]> {
    let name = word.strip_prefix(b"-")?;
    Some(name.strip_prefix(b"-").unwrap_or(name))
}

/// Reads the words behind argv\[0\], and the values of the environment variable if they count.
///
/// Where the caller asks QEMU about itself (`-version`, `-device help`, `-machine none` ...) no guest will run: there is
/// nothing to set up and nothing to be said, and the line has no network cards.
pub fn scan(words: &[OsString], environment: impl Environment) -> Result<Line> {
    let line = read(words, &environment, &HashMap::new())?;
    match replace::user_mode(&line, words)? {
        None => Ok(line),
        Some(Replaced { words, ids, lost }) => Ok(Line { lost, ..read(&words, &environment, &ids)? }),
    }
}

/// Reads words as they are. `ids` are those of the netdevs of our network cards that somebody else has named.
fn read(words: &[OsString], environment: &impl Environment, ids: &HashMap<usize, String>) -> Result<Line> {
    let mut found = Found::default();
    let mut line = Line {
        parts: Vec::with_capacity(words.len()),
        nics: Vec::new(),
        mode: Mode::Launch,
        is_verbose: false,
        is_probe: false,
        vm: Identity::Unnamed,
        run: Run::default(),
        ids: HashSet::new(),
        netdevs: HashSet::new(),
        devices_on: HashMap::new(),
        has_json_device: false,
        devices: Devices::default(),
        needs: Needs::default(),
        net_words: Vec::new(),
        set_words: Vec::new(),
        lost: Vec::new(),
        lone_cards: 0,
        system: None,
        machine: None,
        accel: None,
        cpus: 1,
    };
    let near = |name: &[u8]| slips::near(&String::from_utf8_lossy(name), OURS);
    let mut complete = true;
    // The option before this word, if nobody knows it: the word may be its value.
    let mut unknown: Option<&[u8]> = None;
    let mut rest = words.iter().enumerate().peekable();
    while let Some((_, word)) = rest.next() {
        let behind = unknown.take();
        match own_option(word.as_bytes()) {
            Some((b"bridge", Some(value))) => line.add_nic(value, ids)?,
            Some((b"bridge", None)) => match rest.next() {
                Some((_, value)) => line.add_nic(value.as_bytes(), ids)?,
                None => return Err(Error::new("--bridge has no value", "Name a bridge: --bridge br0.")),
            },
            Some((b"bridge-dry-run", None)) => line.mode = Mode::DryRun,
            Some((b"bridge-help", None)) => line.mode = Mode::Help,
            Some((b"bridge-version", None)) => line.mode = Mode::Version,
            Some((b"bridge-verbose", None)) => line.is_verbose = true,
            // One day QEMU may have an option that begins like ours; what is ours but for a slip is none of these.
            Some((name, value))
                if value.is_some() || near(name).is_some() || environment.arity(name) == Arity::Unknown =>
            {
                let near = near(name);
                let remedy = match near {
                    Some(near) => format!("Is --{near} meant?"),
                    None => format!("Ours are --{}.", OURS.join(", --")),
                };
                return Err(Error::new(format!("there is no option {}", word.to_string_lossy()), remedy));
            }
            _ => {
                line.parts.push(Part::Word(word.clone()));
                let Some(name) = option_name(word.as_bytes()) else {
                    found.bare(word.as_bytes(), behind, &mut line);
                    continue;
                };
                line.needs.options.push(name.to_vec());
                let known = match arity(name) {
                    Arity::Unknown if rest.peek().is_some_and(|(_, next)| option_name(next.as_bytes()).is_some()) => {
                        environment.arity(name)
                    }
                    known => known,
                };
                match known {
                    Arity::Alone => found.flag(name, &mut line),
                    // Of two bare words it does not matter yet, and perhaps never will.
                    Arity::Unknown => unknown = Some(name),
                    Arity::Value => match rest.next() {
                        Some((at, value)) => {
                            found.look(name, value.as_bytes(), at, &mut line);
                            if name == b"readconfig" {
                                let text = environment.config(value.as_bytes());
                                if text.is_none() {
                                    found.is_missing_some();
                                }
                                readconfig::parse(&text.unwrap_or_default())
                                    .iter()
                                    .for_each(|section| found.look_into(section, &mut line));
                            }
                            line.parts.push(Part::Word(value.clone()));
                        }
                        None => {
                            complete = false;
                            line.needs.cut = Some(name.to_vec());
                        }
                    },
                }
            }
        }
    }
    // Without a machine there is no guest; of several machines the last one counts.
    line.is_probe = found.is_probe || line.machine.as_deref() == Some(b"none");
    if line.is_probe {
        line.nics.clear();
        line.parts.retain(|part| matches!(part, Part::Word(_)));
    } else if complete {
        let more = environment.nics()?;
        let is_cut = |option: &[u8]| environment.arity(option) == Arity::Value;
        for value in more.iter().filter(|_| !unknown.is_some_and(is_cut)) {
            line.add_nic(value.as_bytes(), ids).map_err(|error| error.of("the environment variable KVM_BRIDGE"))?;
        }
    }
    found.hand_over(&mut line);
    crate::request::check_together(&line.nics)?;
    if !line.nics.is_empty() {
        line.run.slot = line.nics.iter().find_map(|nic| nic.slot);
        line.vm = found.identity(&line.nics, environment);
    }
    Ok(line)
}

impl Line {
    fn add_nic(&mut self, value: &[u8], ids: &HashMap<usize, String>) -> Result<()> {
        let number = self.nics.len();
        let nic = Nic::parse(value)?;
        self.parts.push(Part::Nic(number));
        self.nics.push(Nic { id: ids.get(&number).cloned().or(nic.id.clone()), ..nic });
        Ok(())
    }
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
        assert_eq!(vm("-blockdev {'driver':'file','filename':'d'}"), Identity::Disk(b"d".to_vec()));
        assert_eq!(vm("-drive driver=qcow2,file.filename=d"), Identity::Disk(b"d".to_vec()));
        let firmware =
            "-blockdev driver=file,node-name=f,filename=code -blockdev driver=raw,node-name=c,file=f,read-only=on";
        for machine in ["-machine q35,pflash0=c", "-M pflash1=f", "-machine q35,pflash0=c -machine pflash1=x"] {
            let disk = format!("{firmware} {machine} -blockdev driver=file,node-name=d,filename=disk");
            assert_eq!(vm(&disk), Identity::Disk(b"disk".to_vec()), "{disk}");
        }
        for disk in
            ["-hda file:d", "-fda d", "-fdb d", "-drive if=floppy,file=d", "-drive file=json:{'filename':'d'}", "-sd d"]
        {
            assert_eq!(vm(disk), Identity::Disk(b"d".to_vec()), "{disk}");
        }
        for disk in [
            "-drive file=rbd:p/i:id=a",
            "rbd:p/i",
            "-drive driver=raw,file.driver=rbd,file.pool=p,file.image=i",
            "-blockdev driver=rbd,node-name=n,pool=p,image=i",
            "-cdrom rbd:p/i",
        ] {
            assert_eq!(vm(disk), Identity::DiskElsewhere(b"rbd:p/i".to_vec()), "{disk}");
        }
        // The name of a file is literal here.
        assert_eq!(vm("-blockdev driver=file,node-name=n,filename=a:b"), Identity::Disk(b"a:b".to_vec()));
        assert_eq!(vm("-drive if=none,id=f,file=code -M pflash0=f -kernel k"), Identity::Kernel(b"k".to_vec()));
        assert_eq!(vm("-blockdev driver=raw,node-name=a,file=a,filename=x -M pflash0=a"), Identity::Unnamed);
        assert_eq!(vm("-name guest= -uuid u"), Identity::Uuid(b"u".to_vec()));
        assert_eq!(vm("-m 64"), Identity::Unnamed);
        assert_eq!(line("--bridge br0,vm=v -name n").vm, Identity::Name(b"v".to_vec()));
    }

    #[test]
    fn ids_and_devices_of_the_line_are_known() {
        let line = line(r#"-netdev user,id=a -device e1000,netdev=b,id=c -device {'driver':"e1000",'netdev':'d'}"#);
        assert!(["a", "c"].iter().all(|id| line.ids.contains(id.as_bytes())), "{line:?}");
        let has = |id: &str| line.devices_on.get(id.as_bytes()).map(|own| own.driver.as_slice());
        assert_eq!(["a", "b", "d"].map(has), [None, Some(&b"e1000"[..]), Some(b"e1000")]);
    }

    #[test]
    fn whatever_is_put_on_a_netdev_is_seen() {
        let own = |text: &str| {
            let line = line(&format!("--bridge br0,id=lan {text}"));
            let own = line.devices_on.get(&b"lan"[..]).cloned();
            own.map(|own| (String::from_utf8(own.driver).unwrap(), own.mac.map(|mac| mac.to_string()), own.place))
        };
        let mac = "02:00:00:00:00:07".to_owned();
        for (text, driver, has, place) in [
            ("-net nic,netdev=lan", "", None, Some((2, "macaddr"))),
            ("-net nic,netdev=lan,model=e1000", "e1000", None, Some((2, "macaddr"))),
            ("-net nic,netdev=lan,model=virtio,macaddr=2:0:0:0:0:7", "virtio-net", Some(mac.clone()), None),
            ("-device e1000,netdev=lan", "e1000", None, Some((2, "mac"))),
            ("-device e1000,netdev=lan,mac=2:0:0:0:0:7", "e1000", Some(mac), None),
            ("-netdev hubport,hubid=0,id=p,netdev=lan", "", None, None),
        ] {
            assert_eq!(own(text), Some((driver.to_owned(), has, place)), "{text}");
        }
        assert_eq!(own("-net user,netdev=lan"), None);
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
            "-M pc -machine none",
            "-drive format=?",
            "-drive file=a.img,format=help",
            "-drive if=none,help",
            "-L help",
            "-d trace:help",
            "-d nochain,help",
            "-d nochain,trace:?",
            "-trace enable=help",
            "-name x,help",
            "-m 64,help",
            "-vnc help",
            "-fsdev local,help",
            "-overcommit help",
            "-iscsi help",
            "-add-fd help",
            "-action help",
            "-global help",
            "-chardev null,help",
            "-fw_cfg x,help",
        ] {
            let line = scan(&words(&format!("--bridge br0 {probe}")), || Ok(vec!["?".to_owned()])).unwrap();
            assert!(line.nics.is_empty() && line.parts.len() == words(probe).len(), "{probe}: {line:?}");
        }
        for other in [
            "-M none -M pc",
            "-name type=help",
            "-trace events=help",
            "-drive file=help",
            "-d nochain",
            "-fw_cfg help",
            "-append x,help",
            "-name help",
            "-append ?",
            "-vga none",
            "-display none",
            "-nic none",
            "-net none",
            "help",
        ] {
            assert_eq!(line(&format!("--bridge br0 {other}")).nics.len(), 1, "{other}");
        }
    }

    /// A QEMU of the future, and the questions that it was asked.
    struct Future(std::cell::RefCell<Vec<String>>, Vec<String>);

    impl Environment for &Future {
        fn nics(&self) -> Result<Vec<String>> {
            Ok(self.1.clone())
        }

        fn arity(&self, option: &[u8]) -> Arity {
            self.0.borrow_mut().push(String::from_utf8_lossy(option).into_owned());
            match option {
                b"new-value" | b"bridge-value" => Arity::Value,
                b"new-flag" | b"bridge-flag" => Arity::Alone,
                _ => Arity::Unknown,
            }
        }

        fn config(&self, _path: &[u8]) -> Option<Vec<u8>> {
            Some(b"[device \"x\"]\ndriver = \"igb\"\nnetdev = \"lan\"\n[name]\nguest = \"n\"\n".to_vec())
        }
    }

    #[test]
    fn an_unknown_option_is_asked_about_where_that_makes_a_difference() {
        for (text, questions, bridges, vm) in [
            ("-new-flag --bridge br0 -name n", "new-flag", "br0", "n"),
            ("-new-value --bridge disk --bridge br0", "new-value", "br0", "disk"),
            ("-new-value value --bridge br0 -name n", "", "br0", "n"),
            ("-new-value value --bridge br0 disk", "new-value", "br0", "disk"),
            ("-new-flag disk --bridge br0 other", "new-flag", "br0", "disk"),
            ("disk -new-value value --bridge br0", "", "br0", "disk"),
            ("--bridge br0 disk -new-flag", "", "br0", "disk"),
            ("-new-value --bridge -m 64 disk", "new-value", "", ""),
            ("-bridge-flag --bridge br0 disk", "bridge-flag bridge-flag", "br0", "disk"),
            ("-bridge-value --bridge disk --bridge br0", "bridge-value bridge-value", "br0", "disk"),
        ] {
            let future = Future(Default::default(), Vec::new());
            let line = scan(&words(text), &future).unwrap();
            let nics: Vec<String> = line.nics.iter().map(|nic| nic.bridge.to_string()).collect();
            let name = match line.vm {
                Identity::Name(name) | Identity::Disk(name) => String::from_utf8(name).unwrap(),
                _ => String::new(),
            };
            assert_eq!(
                (future.0.borrow().join(" ").as_str(), nics.join(" ").as_str(), name.as_str()),
                (questions, bridges, vm),
                "{text}"
            );
        }
        assert!(scan(&words("-bridge-unknown --bridge br0"), &Future(Default::default(), Vec::new())).is_err());
    }

    #[test]
    fn a_file_of_options_counts_like_the_options() {
        let line =
            scan(&words("--bridge br0,id=lan -readconfig file"), &Future(Default::default(), Vec::new())).unwrap();
        assert_eq!(line.vm, Identity::Name(b"n".to_vec()));
        assert!(line.ids.contains(&b"x"[..]));
        let own = line.devices_on.get(&b"lan"[..]).expect("a device");
        assert_eq!((own.driver.as_slice(), own.mac, own.place), (&b"igb"[..], None, None));
    }

    #[test]
    fn the_machine_is_known() {
        let line = line("-M pc -machine type=microvm,accel=tcg -smp 4,maxcpus=8 --bridge br0");
        assert_eq!((line.machine.as_deref(), line.cpus), (Some(&b"microvm"[..]), 4));
        assert_eq!(line.accel.as_deref(), Some(&b"tcg"[..]));
        let cpus = |text: &str| crate::argv::scan::tests::line(text).cpus;
        assert_eq!(
            (cpus("-smp 4 -smp maxcpus=8"), cpus("-smp sockets=2 -smp cores=3"), cpus("-smp 4 -smp 2")),
            (4, 6, 2)
        );
    }

    #[test]
    fn nothing_of_the_environment_becomes_the_value_of_a_truncated_option() {
        let environment = || Ok(vec!["br0".to_owned()]);
        assert_eq!(scan(&words("-m 64"), environment).unwrap().nics.len(), 1);
        assert_eq!(scan(&words("-m 64 -append"), environment).unwrap().nics.len(), 0);
        for (text, nics) in [("-m 64 -new-value", 0), ("-m 64 -new-flag", 1), ("-m 64 -newest", 1)] {
            let future = Future(Default::default(), vec!["br0".to_owned()]);
            assert_eq!(scan(&words(text), &future).unwrap().nics.len(), nics, "{text}");
            assert_eq!(future.0.borrow().len(), 1, "{text}");
        }
    }
}
