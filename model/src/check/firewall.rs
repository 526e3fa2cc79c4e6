//! Firewalls that drop what a bridge forwards: those of bridges themselves, and, where br_netfilter sends bridged frames
//! through them, those of IP.

use crate::check::{Check, Topic, Verdict};
use crate::firewall::{Fate, Table};
use crate::nat::firewall::is_ours;
use serde_json::Value;

const FIREWALL: Topic = Topic(
    "firewall",
    "A firewall that forwards nothing by default drops the frames between guests and network too: DHCP first.",
);

/// What frames of bridges come through.
#[derive(Debug, Clone, Default)]
pub struct Passed<'a> {
    /// The bridges.
    pub bridges: Vec<&'a str>,
    /// Whether they go through the chains of IPv4.
    pub ipv4: bool,
    /// Whether through those of IPv6.
    pub ipv6: bool,
    /// The ports that are no guests'.
    pub ports: Vec<&'a str>,
}

/// A chain that frames come through, and that does not let them all pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// As its tool calls it.
    name: String,
    /// Who made it, if that can be told.
    whose: Option<&'static str>,
    /// Whether it drops them, or may.
    fate: Fate,
}

/// What to say where root only can look.
pub fn unseen(passed: &Passed) -> Check {
    match passed.ipv4 || passed.ipv6 {
        true => FIREWALL.warning(
            "bridged frames go through the host's firewall, which root only can look into",
            "sudo kvm-bridge doctor",
        ),
        false => FIREWALL.ok("bridged frames do not go through the host's IP firewall"),
    }
}

/// What the chains that were found mean; `None` where there is no program that shows them.
pub fn judge(chains: Option<&[Chain]>, passed: &Passed) -> Vec<Check> {
    let is_called = passed.ipv4 || passed.ipv6;
    match chains {
        None if is_called => vec![FIREWALL.warning(
            "bridged frames go through the host's firewall, and neither nft nor iptables-save is there to look into it",
            off(passed),
        )],
        Some(chains) if !chains.is_empty() => chains.iter().map(|chain| chain.check(passed)).collect(),
        _ if is_called => {
            vec![FIREWALL.ok("bridged frames go through the host's firewall, which lets them pass")]
        }
        _ => vec![FIREWALL.ok("no firewall is in the way of bridged frames")],
    }
}

fn off(passed: &Passed) -> String {
    let switches = [(passed.ipv4, "iptables"), (passed.ipv6, "ip6tables")].into_iter().filter(|(is_on, _)| *is_on);
    let switches = switches.map(|(_, which)| format!("sysctl -w net.bridge.bridge-nf-call-{which}=0"));
    switches.collect::<Vec<_>>().join("; ")
}

impl Chain {
    fn check(&self, passed: &Passed) -> Check {
        let whose = self.whose.map(|whose| format!(", which {whose} made,")).unwrap_or_default();
        let is_of_ip = !self.name.starts_with("bridge ") && !self.name.starts_with("netdev ");
        let way = if is_of_ip { "bridged frames go through the host's firewall, and " } else { "" };
        let (verdict, drops) = match self.fate {
            Fate::Drop => (Verdict::Failure, "drops them"),
            _ => (Verdict::Warning, "may drop some of them"),
        };
        let what = if is_of_ip { "" } else { ": frames of guests" };
        let observed = format!("{way}the chain {}{whose} {drops}{what}", self.name);
        let fix = match is_of_ip {
            true => off(passed),
            false => format!("nft insert rule {} accept", self.name),
        };
        FIREWALL.judged(verdict, observed, fix)
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
pub fn of_nft(json: &str, passed: &Passed) -> Vec<Chain> {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let items = ruleset["nftables"].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for chain in items.iter().filter_map(|item| item.get("chain")) {
        let text = |key: &str| chain[key].as_str().unwrap_or_default();
        let is_on_the_way = ["prerouting", "forward", "postrouting"].contains(&text("hook"));
        // Some versions of nft do not tell which interface a chain is of.
        let is_anywhere = text("family") == "netdev" && chain["dev"].is_null();
        let is_at_a_port =
            || is_anywhere || passed.ports.iter().any(|port| chain["dev"].to_string().contains(&format!("\"{port}\"")));
        let is_passed = match text("family") {
            "bridge" => is_on_the_way,
            "ip" => is_on_the_way && passed.ipv4,
            "ip6" => is_on_the_way && passed.ipv6,
            "inet" => is_on_the_way && (passed.ipv4 || passed.ipv6),
            "netdev" => ["ingress", "egress"].contains(&text("hook")) && is_at_a_port(),
            _ => false,
        };
        // What ours drop is what is to be dropped.
        if !is_passed || text("type") != "filter" || text("family") == "inet" && is_ours(text("table")) {
            continue;
        }
        let rules = || {
            let rules = items.iter().filter_map(|item| item.get("rule"));
            rules.filter(|rule| rule["family"] == chain["family"] && rule["table"] == chain["table"])
        };
        let fate = Table::of_nft(rules(), &passed.bridges).fate(text("name"), text("policy") == "drop");
        let fate = match fate {
            Fate::Pass => continue,
            _ if is_anywhere => Fate::Unclear,
            fate => fate,
        };
        let own = rules().filter(|rule| rule["chain"] == chain["name"]).map(Value::to_string);
        let around: String = own.collect::<String>() + text("table");
        let name = format!("{} {} {}", text("family"), text("table"), text("name"));
        found.push(Chain { name, whose: whose(&around), fate });
    }
    found
}

/// The chains of `nft -j list ruleset` that put the host's own address in the place of guests': as libvirt, Docker and others
/// have them.
pub fn masquerading(json: &str) -> Vec<String> {
    let ruleset: Value = serde_json::from_str(json).unwrap_or_default();
    let rules = ruleset["nftables"].as_array().into_iter().flatten().filter_map(|item| item.get("rule"));
    let masquerades = |rule: &&Value| {
        let is_it = |expr: &Value| {
            // iptables' own, where nft shows it as a foreign expression.
            expr.get("masquerade").is_some() || expr["xt"]["name"] == "MASQUERADE"
        };
        rule["expr"].as_array().is_some_and(|exprs| exprs.iter().any(is_it))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |rule: &Value| format!("{} {} {}", text(&rule["family"]), text(&rule["table"]), text(&rule["chain"]));
    let mut names: Vec<String> = rules.filter(masquerades).map(name).collect();
    names.dedup();
    names
}

/// The chain FORWARD of what iptables-save prints, if it does not let all of them pass.
pub fn of_iptables(text: &str, passed: &Passed) -> Option<Chain> {
    let filter = text.split("*filter\n").nth(1).and_then(|rest| rest.split("COMMIT").next()).unwrap_or_default();
    let drops = filter.lines().any(|line| line.starts_with(":FORWARD DROP"));
    let fate = Table::of_iptables(filter, &passed.bridges).fate("FORWARD", drops);
    let chain = Chain { name: "FORWARD of iptables".to_owned(), whose: whose(filter), fate };
    (fate != Fate::Pass).then_some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_of_iptables_is_found() {
        let passed = Passed { bridges: vec!["br0"], ..Passed::default() };
        let chain = |text: &str| of_iptables(text, &passed);
        let docker = chain("# Generated\n*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\nCOMMIT\n").unwrap();
        assert_eq!((docker.whose, docker.fate), (Some("Docker"), Fate::Drop));
        assert_eq!(chain("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i x -j DROP\nCOMMIT\n"), None);
        assert_eq!(chain("*nat\n:FORWARD DROP [0:0]\nCOMMIT\n"), None);
    }

    #[test]
    fn strange_rulesets_are_no_reason_to_fail() {
        let passed = Passed { bridges: vec!["br0"], ipv4: true, ipv6: true, ports: vec!["eth0"] };
        for json in ["", "{}", "[]", r#"{"nftables":[{"chain":{}},{"rule":{}}]}"#] {
            assert!(of_nft(json, &passed).is_empty(), "{json}");
        }
    }
}
