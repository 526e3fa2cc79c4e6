//! Firewalls that drop what a bridge forwards: what they say.

use crate::doctor::{Context, bridge};
use crate::network::inventory::Bridge;
use crate::sys::program::Program;
use model::check::Check;
use model::check::firewall::{self, Passed};
use std::fs;
use std::time::Duration;

/// Longer than the largest set of rules takes.
const PATIENCE: Duration = Duration::from_secs(10);
const SYSCTL: &str = "/proc/sys/net/bridge/bridge-nf-call-";

pub(super) fn checks(context: &Context) -> Vec<Check> {
    let is_on = |path: String| fs::read_to_string(path).is_ok_and(|value| value.trim() != "0");
    // For all bridges, or for one of them.
    let calls = |which: &str| {
        let of_one = |found: &Bridge| {
            let folder = bridge::in_sysfs(&found.detail.link);
            folder.is_some_and(|folder| is_on(format!("{folder}/bridge/nf_call_{which}")))
        };
        is_on(format!("{SYSCTL}{which}")) || context.bridges.iter().any(of_one)
    };
    let there = context.bridges.iter().map(|bridge| &bridge.detail.link.name);
    let bridges = there.chain(context.missing.iter().map(|(bridge, _)| bridge)).map(|name| name.as_str()).collect();
    let ports = context.bridges.iter().flat_map(|bridge| &bridge.ports).filter(|port| !port.is_tap());
    let ports = ports.map(|port| port.detail.link.name.as_str()).collect();
    let passed = Passed { bridges, ipv4: calls("iptables"), ipv6: calls("ip6tables"), ports };
    if !nix::unistd::geteuid().is_root() {
        return vec![firewall::unseen(&passed)];
    }
    let ruleset = ruleset();
    let mut chains = ruleset.as_deref().map(|json| firewall::of_nft(json, &passed));
    for (is_called, tools) in [
        (passed.ipv4, ["iptables-legacy-save", "iptables-save"]),
        (passed.ipv6, ["ip6tables-legacy-save", "ip6tables-save"]),
    ] {
        // What iptables-nft says, nft has said already.
        let tools = if ruleset.is_some() { &tools[..1] } else { &tools[..] };
        for text in tools.iter().filter(|_| is_called).filter_map(|tool| output_of(tool, &[])) {
            let chains = chains.get_or_insert_default();
            let new = firewall::of_iptables(&text, &passed).filter(|chain| !chains.contains(chain));
            chains.extend(new);
        }
    }
    firewall::judge(chains.as_deref(), &passed)
}

fn output_of(program: &str, words: &[&str]) -> Option<String> {
    Program::new(program).words(words).within(PATIENCE).run().ok()
}

fn ruleset() -> Option<String> {
    output_of("nft", &["-j", "list", "ruleset"])
}

/// The chains of the host that put its own address in the place of guests', for whoever may look.
pub(super) fn masquerading() -> Vec<String> {
    firewall::masquerading(&ruleset().unwrap_or_default())
}
