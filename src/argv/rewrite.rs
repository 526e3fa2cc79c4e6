//! Puts QEMU's own words where ours stood.
#![forbid(unsafe_code)]

use super::{Line, Part};
use crate::error::{Error, Result};
use crate::mac::Mac;
use crate::name::IfName;
use crate::optstr;
use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// The device that the guest sees where nothing else is asked for; every Linux since 2.4 has its driver.
pub const DEFAULT_MODEL: &str = "e1000";

/// How QEMU gets at the TAP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// It inherits this descriptor.
    Fd(RawFd),
    /// It opens a persistent TAP by its name, as a person would tell it to.
    Name(IfName),
    /// It calls this helper for a TAP on this bridge, likewise.
    Helper(PathBuf, IfName),
}

/// One network card for QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netdev {
    /// The netdev's id.
    pub id: String,
    /// Where its frames come from and go to.
    pub backend: Backend,
    /// Model and address of the device; `None` where a `-device` of the user's names the id.
    pub device: Option<(String, Mac)>,
}

/// The ids of the line's network cards: the user's own, else the first `bridgeN` that no word of the line uses.
pub fn ids(line: &Line) -> Result<Vec<String>> {
    let mut used = line.ids.union(&line.devices_on).cloned().collect::<HashSet<_>>();
    for nic in &line.nics {
        if let Some(id) = &nic.id {
            if line.ids.contains(id.as_bytes()) {
                let what = format!("--bridge {}: the id {id} is used by another option", nic.bridge);
                return Err(Error::new(what, "Give id= another name, or leave it out."));
            }
            used.insert(id.clone().into_bytes());
        }
    }
    let mut free = (0..).map(|number| format!("bridge{number}")).filter(|id| !used.contains(id.as_bytes()));
    Ok(line.nics.iter().filter_map(|nic| nic.id.clone().or_else(|| free.next())).collect())
}

/// The words behind argv\[0\] for QEMU; `netdevs` go where their `--bridge` stood, in the order of their numbers.
pub fn rewrite(parts: &[Part], netdevs: &[Netdev]) -> Vec<OsString> {
    let words = parts.iter().flat_map(|part| match part {
        Part::Word(word) => vec![word.clone()],
        Part::Nic(number) => netdevs.get(*number).map(words_of).unwrap_or_default(),
    });
    words.collect()
}

fn words_of(netdev: &Netdev) -> Vec<OsString> {
    let id = &netdev.id;
    let backend = match &netdev.backend {
        Backend::Fd(fd) => format!("tap,id={id},fd={fd}"),
        Backend::Helper(helper, bridge) => {
            let helper = optstr::escape(&helper.to_string_lossy());
            format!("bridge,id={id},br={},helper={helper}", optstr::escape(bridge.as_str()))
        }
        Backend::Name(name) => {
            format!("tap,id={id},ifname={},script=no,downscript=no", optstr::escape(name.as_str()))
        }
    };
    let mut words: Vec<OsString> = vec!["-netdev".into(), backend.into()];
    if let Some((model, mac)) = &netdev.device {
        words.extend(["-device".into(), format!("{model},netdev={id},mac={mac}").into()]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::scan;
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

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
        assert!(line("--bridge br0,id=lan -netdev user,id=lan").is_err());
    }

    proptest! {
        #[test]
        fn words_that_are_not_ours_come_back_as_they_are(
            words in proptest::collection::vec(proptest::collection::vec(1u8..=255, 0..8), 0..8),
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            prop_assume!(!words.iter().any(|word| super::super::scan::may_be_ours(word)));
            let line = scan(&words, || Ok(Vec::new())).unwrap();
            prop_assert_eq!(rewrite(&line.parts, &[]), words);
        }
    }
}
