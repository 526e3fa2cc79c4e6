//! Forwarding that is on for our sake alone.
//!
//! A host that is no router has forwarding off, and who turns it on for guests makes it one for everybody: its LAN could send
//! packets through it. So IPv4 forwarding is turned on for each interface and never for `all`: for our bridges, and lent to the
//! others, by which answers come in. A table of ours (`inet kvmb`) drops what a lent interface would forward to others than our
//! bridges. `all` and `default` stay off: that is where Docker, podman and people look and turn it on for themselves, which
//! turns it on for `default` too, and then nothing is lent any more. IPv6 has no switch for an interface alone before Linux
//! 6.17: `all` is turned on, the interfaces and `default` stay off, and the table drops what is not ours.
//!
//! The table is also the record: what is in its sets is what was off before, for whoever has to turn it off again.

use crate::nat::ruleset::{Table, is, meta, verdict};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The name of the table, of the family inet. Those of bridges have a `_` and a name behind it.
pub const TABLE: &str = "kvmb";

/// What is lent, to whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lent {
    /// Our bridges that have a network of their own.
    pub bridges: BTreeSet<String>,
    /// The interfaces that forward IPv4 for these alone.
    pub interfaces: BTreeSet<String>,
    /// Whether the host forwards IPv6 for these alone.
    pub ipv6: bool,
}

/// Commands that make the table as it has to be.
pub fn add(lent: &Lent) -> Value {
    let table = Table(TABLE.to_owned());
    let set = |name: &str, elements: &BTreeSet<String>| {
        let mut set = json!({ "family": "inet", "table": TABLE, "name": name, "type": "iface_index" });
        if !elements.is_empty() {
            set["elem"] = json!(elements);
        }
        json!({ "add": { "set": set } })
    };
    let is_none = |key: &str| json!({ "match": { "op": "!=", "left": meta(key), "right": "@bridges" } });
    let mut commands = vec![
        table.add(),
        table.delete(),
        table.add(),
        set("bridges", &lent.bridges),
        set("lent", &lent.interfaces),
        table.chain("forward", "filter", "forward", -10),
        table.rule(
            "forward",
            vec![is(meta("nfproto"), json!("ipv4")), is(meta("iif"), json!("@lent")), is_none("oif"), verdict("drop")],
        ),
    ];
    if lent.ipv6 {
        let rule = vec![is(meta("nfproto"), json!("ipv6")), is_none("iif"), is_none("oif"), verdict("drop")];
        commands.push(table.chain("forward6", "filter", "forward", -10));
        commands.push(table.rule("forward6", rule));
    }
    json!({ "nftables": commands })
}

/// Reads `nft -j list table inet kvmb`. An interface that is gone is shown by its number, and is left out.
pub fn parse(listed: &Value) -> Lent {
    let items = || listed["nftables"].as_array().into_iter().flatten();
    let names = |set: &str| {
        let sets = items().map(|item| &item["set"]).filter(|item| item["name"] == set);
        sets.flat_map(|set| set["elem"].as_array().into_iter().flatten())
            .filter_map(|element| element.as_str().map(str::to_owned))
            .collect()
    };
    let ipv6 = items().any(|item| item["chain"]["name"] == "forward6");
    Lent { bridges: names("bridges"), interfaces: names("lent"), ipv6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_its_own_record() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        for ipv6 in [false, true] {
            let lent = Lent { bridges: names(&["br0", "lab"]), interfaces: names(&["eth0", "wg0"]), ipv6 };
            let listed: Vec<Value> = add(&lent)["nftables"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|command| command.get("add").cloned())
                .collect();
            assert_eq!(parse(&json!({ "nftables": listed })), lent);
        }
        let gone = json!({ "nftables": [{ "set": { "name": "lent", "elem": ["eth0", 17] } }] });
        assert_eq!(parse(&gone).interfaces, names(&["eth0"]));
    }
}
