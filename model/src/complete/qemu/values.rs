//! What can stand in the value of one of QEMU's options: first a kind or a name, then keys with values.

use crate::complete::qemu::Line;
use crate::complete::{Answer, Candidate, Thing, given, split_last};
use crate::options::help;
use crate::options::help::{Form, Key};

/// Words that QEMU's help does not tell in a form that can be read.
const WORDS: [(&str, &str); 8] = [
    ("serial", "stdio null none pty vc mon:stdio file: pipe: unix: tcp: udp: telnet: chardev:"),
    ("boot", "c d n a"),
    ("usbdevice", "tablet mouse keyboard wacom-tablet braille"),
    ("incoming", "defer tcp: unix: fd: exec:"),
    ("gdb", "stdio tcp:: unix: none"),
    ("sandbox", "on off"),
    ("net", "nic"),
    ("nic", "none"),
];
/// Options with the same values as another.
const LIKE: [(&str, &str); 6] = [
    ("M", "machine"),
    ("monitor", "serial"),
    ("qmp", "serial"),
    ("qmp-pretty", "serial"),
    ("parallel", "serial"),
    ("debugcon", "serial"),
];
/// Options whose first word is a kind of thing, which decides on the keys that follow.
const KINDS: &str = "netdev chardev audiodev display fsdev virtfs tpmdev numa";
/// Options that can ask QEMU for the keys behind the first word.
const WITH_HELP: &str = "device object machine";
/// Options without a first word of their own, and keys of one that QEMU's help leaves out.
const MORE_KEYS: [(&str, &str); 2] =
    [("blockdev", "driver node-name filename file backing offset size locking"), ("nic", "id mac model addr")];
/// Options whose value is somebody's to know, and no file.
const NO_FILES: &str = "append uuid vnc seed prom-env tb-size g m smp name runas";
/// Keys that may come again.
const AGAIN: &str = "hostfwd guestfwd fds vhostfds path";
/// Keys, in whatever option, whose value is the name of a file.
const FILE_KEYS: &str = "file filename path script downscript logfile helper romfile mem-path dtb firmware kernel initrd dumpdtb \
    splash rendernode socket sock events bootfile smb tftp x509-dir x509-key-file x509-cert-file x509-cacert-file x509-dh-key-file \
    addr.path local.path remote.path vhostdev rrfile shm dir data file.filename";
/// Keys whose values are known though no help tells them.
const KEY_WORDS: [(&str, &str, &str); 6] = [
    ("drive", "if", "none virtio ide scsi pflash sd floppy mtd"),
    ("drive", "media", "disk cdrom"),
    ("fsdev", "security_model", "mapped-xattr mapped-file passthrough none"),
    ("rtc", "base", "utc localtime"),
    ("boot", "order", "a c d n cd dc nc"),
    ("boot", "once", "a c d n"),
];
/// Keys that hold the id of something on the line: of which options.
const IDS: [(&str, &[&str]); 8] = [
    ("netdev", &["netdev", "bridge"]),
    ("drive", &["drive", "blockdev"]),
    ("chardev", &["chardev"]),
    ("audiodev", &["audiodev"]),
    ("fsdev", &["fsdev"]),
    ("memdev", &["object"]),
    ("iothread", &["object"]),
    ("tpmdev", &["tpmdev"]),
];

fn has(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|known| known == word)
}

fn look_up<'a>(table: &[(&str, &'a str)], key: &str) -> Option<&'a str> {
    table.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
}

fn named(list: Vec<(String, String)>) -> Vec<Candidate> {
    list.into_iter().map(|(name, about)| Candidate::new(name, about)).collect()
}

impl Line<'_> {
    /// Completes the value of an option.
    pub(super) fn value(&self, option: &str, typed: &str) -> Answer {
        let option = look_up(&LIKE, option).unwrap_or(option);
        let (head, last) = split_last(typed);
        let (listed, start) = match option {
            // Lists of words, divided by commas.
            "d" => {
                let is_given = |item: &str| head.split(',').any(|given| given == item);
                let items = named(self.list("d")).into_iter().filter(|item| !is_given(&item.text));
                return Answer::of(items).behind(head);
            }
            "trace" => (Vec::new(), ""),
            "global" => return self.global(typed),
            _ => (self.first(option), head),
        };
        if let ("cpu", false) = (option, head.is_empty()) {
            return self.flags(head, last).behind(head);
        }
        let given = given(head);
        let keys = self.keys(option, &given);
        if let Some((key, value)) = last.split_once('=') {
            let found = keys.iter().find(|known| known.name == key);
            let values = self.key_values(option, key, value, found);
            return Answer::of(values).behind(&format!("{head}{key}="));
        }
        let left =
            keys.iter().filter(|key| has(AGAIN, &key.name) || !given.iter().any(|(known, _)| *known == key.name));
        let left = left.map(|key| Candidate::key(&key.name, key.about.as_str()));
        if !head.is_empty() {
            return Answer::of(left).behind(head);
        }
        let is_alone = listed.is_empty() || matches!(option, "boot" | "accel" | "audio");
        let mut answer = Answer::of(listed.into_iter().chain(left.filter(|_| is_alone))).behind(start);
        answer.files = answer.candidates.is_empty() && !has(NO_FILES, option);
        answer
    }

    /// The words that the first place of a value can have.
    fn first(&self, option: &str) -> Vec<Candidate> {
        let fixed = look_up(&WORDS, option).unwrap_or_default().split_whitespace();
        let mut words: Vec<Candidate> = fixed.map(|word| Candidate::new(word, "")).collect();
        words.extend(match option {
            "machine" | "accel" | "vga" | "display" | "object" => named(self.list(option)),
            "netdev" | "chardev" | "audiodev" | "tpmdev" | "fsdev" | "virtfs" | "numa" => self.kinds(option),
            "audio" => named(self.list("audiodev")),
            "cpu" => named(help::cpus(&self.source.ask(&["-cpu", "help"])).0),
            "device" => self.devices(),
            "k" => self.source.all(Thing::Keymaps(&self.source.ask(&["-L", "help"]))),
            "runas" => self.source.all(Thing::Users),
            "name" => self.source.all(Thing::Names),
            _ => {
                let forms = self.option(option).map(|option| option.forms.as_slice()).unwrap_or_default();
                forms.iter().flat_map(Form::alternatives).map(Candidate::bare).collect()
            }
        });
        if option == "serial" {
            let ids = self.named_by("chardev", "id");
            words.extend(ids.into_iter().map(|id| Candidate::bare(format!("chardev:{id}"))));
        }
        words
    }

    fn list(&self, option: &str) -> Vec<(String, String)> {
        help::list(&self.source.ask(&[&format!("-{option}"), "help"]))
    }

    /// What this QEMU has of an option's kinds, with what its help says of them.
    fn kinds(&self, option: &str) -> Vec<Candidate> {
        let shown = self.option(option).map(|option| option.forms.as_slice()).unwrap_or_default();
        let about = |kind: &str| {
            let form = shown.iter().find(|form| form.first() == kind && !form.details.is_empty());
            form.and_then(|form| form.details.first().cloned()).unwrap_or_default()
        };
        let mut kinds: Vec<String> = self.list(option).into_iter().map(|(kind, _)| kind).collect();
        if kinds.is_empty() {
            kinds = shown.iter().map(|form| form.first().to_owned()).filter(|kind| !kind.is_empty()).collect();
        }
        kinds.retain(|kind| kind != "help");
        kinds.into_iter().map(|kind| Candidate::new(&kind, about(&kind))).collect()
    }

    /// The keys that fit behind what is given already.
    fn keys(&self, option: &str, given: &[(String, String)]) -> Vec<Key> {
        let first =
            given.first().filter(|(key, _)| matches!(key.as_str(), "" | "type" | "driver" | "qom-type" | "backend"));
        let first = first.map_or("", |(_, value)| value);
        let mut keys: Vec<Key> = Vec::new();
        if has(WITH_HELP, option) && !first.is_empty() {
            keys = help::properties(&self.source.ask(&[&format!("-{option}"), &format!("{first},help")]));
            if option != "machine" {
                let id = Key { name: "id".to_owned(), values: Vec::new(), about: "its id".to_owned() };
                keys.insert(0, id);
            }
        }
        let forms = self.option(option).map(|option| option.forms.as_slice()).unwrap_or_default();
        let fitting = forms.iter().filter(|form| !has(KINDS, option) || form.first() == first);
        // `-nic user,` has the keys of `-netdev user,`.
        let backend = if option == "nic" { self.option("netdev") } else { None };
        let backend = backend.iter().flat_map(|netdev| &netdev.forms).filter(|form| form.first() == first);
        let fitting = fitting.chain(backend);
        let more = look_up(&MORE_KEYS, option).unwrap_or_default().split_whitespace();
        let more = more.map(|name| Key { name: name.to_owned(), values: Vec::new(), about: String::new() });
        // Of devices and objects the forms only say `prop=value`.
        let told = fitting.filter(|_| !matches!(option, "device" | "object")).flat_map(Form::keys);
        for key in told.chain(more).filter(|key| key.name != "prop" && key.name != "help") {
            match keys.iter_mut().find(|known| known.name == key.name) {
                Some(known) if known.values.is_empty() => known.values = key.values,
                Some(_) => {}
                None => keys.push(key),
            }
        }
        keys
    }

    fn key_values(&self, option: &str, key: &str, typed: &str, found: Option<&Key>) -> Vec<Candidate> {
        let fixed = KEY_WORDS.iter().find(|(of, known, _)| *of == option && *known == key);
        let fixed = fixed.map_or("", |(_, _, words)| words).split_whitespace().map(Candidate::bare);
        let told = found.map(|key| key.values.as_slice()).unwrap_or_default().iter().map(Candidate::bare);
        let ids = IDS.iter().find(|(known, _)| *known == key).map_or(&[][..], |(_, options)| options);
        let ids = ids.iter().flat_map(|option| ["id", "node-name"].iter().flat_map(|key| self.named_by(option, key)));
        let listed = match (option, key) {
            ("drive", "format") | ("blockdev", "driver") => self.formats(),
            ("nic" | "net", "model") => self.cards(),
            ("machine", "accel") => named(self.list("accel")),
            ("netdev" | "nic" | "net", "br") => self.source.all(Thing::Bridges),
            ("netdev" | "nic" | "net", "ifname") => self.source.all(Thing::Taps),
            ("device" | "object" | "machine" | "cpu" | "audio" | "accel", "driver" | "type" | "accel") => {
                self.first(option)
            }
            (_, key) if has(FILE_KEYS, key) => self.source.all(Thing::Files(typed)),
            _ => Vec::new(),
        };
        fixed.chain(told).chain(ids.map(Candidate::bare)).chain(listed).collect()
    }

    /// The formats of disk images.
    fn formats(&self) -> Vec<Candidate> {
        let text = self.source.ask(&["-drive", "format=help"]);
        let list = text.lines().find_map(|line| line.strip_prefix("Supported formats:")).unwrap_or_default();
        list.split_whitespace().map(Candidate::bare).collect()
    }

    /// CPU features: `+aes` as one writes them by hand, or `aes=on`.
    fn flags(&self, head: &str, last: &str) -> Answer {
        let (_, mut flags) = help::cpus(&self.source.ask(&["-cpu", "help"]));
        let name = |part: &str| part.trim_start_matches(['+', '-']).split('=').next().unwrap_or_default().to_owned();
        let given: Vec<String> = head.split(',').skip(1).map(name).collect();
        flags.retain(|flag| !given.contains(flag));
        if let Some((flag, _)) = last.split_once('=') {
            return Answer::of(["on", "off"].map(Candidate::bare)).behind(&format!("{flag}="));
        }
        match last.get(..1) {
            Some(sign @ ("+" | "-")) => Answer::of(flags.into_iter().map(Candidate::bare)).behind(sign),
            _ => Answer::of(flags.iter().map(|flag| Candidate::key(flag, ""))),
        }
    }

    /// `driver.property=value`.
    fn global(&self, typed: &str) -> Answer {
        let Some((driver, rest)) = typed.split_once('.') else {
            let drivers = self.devices().into_iter();
            return Answer::of(drivers.map(|device| Candidate::new(format!("{}.", device.text), device.about)));
        };
        let keys = help::properties(&self.source.ask(&["-device", &format!("{driver},help")]));
        match rest.split_once('=') {
            None => Answer::of(keys.iter().map(|key| Candidate::key(&key.name, key.about.as_str())))
                .behind(&format!("{driver}.")),
            Some((key, value)) => {
                let values = self.key_values("global", key, value, keys.iter().find(|known| known.name == key));
                Answer::of(values).behind(&format!("{driver}.{key}="))
            }
        }
    }
}
