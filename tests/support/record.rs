//! What the recording fake QEMU was given.

use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

#[derive(Clone, Debug)]
pub struct Record {
    json: Value,
    /// Byte for byte, the program's own name first.
    pub argv: Vec<OsString>,
    pub environment: Vec<OsString>,
}

#[derive(Clone, Debug)]
pub struct Tap {
    pub fd: i64,
    pub name: String,
    pub vnet_hdr: bool,
    pub persistent: bool,
    pub packet_information: bool,
    pub multi_queue: bool,
}

impl Record {
    pub fn parse(text: &str) -> Self {
        let json: Value = serde_json::from_str(text).expect("the fake QEMU writes JSON");
        let words = |field: &str| list(&json[field]).iter().map(|word| from_hex(word.as_str().expect("hex"))).collect();
        Self { argv: words("argv"), environment: words("env"), json }
    }

    pub fn pid(&self) -> i32 {
        self.number("pid") as i32
    }

    /// A number of the record: ppid, pgid, sid, tty; blocked, ignored, caught (one bit a signal).
    pub fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("{field} is a number"))
    }

    /// The words after the program's name; for a test that has no odd bytes in them.
    pub fn words(&self) -> Vec<String> {
        self.argv[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    pub fn line(&self) -> String {
        self.words().join(" ")
    }

    /// The values of an option, in the order of the line.
    pub fn values_of(&self, option: &str) -> Vec<String> {
        self.words().windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    /// The value of an option that is there exactly once.
    #[track_caller]
    pub fn value_of(&self, option: &str) -> String {
        let values = self.values_of(option);
        assert_eq!(values.len(), 1, "one {option} in: {}", self.line());
        values[0].clone()
    }

    /// The MACs that the devices of the line have, in its order.
    pub fn macs(&self) -> Vec<String> {
        self.values_of("-device").iter().filter_map(|device| key(device, "mac")).collect()
    }

    #[track_caller]
    pub fn mac(&self) -> String {
        let macs = self.macs();
        assert_eq!(macs.len(), 1, "one MAC in: {}", self.line());
        macs[0].clone()
    }

    pub fn variable(&self, name: &str) -> Option<OsString> {
        let prefix = format!("{name}=");
        self.environment.iter().find_map(|pair| {
            let bytes = pair.as_encoded_bytes().strip_prefix(prefix.as_bytes())?;
            Some(OsString::from_vec(bytes.to_vec()))
        })
    }

    /// The descriptors and what they lead to.
    pub fn fds(&self) -> Vec<(i64, String)> {
        let fds = list(&self.json["fds"]).iter();
        fds.map(|fd| (fd["fd"].as_i64().expect("fd"), fd["link"].as_str().expect("link").to_owned())).collect()
    }

    pub fn taps(&self) -> Vec<Tap> {
        let tap = |fd: &Value| {
            let (flag, tap) = (|name: &str| fd["tap"][name] == true, &fd["tap"]);
            Some(Tap {
                fd: fd["fd"].as_i64()?,
                name: tap["name"].as_str()?.to_owned(),
                vnet_hdr: flag("vnet_hdr"),
                persistent: flag("persistent"),
                packet_information: flag("packet_information"),
                multi_queue: flag("multi_queue"),
            })
        };
        list(&self.json["fds"]).iter().filter_map(tap).collect()
    }

    #[track_caller]
    pub fn tap(&self) -> Tap {
        let taps = self.taps();
        assert_eq!(taps.len(), 1, "one TAP: {taps:?}");
        taps[0].clone()
    }

    /// The address that a DHCP server gave through the netdev of this id, for `dhcp`.
    pub fn lease(&self, netdev: &str) -> Option<String> {
        self.json["leases"][netdev].as_str().map(str::to_owned)
    }

    /// Who answered the ARP question that `arp:IP` sent through the netdev of this id.
    pub fn answer(&self, netdev: &str) -> Option<String> {
        self.json["answers"][netdev].as_str().map(str::to_owned)
    }
}

/// The value of a key in `kind,key=value,...`.
pub fn key(value: &str, key: &str) -> Option<String> {
    value.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn from_hex(hex: &str) -> OsString {
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
    OsString::from_vec((0..hex.len()).step_by(2).map(byte).collect())
}

/// A word of any bytes, for command lines that are not text.
pub fn bytes(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}
