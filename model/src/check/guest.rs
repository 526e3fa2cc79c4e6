//! How far a guest has got, and what that tells.

use crate::check::{Check, Topic, counted};
use crate::packet::progress::Progress;
use crate::text::shell::quote;

/// All of it but what has reasons of its own.
pub const GUEST: Topic = Topic("guest", "An address is got in four steps: DISCOVER, OFFER, REQUEST, ACK.");

/// A guest that was watched.
#[derive(Debug)]
pub struct Watched<'a> {
    /// Its TAP.
    pub tap: &'a str,
    /// The bridge that this is on.
    pub bridge: &'a str,
    /// Whether its process is known.
    pub has_process: bool,
    /// What was heard.
    pub progress: &'a Progress,
    /// How many frames it has sent since it was started.
    pub frames: u64,
    /// How long it was watched.
    pub seconds: u64,
}

/// Where it stands.
pub fn judge(guest: &Watched) -> Check {
    const SILENT: Topic = Topic(
        "guest",
        "Its kernel has no driver for its network card, or has not come so far, or nobody in it sets the card up.",
    );
    const REFUSED: Topic =
        Topic("guest", "It asks for an address of another network, or for one that is somebody else's by now.");
    const UNCONFIRMED: Topic =
        Topic("guest", "The server does not confirm the address, or its answer is lost on the way.");
    const DEAF: Topic = Topic(
        "guest",
        "Answers reach the guest's port, and the guest does not take them: often because the host leaves their checksums to a card that they never reach.",
    );
    const UNANSWERED: Topic = Topic(
        "guest",
        "The guest asks, and no answer reaches its port: there is no server, or something drops the frames between.",
    );
    const STATIC: Topic =
        Topic("guest", "It does not ask for an address, or has given up, or has had one for long and is silent.");
    let (tap, bridge, progress) = (quote(guest.tap), quote(guest.bridge), guest.progress);
    if let Some(message) = progress.ack {
        let address = message.address.map(|ip| ip.to_string()).unwrap_or_default();
        let server = message.server.map(|ip| format!(" from {ip}")).unwrap_or_default();
        return GUEST.ok(format!("ACK: it got {address}{server} just now"));
    }
    if let Some(ip) = progress.address() {
        return GUEST.ok(format!("it has {ip}"));
    }
    let in_time = format!("in {} s", guest.seconds);
    match progress {
        _ if guest.frames == 0 => SILENT.failure(
            "it has sent no frame at all",
            match guest.has_process {
                true => "Look at its console.".to_owned(),
                false => {
                    format!("kvm-bridge doctor {bridge} -- ARGUMENTS   # those of its QEMU; or look at its console")
                }
            },
        ),
        Progress { nak: true, .. } => REFUSED.failure(
            "REQUEST without ACK: the server refused the address (NAK)",
            "rm /var/lib/dhcp/*.leases   # or wherever the guest's client keeps its old lease; in the guest, then reboot",
        ),
        Progress { request: true, .. } => UNCONFIRMED
            .failure(format!("REQUEST without ACK {in_time}"), format!("tcpdump -eni {tap} port 67 or port 68")),
        Progress { offer: true, .. } => {
            DEAF.failure(format!("OFFER without REQUEST {in_time}"), format!("ethtool -K {bridge} tx off"))
        }
        Progress { discover: true, .. } => UNANSWERED.failure(
            format!("DISCOVER without OFFER {in_time}"),
            format!("kvm-bridge doctor {bridge}   # its checks dhcp, firewall and uplink tell which"),
        ),
        _ => STATIC.warning(
            format!("it has sent {}, and none of DHCP {in_time}", counted(guest.frames, "frame")),
            "-append \"ip=dhcp\"   # for a kernel that asks by itself; in a distribution: dhclient, or networkctl renew",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn the_last_step_that_was_heard_decides() {
        let (discover, offer, request, nak) = (true, true, true, true);
        let asked = Progress { discover, ..Progress::default() };
        let offered = Progress { offer, ..asked.clone() };
        let requested = Progress { request, ..offered.clone() };
        let refused = Progress { nak, ..requested.clone() };
        let named = Progress { addresses: ["10.0.0.5".parse().unwrap()].into(), ..refused.clone() };
        let linked = Progress { addresses: ["fe80::5".parse().unwrap()].into(), ..Progress::default() };
        for (progress, frames, verdict, observed) in [
            (&asked, 0, Verdict::Failure, "it has sent no frame at all"),
            (&asked, 1, Verdict::Failure, "DISCOVER without OFFER in 10 s"),
            (&offered, 2, Verdict::Failure, "OFFER without REQUEST in 10 s"),
            (&requested, 2, Verdict::Failure, "REQUEST without ACK in 10 s"),
            (&refused, 2, Verdict::Failure, "REQUEST without ACK: the server refused the address (NAK)"),
            (&named, 2, Verdict::Ok, "it has 10.0.0.5"),
            (&linked, 1, Verdict::Warning, "it has sent 1 frame, and none of DHCP in 10 s"),
            (&linked, 2, Verdict::Warning, "it has sent 2 frames, and none of DHCP in 10 s"),
        ] {
            let guest = Watched { tap: "tap0", bridge: "br0", has_process: true, progress, frames, seconds: 10 };
            let check = judge(&guest);
            assert_eq!((check.verdict, check.observed.as_str()), (verdict, observed));
        }
    }
}
