//! Waits for what changes on bridges: links, forwarding databases, neighbours and addresses by the kernel's own messages
//! (rtnetlink(7)), and run-time files by inotify(7). What has changed is to be looked at: messages can be lost, and then there is news too.

use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::output::errno::reason;
use crate::state::journal;
use model::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Whoever looks rests so much longer than the look has taken: what guests do is not to keep a processor busy.
const REST: u32 = 9;
/// A launch changes several things one after the other.
const SHORTEST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// How long to rest after a look of this length.
pub fn rest(look: Duration) -> Duration {
    (look * REST).clamp(SHORTEST_REST, LONGEST_REST)
}

/// Looks until that succeeds, a few times: what is looked at may go away meanwhile.
pub fn look_patiently<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..5 {
        match look() {
            Ok(found) => return Ok(found),
            Err(_) => std::thread::sleep(SHORTEST_REST),
        }
    }
    look()
}

/// By what somebody who waits was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something has changed.
    ByNews,
    /// Something else that was waited for is there.
    ByOther,
    /// The time is over.
    ByTime,
}

/// What hears of changes.
pub struct News {
    kernel: Netlink,
    files: OwnedFd,
}

impl News {
    /// Begins to listen. What happens from now on is not missed.
    pub fn open() -> Result<Self> {
        let mut kernel = Netlink::open().map_err(unreadable)?;
        let subscribed = kernel.subscribe_to_links().and_then(|()| kernel.subscribe_to_neighbours());
        subscribed.and_then(|()| kernel.subscribe_to_addresses()).map_err(unreadable)?;
        let files = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|error| {
            let what = format!("cannot watch files: {}", reason(&error.into()));
            Error::new(what, "See fs.inotify.max_user_instances: sysctl fs.inotify.")
        })?;
        Ok(Self { kernel, files })
    }

    /// Reads away what has come: for who looks at everything now. Folders that were not there before are watched from here on: a
    /// journal is written before its bridge is made, of which the kernel tells.
    pub fn begin_to_look(&mut self) -> Result<()> {
        // A file that is closed: the reaper, which has died.
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        for folder in journal::folders()? {
            match inotify::add_watch(&self.files, &folder, flags) {
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                Err(error) => {
                    let what = format!("cannot watch {}: {}", folder.display(), reason(&error.into()));
                    return Err(Error::new(what, "See fs.inotify.max_user_watches: sysctl fs.inotify."));
                }
            }
        }
        self.kernel.drain().map_err(unreadable)?;
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.files, &mut buffer) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(unreadable(error.into())),
            }
        }
    }

    /// Waits until there is news, if that is of interest, until any of `others` is there, or until it is time.
    pub fn wait(&self, hears: bool, others: &[(BorrowedFd, PollFlags)], until: Option<Instant>) -> Result<Woken> {
        let news = [self.kernel.as_fd(), self.files.as_fd()];
        let news = news.into_iter().filter(|_| hears).map(|file| PollFd::new(file, PollFlags::POLLIN));
        let mut files: Vec<PollFd> =
            others.iter().map(|(file, flags)| PollFd::new(*file, *flags)).chain(news).collect();
        loop {
            let timeout = until.map_or(PollTimeout::NONE, |until| {
                // Rounded up, so that the time is over when the waiting is.
                let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut files, timeout) {
                Ok(0) => return Ok(Woken::ByTime),
                Ok(_) if files.iter().take(others.len()).any(|file| file.any() == Some(true)) => {
                    return Ok(Woken::ByOther);
                }
                Ok(_) => return Ok(Woken::ByNews),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(unreadable(io::Error::from(error))),
            }
        }
    }
}
