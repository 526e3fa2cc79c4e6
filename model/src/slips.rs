//! What somebody has probably meant.
//! It may not know what is right.
#![forbid(unsafe_code)]

use crate::error::{Error, Phrase, Result};
use crate::ifname::IfName;
use crate::options;

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

/// How the names of disk images end.
const IMAGES: [&str; 9] = [".qcow2", ".qcow", ".img", ".iso", ".raw", ".vmdk", ".vdi", ".vhdx", ".qed"];
/// How the names of kernels, their RAM disks and firmware begin.
const BOOTED: [&str; 9] = ["vmlinu", "bzimage", "zimage", "uimage", "initrd", "initramfs", "ovmf", "seabios", "rootfs"];
/// What the options that stand behind a `--bridge` have for values, beside `BOOTED` and the names of options: machines,
/// accelerators, CPUs, displays, devices, netdevs, switches.
const VALUES: &str = "q35 pc isapc microvm virt pseries kvm tcg hvf qtest host max qemu32 qemu64 kvm32 kvm64 none std cirrus \
    vmware qxl gtk sdl vnc curses e1000 e1000e igb rtl8139 ne2k_pci pcnet vmxnet3 virtio tap user socket vde passt stdio pty \
    image disk default help auto on off yes no true false";

/// Checks the name of a bridge that is about to be made: what begins like an option, has a file's name, or is a word of QEMU's
/// stands where a name was forgotten.
pub fn check_new_bridge(name: &IfName) -> Result<()> {
    let text = name.as_str();
    let lower = text.to_lowercase();
    let is_option = || text.len() > 3 && options::names().any(|option| option == text);
    let what = match lower.chars().next() {
        Some('-') => "looks like an option",
        Some(first) if !first.is_alphanumeric() => {
            return Err(no_bridge(text, "begins with neither a letter nor a digit", "Name it otherwise, such as br0."));
        }
        _ if lower.chars().all(|c| c.is_ascii_digit()) => "is a number",
        _ if is_size(&lower) => "is a size",
        _ if IMAGES.iter().any(|end| lower.ends_with(end)) => "looks like a disk image",
        _ if BOOTED.iter().any(|start| lower.starts_with(start)) => "looks like what a guest boots",
        _ if lower.contains('.') && !is_vlan(&lower) => "looks like a file's (a dot is for a VLAN's number: br0.10)",
        _ if is_in(VALUES, &lower) || lower.starts_with("virtio-") || is_option() => "is a word for something else",
        _ => return Ok(()),
    };
    Err(no_bridge(text, what, forgotten(text)))
}

/// The error of a bridge that is not made because of its name.
fn no_bridge(text: &str, what: &str, remedy: impl Into<Phrase>) -> Error {
    Error::new(format!("there is no bridge {text}, and none is made of that name: it {what}"), remedy)
}

/// What to do where a word stands in the place of a bridge's name.
pub fn forgotten(word: &str) -> Phrase {
    Phrase::from("Name a bridge: ").request("br0", &[]).followed_by(word)
}

/// Checks a value that is a name: one that begins with a dash is the next option.
pub fn check_value(key: &str, value: &str) -> Result<()> {
    let fault = || Error::new(format!("{key} cannot be '{value}', which looks like an option"), "Give it a name.");
    if value.starts_with('-') { Err(fault()) } else { Ok(()) }
}

fn is_in(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|known| known == word)
}

/// Whether this is a guest's memory: `512M`.
fn is_size(lower: &str) -> bool {
    let number = lower.trim_end_matches(['k', 'm', 'g', 't', 'b', 'i']);
    number.len() < lower.len() && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

/// Whether the dot of a name is before a VLAN's number, and not in a version: `br0.10`, not `linux-6.1`.
fn is_vlan(name: &str) -> bool {
    let Some((link, number)) = name.rsplit_once('.') else { return false };
    let is_version = link.rsplit_once('-').is_some_and(|(_, end)| end.chars().all(|c| c.is_ascii_digit()));
    let is_number = number.chars().all(|c| c.is_ascii_digit());
    is_number
        && number.parse().is_ok_and(|number: u16| (1..=4094).contains(&number))
        && !is_version
        && !link.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_name_is_seen() {
        let fine = "br0 br-lan virbr0 vmbr0 lan mybridge vms br0.10 br_test docker0 über br-1f2e3d4c5b6a net0 dmz 2ndfloor lab0 \
            bridge xenbr0 host0 pcbr user1 tap0br images linuxbr vm net b kvmbr0 lxdbr0 podman1 br10g";
        for name in fine.split_ascii_whitespace() {
            assert_eq!(check_new_bridge(&IfName::new(name).unwrap()), Ok(()), "{name}");
        }
        let slips = "-m -nographic disk.qcow2 DISK.IMG _x @ help none bzImage vmlinuz-6.1 vmlinuz vmlinux vmlinux-6.1 initramfs \
            initrd.img-6.1 initrd alice.vhd disk.qcow2.bak foo.bin OVMF_CODE.fd foo.iso OVMF linux-6.1 a.0 a.4095 a.+1 br0. \
            1.2.3 q35 pc host Q35 virtio virtio-net tap user on off auto 0 256 1G 512m 2GiB nographic snapshot daemonize \
            e1000 stdio kernel drive image disk";
        for name in slips.split_ascii_whitespace() {
            assert!(check_new_bridge(&IfName::new(name).unwrap()).is_err(), "{name}");
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
