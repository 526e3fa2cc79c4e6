//! Texts that users see, kept in tests/snapshots and compared word by word.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test` writes what the programs say now; the diff is then read by a person.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

static WRITING: Mutex<()> = Mutex::new(());

/// Compares a text with the section of that name in a file of sections, each headed by `## name`.
#[track_caller]
pub fn matches(file: &str, name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(file);
    let _alone = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut sections = parse(&fs::read_to_string(&path).unwrap_or_default());
    let text = text.trim_end().to_owned();
    let known = sections.iter_mut().find(|(known, _)| known == name);

    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        match known {
            Some(section) => section.1 = text,
            None => sections.push((name.to_owned(), text)),
        }
        sections.sort();
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(&path, print(&sections)).expect("write the snapshot");
        return;
    }
    let known = known.map(|(_, text)| text.as_str()).unwrap_or("(no snapshot)");
    assert!(
        known == text,
        "{file} has, under \"{name}\":\n{known}\n\nbut now it is:\n{text}\n\nIf that is right: UPDATE_SNAPSHOTS=1"
    );
}

fn parse(file: &str) -> Vec<(String, String)> {
    let sections = file.split("## ").skip(1).filter_map(|section| section.split_once('\n'));
    sections.map(|(name, text)| (name.to_owned(), text.trim().to_owned())).collect()
}

fn print(sections: &[(String, String)]) -> String {
    let mut file = String::new();
    for (name, text) in sections {
        let _ = write!(file, "## {name}\n\n{text}\n\n");
    }
    file.trim_end().to_owned() + "\n"
}
