//! The rooms of the code, read from their files: what each is, what it uses, and how large it is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the lowest floor to the highest, those of the crate that cannot act first. A room uses rooms before it only.
pub const FLOORS: [(&str, &[&str]); 2] = [
    (
        "model/src",
        &[
            "error",
            "text",
            "layout",
            "chain",
            "mac",
            "anonymous",
            "ifname",
            "optstr",
            "options",
            "bpf",
            "proc",
            "packet",
            "kernel",
            "firewall",
            "nat",
            "slips",
            "manager",
            "fabric",
            "share",
            "host",
            "rtnl",
            "step",
            "uplink",
            "request",
            "config",
            "complete",
            "journal",
            "plan",
            "argv",
            "unprivileged",
            "vm",
            "inventory",
            "check",
            "report",
        ],
    ),
    (
        "src",
        &[
            "output", "sys", "netlink", "monitor", "capture", "state", "vm", "launch", "network", "install", "doctor",
            "complete", "shim", "cli",
        ],
    ),
];

/// What no room is: the list of rooms, the programs, and what fuzzers and tests ask.
const NO_ROOMS: [&str; 3] = ["lib", "bin", "properties"];

/// One room.
pub struct Room {
    /// Its folder or file without the ending, such as `src/network`.
    pub path: String,
    /// Its name.
    pub name: String,
    /// The sentence that says what it is.
    pub what: String,
    /// The one that says what it may not do.
    pub may_not: String,
    /// The rooms of its own crate that it uses.
    pub uses: BTreeSet<String>,
    /// The code of all its files, without comments and tests.
    pub code: String,
    /// Their lines, with comments and tests.
    pub lines: usize,
}

/// All rooms, in the order of `FLOORS`; behind them those that stand in no list.
pub fn all(project: &Path) -> Vec<Room> {
    let mut rooms = Vec::new();
    for (root, names) in FLOORS {
        let mut found: Vec<String> = entries(&project.join(root)).iter().map(|path| stem(path)).collect();
        found.sort_by_key(|name| names.iter().position(|known| known == name).unwrap_or(usize::MAX));
        found.dedup();
        let found = found.into_iter().filter(|name| !NO_ROOMS.contains(&name.as_str()));
        rooms.extend(found.map(|name| room(project, root, name)));
    }
    rooms
}

fn room(project: &Path, root: &str, name: String) -> Room {
    let file = project.join(root).join(format!("{name}.rs"));
    let mut files = vec![file.clone()];
    below(&project.join(root).join(&name), &mut files);
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
    let code: String = texts.iter().map(|text| code_of(text)).collect();
    let mut head = texts[0].lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("");
    let mut sentence = || {
        let end = head.find(". ").or_else(|| head.len().checked_sub(1)).unwrap_or_default();
        let sentence = head[..end].trim().to_owned();
        head = head[end..].trim_start_matches('.').to_owned();
        sentence
    };
    let (what, may_not) = (sentence(), sentence());
    let uses = used(&code).into_iter().filter(|used| *used != name).collect();
    let lines = texts.iter().map(|text| text.lines().count()).sum();
    Room { path: format!("{root}/{name}"), name, what, may_not, uses, code, lines }
}

/// The code of a file: without comments, and up to its tests.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// What stands behind each `crate::`, in braces too.
fn used(code: &str) -> BTreeSet<String> {
    let first =
        |path: &str| path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
    let rest = code.split("crate::").skip(1);
    let names = rest.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => {
            list.split('}').next().unwrap_or_default().split(',').map(|path| first(path.trim())).collect::<Vec<_>>()
        }
        None => vec![first(rest)],
    });
    names.filter(|name| !name.is_empty()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in entries(folder) {
        match path.is_dir() {
            true => below(&path, files),
            false => files.push(path),
        }
    }
}

/// The table of docs/rooms.md, the highest floor first.
pub fn table(rooms: &[Room], with_lines: bool) -> String {
    let mut text =
        format!("| room | what it is | what it may not do | uses |{}\n", if with_lines { " lines |" } else { "" });
    text += &format!("|---|---|---|---|{}\n", if with_lines { "---:|" } else { "" });
    for room in rooms.iter().rev() {
        let uses = room.uses.iter().cloned().collect::<Vec<_>>().join(", ");
        let _ = write!(text, "| `{}` | {} | {} | {uses} |", room.path, room.what, room.may_not);
        if with_lines {
            let _ = write!(text, " {} |", room.lines);
        }
        text.push('\n');
    }
    text
}
