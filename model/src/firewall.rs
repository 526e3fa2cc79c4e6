//! What a chain of rules does with the frames of bridges, as far as that can be told from its text.
//! It may not know which rules the host has.
#![forbid(unsafe_code)]

use serde_json::Value;
use std::collections::BTreeMap;

/// What becomes of a guest's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They pass.
    Pass,
    /// Some of them may not: that depends on more than can be seen from here.
    Unclear,
    /// They do not.
    Drop,
}

/// Which frames a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// All of the bridges that are looked at.
    All,
    /// Some, and whether those of DHCP may be among them.
    Some(bool),
    /// None.
    Others,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Deed {
    Accept,
    Drop,
    Call(String),
    Return,
    /// It counts, logs, marks.
    Nothing,
}

/// The chains of one table.
#[derive(Debug, Clone, Default)]
pub struct Table(BTreeMap<String, Vec<(About, Deed)>>);

impl Table {
    /// What a chain with this policy does in the end.
    pub fn fate(&self, chain: &str, drops_by_default: bool) -> Fate {
        let mut is_unclear = false;
        let end = self.walk(chain, &mut is_unclear, 0);
        match end.unwrap_or(if drops_by_default { Fate::Drop } else { Fate::Pass }) {
            // What was let pass or dropped before is not known, where it may have been DHCP.
            _ if is_unclear => Fate::Unclear,
            end => end,
        }
    }

    /// `None` where the chain is left at its end.
    fn walk(&self, chain: &str, is_unclear: &mut bool, depth: usize) -> Option<Fate> {
        // As deep as the kernel lets them be (NFT_JUMP_STACK_SIZE).
        if depth > 16 {
            *is_unclear = true;
            return None;
        }
        for (about, deed) in self.0.get(chain)? {
            let fate = match deed {
                Deed::Nothing => continue,
                Deed::Accept => Some(Fate::Pass),
                Deed::Drop => Some(Fate::Drop),
                Deed::Call(next) => {
                    let mut inner = false;
                    let fate = self.walk(next, &mut inner, depth + 1);
                    *is_unclear |= inner && !matches!(about, About::Others | About::Some(false));
                    fate
                }
                Deed::Return if *about == About::All => return None,
                Deed::Return => {
                    *is_unclear |= *about == About::Some(true);
                    None
                }
            };
            match (about, fate) {
                (_, None) | (About::Others, _) => {}
                (About::All, Some(fate)) => return Some(fate),
                (About::Some(may_be_dhcp), Some(_)) => *is_unclear |= may_be_dhcp,
            }
        }
        None
    }

    /// The table `filter` of what iptables-save prints.
    pub fn of_iptables(filter: &str, bridges: &[&str]) -> Self {
        let mut chains: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for line in filter.lines() {
            // A comment is between quotes, and no condition.
            let bare: String = line.split('"').step_by(2).collect();
            let words: Vec<&str> = bare.split_whitespace().collect();
            if let ["-A", chain, rule @ ..] = words.as_slice() {
                chains.entry((*chain).to_owned()).or_default().push(of_words(rule, bridges));
            }
        }
        Self(chains)
    }

    /// The rules of one table in `nft -j list ruleset`.
    pub fn of_nft<'a>(rules: impl Iterator<Item = &'a Value>, bridges: &[&str]) -> Self {
        let mut chains: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for rule in rules {
            let chain = rule["chain"].as_str().unwrap_or_default().to_owned();
            chains.entry(chain).or_default().push(of_expressions(rule, bridges));
        }
        Self(chains)
    }
}

/// Several conditions: all of them have to hold.
fn all(conditions: impl IntoIterator<Item = About>) -> About {
    conditions.into_iter().fold(About::All, |all, one| match (all, one) {
        (About::Others, _) | (_, About::Others) => About::Others,
        (About::All, other) | (other, About::All) => other,
        (About::Some(a), About::Some(b)) => About::Some(a && b),
    })
}

/// A frame that is bridged comes in by the bridge and goes out by it.
fn by_interface(names: &[&str], is_not: bool, bridges: &[&str]) -> About {
    let is_its = |bridge: &&str| {
        names.iter().any(|name| name == bridge || name.strip_suffix(['+', '*']).is_some_and(|s| bridge.starts_with(s)))
    };
    match (bridges.iter().filter(|bridge| is_its(bridge)).count(), is_not) {
        (0, false) => About::Others,
        (0, true) => About::All,
        (count, false) if count == bridges.len() => About::All,
        (count, true) if count == bridges.len() => About::Others,
        _ => About::Some(true),
    }
}

fn of_words(words: &[&str], bridges: &[&str]) -> (About, Deed) {
    let (mut conditions, mut deed) = (Vec::new(), Deed::Nothing);
    let text = words.join(" ");
    // A reply to what was let pass before; and what is no UDP, or goes to other ports than DHCP's, is no DHCP.
    let is_reply = text.contains("ESTABLISHED") && !text.contains("NEW") || text.contains("--ctstate INVALID");
    let is_other = ["-p tcp", "-p icmp", "-p sctp", "-p esp"].iter().any(|other| text.contains(other));
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let is_not = at > 0 && words.get(at - 1) == Some(&"!");
        let value = words.get(at + 1).copied().unwrap_or_default();
        at += 2;
        match *word {
            "-i" | "-o" => conditions.push(by_interface(&[value], is_not, bridges)),
            "-j" | "-g" => {
                deed = match value {
                    "ACCEPT" => Deed::Accept,
                    "DROP" | "REJECT" => Deed::Drop,
                    "RETURN" => Deed::Return,
                    "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "TRACE" => Deed::Nothing,
                    other => Deed::Call(other.to_owned()),
                };
                break;
            }
            "-m" if matches!(value, "comment" | "physdev") => {}
            "--comment" => at -= 1,
            "--physdev-is-bridged" if !is_not => at -= 1,
            "!" => at -= 1,
            _ => {
                conditions.push(About::Some(!is_reply && !is_other));
                at -= 1;
            }
        }
    }
    (all(conditions), deed)
}

fn of_expressions(rule: &Value, bridges: &[&str]) -> (About, Deed) {
    let (mut conditions, mut deed) = (Vec::new(), Deed::Nothing);
    for expression in rule["expr"].as_array().into_iter().flatten() {
        let has = |key: &str| expression.get(key).is_some();
        let target = |key: &str| expression[key]["target"].as_str().unwrap_or_default().to_owned();
        if has("accept") {
            deed = Deed::Accept;
        } else if has("drop") || has("reject") {
            deed = Deed::Drop;
        } else if has("return") {
            deed = Deed::Return;
        } else if has("jump") || has("goto") {
            deed = Deed::Call(if has("jump") { target("jump") } else { target("goto") });
        } else if has("match") {
            conditions.push(of_match(&expression["match"], bridges));
        } else if has("xt") {
            let is_of_bridges = expression["xt"]["name"] == "physdev" || expression["xt"]["name"] == "comment";
            conditions.push(if is_of_bridges { About::All } else { About::Some(true) });
        } else if !["counter", "log", "mangle", "notrack"].iter().any(|silent| has(silent)) {
            conditions.push(About::Some(true));
            if has("vmap") {
                deed = Deed::Drop;
            }
        }
    }
    (all(conditions), deed)
}

fn of_match(condition: &Value, bridges: &[&str]) -> About {
    let (left, right) = (&condition["left"], &condition["right"]);
    let is_not = condition["op"] == "!=";
    let key = left["meta"]["key"].as_str().unwrap_or_default();
    if matches!(key, "iifname" | "oifname" | "iif" | "oif" | "ibrname" | "obrname" | "ibridgename" | "obridgename") {
        let names: Vec<&str> = match right["set"].as_array() {
            Some(set) => set.iter().filter_map(Value::as_str).collect(),
            None => right.as_str().into_iter().collect(),
        };
        return match names.iter().any(|name| name.starts_with('@')) {
            true => About::Some(true),
            false => by_interface(&names, is_not, bridges),
        };
    }
    let text = right.to_string();
    let is_reply = left["ct"]["key"] == "state" && !text.contains("new") && !text.contains("untracked");
    let names_protocol =
        left["payload"]["field"] == "protocol" || key == "l4proto" || left["payload"]["field"] == "nexthdr";
    let is_other = names_protocol && !is_not && !text.contains("udp") && !text.contains("17")
        || ["tcp", "icmp", "icmpv6", "arp"].iter().any(|other| left["payload"]["protocol"] == *other);
    About::Some(!(is_reply || is_other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(policy: &str, rules: &[&str], bridges: &[&str]) -> Fate {
        Table::of_iptables(&rules.join("\n"), bridges).fate("FORWARD", policy == "DROP")
    }

    #[test]
    fn the_first_rule_for_a_bridges_frames_decides() {
        let br0 = |policy: &str, rules: &[&str]| fate(policy, rules, &["br0"]);
        assert_eq!(br0("DROP", &[]), Fate::Drop);
        assert_eq!(br0("ACCEPT", &[]), Fate::Pass);
        let docker = ["-A FORWARD -o docker0 -j DOCKER", "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT"];
        assert_eq!(br0("DROP", &docker), Fate::Drop);
        assert_eq!(br0("DROP", &["-A FORWARD -i br0 -j ACCEPT"]), Fate::Pass);
        assert_eq!(br0("DROP", &["-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT"]), Fate::Pass);
        assert_eq!(br0("DROP", &["-A FORWARD -j ACCEPT"]), Fate::Pass);
        assert_eq!(
            br0("DROP", &["-A FORWARD -j mine", "-A mine -m comment --comment \"all of it\" -j ACCEPT"]),
            Fate::Pass
        );
        assert_eq!(br0("DROP", &["-A FORWARD -p tcp -m tcp --dport 22 -j ACCEPT"]), Fate::Drop);
        assert_eq!(br0("DROP", &["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]), Fate::Drop);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -i br0 -j DROP"]), Fate::Drop);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -i br+ -j DROP"]), Fate::Drop);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -i br0 ! -o br0 -j DROP"]), Fate::Pass);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -p udp -j DROP"]), Fate::Unclear);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -j mine", "-A mine -p udp -j DROP"]), Fate::Unclear);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -i x -j DROP"]), Fate::Pass);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -j DROP"]), Fate::Drop);
        assert_eq!(br0("ACCEPT", &["-A FORWARD -j FORWARD"]), Fate::Unclear);
        assert_eq!(fate("DROP", &["-A FORWARD -i br0 -j ACCEPT"], &["br0", "br1"]), Fate::Unclear);
    }
}
