//! Forwarding that is on for our sake alone.
//!
//! A host that is no router has forwarding off, and who turns it on for guests makes it one for everybody: its LAN could send
//! packets through it. So IPv4 forwarding is turned on for each interface and never for `all`: for our bridges, and lent to the
//! others, by which answers come in. A table of ours (`inet kvmb`) drops what a lent interface would forward to others than our
//! bridges. `all` and `default` stay off: that is where Docker, podman and people look and turn it on for themselves, which
//! turns it on for `default` too, and then nothing is lent any more. IPv6 has no switch for an interface alone before Linux
//! 6.17: `all` is turned on, the interfaces and `default` stay off, and the table drops what is not ours.
//!
//! What was off before is kept in a file, for whoever has to turn it off again: others flush the rules of all.

use crate::nat::ruleset::{Table, is, meta, verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The name of the table, of the family inet. Those of bridges have a `_` and a name behind it.
pub const TABLE: &str = "kvmb";

/// What is lent, to whom. A link is known by its index: its name may be another's the next moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lent {
    /// Our bridges that have a network of their own, with their names.
    pub bridges: BTreeMap<u32, String>,
    /// The interfaces that forward IPv4 for these alone.
    pub interfaces: BTreeSet<u32>,
    /// Whether the host forwards IPv6 for these alone.
    pub ipv6: bool,
    /// While that is turned on or off: what `forwarding` and `accept_ra` of each interface, and of `default`, were before, which
    /// the kernel changes with it.
    pub switching: Vec<(String, String, String)>,
}

/// Commands that make the table as it has to be.
pub fn add(lent: &Lent) -> Value {
    let table = Table(TABLE.to_owned());
    let set = |name: &str, elements: Vec<u32>| {
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
        set("bridges", lent.bridges.keys().copied().collect()),
        set("lent", lent.interfaces.iter().copied().collect()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_for_our_bridges_alone() {
        for ipv6 in [false, true] {
            let bridges = [(7, "br0".to_owned()), (9, "@lab".to_owned())].into();
            let lent = Lent { bridges, interfaces: [2, 3].into(), ipv6, switching: Vec::new() };
            let commands = add(&lent).to_string();
            assert!(commands.contains(r#""elem":[7,9]"#) && commands.contains(r#""elem":[2,3]"#), "{commands}");
            assert!(!commands.contains("@lab"), "a name can mean more to nft");
            assert_eq!(commands.contains("forward6"), ipv6);
        }
    }
}
