//! What holds of any input: for the fuzz targets, and for the tests that replay what those found.
#![doc(hidden)]
#![forbid(unsafe_code)]

use crate::doctor::ikconfig;
use crate::vm;
use model::options::help;
pub use model::properties::{argv, frames, journal, json, netlink, option_strings, readconfig};

/// What has to hold of any data.
pub type Property = fn(&[u8]);

/// Each target: its name, which is that of its corpus, and what has to hold.
pub const ALL: [(&str, Property); 10] = [
    ("argv", argv),
    ("optstr", option_strings),
    ("readconfig", readconfig),
    ("json", json),
    ("journal", journal),
    ("lease", lease),
    ("netlink", netlink),
    ("frame", frames),
    ("ikconfig", kernel_configuration),
    ("help", help_texts),
];

/// A VM's file.
pub fn lease(data: &[u8]) {
    if let Ok(read) = vm::parse_record(data) {
        let text = serde_json::to_vec(&read).unwrap_or_default();
        assert_eq!(vm::parse_record(&text).as_ref(), Ok(&read));
    }
}

/// A kernel's image, which may be anybody's file.
pub fn kernel_configuration(data: &[u8]) {
    let _ = ikconfig::in_image(data);
}

/// What a QEMU says of its options.
pub fn help_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for option in help::options(&text) {
        for form in &option.forms {
            let _ = (form.keys(), form.alternatives(), form.first().len());
        }
    }
    let _ = (help::list(&text), help::devices(&text), help::properties(&text), help::cpus(&text));
}
