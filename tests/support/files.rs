//! The files that are shipped, as text, and what the programs say that has to be in them.

use model::request::KEYS;
use model::request::help;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub const BASH: &str = "completions/kvm-bridge.bash";
pub const LOADER: &str = "completions/kvm-bridge.load.bash";
pub const ZSH: &str = "completions/_kvm-bridge";
pub const FISH: &str = "completions/kvm-bridge.fish";

pub type Words = BTreeSet<String>;

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
}

pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Words {
    words.into_iter().map(str::to_owned).collect()
}

/// The runs of letters, digits, dashes and underscores.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c)).filter(|token| !token.is_empty())
}

pub fn long_options(text: &str) -> Words {
    let is_option = |token: &&str| token.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic));
    words(tokens(text).filter(is_option))
}

pub fn options_of_the_shim() -> Words {
    long_options(&help::text(""))
}

/// One command of kvm-bridge, by the words that lead to it.
pub struct Entry {
    pub path: String,
    pub subcommands: Words,
    pub options: Words,
    /// `--`, if the words behind it are those of qemu-kvm.
    pub end_of_options: Option<String>,
}

pub fn entries() -> Vec<Entry> {
    fn walk(command: &clap::Command, path: &str, entries: &mut Vec<Entry>) {
        let path =
            if path.is_empty() { command.get_name().to_owned() } else { format!("{path} {}", command.get_name()) };
        let options = command.get_arguments().filter_map(|argument| argument.get_long());
        let options = options.map(|long| format!("--{long}")).collect();
        let shown = || command.get_subcommands().filter(|command| !command.is_hide_set());
        let subcommands = words(shown().map(clap::Command::get_name));
        let takes_qemu = command.get_positionals().any(clap::Arg::is_last_set);
        let end_of_options = takes_qemu.then(|| "--".to_owned());
        entries.push(Entry { path: path.clone(), subcommands, options, end_of_options });
        shown().for_each(|command| walk(command, &path, entries));
    }
    let mut definition = kvm_bridge::cli::definition();
    definition.build();
    let mut entries = Vec::new();
    walk(&definition, "", &mut entries);
    entries
}

pub fn known_options() -> Words {
    entries().into_iter().flat_map(|entry| entry.options).chain(options_of_the_shim()).collect()
}

pub fn keys() -> Words {
    words(KEYS.iter().map(|(key, ..)| *key))
}

/// A page's text with `--option` for mdoc's `Fl -option`.
pub fn page(name: &str) -> String {
    read(name).replace("\\-", "-").replace("Fl -", "--")
}
