//! Who manages an interface of the host: looked at, to tell people and to print how that one makes a bridge permanent.
//! Nothing is run, nothing is changed, and nothing but a text and whether an interface is left alone rests on it.
//!
//! What is read is what managers write for themselves: their run-time files, in folders of root's or their own.
#![forbid(unsafe_code)]

use model::host::Link;
use model::ifname::PREFIX;
use model::manager::{Manager, Taker};
use std::fs;
use std::io;
use std::path::Path;

/// The one that manages this interface, as far as its run-time files tell. An error says that one could not be read.
pub fn of(link: &Link) -> io::Result<Option<Manager>> {
    let name = &link.name;
    let state = text(format!("/run/NetworkManager/devices/{}", link.index))?;
    if value(&state, "managed") == Some("true") {
        return Ok(Some(Manager::NetworkManager));
    }
    let state = text(format!("/run/systemd/netif/links/{}", link.index))?;
    let is_managed = value(&state, "ADMIN_STATE") != Some("unmanaged");
    if let Some(file) = value(&state, "NETWORK_FILE").filter(|file| !file.is_empty() && is_managed) {
        return Ok(Some(Manager::Networkd(file.into())));
    }
    let up = text("/run/network/ifstate".into())?;
    if up.lines().any(|line| line.split('=').next() == Some(name.as_str())) {
        return Ok(Some(Manager::Ifupdown));
    }
    for file in ["/run/dhcpcd/pid".to_owned(), format!("/run/dhcpcd/{name}.pid"), format!("/run/dhcpcd-{name}.pid")] {
        if Path::new(&file).try_exists()? {
            return Ok(Some(Manager::Dhcpcd));
        }
    }
    Ok(Path::new("/run/connman").try_exists()?.then_some(Manager::Connman))
}

/// The one that runs and would take our links.
pub fn taker() -> io::Result<Option<Taker>> {
    if Path::new("/run/connman").try_exists()? && !connman_spares(&text("/etc/connman/main.conf".into())?) {
        return Ok(Some(Taker::Connman));
    }
    if Path::new("/run/dhcpcd/pid").try_exists()? && !dhcpcd_spares(&text("/etc/dhcpcd.conf".into())?) {
        return Ok(Some(Taker::Dhcpcd));
    }
    Ok(None)
}

/// Whether a dhcpcd.conf(5) has dhcpcd leave links alone whose names begin as ours do.
fn dhcpcd_spares(configuration: &str) -> bool {
    let words = |key: &'static str| {
        let lines = configuration.lines().filter_map(move |line| line.trim().strip_prefix(key));
        let lists = lines.filter(|rest| rest.starts_with(char::is_whitespace));
        lists.flat_map(|list| list.split([' ', '\t', ',']).filter(|word| !word.is_empty()))
    };
    let fits = |pattern: &str| pattern.strip_suffix('*').is_some_and(|start| PREFIX.starts_with(start));
    let is_allowed = |pattern: &str| fits(pattern) || pattern.starts_with(PREFIX);
    let mut allowed = words("allowinterfaces").peekable();
    words("denyinterfaces").any(fits) || allowed.peek().is_some() && !allowed.any(is_allowed)
}

/// The text of a file; none of one that is not there.
fn text(path: String) -> io::Result<String> {
    match fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The value of a key in a file of lines `KEY=VALUE`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
}

/// Whether a connman.conf(5) has connman leave links alone whose names begin as ours do.
fn connman_spares(configuration: &str) -> bool {
    let lists = configuration.lines().filter_map(|line| line.trim().strip_prefix("NetworkInterfaceBlacklist"));
    let mut lists = lists.filter_map(|rest| rest.trim_start().strip_prefix('='));
    lists
        .next_back()
        .is_some_and(|list| list.split(',').any(|start| !start.trim().is_empty() && PREFIX.starts_with(start.trim())))
}

#[cfg(test)]
mod tests {
    use super::{connman_spares, dhcpcd_spares};

    #[test]
    fn connmans_list_is_of_beginnings() {
        for (text, expected) in [
            ("[General]\nNetworkInterfaceBlacklist=vmnet,kvb\n", true),
            ("NetworkInterfaceBlacklist = ve-, kv\n", true),
            ("NetworkInterfaceBlacklist=vmnet,vboxnet\n", false),
            ("# NetworkInterfaceBlacklist=kvb\n", false),
            ("NetworkInterfaceBlacklist=kvbx,\n", false),
            ("", false),
        ] {
            assert_eq!(connman_spares(text), expected, "{text}");
        }
    }

    #[test]
    fn dhcpcds_lists_are_of_patterns() {
        for (text, expected) in [
            ("denyinterfaces kvb*\n", true),
            ("hostname\ndenyinterfaces eth1, kv* tap*\n", true),
            ("denyinterfaces *\n", true),
            ("denyinterfaces eth0 kvb0\n", false),
            ("denyinterfaceskvb*\n", false),
            ("# denyinterfaces kvb*\n", false),
            ("allowinterfaces eth0 wlan0\n", true),
            ("allowinterfaces eth0 k*\n", false),
            ("allowinterfaces *\n", false),
            ("", false),
        ] {
            assert_eq!(dhcpcd_spares(text), expected, "{text}");
        }
    }
}
