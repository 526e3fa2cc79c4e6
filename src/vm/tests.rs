//! Addresses and slots as files that others, kills and power cuts have touched.

use super::*;
use model::argv::scan::Identity;

pub(super) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store { folder: folder.path().join("state") };
    (folder, store)
}

const ONE: Run = Run { is_incoming: false, slot: None };

fn key(name: &str) -> VmId {
    id_of(&Identity::Name(name.into()))
}

#[test]
fn an_address_is_kept_and_a_second_run_at_once_has_its_own() {
    let (_folder, store) = store();
    let first = store.take(&key("a"), ONE, &[None, None], |_| false).unwrap();
    let second = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
    assert_eq!((first.slot, second.slot), (0, 1));
    assert!(!first.macs.contains(&second.macs[0]));
    assert_eq!(store.peek(&key("a"), ONE, &[None]).unwrap(), [None]);
    let macs = [first.macs.clone(), second.macs.clone()];
    drop((first, second));
    let again = [store.take(&key("a"), ONE, &[None, None], |_| false), store.take(&key("a"), ONE, &[None], |_| false)];
    assert_eq!(again.map(|assigned| assigned.unwrap().macs), macs);
}

#[test]
fn a_guest_that_moves_keeps_its_slot_until_the_last_of_both_has_gone() {
    let (_folder, store) = store();
    let a = key("a");
    let incoming = Run { is_incoming: true, slot: None };
    // A child that another test starts has our descriptors for a moment, and with them a lock that was let go.
    let soon = |run: Run| {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match store.take(&a, run, &[None], |_| false) {
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                taken => return taken.unwrap(),
            }
        }
    };
    let source = store.take(&a, ONE, &[None], |_| false).unwrap();
    let mac = source.macs[0];
    assert_eq!(store.peek(&a, incoming, &[None]).unwrap(), [Some(mac)]);
    let target = store.take(&a, incoming, &[None], |_| false).unwrap();
    assert_eq!((target.slot, target.macs[0], target.is_new), (0, mac, false));
    let error = store.take(&a, incoming, &[None], |_| false).unwrap_err().to_string();
    assert!(error.contains("is moving already"), "{error}");
    // Beside both another run has another address.
    assert_eq!(store.take(&a, ONE, &[None], |_| false).unwrap().slot, 1);
    drop(source);
    assert_ne!(store.take(&a, ONE, &[None], |_| false).unwrap().macs[0], mac, "it runs at its new place");
    assert!(store.forget("a").is_err() && store.set("a", 0, 0, Mac([2, 0, 0, 0, 0, 9])).is_err());
    // And back.
    let back = soon(incoming);
    drop(target);
    assert_eq!((back.slot, back.macs[0]), (0, mac));
    let second = store.take(&a, ONE, &[None], |_| false).unwrap();
    let error = store.take(&a, incoming, &[None], |_| false).unwrap_err().to_string();
    assert!(error.contains("slots 0, 1") && error.contains("slot=0"), "{error}");
    let said = Run { slot: Some(1), ..incoming };
    assert_eq!(store.take(&a, said, &[None], |_| false).unwrap().macs, second.macs);
    assert!(store.take(&a, Run { slot: Some(1), ..ONE }, &[None], |_| false).is_err());
    drop((second, back));
    // Nobody runs: it comes from elsewhere.
    let moved = loop {
        let moved = soon(incoming);
        // The other slot's lock may be the one that is still held.
        if moved.slot == 0 {
            break moved;
        }
    };
    assert_eq!(moved.macs, [mac]);
    drop(moved);
    assert_eq!(soon(Run { slot: Some(1), ..ONE }).slot, 1);
    assert!(store.take(&key("b"), incoming, &[None], |_| false).unwrap().is_new);
}

#[test]
fn the_next_start_forgets_what_a_kill_left_unfinished() {
    let (_folder, store) = store();
    let (a, kept) = (key("a"), store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs[0]);
    // Killed before the record took effect: one claim has its name, one has none yet, one is another VM's.
    let other = store.take(&key("b"), ONE, &[None], |_| false).unwrap().macs[0];
    let left: [Mac; 2] = ["92:00:00:00:00:01".parse().unwrap(), "92:00:00:00:00:02".parse().unwrap()];
    fs::write(store.claim(left[0]), &a.text).unwrap();
    fs::write(store.claim(left[1]), "").unwrap();
    let slots = vec![vec![Some(kept), Some(left[0]), Some(left[1]), Some(other)]];
    let unfinished = Record::new(&a, slots);
    fs::write(store.file(&a, "new"), serde_json::to_vec(&unfinished).unwrap()).unwrap();
    assert_eq!(store.take(&a, ONE, &[None, None], |_| false).unwrap().macs[0], kept);
    assert_eq!(fs::read_dir(store.folder.join("macs")).unwrap().count(), 3);
    assert!(store.claim(kept).exists() && store.claim(other).exists() && !store.file(&a, "new").exists());
}

#[test]
fn a_claim_that_was_left_without_a_name_is_whose_record_has_the_address() {
    let (_folder, store) = store();
    let (left, bs) = (Mac([0x92, 0, 0, 0, 0, 1]), store.take(&key("b"), ONE, &[None], |_| false).unwrap().macs[0]);
    for mac in [left, bs] {
        fs::write(store.claim(mac), "").unwrap();
    }
    store.set("a", 0, 0, left).unwrap();
    assert_eq!(fs::read_to_string(store.claim(left)).unwrap(), "name:a");
    assert_eq!(store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs, [left]);
    let refused = store.set("a", 0, 0, bs).unwrap_err().to_string();
    assert!(refused.contains("is the address of name:b"), "{refused}");
    fs::write(store.file(&key("b"), "json"), "broken").unwrap();
    assert!(store.set("a", 0, 0, bs).is_err(), "what can't be read may have it");
}

#[test]
fn a_run_that_is_just_ending_leaves_its_address_to_the_next() {
    let (_folder, store) = store();
    let first = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
    let mac = first.macs[0];
    let end = std::thread::spawn(move || {
        std::thread::sleep(LEAVING / 3);
        drop(first);
    });
    let second = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
    end.join().unwrap();
    assert_eq!((second.slot, second.macs[0]), (0, mac));
}

#[test]
fn an_address_that_the_bridge_knows_is_not_given() {
    let (_folder, store) = store();
    let mut asked = Vec::new();
    let assigned = store.take(&key("a"), ONE, &[None], |mac| {
        asked.push(mac);
        asked.len() < 3
    });
    assert_eq!(assigned.unwrap().macs, [asked[2]]);
}

#[test]
fn a_given_address_is_not_kept() {
    let (_folder, store) = store();
    let given = Mac([2, 0, 0, 0, 0, 1]);
    assert_eq!(store.take(&key("a"), ONE, &[Some(given)], |_| false).unwrap().macs, [given]);
    assert!(store.list().unwrap().0.is_empty());
}

#[test]
fn an_address_of_a_vm_that_runs_is_given_to_no_other() {
    let (_folder, store) = store();
    let running = store.take(&key("a"), ONE, &[None], |_| false).unwrap();
    let given = [Some(running.macs[0])];
    let refused = store.take(&key("b"), ONE, &given, |_| false).unwrap_err().to_string();
    assert!(refused.contains("is the address of a, which is running"), "{refused}");
    assert!(store.take(&key("a"), ONE, &given, |_| false).is_err(), "a second run of the same VM");
    drop(running);
    drop(store.take(&key("b"), ONE, &given, |_| false).unwrap());
    assert_eq!(store.take(&key("a"), ONE, &given, |_| false).unwrap().macs, [given[0].unwrap()]);
}

#[test]
fn a_broken_file_is_never_reset() {
    let (_folder, store) = store();
    drop(store.take(&key("a"), ONE, &[None], |_| false).unwrap());
    let path = store.file(&key("a"), "json");
    for broken in ["", "{", "{}", r#"{"version":2,"vm":"name:a","slots":[]}"#, r#"{"version":1,"vm":"x","slots":[]}"#] {
        fs::write(&path, broken).unwrap();
        assert!(store.take(&key("a"), ONE, &[None], |_| false).is_err(), "{broken}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    fs::write(&path, "{").unwrap();
    store.forget("a").unwrap();
    assert_eq!(fs::read_to_string(path.with_extension("broken")).unwrap(), "{");
    store.take(&key("a"), ONE, &[None], |_| false).unwrap();
}

fn rewrite(store: &Store, name: &str, from: Mac, to: Mac) {
    let path = store.file(&key(name), "json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&from.to_string(), &to.to_string())).unwrap();
}

#[test]
fn an_address_that_no_card_can_have_is_not_given_to_one() {
    let (_folder, store) = store();
    let macs = store.take(&key("a"), ONE, &[None, None], |_| false).unwrap().macs;
    for (wrong, why) in [(Mac([3, 0, 0, 0, 0, 1]), "group address"), (macs[1], "another network card")] {
        rewrite(&store, "a", macs[0], wrong);
        let error = store.take(&key("a"), ONE, &[None, None], |_| false).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("mv "), "{error}");
        rewrite(&store, "a", wrong, macs[0]);
    }
}

#[test]
fn an_address_that_two_vms_keep_is_refused_to_the_second() {
    let (_folder, store) = store();
    let [a, b] = ["a", "b"].map(|name| store.take(&key(name), ONE, &[None], |_| false).unwrap().macs[0]);
    rewrite(&store, "b", b, a);
    let error = store.take(&key("b"), ONE, &[None], |_| false).unwrap_err().to_string();
    assert!(error.contains("is the address of a and of b\n  Have b get another: kvm-bridge mac forget b"), "{error}");
    store.forget("b").unwrap();
    assert_ne!(store.take(&key("b"), ONE, &[None], |_| false).unwrap().macs[0], a);
    assert_eq!(fs::read_to_string(store.claim(a)).unwrap(), key("a").text);
}

#[test]
fn a_claim_that_a_power_cut_took_is_made_again() {
    let (_folder, store) = store();
    let mac = store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs[0];
    let claim = store.claim(mac);
    fs::remove_file(&claim).unwrap();
    for left in [None, Some(""), Some("name:forgotten")] {
        left.iter().for_each(|text| fs::write(&claim, text).unwrap());
        assert_eq!(store.take(&key("a"), ONE, &[None], |_| false).unwrap().macs, [mac]);
        assert_eq!(fs::read_to_string(&claim).unwrap(), key("a").text);
    }
}

#[test]
fn files_of_version_1_are_read_for_ever() {
    let record: Record = serde_json::from_str(include_str!("../../tests/fixtures/lease-1.json")).unwrap();
    assert_eq!((record.vm.as_str(), record.slots.len()), ("name:alice", 2));
    assert_eq!(record.slots[0][1], Some(Mac([0x92, 0xf0, 0x0b, 0x2a, 0x4c, 0x12])));
}

#[test]
fn keys_are_told_apart() {
    let text = |name: &[u8]| id_of(&Identity::Name(name.to_vec())).text;
    assert_ne!(text(b"a\\x"), text(b"a\\\\x"));
    assert_ne!(text(b"a\xff"), text(b"a\\xff"));
    assert_eq!(key("../../etc/passwd").file_name().matches('/').count(), 0);
    assert_eq!(key("").display(), "unnamed");
}
