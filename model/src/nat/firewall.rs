//! Firewalls of others that drop what a guest sends.
//!
//! The kernel asks all chains of a hook, and one that drops wins: no rule of ours lets pass what Docker's FORWARD, firewalld or
//! ufw drop. So the rule has to stand in their chain. [`blocked`] finds the chains that drop a guest's packets *by default*: by
//! their policy, or by a rule without a condition at their end; what somebody drops by a condition of their own is meant to be
//! dropped. Each has a fix, as words to be executed: a rule right before what drops by default, behind all that the host's admin
//! has written. In FORWARD it can be broad (all of the bridge), as our own table says what may pass; in INPUT it opens what guests
//! need of the host, addresses and names.
//!
//! - firewalld flushes its chains, and may own its table: the bridge becomes an interface of its zone `trusted`, at run time.
//! - Tables of iptables (Docker, ufw) get their rule by `iptables-nft`, so that it stays readable for all of their tools.
//! - Any other chain gets it by `nft`. Where its table is owned by a process, nobody else may add a rule: that is said.
//!
//! Rules carry the comment `kvm-bridge BRIDGE`. Those of iptables are removed by their own words, the others by [`left`], which
//! finds them by the comment.

use crate::ifname::IfName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A chain that drops what guests send, or what is sent to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocked {
    /// What drops: the chain, and who made it if that can be told.
    pub by: String,
    /// What is to be added; `None` where only who made it can.
    pub fix: Option<Fix>,
}

/// Commands, each as its words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fix {
    /// What lets guests' packets pass.
    pub add: Vec<Vec<String>>,
    /// What takes that away again; empty where `left` has it.
    pub remove: Vec<Vec<String>>,
}

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From a guest through the host.
    Out,
    /// Through the host to a guest.
    In,
    /// From a guest to the DHCP server.
    Asks,
}

/// What becomes of a packet, and by which rule of the chain that it came to first; `None` for its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accepted,
    Dropped(Option<usize>),
    Left,
}

/// All chains in `nft -j list ruleset` that drop by default what goes from or to a bridge.
pub fn blocked(ruleset: &Value, bridge: &IfName) -> Vec<Blocked> {
    let items = || ruleset["nftables"].as_array().into_iter().flatten();
    let mut found: Vec<Blocked> = Vec::new();
    for chain in items().filter_map(|item| item.get("chain")) {
        let ways: &[Way] = match text(&chain["hook"]) {
            "forward" => &[Way::Out, Way::In],
            "input" => &[Way::Asks],
            _ => continue,
        };
        let (family, table, name) = (text(&chain["family"]), text(&chain["table"]), text(&chain["name"]));
        if !["ip", "ip6", "inet"].contains(&family) || text(&chain["type"]) != "filter" || is_ours(table) {
            continue;
        }
        let rules = Rules { ruleset, family, table, bridge: bridge.as_str() };
        let drops = ways.iter().filter_map(|way| match rules.walk(name, *way, 0) {
            End::Dropped(rule) => Some(rule),
            End::Left if chain["policy"] == "drop" => Some(None),
            _ => None,
        });
        let is_owned = items().any(|item| {
            let item = &item["table"];
            // Some versions of nft do not know the word for this flag, and print another; of the others there is but one.
            let flags = item["flags"].to_string();
            item["name"] == table && item["family"] == family && flags != "null" && !flags.contains("dormant")
        });
        // Both rules stand where the first of them has to.
        let Some(at) = drops.min_by_key(|rule| rule.unwrap_or(usize::MAX)) else { continue };
        let place = Place { family, table, chain: name, at, handle: at.and_then(|at| rules.handle(name, at)) };
        let fix = match table {
            "firewalld" => Some(trusted(bridge)),
            _ if is_owned => None,
            "filter" if family != "inet" => Some(place.by_iptables(ways, bridge)),
            _ => Some(place.by_nft(ways, bridge)),
        };
        let whose = whose(table, &rules.all_of(name)).map(|whose| format!(" of {whose}")).unwrap_or_default();
        let new = Blocked { by: format!("the chain {family} {table} {name}{whose}"), fix };
        // Its zone is of all of firewalld.
        if new.fix.is_none() || !found.iter().any(|known| known.fix == new.fix) {
            found.push(new);
        }
    }
    found
}

/// The commands that remove what stands in chains of others by its comment.
pub fn left(ruleset: &Value, bridge: &IfName) -> Vec<Vec<String>> {
    let comment = comment(bridge);
    let rules = ruleset["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("rule"));
    let ours = rules.filter(|rule| rule["comment"] == comment.as_str());
    let delete = |rule: &Value| {
        let handle = rule["handle"].to_string();
        let place = [text(&rule["family"]), text(&rule["table"]), text(&rule["chain"])];
        words(&[&["nft", "delete", "rule"], &place[..], &["handle", &handle]].concat())
    };
    ours.map(delete).collect()
}

fn comment(bridge: &IfName) -> String {
    format!("kvm-bridge {bridge}")
}

/// Whether a table is one of ours.
pub fn is_ours(table: &str) -> bool {
    table == super::lent::TABLE || table.starts_with("kvmb_")
}

/// Who is known by the names of its chains and tables.
fn whose(table: &str, rules: &str) -> Option<&'static str> {
    let names = [
        ("DOCKER", "Docker"),
        ("firewalld", "firewalld"),
        ("ufw", "ufw"),
        ("LIBVIRT", "libvirt"),
        ("KUBE", "Kubernetes"),
    ];
    names.into_iter().find(|(mark, _)| table.contains(mark) || rules.contains(mark)).map(|(_, name)| name)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn trusted(bridge: &IfName) -> Fix {
    let change = |what: &str| vec![words(&["firewall-cmd", "--zone=trusted", &format!("--{what}-interface={bridge}")])];
    Fix { add: change("add"), remove: change("remove") }
}

/// Where a rule has to stand.
struct Place<'a> {
    family: &'a str,
    table: &'a str,
    chain: &'a str,
    /// Before the rule of this number, or at the end.
    at: Option<usize>,
    /// That rule's handle.
    handle: Option<u64>,
}

/// What guests ask the host for: addresses and names.
const ASKED: [(&str, &str); 3] = [("udp", "67"), ("udp", "53"), ("tcp", "53")];
const ASKED_BY_IPV6: [(&str, &str); 3] = [("udp", "547"), ("udp", "53"), ("tcp", "53")];

impl Place<'_> {
    fn asked(&self) -> Vec<(&'static str, &'static str)> {
        match self.family {
            "ip" => ASKED.to_vec(),
            "ip6" => ASKED_BY_IPV6.to_vec(),
            _ => [&ASKED_BY_IPV6[..1], &ASKED].concat(),
        }
    }

    fn by_iptables(&self, ways: &[Way], bridge: &IfName) -> Fix {
        let (program, bridge_name) =
            (if self.family == "ip" { "iptables-nft" } else { "ip6tables-nft" }, bridge.as_str());
        let conditions: Vec<Vec<&str>> = match ways {
            [Way::Asks] => {
                let asked = self.asked().into_iter();
                asked.map(|(protocol, port)| vec!["-i", bridge_name, "-p", protocol, "--dport", port]).collect()
            }
            _ => vec![vec!["-i", bridge_name], vec!["-o", bridge_name]],
        };
        let comment = comment(bridge);
        let number = self.at.map(|at| (at + 1).to_string());
        let how = match &number {
            Some(number) => vec!["-I", self.chain, number],
            None => vec!["-A", self.chain],
        };
        let rule = |how: &[&str], condition: &[&str]| {
            words(
                &[&[program, "-w"], how, condition, &["-m", "comment", "--comment", &comment, "-j", "ACCEPT"]].concat(),
            )
        };
        Fix {
            add: conditions.iter().map(|condition| rule(&how, condition)).collect(),
            remove: conditions.iter().map(|condition| rule(&["-D", self.chain], condition)).collect(),
        }
    }

    fn by_nft(&self, ways: &[Way], bridge: &IfName) -> Fix {
        let (quoted, comment) = (format!("\"{bridge}\""), format!("\"{}\"", comment(bridge)));
        let conditions: Vec<Vec<&str>> = match ways {
            [Way::Asks] => {
                let asked = self.asked().into_iter();
                asked.map(|(protocol, port)| vec!["iifname", &quoted, protocol, "dport", port]).collect()
            }
            _ => vec![vec!["iifname", &quoted], vec!["oifname", &quoted]],
        };
        let handle = self.handle.map(|handle| handle.to_string());
        let chain = [self.family, self.table, self.chain];
        let rule = |condition: &Vec<&str>| {
            let (how, before) = match &handle {
                Some(handle) => ("insert", vec!["handle", handle]),
                None => ("add", vec![]),
            };
            let place = [&["nft", how, "rule"], &chain[..], &before].concat();
            words(&[&place[..], condition, &["accept", "comment", &comment]].concat())
        };
        Fix { add: conditions.iter().map(rule).collect(), remove: Vec::new() }
    }
}

/// The rules of one table.
struct Rules<'a> {
    ruleset: &'a Value,
    family: &'a str,
    table: &'a str,
    bridge: &'a str,
}

impl<'a> Rules<'a> {
    fn of(&self, chain: &str) -> impl Iterator<Item = &'a Value> {
        let items = self.ruleset["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("rule"));
        let (family, table, chain) = (self.family.to_owned(), self.table.to_owned(), chain.to_owned());
        items.filter(move |rule| {
            rule["family"] == family.as_str() && rule["table"] == table.as_str() && rule["chain"] == chain.as_str()
        })
    }

    fn all_of(&self, chain: &str) -> String {
        self.of(chain).map(Value::to_string).collect()
    }

    fn handle(&self, chain: &str, at: usize) -> Option<u64> {
        self.of(chain).nth(at)?["handle"].as_u64()
    }

    /// What a chain does with a new packet on this way, as far as its rules have no condition that can't be judged from here.
    fn walk(&self, chain: &str, way: Way, depth: usize) -> End {
        // As deep as the kernel lets them be (NFT_JUMP_STACK_SIZE).
        if depth > 16 {
            return End::Left;
        }
        for (number, rule) in self.of(chain).enumerate() {
            let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !parts.iter().all(|part| self.holds(part, way)) {
                continue;
            }
            let Some(last) = parts.last() else { continue };
            let target = ["jump", "goto"].into_iter().find_map(|how| Some((how, last.get(how)?["target"].as_str()?)));
            let xt = text(&last["xt"]["name"]);
            if last.get("accept").is_some() {
                return End::Accepted;
            } else if last.get("drop").is_some() || last.get("reject").is_some() || ["DROP", "REJECT"].contains(&xt) {
                return End::Dropped(Some(number));
            } else if last.get("return").is_some() {
                return End::Left;
            } else if let Some((how, target)) = target {
                match self.walk(target, way, depth + 1) {
                    End::Accepted => return End::Accepted,
                    End::Dropped(_) => return End::Dropped(Some(number)),
                    End::Left if how == "goto" => return End::Left,
                    End::Left => {}
                }
            }
        }
        End::Left
    }

    /// Whether a part of a rule lets the packet come to the next one, for certain.
    fn holds(&self, part: &Value, way: Way) -> bool {
        const PASSED: [&str; 11] =
            ["accept", "drop", "reject", "return", "jump", "goto", "counter", "log", "mangle", "notrack", "comment"];
        if let Some(condition) = part.get("match") {
            return self.matches(condition, way);
        }
        if let Some(xt) = part.get("xt") {
            return text(&xt["name"]) == "comment" || text(&xt["type"]) == "target";
        }
        PASSED.iter().any(|key| part.get(key).is_some())
    }

    fn matches(&self, condition: &Value, way: Way) -> bool {
        let (left, right) = (&condition["left"], &condition["right"]);
        let is_not = condition["op"] == "!=";
        let says = |word: &str| match right {
            Value::Array(words) => words.iter().any(|one| one == word),
            right => right["set"].as_array().map_or_else(|| right == word, |set| set.iter().any(|one| one == word)),
        };
        let says_port =
            |port: u16| right == port || right["set"].as_array().is_some_and(|set| set.iter().any(|one| *one == port));
        match (text(&left["meta"]["key"]), way) {
            ("iifname" | "iif", Way::Out | Way::Asks) | ("oifname" | "oif", Way::In) => self.is_bridge(right) != is_not,
            // The other interface is any other.
            ("iifname" | "iif", Way::In) | ("oifname" | "oif", Way::Out) => is_not && self.is_bridge(right),
            ("l4proto", Way::Asks) => says("udp") != is_not,
            ("nfproto", _) => true,
            (_, Way::Asks) if left["payload"]["field"] == "dport" => {
                let is_asked = ["udp", "th"].contains(&text(&left["payload"]["protocol"])) && says_port(67);
                is_asked != is_not
            }
            _ if left["ct"]["key"] == "state" => says("new") != is_not,
            _ => false,
        }
    }

    fn is_bridge(&self, right: &Value) -> bool {
        let fits = |name: &Value| {
            let name = text(name);
            name == self.bridge || name.strip_suffix('*').is_some_and(|start| self.bridge.starts_with(start))
        };
        right["set"].as_array().map_or_else(|| fits(right), |set| set.iter().any(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tests::br0;
    use serde_json::json;

    /// A table with the chain `it`, and the chain `other`.
    fn ruleset(hook: &str, policy: &str, rules: &[(&str, Value)]) -> Value {
        let base = json!({ "family": "inet", "table": "mine", "name": "it", "type": "filter", "hook": hook, "policy": policy });
        let rule = |(number, (chain, parts)): (usize, &(&str, Value))| {
            json!({ "rule": {
                "family": "inet", "table": "mine", "chain": chain, "handle": number + 10, "expr": parts,
            } })
        };
        let chains = [json!({ "chain": base })];
        json!({ "nftables": chains.into_iter().chain(rules.iter().enumerate().map(rule)).collect::<Vec<_>>() })
    }

    fn by(key: &str, op: &str, right: Value) -> Value {
        json!({ "match": { "op": op, "left": { "meta": { "key": key } }, "right": right } })
    }

    fn first_word_of_fix(ruleset: &Value) -> Option<String> {
        let blocked = blocked(ruleset, &br0());
        blocked.first().map(|blocked| blocked.fix.clone().unwrap().add[0].join(" "))
    }

    #[test]
    fn what_drops_by_default_is_found() {
        let drop = || json!([{ "drop": null }]);
        let state = json!({ "match": { "op": "in", "left": { "ct": { "key": "state" } }, "right": ["established", "related"] } });
        let fix = |how: &str| Some(format!("nft {how} iifname \"br0\" accept comment \"kvm-bridge br0\""));
        let (end, before) = (fix("add rule inet mine it"), fix("insert rule inet mine it handle 10"));
        for (policy, rules, wanted) in [
            ("accept", vec![], None),
            ("drop", vec![], end.clone()),
            ("drop", vec![("it", json!([{ "accept": null }]))], None),
            ("drop", vec![("it", json!([by("iifname", "==", json!("docker0")), { "accept": null }]))], end.clone()),
            ("drop", vec![("it", json!([state.clone(), { "accept": null }]))], end.clone()),
            ("accept", vec![("it", drop())], before.clone()),
            ("accept", vec![("it", json!([{ "counter": {} }, { "reject": {} }]))], before.clone()),
            ("accept", vec![("it", json!([{ "xt": { "type": "target", "name": "REJECT" } }]))], before.clone()),
            ("accept", vec![("it", json!([by("iifname", "==", json!("br*")), { "drop": null }]))], before.clone()),
            ("accept", vec![("it", json!([by("iifname", "!=", json!("eth0")), { "drop": null }]))], before.clone()),
            ("accept", vec![("it", json!([by("oifname", "==", json!("br0")), { "drop": null }]))], before.clone()),
            ("accept", vec![("it", json!([{ "jump": { "target": "other" } }])), ("other", drop())], before.clone()),
            ("drop", vec![("it", json!([{ "goto": { "target": "other" } }]))], end.clone()),
            // Meant by somebody, or not to be judged from here.
            (
                "accept",
                vec![(
                    "it",
                    json!([{ "match": { "op": "==", "left": { "payload": { "protocol": "tcp", "field": "dport" } }, "right": 25 } }, { "drop": null }]),
                )],
                None,
            ),
            ("accept", vec![("it", json!([{ "xt": { "type": "match", "name": "set" } }, { "drop": null }]))], None),
            ("accept", vec![("it", json!([by("iifname", "==", json!("eth0")), { "drop": null }]))], None),
            ("accept", vec![("it", json!([{ "return": null }])), ("it", drop())], None),
            ("accept", vec![("it", json!([{ "jump": { "target": "it" } }]))], None),
            // Ours is there.
            (
                "drop",
                vec![
                    ("it", json!([by("iifname", "==", json!("br0")), { "accept": null }])),
                    ("it", json!([by("oifname", "==", json!("br0")), { "accept": null }])),
                ],
                None,
            ),
        ] {
            let ruleset = ruleset("forward", policy, &rules);
            assert_eq!(first_word_of_fix(&ruleset), wanted, "{policy} {rules:?}");
        }
        assert!(blocked(&ruleset("output", "drop", &[]), &br0()).is_empty());
        assert!(blocked(&Value::Null, &br0()).is_empty());
    }

    #[test]
    fn the_host_is_opened_for_addresses_and_names_alone() {
        let fixes = blocked(&ruleset("input", "drop", &[]), &br0());
        let lines: Vec<String> = fixes[0].fix.as_ref().unwrap().add.iter().map(|words| words.join(" ")).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.contains(" dport ")), "{lines:?}");
        let dhcp = json!({ "match": {
            "op": "==", "left": { "payload": { "protocol": "udp", "field": "dport" } }, "right": { "set": [53, 67] },
        } });
        for (condition, is_open) in [(dhcp, true), (by("l4proto", "==", json!("tcp")), false)] {
            let rules = [("it", json!([by("iifname", "==", json!("br0")), condition, { "accept": null }]))];
            assert_eq!(blocked(&ruleset("input", "drop", &rules), &br0()).is_empty(), is_open);
        }
        let ports = ["udp dport 547", "udp dport 67", "udp dport 53", "tcp dport 53"];
        assert!(ports.iter().all(|port| lines.iter().any(|line| line.contains(port))), "{lines:?}");
    }

    #[test]
    fn a_table_that_somebody_owns_is_said() {
        let mut owned = ruleset("forward", "drop", &[]);
        let table = json!({ "table": { "family": "inet", "name": "mine", "flags": ["owner"] } });
        owned["nftables"].as_array_mut().unwrap().push(table);
        assert_eq!(blocked(&owned, &br0()), [Blocked { by: "the chain inet mine it".to_owned(), fix: None }]);
    }

    #[test]
    fn rules_are_found_by_their_comment() {
        let rule = |comment: &str| {
            json!({ "rule": {
                "family": "inet", "table": "mine", "chain": "it", "handle": 7, "comment": comment, "expr": [],
            } })
        };
        let ruleset = json!({ "nftables": [rule("kvm-bridge br1"), rule("kvm-bridge br0")] });
        assert_eq!(left(&ruleset, &br0()), [words(&["nft", "delete", "rule", "inet", "mine", "it", "handle", "7"])]);
    }
}
