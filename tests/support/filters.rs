//! Traffic control as `tc` tells it, and never our own code.

use serde_json::{Value, json};
use std::process::Command;

/// What `tc -j ARGS` says.
#[track_caller]
pub fn tc_json(args: &str) -> Value {
    let output = Command::new("tc").arg("-j").args(args.split_whitespace()).output().expect("run tc");
    assert!(output.status.success(), "tc -j {args}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.trim_ascii().is_empty() {
        return json!([]);
    }
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("tc -j {args} prints no JSON: {error}: {}", String::from_utf8_lossy(&output.stdout))
    })
}

#[track_caller]
pub fn tc(args: &str) {
    let output = Command::new("tc").args(args.split_whitespace()).output().expect("run tc");
    assert!(output.status.success(), "tc {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What `tc -s` says of the filters on a hook: what is one's to read.
#[track_caller]
pub fn text(link: &str, hook: &str) -> String {
    let output = Command::new("tc").args(["filter", "show", "dev", link, hook]).output().expect("run tc");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The MACs for which the host's frames go to the bridge: the entries of the hash table, as `tc` shows them.
pub fn entries(link: &str) -> Vec<String> {
    // u32 shows a match as words: of the address that a frame is for, two bytes and four, or four and two.
    let shown = text(link, "egress");
    let mut entries = Vec::new();
    let mut high: Option<String> = None;
    for line in shown.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"filter") {
            high = None;
        }
        let ["match", value, "at", offset] = words[..] else { continue };
        let (value, mask) = value.split_once('/').expect("a value and a mask");
        match (offset, mask) {
            ("-16", "0000ffff") => high = Some(value[4..].to_owned()),
            ("-12", "ffffffff") => {
                let Some(high) = high.take() else { continue };
                let digits = format!("{high}{value}");
                let pairs: Vec<&str> = (0..6).map(|at| &digits[2 * at..2 * at + 2]).collect();
                entries.push(pairs.join(":"));
            }
            _ => {}
        }
    }
    entries.sort();
    entries
}

/// All qdiscs and all filters of a network namespace, without counts.
pub fn all() -> Vec<String> {
    let mut lines = Vec::new();
    for qdisc in tc_json("qdisc show").as_array().expect("a list") {
        lines.push(qdisc.to_string());
        if qdisc["kind"] == "clsact" || qdisc["kind"] == "ingress" {
            let link = qdisc["dev"].as_str().expect("a name");
            for hook in ["ingress", "egress"] {
                let shown = text(link, hook);
                lines.extend(shown.lines().map(|line| format!("{link} {hook} {}", line.trim())));
            }
        }
    }
    lines
}
