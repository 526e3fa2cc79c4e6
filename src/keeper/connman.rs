//! ConnMan: it can't be told to leave one interface alone for a while (its blacklist is read once, when it starts, and what
//! `connmanctl` switches off it takes down and remembers), so it is only recognised.
#![forbid(unsafe_code)]

use super::Keeper;
use super::clients::Running;
use crate::host::Link;
use crate::name::IfName;
use crate::sys::program::Program;

/// Whether this interface is that of one of its services, as it says itself.
pub(super) fn recognise(link: &Link, running: &Running) -> Option<Keeper> {
    let name = format!("connmand ({})", running.process.pid);
    let Ok(services) = services() else {
        return Some(Keeper::stranger(name, "it does not answer to connmanctl, which would tell what it looks after"));
    };
    let why = "it has no way to leave one interface alone for a while";
    services.iter().any(|service| is_on(service, &link.name)).then(|| Keeper::stranger(name, why))
}

/// All that it tells of each of its services.
fn services() -> crate::error::Result<Vec<String>> {
    let list = connmanctl(&["services"])?;
    list.lines().filter_map(|line| line.split_whitespace().last()).map(|id| connmanctl(&["services", id])).collect()
}

fn connmanctl(words: &[&str]) -> crate::error::Result<String> {
    Program::new("connmanctl").words(words.iter().copied()).run()
}

/// Whether a service is configured, and on this interface.
fn is_on(service: &str, interface: &IfName) -> bool {
    let value = |key: &str| service.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(" = "));
    let of_ethernet = value("Ethernet").unwrap_or_default().trim_matches(['[', ']', ' ']);
    let is_its = of_ethernet.split(", ").any(|word| word.trim().strip_prefix("Interface=") == Some(interface.as_str()));
    is_its && matches!(value("State"), Some("association" | "configuration" | "ready" | "online"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_its_interface() {
        let text = "/net/connman/service/ethernet_0254_cable\n  Type = ethernet\n  State = online\n  \
                    Ethernet = [ Method=auto, Interface=eth1, Address=02:00:00:00:00:01, MTU=1500 ]\n";
        assert!(is_on(text, &IfName::new("eth1").unwrap()));
        assert!(!is_on(text, &IfName::new("eth").unwrap()));
        assert!(!is_on(&text.replace("online", "idle"), &IfName::new("eth1").unwrap()));
    }
}
