//! Man pages say what the programs have, all of it and nothing else.

use crate::support::files::{
    Words, entries, keys, known_options, long_options, options_of_the_shim, page, path, read, tokens, words,
};
use crate::support::{Lab, have};
use kvm_bridge::state::config;
use kvm_bridge::sys::place;
use kvm_bridge::{launch, vm};
use model::error;
use model::request::KEYS;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SHIM_PAGE: &str = "man/qemu-kvm-bridge.1";
const PAGE: &str = "man/kvm-bridge.1";

/// What stands behind `.It Cm` at the beginning of a line.
fn items<'a>(page: &'a str, kind: &str) -> Vec<&'a str> {
    page.lines().filter_map(|line| line.strip_prefix(kind)).collect()
}

#[test]
fn man_pages_name_the_options_keys_and_commands_that_there_are() {
    let (shim, own) = (page(SHIM_PAGE), page(PAGE));
    assert_eq!(words(items(&shim, ".It --").into_iter().filter_map(|item| tokens(item).next())), {
        let options = options_of_the_shim();
        options.iter().map(|option| option.trim_start_matches('-').to_owned()).collect::<Words>()
    });
    let forms = items(&shim, ".It Cm ").into_iter().map(|item| {
        let parts = item.split_whitespace().filter(|part| !["Ns", "Ar", "Cm"].contains(part));
        parts.collect::<String>()
    });
    assert_eq!(forms.collect::<Vec<_>>(), KEYS.map(|(key, form, _)| format!("{key}={form}")));

    let commands = items(&own, ".It Cm ").into_iter().map(|item| {
        let path = item.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        path.collect::<Vec<_>>().join(" ")
    });
    let leaves = entries().into_iter().filter(|entry| entry.subcommands.is_empty());
    let leaves: Words = leaves.filter_map(|entry| Some(entry.path.strip_prefix("kvm-bridge ")?.to_owned())).collect();
    assert_eq!(commands.collect::<Words>(), leaves);
    for entry in entries() {
        assert!(entry.options.is_subset(&long_options(&own)), "{PAGE} lacks one of {:?}", entry.options);
    }

    for (name, page) in [(SHIM_PAGE, &shim), (PAGE, &own)] {
        for option in long_options(page) {
            assert!(known_options().contains(&option), "{name} has {option}, which does not exist");
        }
        // `br0,key=value` of examples and `Cm key=` of the text.
        let of_a_value = page.split("--bridge ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        let of_a_value = of_a_value.flat_map(|value| value.split(',').skip(1)).filter_map(|part| part.split_once('='));
        let of_text = page.split("Cm ").skip(1).filter_map(|rest| rest.split_whitespace().next()?.split_once('='));
        for (key, _) in of_a_value.chain(of_text) {
            assert!(keys().contains(key), "{name} has {key}=, which does not exist");
        }
    }
}

#[test]
fn man_pages_name_the_environment_files_statuses_and_messages_that_there_are() {
    let shim = page(SHIM_PAGE);
    let sources = sources(&path("src")) + &sources(&path("model/src"));
    for variable in [launch::QEMU, launch::NICS] {
        assert!(shim.contains(&format!(".It Ev {variable}\n")), "{SHIM_PAGE} lacks {variable}");
    }
    for file in [config::SYSTEM, vm::SYSTEM] {
        assert!(shim.contains(&format!(".It Pa {file}\n")), "{SHIM_PAGE} lacks {file}");
    }
    assert!(shim.contains(&format!(".It Pa {}/NETNS/BRIDGE.json\n", place::RUN)), "{SHIM_PAGE} lacks the journal");
    for name in [SHIM_PAGE, PAGE] {
        let page = page(name);
        for status in [error::FAILED, error::CANNOT_EXECUTE, error::NOT_FOUND] {
            assert!(page.contains(&format!(".It {status}\n")), "{name} lacks the status {status}");
        }
        for variable in tokens(&page).filter(|token| token.starts_with("KVM_BRIDGE")) {
            assert!(sources.contains(&format!("\"{variable}\"")), "{name} has {variable}, which does not exist");
        }
    }
    let (_, messages) = shim.split_once(".Bl -diag\n").expect("messages");
    for message in messages.lines().filter_map(|line| line.strip_prefix(".It \"")?.strip_suffix('"')) {
        let fixed =
            ["FILE", "IFACE", "ADDRESS", "LINK"].iter().fold(message.to_owned(), |text, name| text.replace(name, "\0"));
        for part in fixed.split('\0').flat_map(|part| part.split(": ")) {
            assert!(sources.contains(part), "{SHIM_PAGE} has the message '{part}', which does not exist");
        }
    }
}

/// All man pages that are shipped.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(path("man")).expect("read man").flatten().map(|entry| entry.file_name());
    let mut pages: Vec<String> = entries.filter_map(|name| Some(format!("man/{}", name.into_string().ok()?))).collect();
    pages.retain(|name| other_name_of(name).is_none());
    pages.sort();
    pages
}

/// The page that this one is another name of.
fn other_name_of(name: &str) -> Option<String> {
    read(name).strip_prefix(".so man1/").map(|page| format!("man/{}", page.trim_end()))
}

#[test]
fn the_page_of_the_shim_is_found_by_what_one_calls_it() {
    assert_eq!(other_name_of("man/qemu-kvm-shim.1").as_deref(), Some(SHIM_PAGE));
    assert!(read("Makefile").contains("qemu-kvm-shim.1"));
}

#[test]
fn every_man_page_has_all_that_one_looks_for_and_is_installed() {
    let makefile = read("Makefile");
    for name in pages() {
        let page = page(&name);
        for section in ["ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "DIAGNOSTICS", "SECURITY CONSIDERATIONS"] {
            assert!(page.contains(&format!("\n.Sh {section}\n")), "{name} lacks {section}");
        }
        let file = name.trim_start_matches("man/");
        assert!(makefile.contains(file), "the Makefile does not install {file}");
    }
}

/// The quoted texts of the sources.
fn texts(sources: &str) -> impl Iterator<Item = &str> {
    sources
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[test]
fn man_pages_name_every_variable_and_file_of_the_sources() {
    let all: String = pages().iter().map(|name| page(name)).collect();
    let sources = sources(&path("src")) + &sources(&path("model/src"));
    let is_variable =
        |text: &&str| text.starts_with("KVM_BRIDGE") && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    // The one of the fault injection is in debug builds only.
    for variable in texts(&sources).filter(is_variable).filter(|name| *name != "KVM_BRIDGE_TEST_FAIL") {
        assert!(all.contains(&format!("Ev {variable}")), "no man page has {variable}");
    }
    let is_file = |text: &&str| {
        let ours = ["/etc/kvm-bridge", "/run/kvm-bridge", "/var/lib/kvm-bridge", "/var/cache/kvm-bridge", "/etc/qemu/"];
        ours.iter().any(|folder| text.starts_with(folder)) && !text.contains(char::is_whitespace) && !text.contains('{')
    };
    for file in texts(&sources).filter(is_file) {
        assert!(all.contains(file), "no man page has {file}");
    }
    for variable in all.lines().filter_map(|line| line.strip_prefix(".It Ev ")).flat_map(|names| names.split(" , ")) {
        let is_ours = variable.starts_with("KVM_BRIDGE");
        let of_others = [
            "PATH",
            "HOME",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
            "XDG_CACHE_HOME",
            "XDG_RUNTIME_DIR",
            "NO_COLOR",
            "SHELL",
            "TERM",
            "SUDO_USER",
        ];
        let is_read =
            if is_ours { sources.contains(&format!("\"{variable}\"")) } else { of_others.contains(&variable) };
        assert!(is_read, "a man page has {variable}, which nobody reads");
    }
}

#[test]
fn the_page_on_the_configuration_has_the_keys_that_there_are() {
    let Some(lab) = Lab::new() else { return };
    let page = page("man/kvm-bridge.conf.5");
    let (_, rest) = page.split_once(".Ss Keys of the file").expect("keys");
    let (of_file, of_bridge) = rest.split_once(".Ss Keys of a bridge").expect("keys of a bridge");
    let (of_bridge, _) = of_bridge.split_once(".Sh ").expect("another section");
    for (text, section) in [("nosuch = 1\n", of_file), ("[bridge.br0]\nnosuch = 1\n", of_bridge)] {
        lab.configure(text);
        let said = lab.shim("--bridge br0").run().exits_with(125).err;
        let (_, known) = said.split_once("The keys here are ").unwrap_or_else(|| panic!("no list of keys: {said}"));
        let known = known.lines().next().unwrap_or_default().trim_end_matches('.');
        let known: Words = words(known.split(", ").filter(|key| *key != "bridge"));
        assert_eq!(words(items(section, ".It Cm ").into_iter().filter_map(|item| item.split(' ').next())), known);
    }
}

#[test]
fn examples_of_the_configuration_are_what_its_page_shows() {
    if !have("mandoc") {
        return;
    }
    let shown =
        Command::new("mandoc").args(["-T", "ascii"]).arg(path("man/kvm-bridge.conf.5")).output().expect("mandoc");
    // Overstruck letters are how a terminal of old shows bold.
    let mut text = String::new();
    for c in String::from_utf8_lossy(&shown.stdout).chars() {
        match c {
            '\u{8}' => _ = text.pop(),
            c => text.push(c),
        }
    }
    let inline: Vec<&str> =
        text.split('`').skip(1).filter_map(|rest| rest.split_once('\'')).map(|(quoted, _)| quoted).collect();
    let inline = inline.into_iter().filter(|quoted| quoted.contains(" = "));
    let is_line = |line: &&str| {
        line.starts_with("           ") && !line.contains('`') && (line.contains(" = ") || line.trim().starts_with('['))
    };
    let block: Vec<&str> = text.lines().filter(is_line).map(str::trim).collect();
    assert!(block.len() >= 6, "{text}");
    let mut seen = 0;
    for example in inline.map(str::to_owned).chain(block.iter().map(|line| (*line).to_owned())) {
        toml::from_str::<toml::Table>(&example).unwrap_or_else(|error| panic!("{example}: {error}"));
        seen += 1;
    }
    assert!(seen > 6, "{seen}");
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("read the sources").flatten().map(|entry| entry.path());
    // What only tests say is not what the program says.
    let program = |text: String| text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
    let text = |path: PathBuf| {
        if path.is_dir() { sources(&path) } else { program(fs::read_to_string(path).unwrap_or_default()) }
    };
    entries.map(text).collect()
}

#[test]
fn mandoc_has_no_complaint_of_a_page() {
    if !have("mandoc") {
        return;
    }
    for name in pages() {
        let output =
            Command::new("mandoc").args(["-T", "lint", "-W", "all"]).arg(path(&name)).output().expect("mandoc");
        let said = String::from_utf8_lossy(&output.stdout);
        // Which other pages are installed, and known to mandoc's database, is no matter of ours.
        let of_others = ["referenced manual not found", "outdated mandoc.db lacks"];
        let is_of_others = |line: &&str| of_others.iter().any(|text| line.contains(text));
        let said: Vec<&str> = said.lines().filter(|line| !is_of_others(line)).collect();
        assert!(said.is_empty(), "{said:#?}");
    }
}
