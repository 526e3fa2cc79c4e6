//! Reads the text of a configuration, and says what is wrong with it in our words.
#![forbid(unsafe_code)]

use crate::config::{Bridge, Config};
use crate::error::Error;
use crate::ifname::IfName;
use crate::nat::subnet::Ipv4Net;
use crate::request::{MTU, is_model, no_rate, no_vlans};
use crate::slips;
use crate::uplink::{Attach, Uplink};
use port::{Guard, Rate, Vlans};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// What is wrong, and the byte where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The byte.
    pub at: usize,
    /// What it is.
    pub error: Error,
}

/// The keys of the file, and how each is written.
const KEYS: [(&str, &str); 4] = [
    ("qemu", "qemu = \"/usr/bin/qemu-system-x86_64\""),
    ("model", "model = \"virtio-net-pci\", the name of a QEMU device"),
    ("bridge", "a table for each bridge: [bridge.br0]"),
    ("defaults", "a table: [defaults]"),
];
/// Those of the table of defaults.
const OF_DEFAULTS: [(&str, &str); 1] = [("uplink_fallback", "uplink_fallback = \"nat\" or uplink_fallback = \"none\"")];
/// Those of a bridge's table.
const OF_BRIDGES: [(&str, &str); 12] = [
    ("uplink", "uplink = \"eth1\", the name of an interface, or \"auto\", \"nat\", \"none\" or \"vxlan:VNI\""),
    ("keep", "keep = true or keep = false"),
    ("attach", "attach = \"share\" or attach = \"port\""),
    ("follow", "follow = true or follow = false"),
    ("net", "net = \"10.77.5.0/24\", a free private network"),
    ("mtu", "mtu = 1500, a number from 68 to 65535"),
    ("vlan_filtering", "vlan_filtering = true or vlan_filtering = false"),
    ("vlan", "vlan = \"10\", or \"10:20-30\" with those that have tags"),
    ("guard", "guard = true, guard = false or guard = \"ip\""),
    ("isolated", "isolated = true or isolated = false"),
    ("rate", "rate = \"100mbit\""),
    ("taps", "taps = { tap0 = \"alice\" }: each TAP and the user that it belongs to"),
];

/// A value that stands in the file.
struct Item<'a> {
    text: &'a str,
    key: &'a str,
    form: &'static str,
    value: &'a Spanned<DeValue<'a>>,
}

type Read<T> = std::result::Result<T, Fault>;

/// Reads a whole file.
pub fn read(text: &str) -> Read<Config> {
    let file = DeTable::parse(text).map_err(|error| no_toml(text, error.span(), error.message()))?;
    let mut config = Config::default();
    for (key, value) in file.get_ref() {
        let item = Item::of(text, key, value, &KEYS, in_bridge)?;
        match item.key {
            "qemu" => config.qemu = Some(item.text()?.into()),
            "model" => config.model = Some(item.text().ok().filter(|text| is_model(text)).ok_or_else(|| item.wrong())?),
            "defaults" => config.falls_back = item.falls_back()?,
            _ => config.bridges = item.bridges()?,
        }
    }
    Ok(config)
}

/// What is to be said of a key of bridges that stands outside of their tables.
fn in_bridge(key: &str) -> Option<String> {
    OF_BRIDGES
        .iter()
        .any(|(known, _)| *known == key)
        .then(|| format!("{key} is of a bridge: write it below [bridge.br0]."))
}

/// And of one of the whole file that stands in a bridge's.
fn in_file(key: &str) -> Option<String> {
    let is_known = KEYS.iter().any(|(known, _)| *known == key);
    is_known.then(|| format!("{key} is of the whole file: write it before the first [bridge.NAME]."))
}

/// The fault of a text that is no TOML.
pub fn no_toml(text: &str, span: Option<Range<usize>>, message: &str) -> Fault {
    // The parser points behind what it could not go on with.
    let at = span.map_or(0, |span| span.start.min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let error = match message.contains("duplicate key") {
        true => Error::new(format!("{} is given twice", shown(line)), "Leave one of them out."),
        false => {
            let remedy = "A line is KEY = VALUE, with texts in quotes, or [bridge.NAME]: man kvm-bridge.conf";
            Error::new(format!("{} is no TOML", shown(line)), remedy)
        }
    };
    Fault { at, error }
}

/// A piece of the file, for people.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.lines().next().unwrap_or_default().trim();
    let cut: String = line.chars().take(MOST).collect();
    let more = if cut.len() < text.trim().len() { "..." } else { "" };
    format!("'{cut}{more}'")
}

impl<'a> Item<'a> {
    /// What a key has, if there is such a key.
    fn of(
        text: &'a str,
        key: &'a Spanned<DeString<'a>>,
        value: &'a Spanned<DeValue<'a>>,
        keys: &[(&'static str, &'static str)],
        elsewhere: impl Fn(&str) -> Option<String>,
    ) -> Read<Self> {
        let name: &str = key.get_ref();
        if let Some((_, form)) = keys.iter().find(|(known, _)| *known == name) {
            return Ok(Self { text, key: name, form, value });
        }
        let names: Vec<&str> = keys.iter().map(|(known, _)| *known).collect();
        let is_table = value.get_ref().is_table();
        let remedy = elsewhere(name)
            .or_else(|| slips::near(name, names.iter().copied()).map(|near| format!("Is {near} meant?")))
            .unwrap_or_else(|| format!("The keys here are {}.", names.join(", ")));
        let what = format!("there is no {} {}", if is_table { "table" } else { "key" }, shown(name));
        Err(Fault { at: key.span().start, error: Error::new(what, remedy) })
    }

    fn wrong(&self) -> Fault {
        let value = self.text.get(self.value.span()).unwrap_or_default();
        self.fault(Error::new(format!("{} cannot be {}", self.key, shown(value)), format!("Write {}.", self.form)))
    }

    fn fault(&self, error: Error) -> Fault {
        Fault { at: self.value.span().start, error }
    }

    fn text(&self) -> Read<String> {
        self.value.get_ref().as_str().map(str::to_owned).ok_or_else(|| self.wrong())
    }

    fn switch(&self) -> Read<bool> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong())
    }

    fn mtu(&self) -> Read<u32> {
        let number = self.value.get_ref().as_integer();
        let number =
            number.and_then(|number| u32::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok());
        number.filter(|mtu| MTU.contains(mtu)).ok_or_else(|| self.wrong())
    }

    fn uplink(&self) -> Read<Uplink> {
        self.text()?.parse().map_err(|error: Error| self.fault(error.of("uplink")))
    }

    fn net(&self) -> Read<Ipv4Net> {
        self.text()?.parse().map_err(|error: Error| self.fault(error.of("net")))
    }

    fn vlans(&self) -> Read<Vlans> {
        let text = self.text()?;
        text.parse().map_err(|()| self.fault(no_vlans(&text).of("vlan")))
    }

    fn guard(&self) -> Read<Guard> {
        match self.switch() {
            Ok(true) => Ok(Guard::Mac),
            Ok(false) => Ok(Guard::Off),
            Err(_) if self.text()? == "ip" => Ok(Guard::Ip),
            Err(wrong) => Err(wrong),
        }
    }

    fn rate(&self) -> Read<Rate> {
        let text = self.text()?;
        text.parse().map_err(|()| self.fault(no_rate(&text).of("rate")))
    }

    fn falls_back(&self) -> Read<bool> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.wrong())?;
        let mut falls_back = false;
        for (key, value) in table {
            let item = Item::of(self.text, key, value, &OF_DEFAULTS, |_| None)?;
            falls_back = match item.text()?.as_str() {
                "nat" => true,
                "none" => false,
                _ => return Err(item.wrong()),
            };
        }
        Ok(falls_back)
    }

    fn attach(&self) -> Read<Attach> {
        match self.text()?.as_str() {
            "share" => Ok(Attach::Share),
            "port" => Ok(Attach::Port),
            _ => Err(self.wrong()),
        }
    }

    /// A table whose keys are names of interfaces.
    fn named<T>(&self, read: impl Fn(&IfName, &'a Spanned<DeValue<'a>>) -> Read<T>) -> Read<BTreeMap<IfName, T>> {
        let table = self.value.get_ref().as_table().ok_or_else(|| self.wrong())?;
        let mut all = BTreeMap::new();
        for (key, value) in table {
            let name = named(key)?;
            let value = read(&name, value)?;
            all.insert(name, value);
        }
        Ok(all)
    }

    fn taps(&self) -> Read<BTreeMap<IfName, String>> {
        self.named(|_, value| Item { value, ..*self }.text())
    }

    fn bridges(&self) -> Read<BTreeMap<IfName, Bridge>> {
        self.named(|name, value| {
            let table = value.get_ref().as_table().ok_or_else(|| {
                let item = Item { value, ..*self };
                item.fault(Error::new(
                    format!("bridge.{name} is no table"),
                    format!("Write [bridge.{name}] on a line of its own, and its keys below it."),
                ))
            })?;
            bridge(self.text, name, table)
        })
    }
}

fn named(key: &Spanned<DeString>) -> Read<IfName> {
    IfName::new(key.get_ref()).map_err(|error| Fault { at: key.span().start, error })
}

fn bridge<'a>(text: &'a str, name: &IfName, table: &'a DeTable<'a>) -> Read<Bridge> {
    let (mut bridge, mut follows_at, mut net_at) = (Bridge::default(), 0, 0);
    for (key, value) in table {
        let item = Item::of(text, key, value, &OF_BRIDGES, in_file)?;
        match item.key {
            "uplink" => bridge.uplink = Some(item.uplink()?),
            "keep" => bridge.keep = Some(item.switch()?),
            "attach" => bridge.attach = Some(item.attach()?),
            "follow" => (bridge.follow, follows_at) = (Some(item.switch()?), key.span().start),
            "net" => (bridge.net, net_at) = (Some(item.net()?), key.span().start),
            "mtu" => bridge.mtu = Some(item.mtu()?),
            "vlan_filtering" => bridge.vlan_filtering = Some(item.switch()?),
            "vlan" => bridge.vlan = Some(item.vlans()?),
            "guard" => bridge.guard = Some(item.guard()?),
            "isolated" => bridge.isolated = Some(item.switch()?),
            "rate" => bridge.rate = Some(item.rate()?),
            _ => bridge.taps = item.taps()?,
        }
    }
    let is_auto = bridge.uplink.as_ref().is_none_or(|uplink| *uplink == Uplink::Auto);
    if bridge.follow == Some(true) && !is_auto {
        let what = format!("[bridge.{name}]: follow = true is for uplink = \"auto\"");
        let error = Error::new(what, "Leave uplink out, or follow.");
        return Err(Fault { at: follows_at, error });
    }
    if bridge.net.is_some() && !bridge.uplink.as_ref().is_some_and(Uplink::has_subnet) {
        let error = Error::new(
            format!("[bridge.{name}]: net is for uplink = \"nat\" or \"user\""),
            "Write one of these, or leave net out.",
        );
        return Err(Fault { at: net_at, error });
    }
    Ok(bridge)
}

/// The number of the line that this byte is on, from 1.
pub fn line_of(text: &[u8], at: usize) -> usize {
    text[..at].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Reads what may be no text.
pub fn read_bytes(bytes: &[u8]) -> std::result::Result<Config, (usize, Error)> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let fault = Error::new("this is not UTF-8", "Save the file as UTF-8 text.");
        (line_of(bytes, error.valid_up_to()), fault)
    })?;
    read(text).map_err(|fault| (line_of(bytes, fault.at.min(bytes.len())), fault.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn said(text: &str) -> (usize, String) {
        let (line, error) = read_bytes(text.as_bytes()).unwrap_err();
        (line, error.to_string())
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_what_is_meant() {
        for (text, line, says) in [
            (
                "qemu = \"x\"\n\ncolour = 1\n",
                3,
                "there is no key 'colour'\n  The keys here are qemu, model, bridge, defaults.",
            ),
            ("modle = \"e1000\"", 1, "there is no key 'modle'\n  Is model meant?"),
            ("\n[brdige.br0]\nkeep = true", 2, "there is no table 'brdige'\n  Is bridge meant?"),
            ("uplink = \"eth0\"", 1, "uplink is of a bridge: write it below [bridge.br0]."),
            ("[bridge.br0]\nmodel = \"e1000\"", 2, "model is of the whole file"),
            ("[bridge.br0]\nuplnk = \"eth0\"", 2, "there is no key 'uplnk'\n  Is uplink meant?"),
            (
                "[bridge.br0]\ncolour = 1",
                2,
                "The keys here are uplink, keep, attach, follow, net, mtu, vlan_filtering, vlan, guard, isolated, rate, taps.",
            ),
            ("qemu = 5", 1, "qemu cannot be '5'\n  Write qemu = \"/usr"),
            ("model = \"a b\"", 1, "model cannot be '\"a b\"'"),
            ("model = [\n1\n]", 1, "model cannot be '[...'"),
            ("bridge = 5", 1, "bridge cannot be '5'\n  Write a table for each bridge: [bridge.br0]."),
            ("[bridge]\nbr0 = true", 2, "bridge.br0 is no table"),
            ("[bridge.br0]\nkeep = \"yes\"", 2, "keep cannot be '\"yes\"'\n  Write keep = true or keep = false."),
            ("[bridge.br0]\nattach = \"hub\"", 2, "Write attach = \"share\" or attach = \"port\"."),
            ("[bridge.br0]\nmtu = 70000", 2, "mtu cannot be '70000'\n  Write mtu = 1500, a number from 68 to 65535."),
            ("[bridge.br0]\nmtu = \"big\"", 2, "a number from 68 to 65535"),
            ("[bridge.br0]\nmtu = 99999999999999999999", 2, "a number from 68 to 65535"),
            ("[bridge.br0]\nuplink = \"a b\"", 2, "uplink: "),
            ("[bridge.br0]\nuplink = 3", 2, "uplink cannot be '3'"),
            ("[bridge.\"a b\"]\nkeep = true", 1, "a b"),
            ("[bridge.br0]\ntaps = { tap0 = 5 }", 2, "taps cannot be '5'"),
            ("[bridge.br0]\ntaps = [\"tap0\"]", 2, "Write taps = { tap0 = \"alice\" }"),
            ("[bridge.br0]\nuplink = \"eth1\"\nfollow = true\n", 3, "follow = true is for uplink = \"auto\""),
            ("model = \"e1000\"\nqemu = \n", 2, "'qemu =' is no TOML"),
            ("qemu /bin/true", 1, "'qemu /bin/true' is no TOML"),
            ("qemu = \"a\"\nqemu = \"b\"", 2, "'qemu = \"b\"' is given twice"),
            ("[bridge.br0]\n[bridge.br0]\n", 2, "is given twice"),
            ("defaults = 1", 1, "defaults cannot be '1'"),
            ("[defaults]\nuplink_fallback = \"user\"", 2, "Write uplink_fallback = \"nat\""),
            ("[defaults]\nfallback = \"nat\"", 2, "The keys here are uplink_fallback."),
            ("[bridge.br0]\nuplink = \"nat\"\nnet = \"8.8.8.0/24\"", 3, "net: 8.8.8.0/24 is not private"),
            ("[bridge.br0]\nnet = \"10.77.5.0/24\"", 2, "net is for uplink = \"nat\""),
        ] {
            let (at, said) = said(text);
            assert!(at == line && said.contains(says), "{text}: {at}: {said}");
            for foreign in ["expected", "invalid type", "unknown field", "duplicate"] {
                assert!(!said.contains(foreign), "{text}: {said}");
            }
        }
        assert_eq!(read_bytes(b"\n# \xff\n").unwrap_err().0, 2);
    }

    #[test]
    fn what_is_right_is_read() {
        let text = "qemu = \"/x\"\nmodel = \"e1000\"\n[bridge.br0]\nuplink = \"auto\"\nkeep = false\nattach = \"port\"\n\
                    follow = true\nmtu = 0x5_dc\ntaps = { tap0 = \"alice\" }\n[bridge.lab]\nuplink = \"none\"\n";
        let config = read(text).unwrap();
        let bridge = config.bridge(&IfName::new("br0").unwrap());
        assert_eq!((config.qemu, config.model.as_deref()), (Some("/x".into()), Some("e1000")));
        assert_eq!((bridge.uplink, bridge.keep, bridge.attach), (Some(Uplink::Auto), Some(false), Some(Attach::Port)));
        assert_eq!(
            (bridge.follow, bridge.mtu, bridge.taps.len(), config.bridges.len()),
            (Some(true), Some(1500), 1, 2)
        );
        assert_eq!(read("").unwrap(), Config::default());
    }
}
