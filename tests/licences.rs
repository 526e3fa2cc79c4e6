//! docs/dependencies.md has the reason for every crate of the manifests, and the licences of all crates of Cargo.lock, which
//! deny.toml allows.

use crate::support::files::path;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::process::Command;

const PAGE: &str = "docs/dependencies.md";
/// The end of what is written by hand.
const TABLE: &str = "| crate | version | licence |\n|---|---|---|\n";

/// The crates that are linked, with version and licence: without those for tests and builds, and for this kind of machine.
fn dependencies() -> BTreeMap<String, (String, String)> {
    let host = Command::new("rustc").arg("-vV").output().expect("run rustc").stdout;
    let host = String::from_utf8(host).expect("UTF-8");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned();
    let words = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host];
    let output = Command::new(env!("CARGO")).args(words).current_dir(path("")).output().expect("run cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let list = |value: &Value| value.as_array().expect("an array").clone();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| (node["id"].as_str().expect("an id").to_owned(), node))
        .collect();
    let mut wanted: Vec<String> =
        list(&metadata["workspace_members"]).iter().map(|id| id.as_str().expect("an id").to_owned()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        if seen.insert(id.clone()) {
            for dependency in list(&nodes[&id]["deps"]) {
                if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    wanted.push(dependency["pkg"].as_str().expect("an id").to_owned());
                }
            }
        }
    }
    let packages = list(&metadata["packages"])
        .into_iter()
        .filter(|package| seen.contains(package["id"].as_str().expect("an id")) && !package["source"].is_null());
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    packages
        .map(|package| {
            (
                format!("{} {}", text(&package["name"]), text(&package["version"])),
                (text(&package["version"]), text(&package["license"])),
            )
        })
        .collect()
}

#[test]
fn the_page_lists_every_crate_with_its_licence() {
    let written = fs::read_to_string(path(PAGE)).expect("read the page");
    let (reasons, _) = written.split_once(TABLE).expect("the table");
    let mut page = format!("{reasons}{TABLE}");
    for (name, (version, licence)) in dependencies() {
        let name = name.split(' ').next().unwrap_or_default();
        let _ = writeln!(page, "| {name} | {version} | {licence} |");
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(path(PAGE), &page).expect("write the page");
    } else {
        assert_eq!(written, page, "{PAGE} is out of date: UPDATE_SNAPSHOTS=1 cargo test licences::");
    }
}

#[test]
fn the_page_has_a_reason_for_every_crate_that_is_taken_and_for_no_other() {
    let page = fs::read_to_string(path(PAGE)).expect("read the page");
    let (_, rest) = page.split_once("## Why each crate is used").expect("the reasons");
    let (reasons, _) = rest.split_once("\n## ").expect("the next section");
    let rows = reasons.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let names =
        rows.filter_map(|line| line.strip_prefix("| ")?.split_once(" | ")).flat_map(|(names, _)| names.split(", "));
    let manifests = ["Cargo.toml", "model/Cargo.toml", "helper/Cargo.toml", "port/Cargo.toml"];
    let taken = manifests.iter().flat_map(|name| {
        let text = fs::read_to_string(path(name)).expect("read a manifest");
        let manifest: toml::Table = toml::from_str(&text).expect("a manifest");
        let dependencies = manifest["dependencies"].as_table().expect("a table").clone();
        dependencies.into_iter().map(|(name, of)| match of.get("package").and_then(toml::Value::as_str) {
            Some(package) => package.to_owned(),
            None => name,
        })
    });
    assert_eq!(names.map(str::to_owned).collect::<BTreeSet<_>>(), taken.collect::<BTreeSet<_>>());
}

#[test]
fn every_licence_is_allowed() {
    let text = fs::read_to_string(path("deny.toml")).expect("read deny.toml");
    let list = text.lines().find_map(|line| line.strip_prefix("allow = [")).expect("a list");
    let allowed: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    for (name, (_, licence)) in dependencies() {
        // `A OR B`: one of them; `A AND B`: all of them.
        let all = licence.replace(['(', ')'], "");
        let is_allowed = all
            .split(" AND ")
            .all(|any| any.split(" OR ").flat_map(|one| one.split('/')).any(|one| allowed.contains(&one.trim())));
        assert!(is_allowed, "{name}: {licence} is not in deny.toml");
    }
}
