//! The host's network as iproute2 tells it, to be compared byte for byte.

use super::filters;
use serde_json::Value;
use std::collections::HashSet;
use std::process::Command;

const VIEWS: [&str; 4] = ["-d link", "addr", "route show table all", "-6 route show table all"];

/// What changes by itself while a host does nothing.
const AGEING: [&str; 12] = [
    "valid_life_time",
    "preferred_life_time",
    "expires",
    "stats",
    "stats64",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "message_age_timer",
    "forward_delay_timer",
    "hold_timer",
];

/// Each view as lines that can be compared: one for each value of a link, one for each route; qdiscs, filters and tables of
/// nftables too.
#[derive(Clone, PartialEq)]
pub struct State(Vec<(&'static str, Vec<String>)>);

impl State {
    pub fn now() -> Self {
        let mut views: Vec<_> = VIEWS.iter().map(|view| (*view, lines(&comparable(ip_json(view))))).collect();
        views.push(("tc", filters::all()));
        views.push(("nft list tables", tables()));
        Self(views)
    }

    /// Without links that are TAPs and what they have.
    pub fn now_without_taps() -> Self {
        let mut state = Self::now();
        for (_, lines) in &mut state.0 {
            lines.retain(|line| !line.starts_with("kvb") && !line.contains("\"dev\":\"kvb"));
        }
        state
    }

    /// The lines that differ, for a person to read; None if there are none.
    pub fn difference(&self, later: &Self) -> Option<String> {
        let differing: Vec<String> = (self.0.iter().zip(&later.0))
            .filter(|((_, before), (_, after))| before != after)
            .map(|((view, before), (_, after))| format!("{view}\n{}", lines_that_differ(before, after)))
            .collect();
        (!differing.is_empty()).then(|| differing.join("\n"))
    }
}

/// Our tables of nftables, where there is that program.
fn tables() -> Vec<String> {
    let output = Command::new("nft").args(["list", "tables"]).output();
    output
        .map(|output| {
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .filter(|line| line.contains("kvm_bridge") || line.contains("kvmb"))
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default()
}

/// Runs `ip -j ARGS` in the namespace of the calling thread.
#[track_caller]
pub fn ip_json(args: &str) -> Value {
    let output = Command::new("ip").arg("-j").args(args.split_whitespace()).output().expect("run ip");
    assert!(output.status.success(), "ip -j {args}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.trim_ascii().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_slice(&output.stdout).expect("ip -j prints JSON")
}

/// Whether addresses and link states have come to rest.
pub fn is_settled() -> bool {
    let links = ip_json("-d link");
    let at_rest = links.as_array().expect("a list").iter().all(|link| {
        let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag));
        match link["operstate"].as_str() {
            _ if !has("UP") || has("LOOPBACK") => true,
            Some("UP") => has("LOWER_UP"),
            Some("DOWN" | "LOWERLAYERDOWN") => !has("LOWER_UP"),
            // These never say more.
            Some("UNKNOWN") => link["linkinfo"]["info_kind"] == "tun" || link["linkinfo"]["info_kind"] == "ifb",
            _ => false,
        }
    });
    at_rest && ip_json("-6 addr show tentative").as_array().is_none_or(Vec::is_empty)
}

/// A part of what iproute2 says, less what changes by itself.
pub fn comparable(mut json: Value) -> Value {
    without_ageing(&mut json);
    json
}

fn lines(json: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for item in json.as_array().expect("a list") {
        match item["ifname"].as_str() {
            Some(name) => flatten(name, item, &mut lines),
            None => lines.push(item.to_string()),
        }
    }
    lines
}

fn flatten(path: &str, json: &Value, lines: &mut Vec<String>) {
    match json {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(&format!("{path} {name}"), value, lines))
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(i, item)| flatten(&format!("{path} {i}"), item, lines));
        }
        value => lines.push(format!("{path}: {value}")),
    }
}

fn without_ageing(json: &mut Value) {
    match json {
        Value::Array(items) => items.iter_mut().for_each(without_ageing),
        Value::Object(fields) => {
            fields.retain(|name, _| !AGEING.contains(&name.as_str()));
            fields.values_mut().for_each(without_ageing);
        }
        _ => {}
    }
}

fn lines_that_differ(before: &[String], after: &[String]) -> String {
    let differing = only_in('-', before, after) + &only_in('+', after, before);
    if differing.is_empty() { "the same lines in another order\n".to_owned() } else { differing }
}

/// What one side has and the other has not; of a link that the other does not know at all, its name is enough.
fn only_in(sign: char, these: &[String], those: &[String]) -> String {
    let known: HashSet<&String> = those.iter().collect();
    let links: HashSet<&str> = those.iter().map(|line| subject(line)).collect();
    let mut lines: Vec<String> = these
        .iter()
        .filter(|line| !known.contains(line))
        .map(|line| match links.contains(subject(line)) || line.starts_with('{') {
            true => format!("{sign} {line}\n"),
            false => format!("{sign} {}, the whole link\n", subject(line)),
        })
        .collect();
    lines.dedup();
    lines.concat()
}

fn subject(line: &str) -> &str {
    line.split(' ').next().unwrap_or(line)
}

/// A journal as kvm-bridge writes it, of one that was changed by hand: with a checksum (FNV-1a, 64 bits) that fits.
pub fn journal_text(mut journal: Value) -> String {
    journal["checksum"] = "0000000000000000".into();
    let text = serde_json::to_string_pretty(&journal).expect("JSON");
    let sum = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    text.replacen("\"checksum\": \"0000000000000000\"", &format!("\"checksum\": \"{sum:016x}\""), 1)
}
