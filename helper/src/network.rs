//! The work itself: one TAP, on one bridge.
#![forbid(unsafe_code)]

use crate::NAME;
use crate::acl::{Grant, Place, quote, show};
use crate::container;
use crate::failure::{Failure, reason};
use crate::files::Accounts;
use crate::known;
use crate::netlink::{Change, Link, Socket};
use crate::privilege::Reserve;
use crate::sys;
use nix::libc::{
    EACCES, EAFNOSUPPORT, EBUSY, EEXIST, EINVAL, EMFILE, ENFILE, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, EPERM, EXFULL,
};
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
    /// Whether the TAP has vnet headers, where the kernel and the policy have them.
    pub use_vnet: bool,
    /// For whom.
    pub uid: u32,
    /// The guest's address, if the caller has told it.
    pub mac: Option<[u8; 6]>,
    /// What the rules allow this user on the bridge.
    pub grant: Grant,
}

impl Task<'_> {
    /// The address that is to be this guest's alone.
    fn claimed(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.grant.policy.is_guarded())
    }
}

/// Makes a TAP that is up and a port of the bridge, and gives the right to do so up. The TAP is there as long as the
/// file that is returned is open somewhere.
pub fn attach(task: &Task, reserve: Reserve) -> Result<File, Failure> {
    let cannot = |what: &str| {
        let what = format!("{}: cannot {what}", show(task.bridge));
        move |error: io::Error| Failure::new(format!("{what}: {}", reason(&error)), remedy(&error))
    };
    let mut socket = Socket::open().map_err(cannot("ask the kernel"))?;
    let bridge = find_bridge(&mut socket, task.bridge, cannot("ask the kernel"))?;
    check_policy(task, &bridge)?;
    let mut policy = task.grant.policy.clone();
    if let Some(vlans) = &mut policy.vlans {
        vlans.are_service_tags = bridge.has_service_tags;
    }
    if let Some(mac) = task.claimed() {
        let routers = known::routers(&mut socket).map_err(cannot("ask the kernel for routers"))?;
        if routers.iter().any(|router| *router == mac) {
            return Err(anothers(task, mac, ": it is the router's, through which this host sends"));
        }
    }
    let device = open_device()?;

    let right = reserve.take().map_err(cannot("take the right to change the network"))?;
    // The kernel asks for the right of who opened the socket, too.
    let mut socket = Socket::open().map_err(cannot("ask the kernel"))?;
    let name = sys::make_tap(&device, task.use_vnet && policy.has_vnet_headers()).map_err(cannot("make a TAP"))?;
    sys::set_tap_owner(&device, task.uid).map_err(cannot("make the TAP the caller's"))?;
    let tap = socket.link(&name).map_err(cannot("find the TAP"))?;
    let tap = tap.filter(|tap| tap.name == name && tap.kind == b"tun" && tap.controller.is_none());
    let tap = tap.ok_or_else(|| cannot("find the TAP")(io::ErrorKind::NotFound.into()))?;
    // A high address, so that a bridge whose own follows its ports does not take it.
    let mut address = tap.address.clone();
    if let Some(first) = address.first_mut() {
        *first = 0xfe;
    }
    // Frames of the guest are not the host's: it needs no address there.
    match socket.change(tap.index, &[Change::NoIpv6Address]) {
        // A kernel without IPv6.
        Err(error) if matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EOPNOTSUPP)) => {}
        changed => changed.map_err(cannot("keep IPv6 addresses off the TAP"))?,
    }
    let mark = [mark(task.uid, bridge.index), task.claimed().map(mark_of_address).unwrap_or_default()].concat();
    let settings = [Change::Address(&address), Change::Mtu(bridge.mtu), Change::Alias(&mark)];
    socket.change(tap.index, &settings).map_err(cannot("prepare the TAP"))?;
    for request in policy.before(tap.index, task.mac) {
        socket.carry_out(&request).map_err(|error| not_held(task, &request, &error))?;
    }
    // Whoever stops it before this line has no port, and behind it one that is counted.
    if let Some((max, place)) = &task.grant.max {
        keep_quota(&mut socket, task, tap.index, bridge.index, *max, place).map_err(|failure| match failure {
            Over::Quota(failure) => failure,
            Over::Unknown(error) => cannot("count your TAPs")(error),
        })?;
    }
    socket.change(tap.index, &[Change::Controller(bridge.index)]).map_err(cannot("attach the TAP"))?;
    // It carries nothing before it is up.
    for request in policy.after(tap.index).into_iter().chain(policy.claim(tap.index, task.mac)) {
        socket.carry_out(&request).map_err(|error| match (error.raw_os_error(), task.claimed()) {
            (Some(EEXIST), Some(mac)) => anothers(task, mac, &holder(&mut socket, bridge.index, tap.index, mac)),
            _ => not_held(task, &request, &error),
        })?;
    }
    // Whoever has a TAP's descriptor can have the bridge forget where an address is (SIOCSIFHWADDR), but not the mark. Of two that
    // come at once, each is a marked port before it looks.
    if let Some(mac) = task.claimed() {
        let ports = socket.links(Some(bridge.index)).map_err(cannot("list its ports"))?;
        if let Some(other) = marked_with(&ports, tap.index, mac) {
            return Err(anothers(task, mac, &of_port(other)));
        }
    }
    socket.change(tap.index, &[Change::Up]).map_err(cannot("set the TAP up"))?;

    let is_port = |link: &Link| link.is_up && link.controller == Some(bridge.index) && link.alias == mark;
    let seen = socket.link_at(tap.index).map_err(cannot("look at the TAP"))?;
    if !seen.is_some_and(|link| is_port(&link)) {
        let what = format!("{}: the TAP was attached and is not", show(task.bridge));
        return Err(Failure::new(what, "See who changes links at the same time: ip monitor link"));
    }
    right.renounce().map_err(cannot("give the right to change the network up"))?;
    Ok(device)
}

fn find_bridge(socket: &mut Socket, name: &[u8], cannot: impl FnOnce(io::Error) -> Failure) -> Result<Link, Failure> {
    let shown = show(name);
    let Some(link) = socket.link(name).map_err(cannot)? else {
        return Err(Failure::new(
            format!("there is no bridge {shown}"),
            format!("Ask your admin for: sudo kvm-bridge up {}", quote(&shown)),
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

/// Refuses what the rules ask for and the bridge can't do, and an address that a guarded guest can't have: one of a card, a switch
/// or a router of the factory is not the caller's to choose.
fn check_policy(task: &Task, bridge: &Link) -> Result<(), Failure> {
    let (policy, shown) = (&task.grant.policy, show(task.bridge));
    if let Some(vlans) = policy.vlans.as_ref().filter(|_| !bridge.filters_vlans) {
        let what = format!("the rules put you in VLAN {vlans}, and {shown} does not filter VLANs");
        let remedy = format!("Ask your admin for: sudo ip link set dev {} type bridge vlan_filtering 1", quote(&shown));
        return Err(Failure::new(what, remedy));
    }
    match task.mac {
        Some(mac) if policy.is_guarded() && mac[0] & 2 == 0 => Err(Failure::new(
            format!("{}: the address {} is one of the factory's, and may be another's", shown, text(mac)),
            format!("Give the guest a locally administered one, as 52:54:00:... {}", ask_for_no_guard(task)),
        )),
        None if task.grant.needs_address => Err(Failure::new(
            format!("{shown}: the rules say guard {}, and your guest's MAC address was not told", policy.guard),
            "Start it with qemu-kvm of kvm-bridge, or give the helper --mac=ADDRESS.",
        )),
        _ => Ok(()),
    }
}

fn ask_for_no_guard(task: &Task) -> String {
    let rule = quote(&format!("allow {} ... guard off", show(task.bridge)));
    format!("Or ask your admin for a rule that does without the guard: {rule}")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What a port is to be held to and could not be: it is none then.
fn not_held(task: &Task, request: &port::Request, error: &io::Error) -> Failure {
    Failure::new(
        format!("{}: cannot {}: {}", show(task.bridge), request.what, reason(error)),
        format!("The kernel needs {} for that. {}", request.needs, ask_for_no_guard(task)),
    )
}

/// The address is not to be had; `whose` ends the sentence.
fn anothers(task: &Task, mac: [u8; 6], whose: &str) -> Failure {
    Failure::new(
        format!("{}: the address {} is another's there{whose}", show(task.bridge), text(mac)),
        format!("Give the guest another one. {}", ask_for_no_guard(task)),
    )
}

/// Who has an address on the bridge already, as far as that can be told.
fn holder(socket: &mut Socket, bridge: u32, own: u32, mac: [u8; 6]) -> String {
    let marked = socket.links(Some(bridge)).ok().and_then(|ports| marked_with(&ports, own, mac).cloned());
    let known = || {
        let port = known::port_of(socket, bridge, &mac).ok()??;
        socket.link_at(port).ok()?
    };
    match marked.or_else(known) {
        Some(link) if link.index == bridge => ": it is the bridge's own".to_owned(),
        Some(link) => of_port(&link),
        None => String::new(),
    }
}

fn of_port(port: &Link) -> String {
    let uid = std::str::from_utf8(&port.alias)
        .ok()
        .and_then(|alias| alias.strip_prefix(NAME)?.strip_prefix(" uid ")?.split(' ').next()?.parse().ok());
    let user = uid.map(|uid| format!(", of the user {}", Accounts::read().user(uid))).unwrap_or_default();
    format!(": the bridge has it at the port {}{user}", show(&port.name))
}

/// Another port for a guest with this address: one that is marked so, or one of root's, which has its guest's address but for the
/// first byte.
fn marked_with(ports: &[Link], own: u32, mac: [u8; 6]) -> Option<&Link> {
    let end = mark_of_address(mac);
    let is_users = |port: &Link| port.alias.starts_with(NAME.as_bytes()) && port.alias.ends_with(&end);
    let is_roots = |port: &Link| port.alias.starts_with(b"kvm-bridge ") && port.address.get(1..) == Some(&mac[1..]);
    ports.iter().find(|port| port.index != own && (is_users(port) || is_roots(port)))
}

fn open_device() -> Result<File, Failure> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
        let remedy = match error.raw_os_error() {
            // EPERM is a container's, whose devices are limited.
            Some(ENOENT | ENODEV | ENXIO | EPERM) if container::is_container() => container::REMEDY.to_owned(),
            Some(ENOENT | ENODEV | ENXIO) => "Ask your admin for: sudo modprobe tun".to_owned(),
            Some(EACCES) => format!("Ask your admin for: sudo chmod 666 {DEVICE}"),
            _ => remedy(&error),
        };
        Failure::new(format!("cannot open {DEVICE}: {}", reason(&error)), remedy)
    })
}

/// Refuses to work in a network namespace that belongs to another user namespace than this process is in: there the
/// capability is one over somebody else's network (CVE-2017-5985).
pub fn check_namespace() -> Result<(), Failure> {
    let identity = |file: io::Result<File>| {
        let metadata = file?.metadata()?;
        Ok::<_, io::Error>((metadata.dev(), metadata.ino()))
    };
    let own = identity(File::open("/proc/self/ns/user"));
    let owner = File::open("/proc/self/ns/net").and_then(|namespace| identity(sys::owner_of_namespace(&namespace)));
    let is_own = own.and_then(|own| match owner {
        // It belongs to one outside of this one (ioctl_nsfs(2)).
        Err(error) if error.raw_os_error() == Some(EPERM) => Ok(false),
        owner => Ok(owner? == own),
    });
    match is_own {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(
            "this network namespace belongs to another user namespace",
            "Run QEMU outside of this user namespace, or give it a network of its own: unshare --net",
        )),
        Err(error) => Err(Failure::new(
            format!("cannot see whose network namespace this is: {}", reason(&error)),
            "/proc has to be mounted here.",
        )),
    }
}

/// The mark of a user's TAPs for a bridge, which is the TAP's alias from before it joins to its end. Only the right to
/// change the network changes it: whoever has the TAP's descriptor can't, nor forge it.
fn mark(uid: u32, bridge: u32) -> Vec<u8> {
    format!("{NAME} uid {uid} bridge {bridge}").into_bytes()
}

/// How the mark of a TAP ends whose guest has an address to itself.
fn mark_of_address(mac: [u8; 6]) -> Vec<u8> {
    format!(" mac {}", text(mac)).into_bytes()
}

enum Over {
    Quota(Failure),
    Unknown(io::Error),
}

/// Lets a TAP that is marked join only if its user has no more than `max` that are marked for the bridge, this one
/// included, whether they have joined or are still to.
///
/// Of any number that come at once, each is marked before it counts, so that the one that is marked last counts all that
/// join: no more than `max` do, wherever any of them is stopped. If too many are there, those that have joined and those of
/// the lowest index stay, and these wait for the others to go, so that `max` get through; one that is stopped, which only
/// its own user can do, keeps the others of its user waiting, and nobody else.
fn keep_quota(socket: &mut Socket, task: &Task, own: u32, bridge: u32, max: u32, place: &Place) -> Result<(), Over> {
    let end = Instant::now() + PATIENCE;
    loop {
        let links = socket.links(None).map_err(Over::Unknown)?;
        match standing(&links, own, bridge, task.uid, max) {
            Some(Standing::Within) => return Ok(()),
            Some(Standing::Undecided) if Instant::now() < end => sleep(Duration::from_millis(5)),
            Some(_) => {
                let what = format!("you have as many TAPs on {} as {place} allows: {max}", show(task.bridge));
                let remedy = "End a guest, or ask your admin for a higher max.";
                return Err(Over::Quota(Failure::new(what, remedy)));
            }
            None => return Err(Over::Unknown(io::Error::other("the list of all links lacks the one that was made"))),
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

/// `None` if the list lacks the TAP itself, so that it may lack others, too.
fn standing(links: &[Link], own: u32, bridge: u32, uid: u32, max: u32) -> Option<Standing> {
    let mark = mark(uid, bridge);
    // One that root has moved here from another bridge.
    let any = format!("{NAME} uid {uid} bridge ").into_bytes();
    let is_port = |link: &Link| link.controller == Some(bridge);
    let is_marked = |link: &Link| {
        let rest = link.alias.strip_prefix(mark.as_slice());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b" mac "))
    };
    let counted = |link: &&Link| is_marked(link) || (is_port(link) && link.alias.starts_with(&any));
    links.iter().find(|link| link.index == own && is_marked(link))?;
    let (mut all, mut ahead) = (1, 0);
    for link in links.iter().filter(counted).filter(|link| link.index != own) {
        all += 1;
        ahead += u32::from(link.index < own || is_port(link));
    }
    Some(match () {
        () if all <= max => Standing::Within,
        () if ahead < max => Standing::Undecided,
        () => Standing::Beyond,
    })
}

fn remedy(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(EXFULL) => "A bridge has at most 1023 ports: end guests, or use another bridge.",
        Some(EMFILE | ENFILE) => "Raise the limit on open files: ulimit -n",
        Some(EPERM) if container::is_container() => container::REMEDY,
        Some(EPERM) => "Ask your admin for: sudo kvm-bridge install",
        Some(EBUSY | EINVAL | EOPNOTSUPP) => "See what the bridge is: ip -d link",
        _ => "See the kernel's log: dmesg",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TAP of the user `uid` that was made for the bridge `bridge`, and is a port of `controller`.
    fn tap(index: u32, uid: u32, bridge: u32, controller: Option<u32>) -> Link {
        Link { index, controller, alias: mark(uid, bridge), ..Link::default() }
    }

    #[test]
    fn the_first_within_the_quota_stay_and_the_others_go() {
        let links = [tap(1, 100, 9, None), tap(2, 100, 9, None), tap(3, 10, 9, None), tap(4, 100, 8, Some(8))];
        let links = [&links[..], &[tap(5, 100, 9, None)]].concat();
        assert_eq!(standing(&links, 5, 9, 100, 3), Some(Standing::Within));
        assert_eq!(standing(&links, 5, 9, 100, 2), Some(Standing::Beyond));
        assert_eq!(standing(&links, 2, 9, 100, 2), Some(Standing::Undecided));
        assert_eq!(standing(&links, 1, 9, 100, 0), Some(Standing::Beyond));
        // Neither another user's nor those for another bridge count.
        assert_eq!(standing(&links, 3, 9, 10, 1), Some(Standing::Within));
        assert_eq!(standing(&links, 4, 8, 100, 1), Some(Standing::Within));
    }

    #[test]
    fn what_has_joined_stays_and_is_not_waited_for() {
        let links = [tap(1, 100, 9, None), tap(2, 100, 9, None), tap(3, 100, 9, Some(9))];
        assert_eq!(standing(&links, 1, 9, 100, 1), Some(Standing::Beyond));
        assert_eq!(standing(&links, 1, 9, 100, 2), Some(Standing::Undecided));
        assert_eq!(standing(&links, 2, 9, 100, 2), Some(Standing::Beyond));
        // One that root has moved to the bridge, or away from it.
        let links = [tap(1, 100, 8, Some(9)), tap(2, 100, 9, Some(8)), tap(3, 100, 9, None)];
        assert_eq!(standing(&links, 3, 9, 100, 3), Some(Standing::Within));
        assert_eq!(standing(&links, 3, 9, 100, 2), Some(Standing::Beyond));
    }

    #[test]
    fn one_with_an_address_counts_as_one_without() {
        let with = |index: u32, bridge: u32| Link {
            alias: [mark(100, bridge), mark_of_address([2, 0, 0, 0, 0, 1])].concat(),
            ..tap(index, 100, bridge, Some(bridge))
        };
        let links = [with(1, 9), with(2, 9), with(3, 90), tap(4, 100, 9, None)];
        assert_eq!(standing(&links, 4, 9, 100, 3), Some(Standing::Within));
        assert_eq!(standing(&links, 4, 9, 100, 2), Some(Standing::Beyond));
        assert_eq!(standing(&links, 1, 9, 100, 3), Some(Standing::Within));
        assert_eq!(standing(&links, 3, 90, 100, 1), Some(Standing::Within));
    }

    #[test]
    fn an_address_is_marked_at_another_port_alone() {
        let (mac, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x11]);
        let port =
            |index: u32, mac| Link { alias: [mark(100, 9), mark_of_address(mac)].concat(), ..tap(index, 0, 9, None) };
        // Root's own links may be called anything.
        let roots = Link { alias: b"web mac 02:00:00:00:00:01".to_vec(), ..Link::default() };
        let ports = [port(1, mac), port(2, other), tap(3, 100, 9, None), roots];
        assert_eq!(marked_with(&ports, 1, mac), None);
        assert_eq!(marked_with(&ports, 2, mac).map(|port| port.index), Some(1));
        assert_eq!(marked_with(&ports, 3, other).map(|port| port.index), Some(2));
    }

    #[test]
    fn a_list_that_lacks_the_tap_itself_is_no_list() {
        assert_eq!(standing(&[tap(1, 100, 9, None)], 2, 9, 100, 3), None);
        assert_eq!(standing(&[], 2, 9, 100, 3), None);
    }
}
