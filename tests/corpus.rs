//! What the fuzzers have found worth keeping, replayed.

use crate::shipped::path;
use kvm_bridge::properties::ALL;
use std::collections::BTreeSet;
use std::fs;

#[test]
fn no_input_is_too_odd() {
    for (name, property) in ALL {
        let folder = path(&format!("tests/corpus/{name}"));
        let files: Vec<_> = fs::read_dir(&folder).expect("the corpus").flatten().map(|entry| entry.path()).collect();
        assert!(files.len() > 10, "{name}: {} files", files.len());
        for file in files {
            property(&fs::read(&file).expect("a file of the corpus"));
        }
    }
}

#[test]
fn journals_of_the_corpus_are_of_this_version() {
    let files = fs::read_dir(path("tests/corpus/journal")).expect("the corpus").flatten();
    let texts: Vec<String> = files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
    let read: Vec<_> = texts.iter().filter_map(|text| model::journal::parse(text).ok()).collect();
    assert!(read.len() > 4, "only {} of {} can be read", read.len(), texts.len());
    assert!(read.iter().any(|journal| journal.nat().is_some()), "each kind of uplink");
}

#[test]
fn each_property_has_its_fuzz_target() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(path(folder)).expect("a folder").flatten();
        entries.map(|entry| entry.path().file_stem().expect("a name").to_string_lossy().into_owned()).collect()
    };
    let wanted: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz/fuzz_targets"), wanted);
    assert_eq!(names("tests/corpus").into_iter().filter(|name| name != "README").collect::<BTreeSet<_>>(), wanted);
}
