//! The work itself: one TAP, on one bridge.
#![forbid(unsafe_code)]

use crate::NAME;
use crate::acl::{Place, show};
use crate::failure::{Failure, reason};
use crate::netlink::{Change, Link, Socket};
use crate::privilege::Reserve;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The device that TAPs are made with.
const DEVICE: &str = "/dev/net/tun";
/// How long a caller within the quota waits for others of the same user that are beyond it to give up.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be attached to what.
#[derive(Debug)]
pub struct Task<'a> {
    /// The bridge, which the rules allow.
    pub bridge: &'a [u8],
    /// Whether the TAP has vnet headers, where the kernel has them.
    pub use_vnet: bool,
    /// For whom.
    pub uid: u32,
    /// How many TAPs this user may have on the bridge, and by which line.
    pub max: Option<(u32, Place)>,
}

/// Makes a TAP that is up and a port of the bridge, and gives the right to do so up. The TAP is there as long as the
/// file that is returned is open somewhere.
pub fn attach(task: &Task, reserve: Reserve) -> Result<File, Failure> {
    check_namespace()?;
    let cannot = |what: &str| {
        let what = format!("{}: cannot {what}", show(task.bridge));
        move |error: io::Error| Failure::new(format!("{what}: {}", reason(&error)), remedy(&error))
    };
    let mut socket = Socket::open().map_err(cannot("ask the kernel"))?;
    let bridge = find_bridge(&mut socket, task.bridge, cannot("ask the kernel"))?;
    let device = open_device()?;

    let right = reserve.take().map_err(cannot("take the right to change the network"))?;
    // The kernel asks for the right of who opened the socket, too.
    let mut socket = Socket::open().map_err(cannot("ask the kernel"))?;
    let name = sys::make_tap(&device, task.use_vnet).map_err(cannot("make a TAP"))?;
    sys::set_tap_owner(&device, task.uid).map_err(cannot("make the TAP the caller's"))?;
    let tap = socket.link(&name).map_err(cannot("find the TAP"))?;
    let tap = tap.filter(|tap| tap.name == name && tap.kind == b"tun" && tap.controller.is_none());
    let tap = tap.ok_or_else(|| cannot("find the TAP")(io::ErrorKind::NotFound.into()))?;
    // A high address, so that a bridge whose own follows its ports does not take it.
    let mut address = tap.address.clone();
    if let Some(first) = address.first_mut() {
        *first = 0xfe;
    }
    // Frames of the guest are not the host's: it needs no address there. A kernel without IPv6 does not know of this.
    let _ = socket.change(tap.index, &[Change::NoIpv6Address]);
    let alias = alias(task.uid);
    let dress = [Change::Address(&address), Change::Mtu(bridge.mtu), Change::Alias(&alias)];
    socket.change(tap.index, &dress).map_err(cannot("prepare the TAP"))?;
    socket.change(tap.index, &[Change::Controller(bridge.index)]).map_err(cannot("attach the TAP"))?;
    socket.change(tap.index, &[Change::Up]).map_err(cannot("set the TAP up"))?;

    let is_port = |link: &Link| link.is_up && link.controller == Some(bridge.index) && link.alias == alias;
    let seen = socket.link_at(tap.index).map_err(cannot("look at the TAP"))?;
    if !seen.is_some_and(|link| is_port(&link)) {
        let what = format!("{}: the TAP was attached and is not", show(task.bridge));
        return Err(Failure::new(what, "See who changes links at the same time: ip monitor link"));
    }
    if let Some((max, place)) = &task.max {
        keep_quota(&mut socket, task, tap.index, bridge.index, *max, place).map_err(|failure| match failure {
            Over::Quota(failure) => failure,
            Over::Unknown(error) => cannot("count your TAPs")(error),
        })?;
    }
    right.renounce().map_err(cannot("give the right to change the network up"))?;
    Ok(device)
}

fn find_bridge(socket: &mut Socket, name: &[u8], cannot: impl FnOnce(io::Error) -> Failure) -> Result<Link, Failure> {
    let shown = show(name);
    let Some(link) = socket.link(name).map_err(cannot)? else {
        return Err(Failure::new(
            format!("there is no bridge {shown}"),
            format!("Ask your admin for: sudo kvm-bridge up {shown}"),
        ));
    };
    // The rules are about the names that bridges have. By another one (ip link property add altname) the rule against
    // this one would be evaded.
    if link.name != name {
        let what = format!("{shown} is another name of {}", show(&link.name));
        return Err(Failure::new(what, format!("Say {}, if that is allowed.", show(&link.name))));
    }
    if link.kind != b"bridge" {
        return Err(Failure::new(format!("{shown} is no bridge"), "To list those that are: ip link show type bridge"));
    }
    Ok(link)
}

fn open_device() -> Result<File, Failure> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => format!("Ask your admin for: sudo chmod 666 {DEVICE}"),
            io::ErrorKind::NotFound => "Ask your admin for: sudo modprobe tun".to_owned(),
            _ => remedy(&error),
        };
        Failure::new(format!("cannot open {DEVICE}: {}", reason(&error)), remedy)
    })
}

/// Refuses to work in a network namespace that belongs to another user namespace than this process is in: there the
/// capability is one over somebody else's network (CVE-2017-5985).
fn check_namespace() -> Result<(), Failure> {
    let identity = |file: io::Result<File>| {
        let metadata = file?.metadata()?;
        Ok::<_, io::Error>((metadata.dev(), metadata.ino()))
    };
    let open = |path: &str| identity(File::open(path));
    let owner = File::open("/proc/self/ns/net").and_then(|namespace| identity(sys::owner_of_namespace(&namespace)));
    match (owner, open("/proc/self/ns/user")) {
        (Ok(owner), Ok(own)) if owner == own => Ok(()),
        (Ok(_), Ok(_)) => Err(Failure::new(
            "this network namespace belongs to another user namespace",
            "Run QEMU in the namespaces of the host, or all of it in that user namespace.",
        )),
        (Err(error), _) | (_, Err(error)) => Err(Failure::new(
            format!("cannot see whose network namespace this is: {}", reason(&error)),
            "/proc has to be mounted here.",
        )),
    }
}

/// The mark of a user's TAPs. Only the right to change the network changes it: whoever has the TAP's descriptor can't.
fn alias(uid: u32) -> Vec<u8> {
    format!("{NAME} uid {uid}").into_bytes()
}

enum Over {
    Quota(Failure),
    Unknown(io::Error),
}

/// Lets at most `max` TAPs of a user be on the bridge, this one included.
///
/// A TAP is marked before it joins, and counted after, so that the later of two always sees the earlier: however many come
/// at once, no more than `max` get through. Those of the lowest index wait for the others to go, so that `max` do.
fn keep_quota(socket: &mut Socket, task: &Task, own: u32, bridge: u32, max: u32, place: &Place) -> Result<(), Over> {
    let alias = alias(task.uid);
    let end = Instant::now() + PATIENCE;
    loop {
        let links = socket.links().map_err(Over::Unknown)?;
        match standing(&links, own, bridge, &alias, max) {
            Standing::Within => return Ok(()),
            Standing::Undecided if Instant::now() < end => sleep(Duration::from_millis(5)),
            _ => {
                let what = format!("you have as many TAPs on {} as {place} allows: {max}", show(task.bridge));
                return Err(Over::Quota(Failure::new(what, "End a guest, or ask your admin for a higher max.")));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Within,
    /// Too many are there, but of those this one is among the first.
    Undecided,
    Beyond,
}

fn standing(links: &[Link], own: u32, bridge: u32, alias: &[u8], max: u32) -> Standing {
    let others = links.iter().filter(|link| link.controller == Some(bridge) && link.alias == alias);
    let (mut all, mut before) = (1, 0);
    for link in others.filter(|link| link.index != own) {
        all += 1;
        before += u32::from(link.index < own);
    }
    match () {
        () if all <= max => Standing::Within,
        () if before < max => Standing::Undecided,
        () => Standing::Beyond,
    }
}

fn remedy(error: &io::Error) -> String {
    use nix::libc::{EBUSY, EINVAL, EMFILE, ENFILE, EOPNOTSUPP, EPERM, EXFULL};
    let text = match error.raw_os_error() {
        Some(EXFULL) => "A bridge has at most 1023 ports: end guests, or use another bridge.",
        Some(EMFILE | ENFILE) => "Raise the limit on open files: ulimit -n",
        Some(EPERM) => "Ask your admin for: sudo kvm-bridge install",
        Some(EBUSY | EINVAL | EOPNOTSUPP) => "See what the bridge is: ip -d link",
        _ => "See the kernel's log: dmesg",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_within_the_quota_stay_and_the_others_go() {
        let link = |index, controller, alias: &[u8]| Link {
            index,
            controller: Some(controller),
            alias: alias.to_vec(),
            ..Link::default()
        };
        let links = [link(1, 9, b"a"), link(2, 9, b"a"), link(3, 9, b"b"), link(4, 8, b"a"), link(5, 9, b"a")];
        assert_eq!(standing(&links, 5, 9, b"a", 3), Standing::Within);
        assert_eq!(standing(&links, 5, 9, b"a", 2), Standing::Beyond);
        assert_eq!(standing(&links, 2, 9, b"a", 2), Standing::Undecided);
        assert_eq!(standing(&links, 1, 9, b"a", 0), Standing::Beyond);
        assert_eq!(standing(&links, 3, 9, b"b", 1), Standing::Within);
    }
}
