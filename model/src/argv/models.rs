//! The network cards that a QEMU has, as its `-device help` tells.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// These need no question: every QEMU for a machine that can have one has it, and the default is among them.
const WELL_KNOWN: [&str; 5] = ["e1000", "e1000e", "virtio-net", "virtio-net-pci", "virtio-net-device"];
/// A wrong name is met with so many right ones.
const MAX_NEAR: usize = 8;

/// Whether the QEMU for this architecture has to be asked whether it has this card.
pub fn is_to_be_asked_for(model: &str, system: &str) -> bool {
    !WELL_KNOWN.contains(&model) && (model, system) != ("virtio-net-ccw", "s390x")
}

/// Checks a model against what QEMU said. What can't be understood says nothing against it: QEMU has the last word.
pub fn check(model: &str, help: &str) -> Result<()> {
    let cards = cards(help);
    if cards.is_empty() || cards.contains(&model) {
        return Ok(());
    }
    let near = near(model, &cards);
    let remedy = match near.as_slice() {
        [] => format!("Its network cards are {}.", cards.join(", ")),
        near => format!("Near it: {}. 'qemu-kvm -device help' lists all.", near.join(", ")),
    };
    Err(Error::new(format!("model={model}: this QEMU has no such network card"), remedy))
}

/// The names and aliases of the section on networks.
fn cards(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Network devices:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("name \""));
    let names = lines.flat_map(|line| {
        let after = |key| Some(line.split_once(key)?.1.split_once('"')?.0);
        [after("name \""), after("alias \"")]
    });
    names.flatten().collect()
}

/// Those that one may have meant, the likeliest first.
fn near<'a>(model: &str, cards: &[&'a str]) -> Vec<&'a str> {
    let model = model.to_lowercase().replace('_', "-");
    let distance = |card: &&str| {
        let card = card.to_lowercase().replace('_', "-");
        let is_part = model.len() > 2 && (card.contains(&model) || model.contains(&card));
        let distance = strsim::damerau_levenshtein(&model, &card);
        // The beginning of a longer name, misspelt.
        let beginning: String = card.chars().take(model.chars().count()).collect();
        let distance = distance.min(1 + strsim::damerau_levenshtein(&model, &beginning));
        (is_part || distance <= 1 + model.len() / 4).then_some(distance)
    };
    let mut near: Vec<(usize, &str)> = cards.iter().filter_map(|card| Some((distance(card)?, *card))).collect();
    near.sort();
    near.into_iter().take(MAX_NEAR).map(|(_, card)| card).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Storage devices:
name \"virtio-blk-pci\", bus PCI, alias \"virtio-blk\"

Network devices:
name \"e1000\", bus PCI, alias \"e1000-82540em\", desc \"Intel Gigabit Ethernet\"
name \"ne2k_pci\", bus PCI
name \"usb-net\", bus usb-bus
name \"virtio-net-pci\", bus PCI, alias \"virtio-net\"

Input devices:
name \"usb-kbd\", bus usb-bus
";

    #[test]
    fn a_card_for_channels_is_known_where_there_are_channels() {
        assert!(!is_to_be_asked_for("virtio-net-ccw", "s390x") && is_to_be_asked_for("virtio-net-ccw", "x86_64"));
        assert!(!is_to_be_asked_for("e1000", "x86_64") && is_to_be_asked_for("igb", "x86_64"));
    }

    #[test]
    fn the_cards_are_those_of_its_section() {
        assert_eq!(cards(HELP), ["e1000", "e1000-82540em", "ne2k_pci", "usb-net", "virtio-net-pci", "virtio-net"]);
        for good in ["e1000-82540em", "usb-net"] {
            assert_eq!(check(good, HELP), Ok(()));
        }
        assert_eq!(check("anything", "what is this?"), Ok(()));
    }

    #[test]
    fn a_wrong_name_is_met_with_those_near_it() {
        let near = |model: &str| near(model, &cards(HELP));
        assert_eq!(near("virtio"), ["virtio-net", "virtio-net-pci"]);
        assert_eq!(near("e100"), ["e1000", "e1000-82540em"]);
        assert_eq!(near("E1000"), ["e1000", "e1000-82540em"]);
        assert_eq!(near("ne2k-pci"), ["ne2k_pci"]);
        assert_eq!(near("virtoi-net"), ["virtio-net", "virtio-net-pci"]);
        assert_eq!(near("3c905"), [""; 0]);
        assert!(check("usb-kbd", HELP).is_err());
        assert!(check("3c905", HELP).unwrap_err().to_string().contains("Its network cards are e1000, "));
    }
}
