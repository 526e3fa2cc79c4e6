//! Frames that the guard of a port has dropped, and what they are.

use crate::check::{Check, Topic, counted};
use crate::mac::Mac;
use std::collections::BTreeSet;

/// Whether guards have dropped anything.
pub const GUARD: Topic = Topic(
    "guard",
    "A guarded port lets in what an honest guest sends with its own address. One that is a bridge or a router of VLANs itself, or has another address than its card, needs guard=off.",
);

/// Where rules for users are.
const RULES: &str = "/etc/kvm-bridge/bridge.conf";

/// A guard that has dropped frames, of which these kinds were heard since.
///
/// `user` is whose guest it is, if a rule holds it and not root's own command line.
pub fn judge(dropped: u64, kinds: &BTreeSet<String>, bridge: &str, user: Option<&str>) -> Check {
    if dropped == 0 {
        return GUARD.ok("its port is guarded, and has dropped nothing");
    }
    let heard: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let heard = if heard.is_empty() { "none while it was watched".to_owned() } else { heard.join("; ") };
    let observed = format!("its port has dropped {}: {heard}", counted(dropped, "frame"));
    let fix = match user {
        Some(user) => {
            format!("sudoedit {RULES}   # if the guest is to send these: allow {bridge} user {user} guard off")
        }
        None => format!("qemu-kvm --bridge {bridge},guard=off ...   # if the guest is to send these"),
    };
    GUARD.warning(observed, fix)
}

/// A guest that is held to the addresses that DHCP gives it, on a bridge where nobody hears which these are.
pub fn unheard(bridge: &str) -> Check {
    let observed = format!(
        "its port lets in only what DHCP gave it, and nobody hears what that is: {bridge} has no reaper, so it has no IPv4"
    );
    GUARD.warning(
        observed,
        format!("sudoedit {RULES}   # guard on in place of guard ip, or a bridge with uplink=nat or a shared uplink"),
    )
}

/// What a frame is that was dropped, as the end of a sentence; `own` is the guest's address, and whether the guard goes `by_ip` too.
pub fn kind_of(frame: &[u8], own: Option<Mac>, by_ip: bool) -> String {
    let mac = |at: usize| frame.get(at..at + 6).and_then(|mac| mac.try_into().ok()).map(Mac);
    let (to, from) = (mac(0).unwrap_or(Mac([0; 6])), mac(6).unwrap_or(Mac([0; 6])));
    let of_switches = match to.0 {
        [0x01, 0x80, 0xc2, 0, 0, 0x00] => Some("the spanning tree (STP)"),
        [0x01, 0x80, 0xc2, 0, 0, 0x02] => Some("link aggregation (LACP)"),
        [0x01, 0x80, 0xc2, 0, 0, 0x03] => Some("port authentication (802.1X)"),
        [0x01, 0x80, 0xc2, 0, 0, 0x0e] => Some("link discovery (LLDP)"),
        [0x01, 0x80, 0xc2, 0, 0, 0x20..=0x2f] => Some("registration (MVRP, GMRP)"),
        [0x01, 0x80, 0xc2, 0, 0, ..0x40] => Some("links"),
        [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd] => Some("Cisco's spanning tree (PVST+)"),
        [0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc] => Some("Cisco's switches (CDP, VTP, DTP)"),
        _ => None,
    };
    match (of_switches, own) {
        (Some(what), _) => format!("control frames of {what}, to {to}"),
        (None, Some(own)) if from != own => format!("frames from {from}, which is not its address {own}"),
        (None, None) if from.0[0] & 3 != 2 => format!("frames from {from}, which is no locally administered address"),
        _ if by_ip && !matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])) => {
            let what = match frame.get(12..14) {
                Some([0x08, 0x06]) => "ARP",
                Some([0x08, 0x00]) => "IPv4",
                Some([0x86, 0xdd]) => "IPv6",
                _ => return "frames that are neither ARP nor IP, or have a VLAN tag".to_owned(),
            };
            format!("{what} that is not from an address of its own, or is a server's or a router's, or has a VLAN tag")
        }
        _ => "frames with a VLAN tag".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_rules_to_say_is_a_rule() {
        let fix = |user| judge(41, &BTreeSet::new(), "br0", user).fix.unwrap_or_default();
        assert!(fix(None).starts_with("qemu-kvm --bridge br0,guard=off"));
        assert!(fix(Some("alice")).ends_with("allow br0 user alice guard off"));
    }

    #[test]
    fn what_was_dropped_is_called_by_its_name() {
        let own = Mac([0x52, 0x54, 0, 1, 2, 3]);
        let frame = |to: [u8; 6], from: Mac| [to.as_slice(), &from.0, &[8, 0]].concat();
        let all = [0xff; 6];
        for (frame, says) in [
            (frame([1, 0x80, 0xc2, 0, 0, 0], own), "STP"),
            (frame([1, 0x80, 0xc2, 0, 0, 0x3f], own), "of links"),
            (frame([1, 0, 0x0c, 0xcc, 0xcc, 0xcd], own), "PVST"),
            (
                frame(all, Mac([0x52, 0x54, 0, 9, 9, 9])),
                "from 52:54:00:09:09:09, which is not its address 52:54:00:01:02:03",
            ),
            (frame(all, own), "VLAN tag"),
        ] {
            let kind = kind_of(&frame, Some(own), false);
            assert!(kind.contains(says), "{kind}");
        }
        assert!(kind_of(&frame(all, own), Some(own), true).starts_with("IPv4 that is not from"));
        assert!(kind_of(&frame(all, Mac([0, 1, 2, 3, 4, 5])), None, false).contains("locally administered"));
        assert_eq!(
            kind_of(&[], None, false),
            "frames from 00:00:00:00:00:00, which is no locally administered address"
        );
    }
}
