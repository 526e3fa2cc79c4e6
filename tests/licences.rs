//! What the programs are linked with, and under which licences: docs/dependencies.md is what Cargo.lock says, and deny.toml
//! allows all of it.

use crate::support::files::path;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::process::Command;

const PAGE: &str = "docs/dependencies.md";

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
    let mut page = "# What the programs are linked with

All of it is from crates.io, at the versions of `Cargo.lock`, under licences that `deny.toml` allows (`cargo deny check`).
The helper for users has a tree of its own, which is a part of this one.

| crate | version | licence |
|---|---|---|
"
    .to_owned();
    for (name, (version, licence)) in dependencies() {
        let name = name.split(' ').next().unwrap_or_default();
        let _ = writeln!(page, "| {name} | {version} | {licence} |");
    }
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(path(PAGE), &page).expect("write the page");
    }
    let written = fs::read_to_string(path(PAGE)).expect("read the page");
    assert_eq!(written, page, "{PAGE} is out of date: UPDATE_SNAPSHOTS=1 cargo test licences::");
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
