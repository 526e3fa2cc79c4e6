//! What the fuzzers have found worth keeping, replayed.

// In a test these are how it fails.
#![allow(clippy::expect_used)]

use kvm_bridge_helper::properties::{acl, answers, options};
use std::fs;
use std::path::Path;

#[track_caller]
fn replay(name: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let files: Vec<_> = fs::read_dir(folder).expect("the corpus").flatten().map(|entry| entry.path()).collect();
    assert!(files.len() > 10, "{name}: {} files", files.len());
    for file in files {
        property(&fs::read(&file).expect("a file of the corpus"));
    }
}

#[test]
fn no_rules_are_too_odd() {
    replay("acl", acl);
}

#[test]
fn no_command_line_is_too_odd() {
    replay("options", options);
}

#[test]
fn no_answer_of_the_kernel_is_too_odd() {
    replay("netlink", answers);
}
