//! The rules of nftables for one bridge, as JSON for `nft -j -f -` (libnftables-json(5)): one table of ours, made anew in one
//! transaction, so that it is whole or as it was.
//!
//! Its links are matched by their indices: another bridge of the same name is not meant. What it lets pass is dropped by nobody
//! else's rule; what others drop it can't let pass: that is [`super::firewall`]'s matter.
//!
//! Nothing has to be done when the default route leads elsewhere: the kernel drops what it knows of a masqueraded connection
//! whose interface has changed (`nf_nat_oif_changed`), and the next packet is masqueraded with the new one's address.

use crate::ifname::IfName;
use crate::mac::Mac;
use crate::nat::Nat;
use crate::nat::forward::Forward;
use crate::nat::guest::Guest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The name of a bridge's table, of the family inet.
pub fn table(bridge: &IfName) -> String {
    format!("kvmb_{bridge}")
}

/// Commands that make the table as it has to be, whatever it is now, for the bridge of this index and MAC address.
pub fn add(bridge: &IfName, (index, mac): (u32, Mac), nat: &Nat, guests: &[Guest]) -> Value {
    let table = Table(table(bridge));
    let mut commands = vec![table.add(), table.delete(), table.add()];
    let forwards = || guests.iter().flat_map(|guest| guest.forwards.iter().map(move |forward| (guest, forward)));
    for (name, kind, hook, priority) in [
        ("loopback", "filter", "prerouting", -300),
        ("prerouting", "nat", "prerouting", -100),
        ("output", "nat", "output", -100),
        ("forward", "filter", "forward", 0),
        ("postrouting", "nat", "postrouting", 100),
    ] {
        commands.push(table.chain(name, kind, hook, priority));
        let rules = match name {
            "loopback" => loopback(index),
            "prerouting" => forwards().filter_map(|(guest, forward)| dnat(nat, guest, forward, true)).collect(),
            "output" => forwards().filter_map(|(guest, forward)| dnat(nat, guest, forward, false)).collect(),
            "forward" => forward(index, mac, nat),
            _ => postrouting(index, nat),
        };
        commands.extend(rules.into_iter().map(|rule| table.rule(name, rule)));
    }
    json!({ "nftables": commands })
}

/// About the same rules as a person would type them: without ports that are forwarded, what only these need, and what keeps the host
/// from routing between guests.
pub fn typed(bridge: &IfName, nat: &Nat) -> String {
    let pairs = [("ip", nat.subnet.to_string())].into_iter().chain(nat.ula.map(|ula| ("ip6", ula.to_string())));
    let (mut out, mut masquerade) = (String::new(), String::new());
    for (family, net) in pairs {
        out += &format!("iifname \"{bridge}\" {family} saddr {net} accept; ");
        masquerade += &format!("{family} saddr {net} oifname != \"{bridge}\" masquerade; ");
    }
    let table = table(bridge);
    format!(
        "table inet {table} {{ chain forward {{ type filter hook forward priority 0; \
         oifname \"{bridge}\" ct state established,related accept; {out}\
         iifname \"{bridge}\" drop; oifname \"{bridge}\" drop; }}; \
         chain postrouting {{ type nat hook postrouting priority 100; {masquerade}}}; }}"
    )
}

/// Commands that remove it, whether or not it is there.
pub fn remove(table: &str) -> Value {
    let table = Table(table.to_owned());
    json!({ "nftables": [table.add(), table.delete()] })
}

/// Whether a table, as `nft -j list table` says it, has as many rules in each chain and as many elements in each set as these commands
/// give it. Handles, counters and names of links in it are others.
pub fn is_whole(listed: &Value, commands: &Value) -> bool {
    counts(listed) == counts(commands)
}

fn counts(all: &Value) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for item in all["nftables"].as_array().into_iter().flatten() {
        let of = |kind: &str| item[kind].as_object().or_else(|| item["add"][kind].as_object());
        let count = |item: &Value| item.as_array().map_or(1, Vec::len);
        if let Some(rule) = of("rule") {
            *counts.entry(format!("rules of {}", rule["chain"])).or_default() += 1;
        } else if let Some((set, elements)) = of("set").and_then(|set| Some((set, set.get("elem")?))) {
            *counts.entry(format!("elements of {}", set["name"])).or_default() += count(elements);
        }
    }
    counts
}

/// How much was masqueraded so far, of what `nft -j list table inet NAME` says; `None` where the table does not masquerade.
pub fn masqueraded(listed: &Value) -> Option<u64> {
    let rules = listed["nftables"].as_array()?.iter().filter_map(|item| item["rule"]["expr"].as_array());
    let counted = rules.filter(|rule| rule.iter().any(|part| part.get("masquerade").is_some()));
    let packets = counted.filter_map(|rule| rule.iter().find_map(|part| part["counter"]["packets"].as_u64()));
    packets.reduce(|all, packets| all + packets)
}

/// A table of the family inet.
pub(crate) struct Table(pub(crate) String);

impl Table {
    pub(crate) fn add(&self) -> Value {
        json!({ "add": { "table": { "family": "inet", "name": self.0 } } })
    }

    pub(crate) fn delete(&self) -> Value {
        json!({ "delete": { "table": { "family": "inet", "name": self.0 } } })
    }

    pub(crate) fn chain(&self, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
        let family = "inet";
        json!({ "add": { "chain": {
            "family": family, "table": self.0, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } } })
    }

    pub(crate) fn rule(&self, chain: &str, parts: Vec<Value>) -> Value {
        json!({ "add": { "rule": { "family": "inet", "table": self.0, "chain": chain, "expr": parts } } })
    }
}

pub(crate) fn is(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn is_not(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "!=", "left": left, "right": right } })
}

pub(crate) fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

pub(crate) fn of_packet(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn ct_has(key: &str, any: Value) -> Value {
    json!({ "match": { "op": "in", "left": { "ct": { "key": key } }, "right": any } })
}

fn net(address: impl ToString, prefix: u8) -> Value {
    json!({ "prefix": { "addr": address.to_string(), "len": prefix } })
}

pub(crate) fn verdict(name: &str) -> Value {
    json!({ name: null })
}

fn counter() -> Value {
    json!({ "counter": { "packets": 0, "bytes": 0 } })
}

/// The subnets of the network, each with the word for its family.
fn subnets(nat: &Nat) -> impl Iterator<Item = (&'static str, Value)> {
    let ipv4 = ("ip", net(nat.subnet.address(), nat.subnet.prefix()));
    [ipv4].into_iter().chain(nat.ula.map(|ula| ("ip6", net(ula.nth(0), 64))))
}

/// A forwarded connection of the host's own leaves from 127.0.0.1, for which the bridge has `route_localnet`. That would let
/// guests reach what listens on the host's loopback.
fn loopback(index: u32) -> Vec<Vec<Value>> {
    let from_guests = || is(meta("iif"), json!(index));
    ["daddr", "saddr"]
        .map(|end| vec![from_guests(), is(of_packet("ip", end), net("127.0.0.0", 8)), counter(), verdict("drop")])
        .into()
}

/// A port of the host that leads to a guest; on the way in, or of the host's own programs.
fn dnat(nat: &Nat, guest: &Guest, forward: &Forward, from_outside: bool) -> Option<Vec<Value>> {
    let (family, to): (_, IpAddr) = match forward.on {
        IpAddr::V4(_) => ("ip", guest.address.into()),
        IpAddr::V6(_) => ("ip6", guest.address6(nat.ula?).into()),
    };
    if from_outside && forward.on.is_loopback() {
        return None;
    }
    let mut parts = Vec::new();
    if forward.on.is_unspecified() {
        let is_hosts = json!({ "fib": { "result": "type", "flags": ["daddr"] } });
        let nfproto = if family == "ip" { "ipv4" } else { "ipv6" };
        parts.extend([is(meta("nfproto"), json!(nfproto)), is(is_hosts, json!("local"))]);
        if family == "ip6" {
            // Nothing leaves that.
            parts.push(is_not(of_packet("ip6", "daddr"), json!("::1")));
        }
    } else {
        parts.push(is(of_packet(family, "daddr"), json!(forward.on.to_string())));
    }
    parts.push(is(of_packet(forward.protocol.as_str(), "dport"), json!(forward.port)));
    parts.push(json!({ "dnat": { "family": family, "addr": to.to_string(), "port": forward.to } }));
    Some(parts)
}

/// Guests' own connections go out, and answers come in; from outside only what is forwarded.
fn forward(index: u32, mac: Mac, nat: &Nat) -> Vec<Vec<Value>> {
    let (from_guests, to_guests) = (|| is(meta("iif"), json!(index)), || is(meta("oif"), json!(index)));
    // Behind a VPN, whose packets are smaller, not everybody hears that they have to be. Before 1.0 nft takes no list here.
    let is_syn = json!({ "match": {
        "op": "==", "left": { "&": [of_packet("tcp", "flags"), { "|": ["syn", "rst"] }] }, "right": "syn",
    } });
    let clamp = json!({ "mangle": {
        "key": { "tcp option": { "name": "maxseg", "field": "size" } }, "value": { "rt": { "key": "mtu" } },
    } });
    let clamped = |side: Value| vec![side, is_syn.clone(), clamp.clone()];
    let mut rules = vec![
        // From guest to guest: to a forwarded port of the host; by way of the host not, past what keeps them apart (isolated=on,
        // VLANs); and what the bridge itself passes, where that comes this way too (br_netfilter).
        vec![from_guests(), to_guests(), ct_has("status", json!(["dnat"])), verdict("accept")],
        vec![
            from_guests(),
            to_guests(),
            is(of_packet("ether", "daddr"), json!(mac.to_string())),
            counter(),
            verdict("drop"),
        ],
        vec![from_guests(), to_guests(), verdict("accept")],
        // It would leave with the guest's own address.
        vec![from_guests(), ct_has("state", json!(["invalid"])), verdict("drop")],
        clamped(from_guests()),
        clamped(to_guests()),
    ];
    rules.extend(
        subnets(nat).map(|(family, net)| vec![from_guests(), is(of_packet(family, "saddr"), net), verdict("accept")]),
    );
    rules.extend([
        vec![from_guests(), counter(), verdict("drop")],
        vec![to_guests(), ct_has("state", json!(["established", "related"])), verdict("accept")],
        vec![to_guests(), ct_has("status", json!(["dnat"])), verdict("accept")],
        vec![to_guests(), counter(), verdict("drop")],
    ]);
    rules
}

fn postrouting(index: u32, nat: &Nat) -> Vec<Vec<Value>> {
    let out = |op: fn(Value, Value) -> Value| op(meta("oif"), json!(index));
    let mut rules: Vec<_> = subnets(nat)
        .map(|(family, net)| vec![out(is_not), is(of_packet(family, "saddr"), net), counter(), verdict("masquerade")])
        .collect();
    // A guest does not answer to 127.0.0.1; and it would answer its neighbour past the host, who knows nothing of it.
    rules.push(vec![out(is), is(of_packet("ip", "saddr"), net("127.0.0.0", 8)), verdict("masquerade")]);
    rules.extend(subnets(nat).map(|(family, net)| {
        vec![out(is), is(of_packet(family, "saddr"), net), ct_has("status", json!(["dnat"])), verdict("masquerade")]
    }));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tests::{alice, br0, nat};

    const LINK: (u32, Mac) = (7, Mac([2, 0, 0, 0, 0, 5]));

    fn rules(commands: &Value, chain: &str) -> Vec<String> {
        let rules = commands["nftables"].as_array().unwrap().iter().map(|command| &command["add"]["rule"]);
        rules.filter(|rule| rule["chain"] == chain).map(|rule| rule["expr"].to_string()).collect()
    }

    #[test]
    fn it_is_replaced_in_one_go() {
        let commands = add(&br0(), LINK, &nat(), &[]);
        let words: Vec<_> = commands["nftables"].as_array().unwrap()[..3]
            .iter()
            .map(|command| command.as_object().unwrap().keys().next().unwrap().as_str())
            .collect();
        assert_eq!(words, ["add", "delete", "add"]);
        assert_eq!(remove("kvmb_br0")["nftables"].as_array().unwrap().len(), 2);
    }

    /// nft 0.9 takes a list in an expression for a mistake.
    #[test]
    fn no_list_is_combined_with_anything() {
        fn is_fine(value: &Value) -> bool {
            let operands = value["&"].as_array().into_iter().flatten();
            operands.clone().all(|operand| !operand.is_array())
                && value.as_object().into_iter().flat_map(|object| object.values()).all(is_fine)
                && value.as_array().into_iter().flatten().all(is_fine)
        }
        let commands = add(&br0(), LINK, &nat(), &[alice(&["tcp:2222:22"])]);
        assert!(commands.to_string().contains("\"&\"") && is_fine(&commands));
    }

    #[test]
    fn loopback_is_forwarded_for_the_hosts_own_programs_alone() {
        let commands = add(&br0(), LINK, &nat(), &[alice(&["tcp:2222:22", "udp:0.0.0.0:53:5353", "tcp:[::]:80:8080"])]);
        let (outside, own) = (rules(&commands, "prerouting"), rules(&commands, "output"));
        assert_eq!((outside.len(), own.len()), (2, 3));
        assert!(own[0].contains("127.0.0.1") && !outside.concat().contains("127.0.0.1"));
        assert!(own[2].contains("fd01:203:405:7:5054:ff:fe12:3456") && own[2].contains("::1"));
        let without_ipv6 = add(&br0(), LINK, &Nat { ula: None, ..nat() }, &[alice(&["tcp:[::]:80:8080"])]);
        assert!(rules(&without_ipv6, "output").is_empty());
        assert!(!without_ipv6.to_string().contains("ip6"));
    }

    #[test]
    fn what_is_masqueraded_is_counted() {
        let listed = json!({ "nftables": [
            { "metainfo": {} },
            { "rule": { "expr": [{ "counter": { "packets": 9 } }, { "drop": null }] } },
            { "rule": { "expr": [{ "counter": { "packets": 3 } }, { "masquerade": null }] } },
            { "rule": { "expr": [{ "counter": { "packets": 4 } }, { "masquerade": null }] } },
            { "rule": { "expr": [{ "masquerade": null }] } },
        ] });
        assert_eq!(masqueraded(&listed), Some(7));
        assert_eq!(masqueraded(&json!({ "nftables": [] })), None);
        assert_eq!(masqueraded(&Value::Null), None);
    }
}
