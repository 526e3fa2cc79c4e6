//! Guests by names that a host can have, as hosts(5) wants them.

use crate::inventory::{Bridge, Port};
use crate::nat::guest::label;
use crate::packet::is_link_local;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A name and an address of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// The name, one label of DNS.
    pub name: String,
    /// The VM, as people call it.
    pub vm: String,
}

/// The addresses of guests that are good beyond their own link, by bridge and VM: those that a guest was seen to get, or where there are
/// none those that the host has learnt. Two guests never have one name: the second gets a number, in the order of the bridges and
/// of the runs of a VM. The host itself keeps its name.
/// For root they are only those that DHCP gave or root has set: any guest can say by ARP that it has an address.
pub fn hosts(bridges: &[Bridge], is_for_root: bool, is_wanted: impl Fn(&Port) -> bool) -> Vec<Host> {
    let ports = bridges.iter().flat_map(|bridge| &bridge.ports).filter(|port| port.is_tap() && is_wanted(port));
    let mut runs: BTreeMap<(&str, usize), Vec<&Port>> = BTreeMap::new();
    for port in ports {
        let Some(vm) = port.vm.as_deref() else { continue };
        runs.entry((vm, port.slot.unwrap_or_default())).or_default().push(port);
    }
    let mut names: BTreeMap<String, usize> = BTreeMap::from([("localhost".to_owned(), 1)]);
    let mut hosts = Vec::new();
    for ((vm, _), ports) in runs {
        let file = vm.rsplit('/').next().unwrap_or_default();
        let Some(name) = label(file) else { continue };
        let count = names.entry(name.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { name } else { format!("{}-{count}", &name[..name.len().min(58)]) };
        let mut addresses: Vec<IpAddr> = ports
            .iter()
            .flat_map(|port| match port.leases.is_empty() {
                true if is_for_root => port.set.clone(),
                true => port.addresses.clone(),
                false => port.leases.iter().map(|lease| lease.address.into()).collect(),
            })
            .filter(|ip| !is_link_local(ip))
            .collect();
        addresses.sort();
        addresses.dedup();
        hosts.extend(addresses.into_iter().map(|address| Host { address, name: name.clone(), vm: vm.to_owned() }));
    }
    hosts
}
