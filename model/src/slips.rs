//! What somebody has probably meant.
//! It may not know what is right.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::ifname::IfName;

/// The known name that a wrong one is nearest to, if it is near.
pub fn near<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let all = known.into_iter().map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name));
    all.filter(|(distance, name)| *distance <= 2 && *distance * 3 <= name.len())
        .min_by_key(|(at, _)| *at)
        .map(|(_, name)| name)
}

/// A word that looks like our option, misspelt, and is none of QEMU's: `--brdige`.
pub fn option_of_ours(word: &[u8]) -> Option<&str> {
    // All other words are not looked at: this is on every way to QEMU.
    let is_likely = word.first() == Some(&b'-') && (5..=24).contains(&word.len());
    let text = std::str::from_utf8(word).ok().filter(|_| is_likely)?;
    let name = text.trim_start_matches('-').split(['=', ':']).next()?;
    ((5..=8).contains(&name.chars().count()) && name != "bridge" && near(name, ["bridge"]).is_some()).then_some(text)
}

/// Checks the name of a bridge that is about to be made: one that begins like an option or ends like an image's stands where a
/// name was forgotten.
pub fn check_new_bridge(name: &IfName) -> Result<()> {
    const IMAGES: [&str; 9] = [".qcow2", ".qcow", ".img", ".iso", ".raw", ".vmdk", ".vdi", ".vhdx", ".qed"];
    let text = name.as_str();
    let lower = text.to_lowercase();
    let what = match text.chars().next() {
        Some('-') => "looks like an option",
        _ if IMAGES.iter().any(|end| lower.ends_with(end)) => "looks like a disk image",
        _ if ["help", "none", "auto", "on", "off"].contains(&text) => "is a word for something else",
        Some(first) if first.is_alphanumeric() => return Ok(()),
        _ => "begins with neither a letter nor a digit",
    };
    let remedy = format!("Name a bridge before it: --bridge br0 {text}");
    let remedy = if what.starts_with("looks") { remedy } else { "Name it otherwise, such as br0.".to_owned() };
    Err(Error::new(format!("there is no bridge {text}, and none is made of that name: it {what}"), remedy))
}

/// What to write in a `--bridge` for a key of QEMU's own; `None` for one that QEMU does not have either.
pub fn key_of_qemus(key: &str) -> Option<String> {
    let own_card =
        |key: &str| format!("It is the network card's: --bridge br0,id=lan -device e1000,netdev=lan,{key}=...");
    Some(match key {
        "macaddr" => "Here it is called mac=.".to_owned(),
        "br" | "bridge" | "name" => "The bridge's name comes first: --bridge br0,key=value.".to_owned(),
        "type" | "netdev" => "The netdev is made here; its id is id=.".to_owned(),
        "script" | "downscript" | "helper" | "fd" | "fds" | "sndbuf" | "vnet_hdr" | "vhostfd" | "vhostfds"
        | "vhostforce" => format!("Leave {key}= out: the TAP is opened and attached before QEMU runs."),
        "bootindex" | "romfile" | "rombar" | "addr" | "bus" | "vectors" | "multifunction" | "mq" | "ctrl_vq"
        | "host_mtu" | "rx_queue_size" | "tx_queue_size" | "iommu_platform" | "packed" | "acpi-index" | "speed"
        | "duplex" | "failover" | "disable-legacy" | "disable-modern" => own_card(key),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_name_is_seen() {
        for (name, is_fine) in [
            ("br0", true),
            ("0", true),
            ("über", true),
            ("-m", false),
            ("-nographic", false),
            ("disk.qcow2", false),
            ("DISK.IMG", false),
            ("_x", false),
            ("@", false),
            ("help", false),
            ("none", false),
        ] {
            assert_eq!(check_new_bridge(&IfName::new(name).unwrap()).is_ok(), is_fine, "{name}");
        }
    }

    #[test]
    fn a_misspelt_option_is_seen_and_none_of_qemus_taken_for_one() {
        for slip in
            ["--brdige", "--bridgee", "-bridg", "--birdge", "--Bridge", "--brdige=br0", "--bridge:br0", "-bridges"]
        {
            assert_eq!(
                option_of_ours(slip.as_bytes()),
                if slip == "--bridge:br0" { None } else { Some(slip) },
                "{slip}"
            );
        }
        for other in
            ["--bridge", "-bridge", "-drive", "-device", "br0", "bridge", "-bt", "-boot", "-b", "-trace", "-serial"]
        {
            assert_eq!(option_of_ours(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_near_is_told_and_nothing_else() {
        let known = ["uplink", "mac", "vm", "announce"];
        assert_eq!(near("uplnk", known), Some("uplink"));
        assert_eq!(near("Uplink", known), Some("uplink"));
        assert_eq!(near("anounce", known), Some("announce"));
        assert_eq!(near("mca", known), Some("mac"));
        assert_eq!(near("x", known), None);
    }
}
