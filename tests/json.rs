//! What `--json` prints is what docs/json.md says.

use crate::support::command::Ended;
use crate::support::{Lab, wait_for};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// For each command the fields that the page has, with their types.
fn documented() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).expect("the page");
    let mut commands: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for section in page.split("\n## ").skip(1) {
        let (command, text) = section.split_once('\n').expect("a section");
        for row in text.lines().filter_map(|line| line.strip_prefix("| `")) {
            let (field, rest) = row.split_once("` | ").expect("a field");
            let (types, _) = rest.split_once(" |").expect("a type");
            let types = types.split(" or ").map(str::to_owned).collect();
            commands.entry(command.to_owned()).or_default().insert(field.to_owned(), types);
        }
    }
    commands
}

/// Each value of a document, as the page would name it.
fn fields(path: &str, value: &Value, found: &mut BTreeMap<String, BTreeSet<String>>) {
    let kind = match value {
        Value::Object(fields_of) => {
            let dot = if path.is_empty() { "" } else { "." };
            return fields_of.iter().for_each(|(name, value)| fields(&format!("{path}{dot}{name}"), value, found));
        }
        Value::Array(items) => return items.iter().for_each(|item| fields(&format!("{path}[]"), item, found)),
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    found.entry(path.to_owned()).or_default().insert(kind.to_owned());
}

/// Runs it, and sees to it that all of it is documented, and all that is documented is there.
#[track_caller]
pub(crate) fn is_as_documented(lab: &Lab, command: &str, words: &str) {
    ended_as_documented(command, &lab.kvm_bridge(words).run());
}

/// The same of a command that prints a value on each line; all of them together have what is documented.
#[track_caller]
pub(crate) fn lines_are_as_documented(command: &str, out: &str) {
    let documented = documented().remove(command).unwrap_or_else(|| panic!("{command} is not on the page"));
    let mut found = BTreeMap::new();
    for line in out.lines() {
        fields("", &serde_json::from_str(line).expect("JSON"), &mut found);
    }
    assert_eq!(found, documented, "{out}");
}

#[track_caller]
fn ended_as_documented(command: &str, ended: &Ended) {
    let documented = documented().remove(command).unwrap_or_else(|| panic!("{command} is not on the page"));
    let value: Value =
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}{}", ended.out, ended.err));
    let mut found = BTreeMap::new();
    fields("", &value, &mut found);
    for (field, kinds) in &found {
        let known = documented.get(field).unwrap_or_else(|| panic!("{command} has {field}, which is not on the page"));
        assert!(kinds.is_subset(known), "{command}: {field} is {kinds:?}, the page says {known:?}");
    }
    for field in documented.keys() {
        assert!(found.contains_key(field), "{command} lacks {field}: {value:#}");
    }
    if command == "doctor" {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).expect("the page");
        for check in value["checks"].as_array().expect("a list") {
            assert!(page.contains(&format!("`{}`", check["name"].as_str().expect("a name"))), "{check}");
        }
    }
}

#[test]
fn every_command_prints_what_the_page_says() {
    let Some(lab) = Lab::with_address() else { return };
    is_as_documented(&lab, "plan", "plan --json -- --bridge br0 -M microvm");
    is_as_documented(&lab, "up", "up br0 --tap tap9 --user root --save --json");
    if !lab.lan.serve_dhcp() {
        return;
    }
    let go = lab.new_file("go");
    let mut guest = lab.shim("--bridge br0 -name alice").then(&format!("until:{},dhcp,hold", go.display())).start();
    guest.qemu();
    // It listens.
    lab.reapers_rest();
    std::fs::write(go, "").expect("write a file");
    let mac = guest.qemu().macs()[0].clone();
    let has_lease = || lab.kvm_bridge("status br0 --json").run().out.contains("\"seconds_left\"").then_some(());
    wait_for("the lease to be known", 10, has_lease);
    lab.ip(&format!("neigh add 10.77.0.100 lladdr {mac} dev eth0"));
    // One of somebody else's, with what bridges of ours do not have.
    lab.ip("link add name other type bridge");
    lab.ip("addr add 10.9.0.1/24 dev other");
    let behind = lab.shim("--bridge br1,uplink=nat,forward=tcp:2222:22 -name bob").boot();
    lab.kvm_bridge("up br2 --uplink vxlan:7:remote=10.77.0.1").run().succeeds();
    // And with what is amiss on one of ours.
    lab.reaper_of("br0").kill();
    is_as_documented(&lab, "status", "status --json");
    behind.kill();
    lab.waits_until_gone("br1");
    lab.kvm_bridge("down br2").run().succeeds();
    lab.ip("link del other");
    is_as_documented(&lab, "ip", "ip alice --json");
    is_as_documented(&lab, "hosts", "hosts --json");
    is_as_documented(
        &lab,
        "doctor",
        "doctor br0 --quick --incoming alice --json -- --bridge br0 -kernel /no/kernel -append x",
    );
    is_as_documented(&lab, "recover", "recover --json");
    is_as_documented(&lab, "fabric init", "fabric init --as 65000 --peers 10.77.0.1,10.77.0.2 --json");
    is_as_documented(&lab, "mac list", "mac list --json");
    is_as_documented(&lab, "down", "down br0 --force --json");
    guest.kill();
    is_as_documented(&lab, "mac forget", "mac forget alice --json");
    is_as_documented(&lab, "mac get", "mac get alice --new --json");
    is_as_documented(&lab, "mac set", "mac set carol 02:00:5e:00:00:01 --json");
    is_as_documented(&lab, "mac export", "mac export --json");
    let file = lab.dir.path().join("export.json");
    fs::write(&file, r#"[{"vm":"name:dave","slots":[["02:00:5e:00:00:02"]]}]"#).expect("write an export");
    is_as_documented(&lab, "mac import", &format!("mac import {} --json", file.display()));
    lab.becomes_as_before();
    assert_eq!(documented().len(), 19, "each command has its section");
}

#[test]
fn an_installation_prints_what_the_page_says() {
    let Some(lab) = crate::install::lab() else { return };
    for words in ["--allow br0", "--check --allow br0", "--uninstall"] {
        let install = lab.program("/run/bin/kvm-bridge").words(&format!("install --json {words}"));
        ended_as_documented("install", &install.run().succeeds());
    }
}

#[test]
fn what_a_check_finds_is_told_piece_by_piece() {
    let Some(lab) = crate::install::lab() else { return };
    let install = |words: &str| lab.program("/run/bin/kvm-bridge").words(&format!("install --json {words}")).run();
    install("--allow br0").succeeds();
    let found = |status: u8| -> Value {
        let ended = install("--check").exits_with(status.into());
        serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {}", ended.out))
    };
    assert_eq!(found(0)["findings"], serde_json::json!([]));
    crate::support::user::write_rules(
        "/etc/kvm-bridge/bridge.conf",
        "# ours\nallow br0 user no-such-user\nallow br1,br2\n",
    );
    let value = found(125);
    let findings = value["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 2, "{value}");
    for (line, problem, fix) in [(2, "the user no-such-user", "take the line out"), (3, "no bridge", "allow NAME")] {
        let finding = findings.iter().find(|finding| finding["line"] == line).expect("its line");
        assert_eq!(finding["file"], "/etc/kvm-bridge/bridge.conf", "{value}");
        assert!(finding["problem"].as_str().is_some_and(|text| text.contains(problem)), "{value}");
        assert!(finding["fix"].as_str().is_some_and(|text| text.contains(fix)), "{value}");
        assert!(value["error"]["what"].as_str().is_some_and(|text| text.contains(problem)), "{value}");
    }
    crate::support::user::write_rules("/etc/kvm-bridge/bridge.conf", "allow br0\nallwo br1\n");
    let finding = &found(125)["findings"][0];
    assert_eq!((&finding["file"], &finding["line"]), (&"/etc/kvm-bridge/bridge.conf".into(), &2.into()), "{finding}");
    install("--uninstall");
}

#[test]
fn no_command_is_without_json() {
    let mut definition = kvm_bridge::cli::definition();
    definition.build();
    fn check(command: &clap::Command) {
        let leaves: Vec<_> = command.get_subcommands().collect();
        let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
        // These become the command that they are given, and this one a cable.
        let has_json = has_json || ["enter", "ssh", "connect"].contains(&command.get_name());
        assert!(has_json || !leaves.is_empty(), "{}", command.get_name());
        // What is hidden is called by programs of ours, and speaks as they need it.
        leaves.into_iter().filter(|command| !command.is_hide_set()).for_each(check);
    }
    check(&definition);
}

#[test]
fn an_error_is_json_too() {
    let Some(lab) = Lab::new() else { return };
    for (words, status, what) in [
        ("status nosuch --json", 125, "there is no bridge nosuch"),
        ("ip nosuch --json", 125, "nosuch"),
        ("up br0 --uplink nosuch --json", 125, "there is no interface nosuch"),
        ("mac forget nosuch --json", 125, "no VM called nosuch has a MAC"),
        ("up --json", 125, "required"),
        ("stauts --json", 125, "no command stauts"),
        ("status --jsno --json", 125, "no option --jsno"),
        ("up br0 --wait x --json", 125, "--wait cannot be 'x'"),
        ("mac set alice zz --json", 125, "'zz' is no MAC address"),
        ("plan --json", 125, "no --bridge to plan for"),
        ("plan --json -- --bridge br0,uplnk=eth0", 125, "uplnk"),
    ] {
        let ended = lab.kvm_bridge(words).run().exits_with(status);
        let value: Value =
            serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{words}: {error}: {}", ended.out));
        assert!(value["error"]["what"].as_str().is_some_and(|said| said.contains(what)), "{words}: {value}");
        assert_eq!(value["error"]["status"], status, "{words}: {value}");
        assert!(value["error"]["remedy"].is_string() && ended.err.contains(what), "{words}: {value}");
    }
    // With guests down refuses, and a program wants to know which.
    lab.kvm_bridge("up br0 --uplink none").run().succeeds();
    let guest = lab.shim("--bridge br0").boot();
    let ended = lab.kvm_bridge("down br0 --json").run();
    let value: Value = serde_json::from_str(&ended.out).expect("JSON");
    let own = &value["error"]["guests"][0];
    assert_eq!((&own["tap"], &own["user"]), (&"kvb0".into(), &"root".into()), "{value}");
    assert_eq!(own["pid"], guest.pid(), "{value}");
    // Of several bridges each has its answer, in one value.
    lab.kvm_bridge("up br1 --uplink none").run().succeeds();
    let ended = lab.kvm_bridge("down --all --json").run().exits_with(1);
    let value: Value = serde_json::from_str(&ended.out).expect("one value");
    let of =
        |name: &str| value.as_array().expect("a list").iter().find(|one| one["bridge"] == name).expect("its answer");
    assert_eq!(
        (&of("br0")["error"]["guests"][0]["tap"], &of("br1")["removed"]),
        (&"kvb0".into(), &true.into()),
        "{value}"
    );
    guest.kill();
    lab.kvm_bridge("down br0").run().succeeds();
}

#[test]
fn help_is_a_command_too() {
    let Some(lab) = Lab::new() else { return };
    for (asked, means) in [("help up", "up --help"), ("help", "--help"), ("help mac set", "mac set --help")] {
        assert_eq!(lab.kvm_bridge(asked).run().succeeds().out, lab.kvm_bridge(means).run().succeeds().out, "{asked}");
    }
}

/// A JSON Schema of what the page says of a command.
fn schema(command: &str) -> Value {
    let fields = documented().remove(command).expect("a section");
    let mut root = serde_json::json!({ "type": "object" });
    for (field, types) in &fields {
        let mut at = &mut root;
        for part in field.split('.') {
            let name = part.trim_end_matches("[]");
            at = &mut at["properties"][name];
            if part.ends_with("[]") {
                at["type"] = "array".into();
                at = &mut at["items"];
            }
            if at["type"].is_null() {
                at["type"] = "object".into();
            }
        }
        let types: Vec<&String> = types.iter().collect();
        at["type"] = match types.as_slice() {
            [one] => (*one).clone().into(),
            several => serde_json::json!(several),
        };
    }
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = format!("kvm-bridge {command} --json").into();
    root
}

#[test]
fn the_schema_of_status_is_that_of_the_page() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.schema.json");
    let wanted = format!("{:#}\n", schema("status"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &wanted).expect("write the schema");
    }
    assert_eq!(fs::read_to_string(&path).unwrap_or_default(), wanted, "UPDATE_SNAPSHOTS=1 writes it");
}
