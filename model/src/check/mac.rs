//! Two cards of one address: both are there at times, and neither all the time.

use crate::argv::inspect::{Device, QemuLine};
use crate::check::{Check, Topic, counted};
use crate::mac::Mac;
use crate::text;
use std::collections::BTreeMap;

/// All of it.
pub const MAC: Topic = Topic(
    "mac",
    "Frames for an address go to whoever spoke last with it: two guests that share one lose each other's.",
);
/// What QEMU gives its first card where it is not told (qemu_macaddr_default_if_unset in QEMU's net/net.c).
pub const DEFAULT: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

fn is_default(device: &Device) -> bool {
    device.mac.is_none_or(|mac| mac == DEFAULT)
}

/// Whether a guest with this command line is going to have QEMU's default.
pub fn will_have_default(line: &QemuLine) -> bool {
    // A -device that names the netdev of a --bridge is the user's own.
    line.devices.iter().any(is_default)
}

/// Whether one that runs has it on a network: a card on QEMU's own user-mode network meets no other.
pub fn has_default(line: &QemuLine) -> bool {
    let is_on_a_network = |device: &Device| {
        let netdev = line.netdevs.iter().find(|known| Some(&known.id) == device.netdev.as_ref());
        netdev.is_some_and(|netdev| matches!(netdev.kind.as_str(), "tap" | "bridge"))
    };
    line.devices.iter().any(|device| is_default(device) && is_on_a_network(device))
}

/// What to do about it, with an address that nobody has.
fn another(fresh: Option<Mac>) -> String {
    let mac = fresh.map_or("52:54:00:...".to_owned(), |mac| mac.to_string());
    format!("qemu-kvm --bridge br0,mac={mac} ...   # for one of them; without mac= each VM gets one of its own")
}

/// Addresses of a bridge that several have; `guests` are those whose address is known.
pub fn collisions(owners: BTreeMap<Mac, Vec<String>>, guests: usize, fresh: impl Fn() -> Option<Mac>) -> Vec<Check> {
    let twice = owners.into_iter().filter(|(_, owners)| owners.len() > 1);
    let check = |(mac, owners): (Mac, Vec<String>)| {
        MAC.failure(format!("{mac} is that of {}", owners.join(" and of ")), another(fresh()))
    };
    let checks: Vec<Check> = twice.map(check).collect();
    match checks.is_empty() {
        true => vec![MAC.ok(format!("{}, and no address twice", counted(guests as u64, "guest")))],
        false => checks,
    }
}

/// QEMUs that were told no address, and so have the same one; with the guest that is asked about, if it is one of them.
pub fn defaults(running: &[String], is_asked: bool, fresh: impl Fn() -> Option<Mac>) -> Option<Check> {
    let all = running.join(" and ");
    Some(match (running, is_asked) {
        ([], false) => return None,
        ([], true) => MAC.ok(format!("the guest will have QEMU's default, {DEFAULT}, and no other that runs has it")),
        ([one], false) => MAC.ok(format!("{one} has QEMU's default, {DEFAULT}, and no other does")),
        (_, true) => MAC.failure(
            format!("the guest will have QEMU's default, {DEFAULT}, which {all} has already"),
            another(fresh()),
        ),
        (_, false) => MAC.failure(format!("{all} all have QEMU's default, {DEFAULT}"), another(fresh())),
    })
}

/// An address that is going to be given by hand: whether it is kept for a VM, or somebody was heard to have it.
pub fn given(mac: Mac, kept_for: Option<&str>, heard: Option<&str>, fresh: impl Fn() -> Option<Mac>) -> Check {
    let observed = match (kept_for, heard) {
        (Some(vm), _) => format!("{mac} is kept for {}", text::one_line(vm)),
        (None, Some(somebody)) => format!("{mac} is that of {somebody} already"),
        (None, None) => return MAC.ok(format!("{mac} is not in use elsewhere")),
    };
    MAC.failure(observed, another(fresh()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn two_of_one_address_are_told_of() {
        let (one, other) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let owners = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = collisions([(one, owners(&["tap0"]))].into(), 1, || None);
        assert_eq!((found[0].verdict, found[0].observed.as_str()), (Verdict::Ok, "1 guest, and no address twice"));
        let found = collisions([(one, owners(&["tap0"])), (other, owners(&["tap1", "eth0"]))].into(), 2, || Some(one));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].observed, "02:00:00:00:00:02 is that of tap1 and of eth0");
        assert!(
            found[0].fix.as_ref().is_some_and(|fix| fix.starts_with("qemu-kvm --bridge br0,mac=02:00:00:00:00:01 "))
        );
    }

    #[test]
    fn qemus_default_is_good_for_one_guest() {
        let line = |text: &str| QemuLine::read(&text.split_whitespace().map(Into::into).collect::<Vec<_>>());
        let tap = line("-netdev tap,id=n -device e1000,netdev=n");
        let user = line("-netdev user,id=n -device e1000,netdev=n");
        let told = line("-netdev tap,id=n -device e1000,netdev=n,mac=52:54:00:00:00:01");
        assert_eq!([&tap, &user, &told].map(has_default), [true, false, false]);
        assert_eq!([&tap, &user, &told].map(will_have_default), [true, true, false]);
        let verdict = |running: &[&str], is_asked| {
            let running: Vec<String> = running.iter().map(|name| (*name).to_owned()).collect();
            defaults(&running, is_asked, || None).map(|check| check.verdict)
        };
        assert_eq!((verdict(&[], false), verdict(&[], true)), (None, Some(Verdict::Ok)));
        assert_eq!((verdict(&["a"], false), verdict(&["a"], true)), (Some(Verdict::Ok), Some(Verdict::Failure)));
        assert_eq!(verdict(&["a", "b"], false), Some(Verdict::Failure));
    }
}
