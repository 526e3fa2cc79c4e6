//! The process that stays behind a bridge that we made, and takes it away after its last guest.
//!
//! It is started before the bridge is made and waits for the bridge's lock, which the maker holds until its guest is
//! plugged in: whatever kills the maker in between, there is somebody to undo it. From then on it sleeps until the kernel
//! tells of a change among the links, and looks at the bridge's ports: they are the reference count. When none is left
//! but the uplink it waits a short time, so that a guest that starts again finds everything in place, looks once more
//! under the lock, and undoes the journal.
//!
//! Meanwhile it keeps a shared uplink shared: it follows what becomes of the interface, and the bridge's forwarding database,
//! which says whom the host reaches through the bridge.

mod listening;

use crate::netlink::Netlink;
use crate::network::announce::inbox::Inbox;
use crate::network::guard::Guard;
use crate::network::links::unreadable;
use crate::network::sources::Sources;
use crate::network::undo;
use crate::network::uplink;
use crate::network::uplink::nat::attendant::Attendant;
use crate::network::uplink::share;
use crate::output::errno::reason;
use crate::state::dhcp_leases::Listeners;
use crate::state::journal::Files;
use crate::sys::lock::Hold;
use crate::sys::memory;
use crate::sys::process;
use crate::sys::process::Stderr;
use listening::Listening;
use model::error::{Error, Result};
use model::host::Link;
use model::ifname::IfName;
use model::journal::Journal;
use model::mac::Mac;
use model::uplink::Uplink;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The name that it runs under; the program dispatches on it.
pub const NAME: &str = "kvm-bridge-reaper";
/// How long a bridge without guests is kept.
const GRACE: Duration = Duration::from_secs(2);
/// What fails is tried again after the time of grace, and after so many times that in the end.
const ATTEMPTS: u32 = 10;
/// For so long at the most it does not look at a forwarding database that changes all the time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// And for so long at the least and at the most it does not look at links that change all the time.
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_millis(200);
/// What has worked for so long fails for another reason than before.
const WELL: Duration = Duration::from_secs(60);

/// Sees to it that a reaper watches the bridge. The caller holds the bridge's lock.
pub fn ensure(bridge: &IfName, files: &Files) -> Result<()> {
    ensure_announcing(bridge, files, &[]).map(|_| ())
}

/// The same; a reaper that is started also announces the addresses that these cards get. Whether one was.
pub fn ensure_announcing(bridge: &IfName, files: &Files, cards: &[Mac]) -> Result<bool> {
    match files.try_reaper()? {
        Some(lock) => spawn(bridge, &lock, cards).map(|()| true),
        None => Ok(false),
    }
}

/// Sees to it that every bridge of ours in this network namespace has its reaper: those of bridges that this start has
/// nothing to do with may have been killed. It will do what is left to be done.
pub fn ensure_all() -> Result<()> {
    for files in Files::all()? {
        // One that can't be read is an error for who uses that bridge.
        if files.read().is_ok_and(|journal| journal.is_some_and(|journal| journal.needs_reaper())) {
            ensure(files.bridge(), &files)?;
        }
    }
    Ok(())
}

fn spawn(bridge: &IfName, lock: &File, cards: &[Mac]) -> Result<()> {
    let words = [NAME.to_owned(), bridge.to_string()].into_iter().chain(cards.iter().map(Mac::to_string));
    let words: Vec<CString> = words.map(|word| CString::new(word).unwrap_or_default()).collect();
    let words: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    process::leave_behind(&words, lock, if cards.is_empty() { Stderr::Null } else { Stderr::Callers })
}

/// Runs as the reaper; `words` are its name and the bridge's, and the cards that it announces.
pub fn main(words: &[OsString]) -> i32 {
    let bridge = words.get(1).and_then(|word| word.to_str()).map(IfName::new);
    let Some(Ok(bridge)) = bridge else {
        return 1;
    };
    let _ = nix::sys::prctl::set_name(c"kvm-bridge-reap");
    process::ignore_requests_to_end();
    process::raise_limits();
    let mut own = Some(process::inherited());
    let Ok(files) = Files::of(&bridge) else {
        return 1;
    };
    let cards = words.iter().skip(2).filter_map(|word| word.to_str()?.parse().ok());
    // Without an inbox, guests that come later have processes of their own.
    let inbox = Inbox::open(&files.inbox()).ok();
    let leases = Listeners::default();
    let mut listening =
        Listening { cards: cards.collect(), announcers: Vec::new(), inbox, leases, sources: Sources::default() };
    let (mut guard, mut attendant) = (Guard::default(), Attendant::default());
    let mut attempts = 0;
    loop {
        let start = Instant::now();
        match watch(&bridge, &files, &mut own, &mut listening, &mut guard, &mut attendant) {
            Ok(()) => return 0,
            Err(error) => files.report_failure(&error),
        }
        // What fails now may work in a moment, or much later: somebody else's link has to go first.
        attempts = if start.elapsed() > WELL { 1 } else { (attempts + 1).min(ATTEMPTS) };
        std::thread::sleep(GRACE * attempts);
    }
}

/// Watches the bridge until there is nothing left to be done. `own` is the lock of the bridge's reaper: it goes while the
/// bridge's lock is still held, so that whoever comes next finds that there is no reaper any more.
fn watch(
    bridge: &IfName,
    files: &Files,
    own: &mut Option<File>,
    listening: &mut Listening,
    guard: &mut Guard,
    attendant: &mut Attendant,
) -> Result<()> {
    let deaf = |error: std::io::Error| {
        Error::new(format!("cannot watch {bridge}: {}", reason(&error)), "The next guest on this bridge tries again.")
    };
    let mut events = Netlink::open().map_err(deaf)?;
    events.subscribe_to_links().map_err(deaf)?;
    let mut netlink = Netlink::open().map_err(deaf)?;
    let mut sharing: Option<Netlink> = None;
    let (mut hears_addresses, mut hears_routes, mut hears_forwarding) = (false, false, false);
    let mut idle_since: Option<Instant> = None;
    let mut last: Option<Journal> = None;
    let mut work = Duration::ZERO;
    loop {
        // A user can change a TAP of theirs as often as they like, which every reaper hears of.
        if !work.is_zero() {
            std::thread::sleep((work * 10).clamp(SHORTEST_REST, LONGEST_REST));
        }
        let start = Instant::now();
        events.drain().map_err(deaf)?;
        let lock = files.lock_for_ever()?;
        let mut journal = match (files.read()?, last.take()) {
            (Some(journal), _) => journal,
            // Somebody deleted it under the bridge's feet: what it said is known here.
            (None, Some(last)) if is_there(&mut netlink, &last).map_err(deaf)? => {
                files.write(&last)?;
                last
            }
            (None, _) => {
                attendant.end();
                files.remove();
                drop(own.take());
                return Ok(());
            }
        };
        // Who was at it holds the lock while it lives.
        if !journal.is_finished {
            attendant.end();
        }
        if !journal.is_finished && undo::settle(&mut netlink, files, &mut journal)? {
            files.remove();
            drop(own.take());
            return Ok(());
        }
        if !journal.needs_reaper() {
            drop(own.take());
            return Ok(());
        }
        let awaits_address = journal.awaits().is_some_and(|awaited| matches!(awaited.uplink, Uplink::Vxlan(_)));
        if !hears_routes && (journal.goes_by_routes() || awaits_address) {
            events.subscribe_to_routes().map_err(deaf)?;
            hears_routes = true;
        }
        if journal.share().is_some() && sharing.is_none() {
            let mut events = Netlink::open().map_err(deaf)?;
            events.subscribe_to_sharing().map_err(deaf)?;
            sharing = Some(events);
        }
        if journal.nat().is_some() && !hears_forwarding {
            events.subscribe_to_forwarding().map_err(deaf)?;
            hears_forwarding = true;
        }
        if (journal.may_share() || journal.nat().is_some() || awaits_address) && !hears_addresses {
            events.subscribe_to_addresses().map_err(deaf)?;
            hears_addresses = true;
        }
        let users = users(&mut netlink, &journal).map_err(deaf)?;
        let host = journal.share().map(|share| share.mac);
        if guard.look(&mut netlink, users.as_deref().unwrap_or_default(), host)? {
            last = Some(journal);
            continue;
        }
        listening.leases.follow(files, users.as_deref().unwrap_or_default());
        listening.sources.follow(&mut netlink, users.as_deref().unwrap_or_default()).map_err(deaf)?;
        listening.sources.renew(files);
        let ports = users.clone().unwrap_or_default();
        let is_needed = users.map(|users| journal.keep || !users.is_empty());
        if is_needed == Some(false) {
            idle_since.get_or_insert_with(Instant::now);
        }
        match Deed::of(is_needed, idle_since.map(|since| since.elapsed())) {
            Deed::Wait => {
                attendant.attend(&mut netlink, files, &mut journal, &ports)?;
            }
            Deed::Keep => {
                idle_since = None;
                if uplink::follow(&mut netlink, files, &mut journal)? {
                    // What it depends on now has to be heard of.
                    last = Some(journal);
                    continue;
                }
                share::keep(&mut netlink, files, &mut journal)?;
                attendant.attend(&mut netlink, files, &mut journal, &ports)?;
            }
            Deed::TakeBack => {
                attendant.end();
                restore(&mut netlink, files, &journal)?;
                drop(own.take());
                return Ok(());
            }
        }
        // What a user has done does not hide what is amiss with ours.
        match attendant.failure().or_else(|| guard.failure()) {
            Some(failure) => files.report_failure(failure),
            None => files.forget_failure(),
        }
        drop(lock);
        work = start.elapsed();
        last = Some(journal.clone());
        listening.begin(&mut netlink, bridge, journal.index);
        let mut is_whole = share::is_whole(&mut netlink, &journal).map_err(deaf)?;
        let idle = idle_since.map(|since| GRACE.saturating_sub(since.elapsed()));
        let end = idle.map(|idle| Instant::now() + idle);
        loop {
            let start = Instant::now();
            if let Some(sharing) = &mut sharing {
                sharing.drain().map_err(deaf)?;
                share::keep_entries(&mut netlink, &journal).map_err(deaf)?;
                let was_whole =
                    std::mem::replace(&mut is_whole, share::is_whole(&mut netlink, &journal).map_err(deaf)?);
                // What could not be fixed is not tried all the time.
                if was_whole && !is_whole {
                    break;
                }
            }
            // A guest can pretend to have one address after the other: it is not to keep a processor busy.
            let pause = (start.elapsed() * 10).min(LONGEST_PAUSE);
            if idle.is_none() {
                // For hours, perhaps.
                memory::trim();
            }
            let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
            let is_over = || left().is_some_and(|left| left.is_zero());
            let paused = left().map_or(pause, |left| left.min(pause));
            // What guests say by DHCP does not end it.
            let until = Instant::now() + paused;
            let mut woken = Woken::ByOthers;
            while woken != Woken::ByLinks && Instant::now() < until {
                woken = {
                    let left = until.saturating_duration_since(Instant::now());
                    wait(&events, attendant, files, listening, None, Some(left))?
                };
            }
            if woken == Woken::ByLinks || is_over() {
                break;
            }
            let sharing = sharing.as_ref().map(Netlink::as_fd);
            if wait(&events, attendant, files, listening, sharing, left())? == Woken::ByLinks || is_over() {
                break;
            }
        }
    }
}

/// What a reaper does about its bridge.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    /// A guest may start again.
    Wait,
    Keep,
    TakeBack,
}

impl Deed {
    /// By whether the bridge is needed, `None` where it is gone; and for how long it has not been.
    fn of(is_needed: Option<bool>, idle: Option<Duration>) -> Self {
        match is_needed {
            Some(true) => Self::Keep,
            Some(false) if idle.unwrap_or_default() < GRACE => Self::Wait,
            // Its time is over, or somebody else deleted it, or it was never made.
            _ => Self::TakeBack,
        }
    }
}

/// Undoes a journal; for who holds the lock alone.
fn restore(netlink: &mut Netlink, files: &Files, journal: &Journal) -> Result<()> {
    undo::undo(netlink, files, journal)?;
    files.remove();
    Ok(())
}

/// What `reconcile` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A bridge that these links need, each as people know it. It has a reaper.
    InUse(Vec<String>),
    /// A bridge that is to stay.
    Kept,
    /// A bridge that nobody uses any more, or less than a bridge: it was undone.
    Undone,
    /// No journal any more.
    Nothing,
}

/// Does at once what a reaper would have done in time. Also whether that fixed how the uplink is attached.
pub fn reconcile(netlink: &mut Netlink, files: &Files) -> Result<(Found, bool)> {
    let _lock = files.lock(Hold::Alone)?;
    let Some(mut journal) = files.read()? else {
        files.remove();
        return Ok((Found::Nothing, false));
    };
    if !journal.is_finished && undo::settle(netlink, files, &mut journal)? {
        files.remove();
        return Ok((Found::Undone, false));
    }
    let users = users(netlink, &journal).map_err(unreadable)?;
    if users.as_ref().is_none_or(|users| users.is_empty() && !journal.keep) {
        return restore(netlink, files, &journal).map(|()| (Found::Undone, false));
    }
    let is_mended = uplink::keep(netlink, files, &mut journal)?;
    share::keep_entries(netlink, &journal).map_err(unreadable)?;
    if journal.needs_reaper() {
        ensure(files.bridge(), files)?;
    }
    // The ports of one that is kept may be TAPs of users that nobody uses.
    let found = if journal.keep { Found::Kept } else { Found::InUse(users.iter().flatten().map(called).collect()) };
    Ok((found, is_mended))
}

/// What people call a link: the TAP of a guest by its VM.
fn called(link: &Link) -> String {
    match link.vm() {
        Some(vm) => format!("{vm} ({})", link.name),
        None => link.name.to_string(),
    }
}

/// Sees to it that a bridge of ours has its uplink as it should, whatever has become of that.
pub fn mend(netlink: &mut Netlink, bridge: &IfName) -> Result<()> {
    let files = Files::of(bridge)?;
    if files.read()?.is_none() {
        return Ok(());
    }
    let _lock = files.lock(Hold::Alone)?;
    match files.read()? {
        Some(mut journal) if journal.is_finished && is_there(netlink, &journal).map_err(unreadable)? => {
            uplink::keep(netlink, &files, &mut journal).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// The links that need the bridge, whosever they are; `None` where our bridge is gone.
fn users(netlink: &mut Netlink, journal: &Journal) -> std::io::Result<Option<Vec<Link>>> {
    if !is_there(netlink, journal)? {
        return Ok(None);
    }
    undo::users(netlink, journal).map(Some)
}

/// Whether our bridge is there.
fn is_there(netlink: &mut Netlink, journal: &Journal) -> std::io::Result<bool> {
    Ok(netlink.link_at(journal.index)?.is_some_and(|link| journal.owns(&link)))
}

/// By what the reaper was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// Links, routes, addresses, or what a network of the host's own depends on have changed.
    ByLinks,
    /// The bridge's forwarding database or a filter has; or there was something to be announced, which was; or the time is over.
    ByOthers,
}

/// Sleeps until there is an event, for `time` at the most.
fn wait(
    events: &Netlink,
    attendant: &Attendant,
    bridge: &Files,
    listening: &mut Listening,
    sharing: Option<BorrowedFd>,
    time: Option<Duration>,
) -> Result<Woken> {
    let timeout = match time
        .into_iter()
        .chain(listening.leases.pause())
        .chain(listening.sources.pause())
        .chain(attendant.pause())
        .min()
    {
        // Rounded up, so that the time is over when the waiting is.
        Some(time) => PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    let of_bridge: Vec<BorrowedFd> = std::iter::once(events.as_fd()).chain(attendant.sockets()).collect();
    let count = of_bridge.len();
    let mut files: Vec<PollFd> = (of_bridge.into_iter())
        .chain(listening.sockets())
        .chain(sharing)
        .map(|file| PollFd::new(file, PollFlags::POLLIN))
        .collect();
    match poll(&mut files, timeout) {
        Ok(0) if attendant.pause().is_some_and(|pause| pause.is_zero()) => Ok(Woken::ByLinks),
        Ok(0) => {
            listening.sources.renew(bridge);
            Ok(Woken::ByOthers)
        }
        Err(Errno::EINTR) => Ok(Woken::ByLinks),
        Ok(_) => {
            let is_news = files[..count].iter().any(|file| file.any().unwrap_or(true));
            listening.hear(bridge);
            Ok(if is_news { Woken::ByLinks } else { Woken::ByOthers })
        }
        Err(error) => {
            Err(Error::new(format!("cannot wait: {}", error.desc()), "The next guest on this bridge tries again."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_taken_back_when_it_is_gone_or_its_grace_time_is_over() {
        for (is_needed, idle, deed) in [
            (Some(true), None, Deed::Keep),
            (Some(true), Some(GRACE), Deed::Keep),
            (Some(false), Some(Duration::ZERO), Deed::Wait),
            (Some(false), Some(GRACE), Deed::TakeBack),
            (None, None, Deed::TakeBack),
            (None, Some(Duration::ZERO), Deed::TakeBack),
        ] {
            assert_eq!(Deed::of(is_needed, idle), deed, "{is_needed:?} {idle:?}");
        }
    }
}
