//! Whether a guest that runs at another host can move here.

use crate::check::{Check, Topic};
use crate::mac::Mac;
use crate::text::shell::quote;
use crate::vm::Record;

/// Whether a guest can move in.
pub const INCOMING: Topic = Topic(
    "incoming",
    "A guest that moves in goes on with what it has: its address and its machine have to be the same here.",
);

/// What is known here of its addresses; `there` is the one that it has, if somebody says that, `given` what its line has.
pub fn addresses(vm: &str, known: Option<&Record>, there: Option<Mac>, given: &[Option<Mac>]) -> Check {
    let copy =
        format!("At the host where it runs: kvm-bridge mac export {} | ssh THIS-HOST kvm-bridge mac import", quote(vm));
    let given: Vec<Mac> = given.iter().copied().flatten().collect();
    let stored: Vec<Mac> = known.iter().flat_map(|record| record.macs()).collect();
    let list = |macs: &[Mac]| macs.iter().map(Mac::to_string).collect::<Vec<_>>().join(", ");
    let (macs, whose) = if given.is_empty() { (stored, "stored for it") } else { (given, "on its command line") };
    match there {
        _ if macs.is_empty() => INCOMING.failure(format!("no MAC address of {vm} is known here"), copy),
        Some(there) if !macs.contains(&there) => {
            let observed =
                format!("the guest has the MAC address {there}, and what is {whose} here is {}", list(&macs));
            let fix = format!("kvm-bridge mac forget {}   # here, where it does not run. {copy}", quote(vm));
            INCOMING.failure(observed, fix)
        }
        Some(there) => INCOMING.ok(format!("its MAC address {there} is {whose} here")),
        None => INCOMING.warning(
            format!("whether the guest has {}, which is {whose} here, was not checked", list(&macs)),
            format!("kvm-bridge doctor --incoming {} --mac \"$(ssh THERE kvm-bridge mac get {0})\" ...", quote(vm)),
        ),
    }
}

/// Whether the QEMU here has the machine; `help` is what it says of those that it has, `None` where it does not say.
pub fn machine(machine: Option<&str>, help: Option<&str>) -> Check {
    const ASK: &str =
        "Ask at the other host, at QEMU's monitor: qom-get /machine type; then name it here: -- -machine TYPE";
    let lines = || help.into_iter().flat_map(str::lines).filter_map(|line| line.split_once(' '));
    let about = |name: &str| lines().find(|(first, _)| *first == name).map(|(_, about)| about);
    match machine {
        _ if help.is_none() => {
            INCOMING.warning("which machines the QEMU here has could not be found out", "qemu-kvm -machine help")
        }
        None => INCOMING.warning(
            "which machine the guest has was not said, and QEMU's default is another from version to version",
            ASK,
        ),
        Some(name) => match about(name) {
            None => INCOMING.failure(
                format!("the QEMU here has no machine {name}"),
                "Install the version of QEMU that the other host has, or a newer one.",
            ),
            Some(about) => match about.split("(alias of ").nth(1).and_then(|rest| rest.split(')').next()) {
                Some(own) => {
                    let observed = format!("{name} is {own} here, and may be another machine at the other host");
                    INCOMING.warning(observed, ASK)
                }
                None => INCOMING.ok(format!("the QEMU here has the machine {name}")),
            },
        },
    }
}

/// What has to be so and can't be seen from here.
pub fn unseen(bridge: &str) -> Check {
    INCOMING.warning(
        format!("whether {bridge} is on the LAN of the other host, and both QEMUs have the same devices, processor and disks, cannot be seen from here"),
        "Start the QEMU here with the same arguments. From a guest or host on the LAN: arping the address of the other host.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::scan::Identity;
    use crate::check::Verdict;
    use crate::vm::VmId;

    #[test]
    fn the_address_has_to_be_the_one_that_the_guest_has() {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let record =
            Record::new(&VmId::as_written(&Identity::Name(b"alice".to_vec())), vec![vec![Some(mac(1)), Some(mac(2))]]);
        for (known, there, given, verdict) in [
            (None, Some(mac(1)), vec![None], Verdict::Failure),
            (None, Some(mac(1)), vec![Some(mac(1))], Verdict::Ok),
            (Some(&record), Some(mac(2)), vec![None], Verdict::Ok),
            (Some(&record), Some(mac(3)), vec![None], Verdict::Failure),
            (Some(&record), Some(mac(1)), vec![Some(mac(3))], Verdict::Failure),
            (Some(&record), None, vec![], Verdict::Warning),
        ] {
            assert_eq!(addresses("alice", known, there, &given).verdict, verdict, "{known:?} {there:?} {given:?}");
        }
    }

    #[test]
    fn the_machine_has_to_be_named_and_there() {
        const HELP: &str = "Supported machines are:\npc      Standard PC (alias of pc-i440fx-7.2)\npc-i440fx-7.2   Standard PC (default)\n";
        for (name, help, verdict) in [
            (Some("pc-i440fx-7.2"), Some(HELP), Verdict::Ok),
            (Some("pc"), Some(HELP), Verdict::Warning),
            (Some("pc-i440fx-99"), Some(HELP), Verdict::Failure),
            (None, Some(HELP), Verdict::Warning),
            (Some("pc"), None, Verdict::Warning),
        ] {
            assert_eq!(machine(name, help).verdict, verdict, "{name:?}");
        }
    }
}
