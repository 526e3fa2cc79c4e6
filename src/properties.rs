//! What holds of any input: for the fuzz targets, and for the tests that replay what those found.
#![doc(hidden)]
#![forbid(unsafe_code)]

use model::options::help;
pub use model::properties::{
    argv, frames, journal, json, kernel_configuration, lease, netlink, option_strings, readconfig,
};

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
