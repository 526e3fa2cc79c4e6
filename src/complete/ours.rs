//! The value of `--bridge`.

use crate::complete::{Answer, Candidate, given, host, split_last};
use model::request::KEYS;

/// What the rest of the command line knows.
pub(super) struct Context<'a> {
    /// The network cards that QEMU has, asked for when they matter.
    pub(super) models: &'a dyn Fn() -> Vec<Candidate>,
    /// The netdevs that devices on the line name.
    pub(super) netdevs: Vec<String>,
}

/// The cards that are there in any QEMU for a PC, where it can't be asked.
const MODELS: [&str; 4] = ["e1000", "virtio-net-pci", "e1000e", "rtl8139"];

/// Completes what is typed of a value: a bridge, a key that was not given yet, or the value of one.
pub(super) fn complete(typed: &str, context: &Context) -> Answer {
    let (head, last) = split_last(typed);
    if head.is_empty() {
        return Answer::of(host::bridges());
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
            Answer::of(values(key, bridge, context)).behind(&format!("{head}{key}="))
        }
    }
}

/// The values of a key: the words of its form, and what its names stand for.
fn values(key: &str, bridge: &str, context: &Context) -> Vec<Candidate> {
    let Some((_, form, _)) = KEYS.iter().find(|(known, ..)| *known == key) else { return Vec::new() };
    let words = form.split('|').filter(|word| !word.contains(char::is_uppercase)).map(Candidate::bare);
    let names = match key {
        "uplink" => host::uplinks(bridge),
        "model" => match (context.models)() {
            models if models.is_empty() => MODELS.map(Candidate::bare).into(),
            models => models,
        },
        "vm" => host::names(),
        "ifname" => host::taps(),
        "id" => context.netdevs.iter().map(Candidate::bare).collect(),
        _ => Vec::new(),
    };
    words.chain(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(typed: &str) -> (String, Vec<String>) {
        let models = || vec![Candidate::bare("igb")];
        let answer = complete(typed, &Context { models: &models, netdevs: vec!["net0".to_owned()] });
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
