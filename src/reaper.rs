//! The process that stays behind a bridge that we made, and takes it away after its last guest.
//!
//! It is started before the bridge is made and waits for the bridge's lock, which the maker holds until its guest is
//! plugged in: whatever kills the maker in between, there is somebody to undo it. From then on it sleeps until the kernel
//! tells of a change among the links, and looks at the bridge's ports: they are the reference count. When none is left
//! but the uplink it waits a short time, so that a guest that starts again finds everything in place, looks once more
//! under the lock, and undoes the journal.

use crate::error::{Error, Result, reason};
use crate::journal::{Files, Journal};
use crate::name::IfName;
use crate::net::apply;
use crate::net::rtnl::Netlink;
use crate::sys::lock::Hold;
use crate::sys::process;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::time::{Duration, Instant};

/// The name that it runs under; the program dispatches on it.
pub const NAME: &str = "kvm-bridge-reaper";
/// How long a bridge without guests is kept.
const GRACE: Duration = Duration::from_secs(2);
/// How often it is tried before the error is left where it is written.
const ATTEMPTS: usize = 5;

/// Sees to it that a reaper watches the bridge. The caller holds the bridge's lock.
pub fn ensure(bridge: &IfName, files: &Files) -> Result<()> {
    match files.try_reaper()? {
        Some(lock) => spawn(bridge, &lock),
        None => Ok(()),
    }
}

fn spawn(bridge: &IfName, lock: &File) -> Result<()> {
    let words = [NAME, bridge.as_str()].map(|word| CString::new(word).unwrap_or_default());
    process::leave_behind(&[words[0].as_c_str(), words[1].as_c_str()], lock)
}

/// Runs as the reaper; `words` are its name and the bridge's.
pub fn main(words: &[OsString]) -> i32 {
    let bridge = words.get(1).and_then(|word| word.to_str()).map(IfName::new);
    let Some(Ok(bridge)) = bridge else {
        return 1;
    };
    let _ = nix::sys::prctl::set_name(c"kvm-bridge-reap");
    let Ok(files) = Files::of(&bridge) else {
        return 1;
    };
    // What fails now may work in a moment: memory, a link that is being changed by another.
    for _ in 0..ATTEMPTS {
        match watch(&bridge, &files) {
            Ok(()) => return 0,
            Err(error) => files.complain(&error),
        }
        std::thread::sleep(GRACE);
    }
    1
}

fn watch(bridge: &IfName, files: &Files) -> Result<()> {
    let deaf = |error: std::io::Error| {
        Error::new(format!("cannot watch {bridge}: {}", reason(&error)), "The next guest on this bridge tries again.")
    };
    let mut news = Netlink::open().map_err(deaf)?;
    news.subscribe_to_links().map_err(deaf)?;
    let mut netlink = Netlink::open().map_err(deaf)?;
    let mut idle_since = None;
    loop {
        news.drain().map_err(deaf)?;
        let lock = files.lock(Hold::Alone)?;
        let Some(journal) = files.read()? else {
            files.remove();
            return Ok(());
        };
        if journal.keep {
            return Ok(());
        }
        match guests(&mut netlink, &journal).map_err(deaf)? {
            // Somebody else deleted it, or it was never made.
            None => {
                apply::undo(&mut netlink, &journal)?;
                files.remove();
                return Ok(());
            }
            Some(0) => {
                let since: Instant = *idle_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= GRACE {
                    apply::undo(&mut netlink, &journal)?;
                    files.remove();
                    return Ok(());
                }
            }
            Some(_) => idle_since = None,
        }
        drop(lock);
        wait(&news, idle_since.map(|since: Instant| GRACE.saturating_sub(since.elapsed())))?;
    }
}

/// How many ports the bridge has beside the uplink, whosever they are; `None` where our bridge is gone.
fn guests(netlink: &mut Netlink, journal: &Journal) -> std::io::Result<Option<usize>> {
    if !netlink.link_at(journal.index)?.is_some_and(|link| journal.owns(&link)) {
        return Ok(None);
    }
    let ports = netlink.ports(journal.index)?;
    Ok(Some(ports.iter().filter(|port| !journal.uplinks().any(|uplink| uplink == port.index)).count()))
}

/// Sleeps until there is news, for `time` at the most.
fn wait(news: &Netlink, time: Option<Duration>) -> Result<()> {
    let timeout = match time {
        // Rounded up, so that the time is over when the waiting is.
        Some(time) => PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    match poll(&mut [PollFd::new(news.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => {
            Err(Error::new(format!("cannot wait: {}", error.desc()), "The next guest on this bridge tries again."))
        }
    }
}
