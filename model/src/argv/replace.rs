//! `replace=user`: our card in place of a user-mode one of the line.
//!
//! Programs that call QEMU give their guest such a card; one more would be the guest's second, which it may not configure.
//! What QEMU made of `user` goes, and what the guest sees of it stays: the netdev's id, the model, its place on a bus. So the
//! line is changed into one that a person would have written for us, which is then read anew: `-netdev user` goes, `-nic user`
//! becomes a `-net nic` on our netdev, and so does the `-net nic` that is on the hub with `-net user`.
#![forbid(unsafe_code)]

use crate::argv::scan::{Identity, Line, option_name};
use crate::argv::values::Params;
use crate::error::{Error, Result};
use crate::optstr;
use crate::optstr::Param;
use crate::request::is_id;
use crate::text::shell::quote;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A line with our cards in the places of others.
pub(super) struct Replaced {
    pub(super) words: Vec<OsString>,
    /// The ids of the netdevs that are ours now, by the numbers of the network cards.
    pub(super) ids: HashMap<usize, String>,
    /// What gets lost: sentences.
    pub(super) lost: Vec<String>,
}

/// A user-mode card of the line.
struct Card {
    /// Where it stands among the others: the number of a word.
    at: usize,
    /// The option that makes its backend.
    option: &'static str,
    id: Option<String>,
    /// The value of its backend's option, which goes with the option.
    backend: Option<usize>,
    /// The value of the option that becomes a `-net nic` on our netdev, and what of it stays.
    nic: Option<(usize, Vec<Param>)>,
    /// The keys that only the user-mode network has.
    lost: Vec<String>,
}

/// The keys of `-nic` that are about the card, and what `-net nic` calls them; all others are the backend's.
const OF_CARDS: [(&str, &str); 2] = [("model", "model"), ("mac", "macaddr")];

/// Puts our cards that ask for it in the places of those of the line, in their order; `None` if that changes nothing.
pub(super) fn user_mode(line: &Line, words: &[OsString]) -> Result<Option<Replaced>> {
    let wanted: Vec<usize> = (0..line.nics.len()).filter(|number| line.nics[*number].replaces_user).collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let (cards, has_hub) = cards(line, words);
    if has_hub && cards.len() < wanted.len() {
        let what = format!(
            "--bridge {}: replace=user: a hub joins the -net options of this line",
            line.nics[wanted[cards.len()]].bridge
        );
        return Err(Error::new(what, "Write -netdev user,id=net0 -device MODEL,netdev=net0 for each of its cards."));
    }
    let mut used: HashSet<Vec<u8>> = line.ids.iter().chain(line.devices_on.keys()).cloned().collect();
    used.extend(line.nics.iter().filter_map(|nic| nic.id.clone()).map(String::into_bytes));
    let mut free = (0..).map(|number| format!("bridge{number}")).filter(|id| !used.contains(id.as_bytes()));
    let (mut ids, mut lost) = (HashMap::new(), Vec::new());
    // What becomes of words: another one, or nothing.
    let mut edits: HashMap<usize, Option<OsString>> = HashMap::new();
    for (number, card) in wanted.into_iter().zip(cards) {
        let Some(id) = card.id.or_else(|| free.next()) else { break };
        if let Some(at) = card.backend {
            edits.extend([(at - 1, None), (at, None)]);
        }
        if let Some((at, mut params)) = card.nic {
            params.push(Param { key: Some(b"netdev".to_vec()), value: Some(id.clone().into_bytes()) });
            let value = OsString::from_vec(optstr::render(&params));
            edits.extend([(at - 1, Some("-net".into())), (at, Some(value))]);
        }
        // What sets something of the netdev later goes with it.
        let mut lost_keys = card.lost;
        for at in line.set_words.iter().copied() {
            if let Some(set) = set_of(words[at].as_bytes(), &id) {
                edits.extend([(at - 1, None), (at, None)]);
                lost_keys.push(set);
            }
        }
        if !lost_keys.is_empty() {
            let (keys, are) = (lost_keys.join(", "), if lost_keys.len() == 1 { "is" } else { "are" });
            let name = match &line.vm {
                Identity::Name(name) => quote(OsStr::from_bytes(name)),
                _ => "NAME".to_owned(),
            };
            lost.push(format!(
                "{keys} of {} {are} dropped: the guest has an address of its own: kvm-bridge ip {name}",
                card.option
            ));
        }
        ids.insert(number, id);
    }
    let words = words.iter().enumerate().filter_map(|(at, word)| match edits.remove(&at) {
        None => Some(word.clone()),
        Some(edit) => edit,
    });
    Ok((!ids.is_empty()).then(|| Replaced { words: words.collect(), ids, lost }))
}

/// What a `-set GROUP.ID.KEY=VALUE` sets of the netdev of this id: `KEY=VALUE`.
fn set_of(value: &[u8], id: &str) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let (group, rest) = text.split_once('.')?;
    let set = rest.strip_prefix(id)?.strip_prefix('.')?;
    ["netdev", "net", "nic"].contains(&group).then(|| set.to_owned())
}

/// The user-mode cards of the line, in its order, and whether a hub has some that can't be told from others.
fn cards(line: &Line, words: &[OsString]) -> (Vec<Card>, bool) {
    let mut cards = Vec::new();
    // Of `-net`: users, network cards, and all else that is on the hub.
    let (mut users, mut nics, mut others): (Vec<usize>, Vec<usize>, usize) = (Vec::new(), Vec::new(), 0);
    for at in line.net_words.iter().copied() {
        let params = Params::of(words[at].as_bytes());
        let kind = params.get("type", "type").unwrap_or_default();
        let id = params.get("id", "").and_then(|id| String::from_utf8(id).ok()).filter(|id| is_id(id));
        let option = option_name(words[at - 1].as_bytes()).unwrap_or_default();
        match (option, kind.as_slice(), &params) {
            // A netdev that nothing is on is no card.
            (b"netdev", b"user", _) if id.as_ref().is_some_and(|id| line.devices_on.contains_key(id.as_bytes())) => {
                let lost = lost(&params, &["id"]);
                cards.push(Card { at, option: "-netdev user", id, backend: Some(at), nic: None, lost });
            }
            (b"nic", b"user", Params::Text(text)) => {
                let lost = lost(&params, &["id", "model", "mac"]);
                cards.push(Card { at, option: "-nic user", id, backend: None, nic: Some((at, of_card(text))), lost });
            }
            (b"net", b"user", Params::Text(_)) => users.push(at),
            (b"net", b"nic", Params::Text(_)) if params.get("netdev", "").is_none() => nics.push(at),
            (b"net", b"nic" | b"none", _) => {}
            (b"net", ..) => others += 1,
            _ => {}
        }
    }
    let mut has_hub = !users.is_empty() && !nics.is_empty();
    if let ([user], [nic], 0) = (users.as_slice(), nics.as_slice(), others) {
        let lost = lost(&Params::of(words[*user].as_bytes()), &["id", "name"]);
        let of_nic = optstr::parse(words[*nic].as_bytes());
        let (backend, nic) = (Some(*user), Some((*nic, of_nic)));
        cards.push(Card { at: *user, option: "-net user", id: None, backend, nic, lost });
        has_hub = false;
    }
    cards.sort_by_key(|card| card.at);
    (cards, has_hub)
}

/// What of a `-nic user` is about the card, as `-net nic` has it.
fn of_card(text: &[u8]) -> Vec<Param> {
    let of_card = optstr::parse(text).into_iter().filter_map(|param| {
        let (_, key) = OF_CARDS.iter().find(|(key, _)| param.key.as_deref() == Some(key.as_bytes()))?;
        Some(Param { key: Some(key.as_bytes().to_vec()), value: param.value })
    });
    std::iter::once(Param { key: None, value: Some(b"nic".to_vec()) }).chain(of_card).collect()
}

/// The keys and values besides the type and these.
fn lost(params: &Params, but: &[&str]) -> Vec<String> {
    let lossy = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    // As they are written: of several with one key, all count.
    let pairs: Vec<(String, Option<String>)> = match params {
        Params::Text(text) => {
            let pairs = optstr::parse(text).into_iter();
            pairs.filter_map(|param| Some((lossy(param.key?), param.value.map(lossy)))).collect()
        }
        params => {
            let object = params.object("type");
            let pairs = object.as_object().into_iter().flatten();
            pairs
                .map(|(key, value)| (key.clone(), Some(value.as_str().map_or(value.to_string(), str::to_owned))))
                .collect()
        }
    };
    let its = pairs.into_iter().filter(|(key, _)| key != "type" && !but.contains(&key.as_str()));
    its.map(|(key, value)| value.map_or(key.clone(), |value| format!("{key}={value}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::{Backend, netdevs, rewrite, scan, settle};
    use crate::mac::Mac;
    use proptest::prelude::*;

    /// The words that QEMU gets, with N for our netdev but for its id, and M for our address; and what was said.
    fn becomes(text: &str) -> Result<(String, Vec<String>)> {
        let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        let mut line = scan(&words, || Ok(Vec::new()))?;
        let notices = settle::settle(&mut line, None, "x86_64", |_, _| None)?;
        let ids = crate::argv::rewrite::ids(&line)?;
        let backends = line.nics.iter().map(|_| Backend::Inherited { queues: vec![7], vhost: vec![] }).collect();
        let macs: Vec<Mac> = line.nics.iter().map(|nic| nic.mac.unwrap_or(Mac([2, 0, 0, 0, 0, 1]))).collect();
        let words = rewrite(&line, &netdevs(&line, ids, backends, &macs));
        let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
        Ok((words.join(" ").replace("02:00:00:00:00:01", "M").replace(",fd=7", "").replace("tap,id=", "N="), notices))
    }

    #[test]
    fn ours_is_in_the_place_of_the_lines_own() {
        for (text, line) in [
            // The guests of debvm, quickemu and virtme-ng, and Packer's.
            (
                "-netdev user,id=net0 -device virtio-net-pci,netdev=net0 -m 64 B",
                "-device virtio-net-pci,netdev=net0,mac=M -m 64 -netdev N=net0",
            ),
            (
                "-device virtio-net,netdev=nic -netdev user,id=nic B",
                "-device virtio-net,netdev=nic,mac=M -netdev N=nic",
            ),
            (
                "B -netdev user,id=user.0 -device e1000,netdev=user.0,bus=pci.0,addr=5,mac=2:0:0:0:0:9",
                "-netdev N=user.0 -device e1000,netdev=user.0,bus=pci.0,addr=5,mac=2:0:0:0:0:9",
            ),
            (
                r#"-netdev {"type":"user","id":"n"} -device {"driver":"e1000","netdev":"n"} B"#,
                r#"-device {"driver":"e1000","netdev":"n","mac":"M"} -netdev N=n"#,
            ),
            ("-netdev type=user,id=n -net nic,netdev=n B", "-net nic,netdev=n,macaddr=M -netdev N=n"),
            ("-nic user B", "-net nic,netdev=bridge0,macaddr=M -netdev N=bridge0"),
            ("-nic user,model=virtio,id=x B", "-net nic,model=virtio,netdev=x,macaddr=M -netdev N=x"),
            ("--nic user,mac=2:0:0:0:0:9 B", "-net nic,macaddr=2:0:0:0:0:9,netdev=bridge0 -netdev N=bridge0"),
            ("-net nic -net user B", "-net nic,netdev=bridge0,macaddr=M -netdev N=bridge0"),
            ("-net user -net nic,model=e1000, B", "-net nic,model=e1000,netdev=bridge0,macaddr=M -netdev N=bridge0"),
            // The first of two, and both.
            (
                "-nic user -netdev user,id=b -device e1000,netdev=b B",
                "-net nic,netdev=bridge0,macaddr=M -netdev user,id=b -device e1000,netdev=b -netdev N=bridge0",
            ),
            (
                "-netdev user,id=b -device e1000,netdev=b -netdev user,id=a -device igb,netdev=a B --bridge br1,replace=user,mac=2:0:0:0:0:2",
                "-device e1000,netdev=b,mac=M -device igb,netdev=a,mac=02:00:00:00:00:02 -netdev N=b -netdev N=a",
            ),
            // Ids that the line uses are left to it.
            (
                "-nic user -chardev null,id=bridge0 B",
                "-net nic,netdev=bridge1,macaddr=M -chardev null,id=bridge0 -netdev N=bridge1",
            ),
            // Nothing to replace: ours is added.
            ("-m 64 B", "-m 64 -netdev N=bridge0 -device e1000,netdev=bridge0,mac=M"),
            ("-nic none B", "-nic none -netdev N=bridge0 -device e1000,netdev=bridge0,mac=M"),
            ("-netdev user,id=spare B", "-netdev user,id=spare -netdev N=bridge0 -device e1000,netdev=bridge0,mac=M"),
            (
                "-netdev socket,id=s,listen=:1 -device e1000,netdev=s B",
                "-netdev socket,id=s,listen=:1 -device e1000,netdev=s -netdev N=bridge0 -device e1000,netdev=bridge0,mac=M",
            ),
            (
                "-append -nic B -name user",
                "-append -nic -netdev N=bridge0 -device e1000,netdev=bridge0,mac=M -name user",
            ),
        ] {
            let (is, notices) = becomes(&text.replace('B', "--bridge br0,replace=user")).unwrap();
            assert_eq!((is.as_str(), notices), (line, Vec::<String>::new()), "{text}");
        }
    }

    #[test]
    fn what_gets_lost_is_told() {
        for (text, says) in [
            (
                "-name alice -netdev user,id=n,hostfwd=tcp::2222-:22 -device e1000,netdev=n",
                "hostfwd=tcp::2222-:22 of -netdev user is dropped: the guest has an address of its own: kvm-bridge ip alice",
            ),
            (
                "-nic user,model=e1000,restrict=on,hostfwd=a,hostfwd=b,ipv6",
                "restrict=on, hostfwd=a, hostfwd=b, ipv6 of -nic user are dropped: the guest has an address of its own: kvm-bridge ip NAME",
            ),
            (
                "-net nic -net user,hostname=h",
                "hostname=h of -net user is dropped: the guest has an address of its own: kvm-bridge ip NAME",
            ),
            (
                r#"-name a -netdev {"type":"user","id":"n","restrict":true} -device e1000,netdev=n"#,
                "restrict=true of -netdev user is dropped: the guest has an address of its own: kvm-bridge ip a",
            ),
        ] {
            assert_eq!(becomes(&format!("{text} --bridge br0,replace=user")).unwrap().1, [says], "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_odd(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..10)) {
            crate::properties::argv(words.join("\0").as_bytes());
        }
    }

    const WORDS: [&str; 20] = [
        "--bridge",
        "br0,replace=user",
        "--bridge=br0,replace=user",
        "--bridge=br1,id=n",
        "-netdev",
        "user,id=n",
        "user,id=bridge0,hostfwd=a",
        "{\"type\":\"user\",\"id\":\"n\"}",
        "-nic",
        "user",
        "user,id=n,model=e1000,mac=2:0:0:0:0:9,",
        "-net",
        "nic",
        "nic,netdev=n",
        "-device",
        "e1000,netdev=n",
        "virtio-net-pci,netdev=bridge0,addr=3",
        "none",
        "",
        "disk",
    ];

    #[test]
    fn what_is_set_of_a_netdev_that_goes_is_told_and_goes_too() {
        let text = "-netdev user,id=n -device e1000,netdev=n,id=c -set netdev.n.hostfwd=tcp::2222-:22 -set device.c.romfile= \
                    -set netdev.nn.x=y --bridge br0,replace=user";
        let (words, notices) = becomes(text).unwrap();
        assert_eq!(words, "-device e1000,netdev=n,id=c,mac=M -set device.c.romfile= -set netdev.nn.x=y -netdev N=n");
        assert!(notices[0].starts_with("hostfwd=tcp::2222-:22 of -netdev user is dropped"), "{notices:?}");
    }

    #[test]
    fn a_hub_with_more_on_it_is_nobodys_card() {
        for text in ["-net nic -net nic -net user", "-net nic -net user -net socket,listen=:1"] {
            let said = becomes(&format!("{text} --bridge br0,replace=user")).unwrap_err().to_string();
            assert!(said.contains("--bridge br0: replace=user: a hub joins"), "{text}: {said}");
        }
    }
}
