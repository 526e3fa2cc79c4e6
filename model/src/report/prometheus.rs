//! Bridges as metrics, in the text format that the node exporter of Prometheus reads
//! (prometheus.io/docs/instrumenting/exposition_formats).

use crate::inventory::{Bridge, Port};
use std::fmt::Write;

/// What is told of each port: its name, what it is, and its value.
type Metric = (&'static str, &'static str, fn(&Port) -> u64);

const OF_PORTS: [Metric; 5] = [
    ("receive_bytes", "Bytes that the host has received from the port: of a guest, those that it has sent.", |port| {
        port.detail.stats.rx_bytes
    }),
    ("receive_packets", "The same in packets.", |port| port.detail.stats.rx_packets),
    ("transmit_bytes", "Bytes that the host has sent to the port.", |port| port.detail.stats.tx_bytes),
    ("transmit_packets", "The same in packets.", |port| port.detail.stats.tx_packets),
    ("dropped_packets", "Packets of the guest that its guard or its rate has dropped.", |port| port.held.dropped),
];

/// All of them.
pub fn metrics<'a>(bridges: impl Iterator<Item = &'a Bridge> + Clone) -> String {
    let mut text = head("kvm_bridge_faults", "gauge", "Faults of a bridge that kvm-bridge has created.");
    for bridge in bridges.clone().filter(|bridge| bridge.journal.is_some()) {
        let faults = bridge.faults().len() + usize::from(bridge.last_failure.is_some());
        let _ = writeln!(text, "kvm_bridge_faults{{bridge={}}} {faults}", quoted(bridge.detail.link.name.as_str()));
    }
    for (name, help, value) in OF_PORTS {
        text += &head(&format!("kvm_bridge_port_{name}_total"), "counter", help);
        for (bridge, port) in bridges.clone().flat_map(|bridge| bridge.ports.iter().map(move |port| (bridge, port))) {
            let [bridge, port_name, vm] = [
                bridge.detail.link.name.as_str(),
                port.detail.link.name.as_str(),
                port.vm.as_deref().unwrap_or_default(),
            ]
            .map(quoted);
            let labels = format!("bridge={bridge},port={port_name},vm={vm}");
            let _ = writeln!(text, "kvm_bridge_port_{name}_total{{{labels}}} {}", value(port));
        }
    }
    text
}

fn head(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

/// A label's value.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_cannot_end_its_label() {
        assert_eq!(super::quoted("a\\\"}\n"), r#""a\\\"}\n""#);
    }
}
