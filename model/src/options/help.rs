//! What QEMU's own help texts say: options with their synopses, keys with their values, lists.
//!
//! They are written for people, and read here for what they mean to say; a line that is not understood is left out.
#![forbid(unsafe_code)]

/// One option of `qemu -help`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opt {
    /// Its name, without dashes.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// The forms of its value, one for each that the help shows; none if it takes no value.
    pub forms: Vec<Form>,
}

/// One form of an option's value, and the lines below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// As the help writes it: `user,id=str[,ipv4=on|off]`.
    pub synopsis: String,
    /// The lines below it, which explain it.
    pub details: Vec<String>,
}

/// A key of an option string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Its values, where they are a few words.
    pub values: Vec<String>,
    /// What it is for.
    pub about: String,
}

/// The options that the help shows.
pub fn options(help: &str) -> Vec<Opt> {
    let mut options: Vec<Opt> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for line in help.lines() {
        let text = line.trim();
        if let Some(rest) = line.strip_prefix('-') {
            let (names, synopsis, about) = head(rest.strip_prefix('-').unwrap_or(rest));
            open = names.iter().map(|name| place(&mut options, name)).collect();
            for &at in &open {
                let option = &mut options[at];
                if option.about.is_empty() {
                    option.about = about.clone();
                }
                if !synopsis.is_empty() {
                    option.forms.push(Form { synopsis: synopsis.clone(), details: Vec::new() });
                }
            }
        } else if line.starts_with(' ') && !text.is_empty() {
            for &at in &open {
                let Opt { about, forms, .. } = &mut options[at];
                match forms.last_mut() {
                    // A synopsis that goes on.
                    Some(form) if text.starts_with(['[', ',']) => form.synopsis += text,
                    form => {
                        if about.is_empty() {
                            text.clone_into(about);
                        }
                        if let Some(form) = form {
                            form.details.push(text.to_owned());
                        }
                    }
                }
            }
        } else {
            open.clear();
        }
    }
    options
}

fn place(options: &mut Vec<Opt>, name: &str) -> usize {
    options.iter().position(|option| option.name == name).unwrap_or_else(|| {
        options.push(Opt { name: name.to_owned(), ..Opt::default() });
        options.len() - 1
    })
}

/// The first line of an option, its first dash gone: names, synopsis, text. The text begins at column 16, or behind two
/// blanks.
fn head(line: &str) -> (Vec<String>, String, String) {
    const COLUMN: usize = 15;
    let wide = || line.find("  ").map(|at| line.split_at(at));
    let column = || line.split_at_checked(COLUMN).filter(|(head, _)| head.ends_with(' '));
    let (head, about) = column().or_else(wide).unwrap_or((line, ""));
    let (name, synopsis) = head.trim().split_once(' ').unwrap_or((head.trim(), ""));
    // `-h or -help`, `-fda/-fdb file`.
    let (second, synopsis) = match synopsis.strip_prefix("or -") {
        Some(second) => (Some(second), ""),
        None => (None, synopsis),
    };
    let names = name.split("/-").chain(second).map(str::to_owned);
    (names.collect(), synopsis.trim().to_owned(), about.trim().to_owned())
}

impl Form {
    /// The word before the first comma, where the synopsis has one that is to be typed as it stands.
    pub fn first(&self) -> &str {
        let end = self.synopsis.find([',', '[', '=']).unwrap_or(self.synopsis.len());
        if self.synopsis[end..].starts_with('=') { "" } else { &self.synopsis[..end] }
    }

    /// The words that the first place can have: `[std|cirrus|none]`.
    pub fn alternatives(&self) -> Vec<String> {
        let text = self.synopsis.strip_prefix('[').unwrap_or(&self.synopsis);
        let text = &text[..text.find([',', ']', '[', '=']).unwrap_or(text.len())];
        words(text)
    }

    /// All keys of the synopsis, and those that only the lines below it tell of.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        let mut add = |name: &str, values: Vec<String>, about: &str| {
            if let Some(known) = keys.iter_mut().find(|key| key.name == name) {
                if known.about.is_empty() {
                    about.clone_into(&mut known.about);
                }
                if known.values.is_empty() {
                    known.values = values;
                }
            } else if name.starts_with(|c: char| c.is_ascii_lowercase()) {
                keys.push(Key { name: name.to_owned(), values, about: about.to_owned() });
            }
        };
        for (at, _) in self.synopsis.match_indices('=') {
            let before = &self.synopsis[..at];
            let name = before.rsplit(|c| !is_of_key(c)).next().unwrap_or_default();
            let form = &self.synopsis[at + 1..];
            // `[type=]name`: the key may be left out.
            if !form.starts_with(']') {
                add(name, words(value(form)), "");
            }
        }
        for detail in &self.details {
            let text = detail.strip_prefix("use ").unwrap_or(detail).trim_start_matches(['\'', '`']);
            let Some((names, rest)) = text.split_once('=') else { continue };
            let (form, about) = rest.split_once(' ').unwrap_or((rest, ""));
            // `in|out.voices= number of voices to use`.
            let (heads, tail) = names.rsplit_once('|').map_or(("", names), |(_, last)| match last.split_once('.') {
                Some((_, tail)) => ("in out", tail),
                None => ("", ""),
            });
            if tail.is_empty() || !tail.chars().all(is_of_key) {
                continue;
            }
            let about = about.trim_start_matches("to ").trim();
            match heads {
                "" => add(tail, words(form.trim_matches('\'')), about),
                _ => heads.split(' ').for_each(|head| add(&format!("{head}.{tail}"), Vec::new(), about)),
            }
        }
        keys
    }
}

fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// The form of a value at the front of a synopsis: up to what divides keys.
fn value(form: &str) -> &str {
    match form.strip_prefix('[') {
        Some(list) => &list[..list.find(']').unwrap_or(list.len())],
        None => &form[..form.find([',', '[', ']', ' ', '(']).unwrap_or(form.len())],
    }
}

/// `on|off|N` gives the words to be typed: without `N`, which stands for a number, and `<file>`.
fn words(form: &str) -> Vec<String> {
    let is_word = |word: &&str| {
        let is_name = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        is_name && (word.len() > 1 || !word.contains(char::is_uppercase))
    };
    if form.contains('|') { form.split('|').filter(is_word).map(str::to_owned).collect() } else { Vec::new() }
}

/// A list of `help`: a name in each line, with what it is behind blanks. Headings end in a colon or have several words.
pub fn list(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| {
        let line = line.trim();
        let (name, about) = line.split_once("  ").unwrap_or((line, ""));
        let is_name = !name.is_empty() && !name.contains([' ', ':', '=']) && !line.ends_with(':');
        is_name.then(|| (name.to_owned(), about.trim().to_owned()))
    });
    lines.collect()
}

/// The CPU models of `-cpu help`, and the flags that one can add.
pub fn cpus(text: &str) -> (Vec<(String, String)>, Vec<String>) {
    let (models, flags) = text.split_once("Recognized CPUID flags:").unwrap_or((text, ""));
    let models = models.lines().filter_map(|line| {
        let mut words = line.trim().splitn(2, ' ');
        let mut name = words.next().filter(|name| !name.is_empty() && !line.ends_with(':'))?;
        let mut about = words.next().unwrap_or_default();
        // Some versions begin each line with the architecture.
        if matches!(name, "x86" | "PowerPC" | "s390" | "MIPS" | "Alpha") {
            (name, about) = about.trim().split_once(' ').unwrap_or((about.trim(), ""));
        }
        Some((name.to_owned(), about.trim().to_owned()))
    });
    (models.collect(), flags.split_whitespace().map(str::to_owned).collect())
}

/// A line of `-device help`.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Whether it is a network card.
    pub is_network: bool,
}

/// The devices of `-device help`, by their names and aliases.
pub fn devices(text: &str) -> Vec<Device> {
    let mut heading = "";
    let mut devices = Vec::new();
    for line in text.lines() {
        let quoted = |key: &str| Some(line.split_once(key)?.1.split_once('"')?.0);
        let Some(name) = quoted("name \"") else {
            heading = line.trim_end_matches(':').trim_end_matches(" devices");
            continue;
        };
        let about = quoted("desc \"").map_or_else(|| format!("{heading} device"), str::to_owned);
        for name in [Some(name), quoted("alias \"")].into_iter().flatten() {
            devices.push(Device { name: name.to_owned(), about: about.clone(), is_network: heading == "Network" });
        }
    }
    devices
}

/// The properties of `-device e1000,help` and its like: `  mac=<str>  - Ethernet address`.
pub fn properties(text: &str) -> Vec<Key> {
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once("=<")?;
        let (kind, about) = rest.split_once(" - ").unwrap_or((rest, ""));
        let kind = kind.trim().trim_end_matches('>');
        let values: &[&str] = match kind {
            "bool" | "bool (on/off)" => &["on", "off"],
            "OnOffAuto" => &["on", "off", "auto"],
            _ => &[],
        };
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        name.chars().all(is_of_key).then(|| Key { name: name.to_owned(), values, about: about.trim().to_owned() })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
QEMU emulator version 7.2.22
usage: qemu-system-x86_64 [options] [disk_image]

Standard options:
-h or -help     display this help and exit
-machine [type=]name[,prop[=value][,...]]
                selects emulated machine ('-machine help' for list)
                vmport=on|off|auto controls emulation of vmport (default: auto)
-fda/-fdb file  use 'file' as floppy disk 0/1 image
-kernel bzImage use 'bzImage' as kernel image
-only-migratable     allow only migratable devices
--preconfig     pause QEMU before machine is initialized (experimental)
-audiodev wav,id=id[,prop[=value][,...]]
                in|out.voices= number of voices to use
-netdev user,id=str[,ipv4=on|off][,net=addr[/mask]]
         [,smb=dir[,smbserver=addr]]
                configure a user mode network backend with ID 'str',
-netdev tap,id=str[,vhost=on|off][,fds=x:y:...:z]
                use 'sndbuf=nbytes' to limit the size of the send buffer
-vga [std|cirrus|none]
                select video card type
-icount [shift=N|auto][,tls-channel=[main|display]]

During emulation, the following keys are useful:
ctrl-alt-f      toggle full screen
";

    fn option<'a>(options: &'a [Opt], name: &str) -> &'a Opt {
        options.iter().find(|option| option.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    fn keys(form: &Form) -> Vec<(String, String)> {
        form.keys().into_iter().map(|key| (key.name, key.values.join("|"))).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
    }

    #[test]
    fn options_have_names_and_texts() {
        let options = options(HELP);
        let about: Vec<_> = options.iter().map(|option| (option.name.as_str(), option.about.as_str())).collect();
        assert_eq!(about[..2], [("h", "display this help and exit"), ("help", "display this help and exit")]);
        assert_eq!(option(&options, "fdb").about, "use 'file' as floppy disk 0/1 image");
        assert_eq!(option(&options, "kernel").forms[0].synopsis, "bzImage");
        assert_eq!(option(&options, "only-migratable").forms, []);
        assert_eq!(option(&options, "preconfig").about, "pause QEMU before machine is initialized (experimental)");
        assert_eq!(option(&options, "vga").about, "select video card type");
        assert!(!about.iter().any(|(name, _)| name.contains("ctrl")), "{about:?}");
    }

    #[test]
    fn keys_have_their_values() {
        let options = options(HELP);
        let netdev = &option(&options, "netdev").forms;
        assert_eq!((netdev[0].first(), netdev[1].first()), ("user", "tap"));
        let user = [("id", ""), ("ipv4", "on|off"), ("net", ""), ("smb", ""), ("smbserver", "")];
        assert_eq!(keys(&netdev[0]), pairs(&user));
        assert_eq!(keys(&netdev[1]), pairs(&[("id", ""), ("vhost", "on|off"), ("fds", ""), ("sndbuf", "")]));
        assert_eq!(keys(&option(&options, "machine").forms[0]), pairs(&[("vmport", "on|off|auto")]));
        assert_eq!(option(&options, "vga").forms[0].alternatives(), ["std", "cirrus", "none"]);
        assert_eq!(
            keys(&option(&options, "icount").forms[0]),
            pairs(&[("shift", "auto"), ("tls-channel", "main|display")])
        );
        let audio = pairs(&[("id", ""), ("in.voices", ""), ("out.voices", "")]);
        assert_eq!(keys(&option(&options, "audiodev").forms[0]), audio);
    }

    #[test]
    fn lists_are_read() {
        let machines = "Supported machines are:\nmicrovm    microvm (i386)\nnone       empty machine\n";
        assert_eq!(list(machines), pairs(&[("microvm", "microvm (i386)"), ("none", "empty machine")]));
        assert_eq!(list("Available netdev backend types:\nsocket\n"), pairs(&[("socket", "")]));
        let text =
            "Available CPUs:\nx86 486    (alias)\n  max     all\n\nRecognized CPUID flags:\n  3dnow aes\n  xop\n";
        let (models, flags) = cpus(text);
        assert_eq!(models, pairs(&[("486", "(alias)"), ("max", "all")]));
        assert_eq!(flags, ["3dnow", "aes", "xop"]);
        let devices = devices("Network devices:\nname \"e1000\", bus PCI, alias \"e1000-82540em\", desc \"Intel\"\n");
        let names: Vec<_> = devices.iter().map(|device| (device.name.as_str(), device.is_network)).collect();
        assert_eq!(names, [("e1000", true), ("e1000-82540em", true)]);
        let keys =
            properties("e1000 options:\n  addr=<int32>   - Slot (default: -1)\n  romfile=<str>\n  x=<OnOffAuto>\n");
        assert_eq!(
            (keys[0].about.as_str(), keys[1].name.as_str(), keys[2].values.len()),
            ("Slot (default: -1)", "romfile", 3)
        );
    }
}
