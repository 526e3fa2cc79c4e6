//! Firewalls that drop what a bridge forwards: those of bridges themselves, and, where br_netfilter sends bridged frames
//! through them, those of IP.

use crate::doctor::rules::{Fate, Table};
use crate::doctor::{Check, Patient, Verdict};
use crate::network::inventory::Bridge;
use crate::sys::program::Program;
use model::nat::firewall::is_ours;
use serde_json::Value;
use std::fs;
use std::time::Duration;

const WHY: &str =
    "A firewall that forwards nothing by default drops the frames between guests and network too: DHCP first.";
/// Longer than the largest set of rules takes.
const PATIENCE: Duration = Duration::from_secs(10);
const SYSCTL: &str = "/proc/sys/net/bridge/bridge-nf-call-";

/// A chain that frames come through, and that does not let them all pass.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chain {
    /// As its tool calls it.
    name: String,
    /// Who made it, if that can be told.
    whose: Option<&'static str>,
    /// Whether it drops them, or may.
    fate: Fate,
}

pub(super) fn checks(patient: &Patient) -> Vec<Check> {
    let is_on = |path: String| fs::read_to_string(path).is_ok_and(|value| value.trim() != "0");
    // For all bridges, or for one of them.
    let calls = |which: &str| {
        let of_one = |bridge: &Bridge| {
            let link = &bridge.detail.link;
            crate::doctor::bridge::in_sysfs(link)
                .is_some_and(|folder| is_on(format!("{folder}/bridge/nf_call_{which}")))
        };
        is_on(format!("{SYSCTL}{which}")) || patient.bridges.iter().any(of_one)
    };
    let (ipv4, ipv6) = (calls("iptables"), calls("ip6tables"));
    let there = patient.bridges.iter().map(|bridge| bridge.detail.link.name.as_str());
    let bridges: Vec<&str> = there.chain(patient.missing.iter().map(|(bridge, _)| bridge.as_str())).collect();
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
    let output_of = |program: &str, words: &[&str]| Program::new(program).words(words).within(PATIENCE).run().ok();
    let ruleset = output_of("nft", &["-j", "list", "ruleset"]);
    let ports = patient.bridges.iter().flat_map(|bridge| &bridge.ports).filter(|port| !port.is_tap());
    let passed = Passed { ipv4, ipv6, ports: ports.map(|port| port.detail.link.name.as_str()).collect() };
    let mut chains = ruleset.as_deref().map(|json| of_nft(json, &passed, &bridges)).unwrap_or_default();
    let mut has_looked = ruleset.is_some();
    for (is_called, tools) in
        [(ipv4, ["iptables-legacy-save", "iptables-save"]), (ipv6, ["ip6tables-legacy-save", "ip6tables-save"])]
    {
        // What iptables-nft says, nft has said already.
        let tools = if ruleset.is_some() { &tools[..1] } else { &tools[..] };
        for text in tools.iter().filter(|_| is_called).filter_map(|tool| output_of(tool, &[])) {
            has_looked = true;
            chains.extend(of_iptables(&text, &bridges).filter(|chain| !chains.contains(chain)).collect::<Vec<_>>());
        }
    }
    if !has_looked && (ipv4 || ipv6) {
        let saw =
            "bridged frames go through the host's firewall, and neither nft nor iptables-save is there to look into it";
        return vec![Check::warning("firewall", saw, WHY, off(ipv4, ipv6))];
    }
    let bad: Vec<Check> = chains.iter().map(|chain| chain.check(ipv4, ipv6)).collect();
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
    fn check(&self, ipv4: bool, ipv6: bool) -> Check {
        let whose = self.whose.map(|whose| format!(", which {whose} made,")).unwrap_or_default();
        let is_of_ip = !self.name.starts_with("bridge ") && !self.name.starts_with("netdev ");
        let way = if is_of_ip { "bridged frames go through the host's firewall, and " } else { "" };
        let (verdict, drops) = match self.fate {
            Fate::Drop => (Verdict::Failure, "drops them"),
            _ => (Verdict::Warning, "may drop some of them"),
        };
        let what = if is_of_ip { "" } else { ": frames of guests" };
        let saw = format!("{way}the chain {}{whose} {drops}{what}", self.name);
        let mend = match is_of_ip {
            true => off(ipv4, ipv6),
            false => format!("nft insert rule {} accept", self.name),
        };
        Check::new("firewall", verdict, saw, WHY).mended_by(mend)
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

/// What frames of bridges come through.
#[derive(Debug, Default)]
struct Passed<'a> {
    ipv4: bool,
    ipv6: bool,
    ports: Vec<&'a str>,
}

/// The chains of `nft -j list ruleset`.
fn of_nft(json: &str, passed: &Passed, bridges: &[&str]) -> Vec<Chain> {
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
        let fate = Table::of_nft(rules(), bridges).fate(text("name"), text("policy") == "drop");
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

/// The chains of the host that put its own address in the place of guests': as libvirt, Docker and others have them. For
/// whoever may look.
pub(super) fn masquerading() -> Vec<String> {
    let ruleset = Program::new("nft").words(["-j", "list", "ruleset"]).within(PATIENCE).run().unwrap_or_default();
    masquerading_in(&ruleset)
}

fn masquerading_in(json: &str) -> Vec<String> {
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

/// The chain FORWARD of what iptables-save prints.
fn of_iptables(text: &str, bridges: &[&str]) -> impl Iterator<Item = Chain> {
    let filter = text.split("*filter\n").nth(1).and_then(|rest| rest.split("COMMIT").next()).unwrap_or_default();
    let drops = filter.lines().any(|line| line.starts_with(":FORWARD DROP"));
    let fate = Table::of_iptables(filter, bridges).fate("FORWARD", drops);
    let chain = Chain { name: "FORWARD of iptables".to_owned(), whose: whose(filter), fate };
    (fate != Fate::Pass).then_some(chain).into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_of_iptables_is_found() {
        let chain = |text: &str| of_iptables(text, &["br0"]).next();
        let docker = chain("# Generated\n*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\nCOMMIT\n").unwrap();
        assert_eq!((docker.whose, docker.fate), (Some("Docker"), Fate::Drop));
        assert_eq!(chain("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i x -j DROP\nCOMMIT\n"), None);
        assert_eq!(chain("*nat\n:FORWARD DROP [0:0]\nCOMMIT\n"), None);
    }

    #[test]
    fn strange_rulesets_are_no_reason_to_fail() {
        let passed = Passed { ipv4: true, ipv6: true, ports: vec!["eth0"] };
        for json in ["", "{}", "[]", r#"{"nftables":[{"chain":{}},{"rule":{}}]}"#] {
            assert!(of_nft(json, &passed, &["br0"]).is_empty(), "{json}");
        }
    }
}
