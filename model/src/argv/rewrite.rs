//! Puts QEMU's own words where ours stood.
#![forbid(unsafe_code)]

use crate::argv::devices;
use crate::argv::{Line, Part};
use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::mac::Mac;
use crate::optstr;
use crate::text::shell::quote;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// How QEMU gets at the TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// It inherits descriptors.
    Inherited {
        /// The TAP's queues.
        queues: Vec<RawFd>,
        /// /dev/vhost-net once for each of them, or never.
        vhost: Vec<RawFd>,
    },
    /// It opens a persistent TAP by its name, as a person would tell it to.
    Named {
        /// The name.
        name: IfName,
        /// How many queues it has.
        queues: u16,
        /// Whether the kernel itself moves the frames.
        vhost: bool,
    },
    /// It calls this helper for a TAP on this bridge, likewise.
    Helper {
        /// The program.
        path: PathBuf,
        /// The bridge.
        bridge: IfName,
        /// Whether the helper wants to be told the guest's address: QEMU's does not.
        wants_mac: bool,
    },
}

impl Backend {
    fn queues(&self) -> usize {
        match self {
            Self::Inherited { queues, .. } => queues.len(),
            Self::Named { queues, .. } => usize::from(*queues),
            Self::Helper { .. } => 1,
        }
    }

    /// The `-netdev` of this id, for a guest with this address.
    fn netdev(&self, id: &str, mac: Mac) -> String {
        match self {
            Self::Inherited { queues, vhost } => {
                let list = |fds: &[RawFd]| fds.iter().map(RawFd::to_string).collect::<Vec<_>>().join(":");
                let many = if queues.len() == 1 { "" } else { "s" };
                let netdev = format!("tap,id={id},fd{many}={}", list(queues));
                match vhost.as_slice() {
                    [] => netdev,
                    vhost => format!("{netdev},vhost=on,vhostfd{many}={}", list(vhost)),
                }
            }
            Self::Named { name, queues, vhost } => {
                let name = optstr::escape(name.as_str());
                let queues = if *queues == 1 { String::new() } else { format!(",queues={queues}") };
                let vhost = if *vhost { ",vhost=on" } else { "" };
                format!("tap,id={id},ifname={name},script=no,downscript=no{queues}{vhost}")
            }
            Self::Helper { path, bridge, wants_mac } => {
                // QEMU tells no helper the guest's address, and gives what has a blank to a shell.
                let path = path.to_string_lossy();
                let helper = if *wants_mac { format!("{} --mac={mac}", quote(&*path)) } else { path.into_owned() };
                let helper = optstr::escape(&helper);
                format!("bridge,id={id},br={},helper={helper}", optstr::escape(bridge.as_str()))
            }
        }
    }
}

/// What the guest sees of a netdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Card {
    /// A device of this model, which is ours to make.
    Device(String),
    /// The machine's own.
    OnBoard,
    /// What a word of the user's puts on it.
    Own,
}

/// One network card for QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    /// The netdev's id.
    pub id: String,
    /// Where its frames come from and go to.
    pub backend: Backend,
    /// The guest's address.
    pub mac: Mac,
    /// What is put on the netdev.
    pub card: Card,
}

/// The ids of the line's network cards: the user's own, else the first `bridgeN` that no word of the line uses.
pub fn ids(line: &Line) -> Result<Vec<String>> {
    let mut used: HashSet<Vec<u8>> = line.ids.iter().chain(line.devices_on.keys()).cloned().collect();
    for nic in &line.nics {
        if let Some(id) = &nic.id {
            if line.netdevs.contains(id.as_bytes()) {
                let what = format!("--bridge {}: the id '{id}' is that of another netdev", nic.bridge);
                return Err(Error::new(what, "Give id= another name, or leave it out."));
            }
            used.insert(id.clone().into_bytes());
        }
    }
    let mut free = (0..).map(|number| format!("bridge{number}")).filter(|id| !used.contains(id.as_bytes()));
    Ok(line.nics.iter().filter_map(|nic| nic.id.clone().or_else(|| free.next())).collect())
}

/// The words behind argv\[0\] for QEMU; `netdevs` go where their `--bridge` stood, in the order of their numbers. A card
/// that would get the slot which a later device has for its address is made last, and takes one that is left.
pub fn rewrite(line: &Line, netdevs: &[Netdev]) -> Vec<OsString> {
    let mut last = Vec::new();
    let mut words = Vec::new();
    let is_at = |at: usize, netdev: &&Netdev| {
        let own = line.devices_on.get(netdev.id.as_bytes());
        own.and_then(|own| own.place).is_some_and(|(place, _)| place == at)
    };
    for (at, part) in line.parts.iter().enumerate() {
        let netdev = match part {
            Part::Word(word) => {
                let own = netdevs.iter().find(|netdev| netdev.card == Card::Own && is_at(at, netdev));
                words.push(own.map_or_else(|| word.clone(), |own| own.give_address(line, word)));
                continue;
            }
            Part::Nic(number) => netdevs.get(*number),
        };
        if let Some(netdev) = netdev {
            words.extend(["-netdev".into(), netdev.backend.netdev(&netdev.id, netdev.mac).into()]);
            let device = netdev.device(line.has_json_device).map(|device| ["-device".into(), device.into()]);
            if netdev.card == Card::OnBoard {
                words.extend(["-net".into(), format!("nic,netdev={},macaddr={}", netdev.id, netdev.mac).into()]);
                continue;
            }
            let own = |number: usize| match &netdevs.get(number)?.card {
                Card::Device(driver) => Some((driver.clone(), None)),
                _ => None,
            };
            let place = if devices::has_to_be_last(line, at, own) { &mut last } else { &mut words };
            place.extend(device.into_iter().flatten());
        }
    }
    words.append(&mut last);
    words
}

impl Netdev {
    /// The value of a device of the user's that has no address of its own, with ours.
    fn give_address(&self, line: &Line, value: &OsStr) -> OsString {
        let Some(own) = line.devices_on.get(self.id.as_bytes()) else { return value.to_owned() };
        let mut pairs = Vec::new();
        if own.lacks_netdev {
            pairs.push(("netdev", self.id.clone()));
            pairs.extend(own.model.clone().map(|model| ("model", model)));
        }
        if let (Some((_, key)), false, None) = (own.place, own.has_mac, own.mac) {
            pairs.push((key, self.mac.to_string()));
        }
        if pairs.is_empty() {
            return value.to_owned();
        }
        let value = value.as_bytes();
        let json = value.starts_with(b"{").then(|| value.trim_ascii_end().strip_suffix(b"}")).flatten();
        // One comma at the end divides already; two are one of the last value.
        let commas = value.iter().rev().take_while(|byte| **byte == b',').count();
        let (value, more) = match json {
            Some(inner) => {
                let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!(",\"{key}\":\"{value}\"")).collect();
                (inner, pairs.concat() + "}")
            }
            None => {
                let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
                (value, if commas % 2 == 1 { pairs.join(",") } else { format!(",{}", pairs.join(",")) })
            }
        };
        OsString::from_vec([value, more.as_bytes()].concat())
    }

    /// The value of `-device`, if it is ours.
    pub fn device(&self, as_json: bool) -> Option<String> {
        let Card::Device(model) = &self.card else { return None };
        let mac = self.mac;
        let queues = self.backend.queues();
        // An interrupt for each direction of each queue, one for control and one for changes of the configuration.
        let vectors = Some(2 * queues + 2).filter(|_| is_virtio_pci(model));
        let id = &self.id;
        let (mut text, mut json) = (
            format!("{model},netdev={id},mac={mac}"),
            format!("{{\"driver\":\"{model}\",\"netdev\":\"{id}\",\"mac\":\"{mac}\""),
        );
        if queues > 1 {
            text += ",mq=on";
            json += ",\"mq\":true";
            if let Some(vectors) = vectors {
                text += &format!(",vectors={vectors}");
                json += &format!(",\"vectors\":{vectors}");
            }
        }
        Some(if as_json { json + "}" } else { text })
    }
}

/// Whether a model is virtio's, by whatever bus: it alone can have several queues and vhost.
pub fn is_virtio(model: &str) -> bool {
    model.starts_with("virtio-net")
}

fn is_virtio_pci(model: &str) -> bool {
    model == "virtio-net" || model.starts_with("virtio-net-pci")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::scan;
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn ids_are_free_on_the_line() {
        let line = |text: &str| {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            ids(&scan(&words, || Ok(Vec::new())).unwrap())
        };
        assert_eq!(line("--bridge br0 --bridge br0").unwrap(), ["bridge0", "bridge1"]);
        assert_eq!(line("--bridge br0 -netdev user,id=bridge0").unwrap(), ["bridge1"]);
        assert_eq!(line("--bridge br0 --bridge br0,id=bridge0").unwrap(), ["bridge1", "bridge0"]);
        assert_eq!(line("--bridge br0,id=lan -device e1000,netdev=lan").unwrap(), ["lan"]);
        for taken in
            ["-netdev user,id=lan", r#"-netdev {"type":"user","id":"lan"}"#, "-nic user,id=lan", "-net user,id=lan"]
        {
            assert!(line(&format!("--bridge br0,id=lan {taken}")).is_err(), "{taken}");
        }
        for other in [
            "-device e1000-82545em,netdev=lan,id=lan",
            r#"-device {"driver":"e1000","netdev":"lan","id":"lan"}"#,
            "-drive if=none,id=lan",
            "-chardev null,id=lan",
            "-object rng-random,id=lan",
            "-net nic,netdev=lan,id=lan",
            "-audiodev none,id=lan",
            "-fsdev local,id=lan,path=/,security_model=none",
            "-device virtio-rng-pci,id=lan",
        ] {
            assert_eq!(line(&format!("--bridge br0,id=lan {other}")).unwrap(), ["lan"], "{other}");
        }
    }

    #[test]
    fn devices_are_made_in_the_order_of_the_line_or_behind_those_with_a_place() {
        for (text, becomes) in [
            ("--bridge br0 -device a", "-netdev N -device e1000,netdev=bridge0,mac=M -device a"),
            ("--bridge br0 -device a,addr=2", "-netdev N -device a,addr=2 -device e1000,netdev=bridge0,mac=M"),
            ("--bridge br0 -device a,addr=10", "-netdev N -device e1000,netdev=bridge0,mac=M -device a,addr=10"),
            (
                r#"--bridge br0 -device {"driver":"a"}"#,
                r#"-netdev N -device {"driver":"e1000","netdev":"bridge0","mac":"M"} -device {"driver":"a"}"#,
            ),
            (
                r#"--bridge br0 -device {"driver":"a","addr":"0x2"}"#,
                r#"-netdev N -device {"driver":"a","addr":"0x2"} -device {"driver":"e1000","netdev":"bridge0","mac":"M"}"#,
            ),
        ] {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            let line = scan(&words, || Ok(Vec::new())).unwrap();
            let card = Card::Device("e1000".to_owned());
            let backend = Backend::Inherited { queues: vec![7], vhost: vec![] };
            let words = rewrite(&line, &[Netdev { id: "bridge0".to_owned(), backend, mac: MAC, card }]);
            let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
            let words = words.join(" ").replace("02:00:00:00:00:01", "M").replace("tap,id=bridge0,fd=7", "N");
            assert_eq!(words, becomes);
        }
    }

    #[test]
    fn a_device_of_the_users_gets_an_address_if_it_has_none() {
        for (text, becomes) in [
            ("-device e1000,netdev=n", "-device e1000,netdev=n,mac=M"),
            ("-device e1000,netdev=n,", "-device e1000,netdev=n,mac=M"),
            ("-device e1000,netdev=n,x=a,,", "-device e1000,netdev=n,x=a,,,mac=M"),
            ("-device e1000,netdev=n,mac=02:00:00:00:00:02", "-device e1000,netdev=n,mac=02:00:00:00:00:02"),
            ("-net nic,netdev=n,model=e1000", "-net nic,netdev=n,model=e1000,macaddr=M"),
            (r#"-device {"driver":"a","netdev":"n"}"#, r#"-device {"driver":"a","netdev":"n","mac":"M"}"#),
            (r#"-device {'driver':'a','netdev':'n'}"#, r#"-device {'driver':'a','netdev':'n',"mac":"M"}"#),
            (
                "-device e1000,netdev=other,id=x -netdev user,id=other",
                "-device e1000,netdev=other,id=x -netdev user,id=other",
            ),
            (
                "-device e1000,netdev=n,id=v -set device.v.mac=2:0:0:0:0:9",
                "-device e1000,netdev=n,id=v -set device.v.mac=2:0:0:0:0:9",
            ),
            ("-netdev hubport,id=p,hubid=0,netdev=n", "-netdev hubport,id=p,hubid=0,netdev=n"),
        ] {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            let line = scan(&words, || Ok(Vec::new())).unwrap();
            let backend = Backend::Inherited { queues: vec![7], vhost: vec![] };
            let words = rewrite(&line, &[Netdev { id: "n".to_owned(), backend, mac: MAC, card: Card::Own }]);
            let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
            assert_eq!(words.join(" ").replace("02:00:00:00:00:01", "M"), becomes);
        }
    }

    #[test]
    fn a_card_on_board_is_connected_and_not_made() {
        for (text, becomes) in [
            ("-M x --bridge br0 -m 64", "-M x -netdev N -net nic,netdev=bridge0,macaddr=M -m 64"),
            // No device's place is in its way, nor JSON.
            ("--bridge br0 -device a,addr=2", "-netdev N -net nic,netdev=bridge0,macaddr=M -device a,addr=2"),
            (
                r#"--bridge br0 -device {"driver":"a"}"#,
                r#"-netdev N -net nic,netdev=bridge0,macaddr=M -device {"driver":"a"}"#,
            ),
        ] {
            let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
            let line = scan(&words, || Ok(Vec::new())).unwrap();
            let backend = Backend::Inherited { queues: vec![7], vhost: vec![] };
            let words = rewrite(&line, &[Netdev { id: "bridge0".to_owned(), backend, mac: MAC, card: Card::OnBoard }]);
            let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
            let words = words.join(" ").replace("02:00:00:00:00:01", "M").replace("tap,id=bridge0,fd=7", "N");
            assert_eq!(words, becomes);
        }
    }

    fn netdev(model: &str, queues: Vec<RawFd>, vhost: Vec<RawFd>) -> String {
        let card = Card::Device(model.to_owned());
        let netdev = Netdev { id: "n".to_owned(), backend: Backend::Inherited { queues, vhost }, mac: MAC, card };
        let json: serde_json::Value = serde_json::from_str(&netdev.device(true).unwrap()).unwrap();
        let text = netdev.device(false).unwrap();
        let has = |key: &str, value: &str| text.contains(&format!(",{key}={value}"));
        assert_eq!(json["mq"] == true, has("mq", "on"));
        assert!(json["vectors"].is_null() || has("vectors", &json["vectors"].to_string()));
        format!("-netdev {} -device {text}", netdev.backend.netdev("n", netdev.mac))
    }

    #[test]
    fn queues_and_vhost_are_in_both_words() {
        let mac = "mac=02:00:00:00:00:01";
        for (model, queues, vhost, words) in [
            ("e1000", vec![5], vec![], format!("-netdev tap,id=n,fd=5 -device e1000,netdev=n,{mac}")),
            (
                "virtio-net-pci",
                vec![5],
                vec![9],
                format!("-netdev tap,id=n,fd=5,vhost=on,vhostfd=9 -device virtio-net-pci,netdev=n,{mac}"),
            ),
            (
                "virtio-net-pci",
                vec![5, 6, 7],
                vec![8, 9, 10],
                format!(
                    "-netdev tap,id=n,fds=5:6:7,vhost=on,vhostfds=8:9:10 \
                     -device virtio-net-pci,netdev=n,{mac},mq=on,vectors=8"
                ),
            ),
            (
                "virtio-net-ccw",
                vec![5, 6],
                vec![],
                format!("-netdev tap,id=n,fds=5:6 -device virtio-net-ccw,netdev=n,{mac},mq=on"),
            ),
        ] {
            assert_eq!(netdev(model, queues, vhost), words);
        }
    }

    proptest! {
        #[test]
        fn words_that_are_not_ours_come_back_as_they_are(
            words in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..8), 0..8),
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            prop_assume!(!words.iter().any(|word| crate::argv::scan::may_be_ours(word)));
            let line = scan(&words, || Ok(Vec::new())).unwrap();
            prop_assert_eq!(rewrite(&line, &[]), words);
        }
    }
}
