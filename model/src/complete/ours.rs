//! The value of `--bridge`.

use crate::complete::qemu::Line;
use crate::complete::{Answer, Candidate, Thing, given, split_last};
use crate::request::KEYS;

/// The cards that are there in any QEMU for a PC, where it can't be asked.
const MODELS: [&str; 4] = ["e1000", "virtio-net-pci", "e1000e", "rtl8139"];

/// Completes what is typed of a value: a bridge, a key that was not given yet, or the value of one.
pub(super) fn complete(line: &Line, typed: &str) -> Answer {
    let (head, last) = split_last(typed);
    if head.is_empty() {
        return Answer::of(line.source.all(Thing::Bridges));
    }
    let given = given(head);
    match last.split_once('=') {
        None => {
            // One can be given again.
            let keys =
                KEYS.iter().filter(|(key, ..)| *key == "forward" || !given.iter().any(|(known, _)| known == key));
            Answer::of(keys.map(|(key, _, about)| Candidate::key(key, *about))).behind(head)
        }
        Some((key, _)) => {
            let bridge = given.first().map_or("", |(_, bridge)| bridge);
            Answer::of(values(line, key, bridge)).behind(&format!("{head}{key}="))
        }
    }
}

/// The values of a key: the words of its form, and what its names stand for.
fn values(line: &Line, key: &str, bridge: &str) -> Vec<Candidate> {
    let Some((_, form, _)) = KEYS.iter().find(|(known, ..)| *known == key) else { return Vec::new() };
    let words = form.split('|').filter(|word| !word.contains(char::is_uppercase)).map(Candidate::bare);
    let names = match key {
        "uplink" => line.source.all(Thing::Uplinks(bridge)),
        "model" => match line.cards() {
            models if models.is_empty() => MODELS.map(Candidate::bare).into(),
            models => models,
        },
        "vm" => line.source.all(Thing::Names),
        "ifname" => line.source.all(Thing::Taps),
        "id" => line.named_by("device", "netdev").into_iter().map(Candidate::bare).collect(),
        _ => Vec::new(),
    };
    words.chain(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complete::{Source, qemu};

    /// A QEMU with one network card, on a host that has nothing.
    struct Bare;

    impl Source for Bare {
        fn ask(&self, words: &[&str]) -> String {
            let is_of_devices = words == ["-device", "help"];
            if is_of_devices { "Network devices:\nname \"igb\", bus PCI\n".to_owned() } else { String::new() }
        }

        fn has_option(&self, _: &str) -> bool {
            false
        }

        fn all(&self, _: Thing) -> Vec<Candidate> {
            Vec::new()
        }
    }

    fn texts(typed: &str) -> (String, Vec<String>) {
        let before = ["-device", "igb,netdev=net0", "--bridge"].map(str::to_owned);
        let answer = qemu::complete(&Bare, false, &before, typed);
        (answer.head, answer.candidates.into_iter().map(|candidate| candidate.text).collect())
    }

    #[test]
    fn no_key_comes_twice() {
        for (key, ..) in KEYS {
            let (head, keys) = texts(&format!("br0,{key}=x,"));
            assert_eq!(head, format!("br0,{key}=x,"));
            let others = KEYS
                .iter()
                .filter(|(other, ..)| *other != key || *other == "forward")
                .map(|(other, ..)| format!("{other}="));
            assert_eq!(keys, others.collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_key_with_words_has_them_offered() {
        for (key, form, _) in KEYS {
            let (head, values) = texts(&format!("br0,{key}="));
            assert_eq!(head, format!("br0,{key}="));
            for word in form.split('|').filter(|word| word.chars().all(|c| c.is_ascii_lowercase())) {
                assert!(values.iter().any(|value| value == word), "{key}={word}");
            }
        }
        assert_eq!(texts("br0,model=").1, ["igb"]);
        assert_eq!(texts("br0,id=n").1, ["net0"]);
        assert_eq!(texts("br0,nosuch=").1, [""; 0]);
    }
}
