//! Firewalls that drop what a bridge forwards: those of bridges themselves, and, where br_netfilter sends bridged frames
//! through them, those of IP.

use super::{Check, Patient, output_of};
use serde_json::Value;
use std::fs;

const WHY: &str =
    "A firewall that forwards nothing by default drops the frames between guests and network too: DHCP first.";
const SYSCTL: &str = "/proc/sys/net/bridge/bridge-nf-call-";

/// A chain that forwarded frames come through and that lets none pass that no rule of it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    /// As its tool calls it.
    name: String,
    /// Who made it, if that can be told.
    whose: Option<&'static str>,
    /// What is said in its rules about letting something pass.
    accepts: Vec<String>,
}

pub(super) fn checks(patient: &Patient) -> Vec<Check> {
    let calls = |which: &str| fs::read_to_string(format!("{SYSCTL}{which}")).is_ok_and(|value| value.trim() != "0");
    let (ipv4, ipv6) = (calls("iptables"), calls("ip6tables"));
    let there = patient.bridges.iter().map(|bridge| bridge.detail.link.name.as_str());
    let bridges: Vec<&str> = there.chain(patient.missing.iter().map(|nic| nic.bridge.as_str())).collect();
    if !nix::unistd::geteuid().is_root() {
        return vec![match ipv4 || ipv6 {
            true => Check::warning(
                "firewall",
                "bridged frames go through the host's firewall, which root only can look into",
                WHY,
                "sudo kvm-bridge doctor",
            ),
            false => Check::ok("firewall", "bridged frames do not go through the host's IP firewall", WHY),
        }];
    }
    let ruleset = output_of("nft", &["-j", "list", "ruleset"]);
    let mut chains = ruleset.as_deref().map(|json| of_nft(json, ipv4, ipv6)).unwrap_or_default();
    let mut has_looked = ruleset.is_some();
    for (is_called, tools) in
        [(ipv4, ["iptables-legacy-save", "iptables-save"]), (ipv6, ["ip6tables-legacy-save", "ip6tables-save"])]
    {
        // What iptables-nft says, nft has said already.
        let tools = if ruleset.is_some() { &tools[..1] } else { &tools[..] };
        for text in tools.iter().filter(|_| is_called).filter_map(|tool| output_of(tool, &[])) {
            has_looked = true;
            chains.extend(of_iptables(&text).filter(|chain| !chains.contains(chain)).collect::<Vec<_>>());
        }
    }
    if !has_looked && (ipv4 || ipv6) {
        let saw =
            "bridged frames go through the host's firewall, and neither nft nor iptables-save is there to look into it";
        return vec![Check::warning("firewall", saw, WHY, off(ipv4, ipv6))];
    }
    let bad: Vec<Check> =
        chains.iter().filter(|chain| !chain.lets_pass(&bridges)).map(|chain| chain.check(ipv4, ipv6)).collect();
    match bad.is_empty() {
        false => bad,
        true if ipv4 || ipv6 => {
            vec![Check::ok("firewall", "bridged frames go through the host's firewall, which lets them pass", WHY)]
        }
        true => vec![Check::ok("firewall", "no firewall is in the way of bridged frames", WHY)],
    }
}

fn off(ipv4: bool, ipv6: bool) -> String {
    let switch = |which: &str| format!("sysctl -w net.bridge.bridge-nf-call-{which}=0");
    let switches = [(ipv4, "iptables"), (ipv6, "ip6tables")].into_iter().filter(|(is_on, _)| *is_on);
    switches.map(|(_, which)| switch(which)).collect::<Vec<_>>().join("; ")
}

impl Chain {
    /// Whether a rule is about these bridges, or about all bridged frames.
    fn lets_pass(&self, bridges: &[&str]) -> bool {
        let is_about = |rule: &String, word: &str| {
            rule.split(|c: char| !c.is_alphanumeric() && !"-_.".contains(c)).any(|part| part == word)
        };
        let general = ["physdev-is-bridged", "ibrname", "ibridgename", "physdev"];
        !bridges.is_empty() && bridges.iter().all(|bridge| self.accepts.iter().any(|rule| is_about(rule, bridge)))
            || self.accepts.iter().any(|rule| general.iter().any(|word| rule.contains(word)))
    }

    fn check(&self, ipv4: bool, ipv6: bool) -> Check {
        let whose = self.whose.map(|whose| format!(", which {whose} made,")).unwrap_or_default();
        let is_of_bridges = self.name.starts_with("bridge ");
        let way = if is_of_bridges { "" } else { "bridged frames go through the host's firewall, and " };
        let saw = format!("{way}the chain {}{whose} drops what no rule of it lets pass", self.name);
        let mend = match is_of_bridges {
            true => format!("nft chain {} '{{ policy accept; }}'", self.name),
            false => off(ipv4, ipv6),
        };
        Check::failure("firewall", saw, WHY, mend)
    }
}

/// Who is known by the names of its chains and tables.
fn whose(text: &str) -> Option<&'static str> {
    [
        ("DOCKER", "Docker"),
        ("firewalld", "firewalld"),
        ("ufw", "ufw"),
        ("LIBVIRT", "libvirt"),
        ("CNI-", "CNI"),
        ("KUBE", "Kubernetes"),
    ]
    .into_iter()
    .find_map(|(mark, name)| text.contains(mark).then_some(name))
}

/// The chains of `nft -j list ruleset`.
fn of_nft(json: &str, ipv4: bool, ipv6: bool) -> Vec<Chain> {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let items = ruleset["nftables"].as_array().cloned().unwrap_or_default();
    let rules_of = |chain: &Value| {
        let is_its = |rule: &&Value| {
            ["family", "table"].iter().all(|key| rule[key] == chain[key]) && rule["chain"] == chain["name"]
        };
        items.iter().filter_map(|item| item.get("rule")).filter(is_its).cloned().collect::<Vec<Value>>()
    };
    let has_verdict = |rule: &Value, verdict: &str| {
        rule["expr"].as_array().is_some_and(|all| all.iter().any(|expression| expression.get(verdict).is_some()))
    };
    // All that matters is a verdict; a counter or log beside it tells nothing.
    let is_for_all = |rule: &Value| {
        let silent = ["counter", "log", "drop", "reject"];
        rule["expr"]
            .as_array()
            .is_some_and(|all| all.iter().all(|expression| silent.iter().any(|word| expression.get(word).is_some())))
    };
    let mut found = Vec::new();
    for chain in items.iter().filter_map(|item| item.get("chain")) {
        let text = |key: &str| chain[key].as_str().unwrap_or_default();
        let is_passed = match text("family") {
            "bridge" => true,
            "ip" => ipv4,
            "ip6" => ipv6,
            "inet" => ipv4 || ipv6,
            _ => false,
        };
        if text("hook") != "forward" || !is_passed {
            continue;
        }
        let rules = rules_of(chain);
        let ends_in_a_drop =
            rules.iter().any(|rule| is_for_all(rule) && (has_verdict(rule, "drop") || has_verdict(rule, "reject")));
        if text("policy") != "drop" && !ends_in_a_drop {
            continue;
        }
        // What is let pass may be said in a chain that this one leads to.
        let of_table = items.iter().filter_map(|item| item.get("rule"));
        let of_table = of_table.filter(|rule| rule["family"] == chain["family"] && rule["table"] == chain["table"]);
        let accepts = of_table.filter(|rule| has_verdict(rule, "accept")).map(Value::to_string).collect();
        let around: String = rules.iter().map(Value::to_string).collect::<String>() + text("table");
        found.push(Chain {
            name: format!("{} {} {}", text("family"), text("table"), text("name")),
            whose: whose(&around),
            accepts,
        });
    }
    found
}

/// The chain FORWARD of what iptables-save prints.
fn of_iptables(text: &str) -> impl Iterator<Item = Chain> {
    let filter =
        text.split("*filter\n").nth(1).and_then(|rest| rest.split("COMMIT").next()).unwrap_or_default().to_owned();
    let rules: Vec<String> = filter.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect();
    let ends_in_a_drop = |rule: &String| rule == "-A FORWARD -j DROP" || rule.starts_with("-A FORWARD -j REJECT");
    let drops = filter.lines().any(|line| line.starts_with(":FORWARD DROP")) || rules.iter().any(ends_in_a_drop);
    let chain = Chain {
        name: "FORWARD of iptables".to_owned(),
        whose: whose(&filter),
        accepts: rules.into_iter().filter(|rule| rule.contains("-j ACCEPT")).collect(),
    };
    drops.then_some(chain).into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_the_bridge_lets_its_frames_pass() {
        let chains = |rules: &str| {
            let text = format!("# Generated\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n{rules}COMMIT\n");
            of_iptables(&text).collect::<Vec<_>>()
        };
        let docker = chains(":DOCKER - [0:0]\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 -j ACCEPT\n");
        assert_eq!((docker.len(), docker[0].whose), (1, Some("Docker")));
        assert!(!docker[0].lets_pass(&["br0"]));
        assert!(!docker[0].lets_pass(&["docker"]), "a part of a name is not the name");
        assert!(chains("-A FORWARD -i br0 -j ACCEPT\n")[0].lets_pass(&["br0"]));
        assert!(chains("-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n")[0].lets_pass(&["br0"]));
        assert!(!chains("-A FORWARD -i br0 -j ACCEPT\n")[0].lets_pass(&["br0", "br1"]));
        assert_eq!(of_iptables("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i x -j DROP\nCOMMIT\n").count(), 0);
        assert_eq!(of_iptables("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\nCOMMIT\n").count(), 1);
    }

    #[test]
    fn strange_rulesets_are_no_reason_to_fail() {
        for json in ["", "{}", "[]", r#"{"nftables":[{"chain":{}},{"rule":{}}]}"#] {
            assert!(of_nft(json, true, true).is_empty(), "{json}");
        }
    }
}
