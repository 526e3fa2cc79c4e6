//! A screen of a terminal's that is drawn again and again, and afterwards is as it was.
#![forbid(unsafe_code)]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// The signals that are waited for: requests to end or to stop, and that the terminal has another size.
const SIGNALS: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGWINCH];

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To see it again: the size has changed, or it was stopped.
    Redraw,
    /// To end: `q` or ^C.
    End,
    /// To be ended by this signal.
    Signal(Signal),
}

/// The terminal, while it is used so.
#[derive(Debug)]
pub struct Screen {
    stdin: io::Stdin,
    /// How the keyboard was, if it is a terminal's.
    keyboard: Option<Termios>,
    signals: SignalFd,
    blocked_before: SigSet,
}

impl Screen {
    /// Begins on standard output, which has to be a terminal.
    pub fn open() -> io::Result<Self> {
        let blocked_before = SigSet::thread_get_mask()?;
        let set: SigSet = SIGNALS.into_iter().collect();
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        set.thread_block()?;
        let stdin = io::stdin();
        let keyboard = if isatty(&stdin) { tcgetattr(&stdin).ok() } else { None };
        let screen = Self { stdin, keyboard, signals, blocked_before };
        screen.begin();
        Ok(screen)
    }

    /// Another screen without a cursor, on which long lines end at its edge; the keyboard gives each key at once, and shows
    /// none.
    fn begin(&self) {
        if let Some(mut keyboard) = self.keyboard.clone() {
            keyboard.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            let _ = tcsetattr(&self.stdin, OptionalActions::Now, &keyboard);
        }
        write(b"\x1b[?1049h\x1b[?25l\x1b[?7l");
    }

    fn end(&self) {
        write(b"\x1b[?7h\x1b[?25h\x1b[?1049l");
        if let Some(keyboard) = &self.keyboard {
            let _ = tcsetattr(&self.stdin, OptionalActions::Now, keyboard);
        }
    }

    /// Shows a text from its beginning, as much as there is room for.
    pub fn draw(&self, text: &str) {
        // A terminal that does not say how high it is says 0.
        let height = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        let height = if height == 0 { usize::MAX } else { height.max(2) };
        let count = text.lines().count();
        let shown = if count > height { height - 1 } else { count };
        let mut screen = "\x1b[H".to_owned();
        for (at, line) in text.lines().take(shown).enumerate() {
            let _ = write!(screen, "{}{line}\x1b[K", if at == 0 { "" } else { "\r\n" });
        }
        if count > shown {
            let _ = write!(screen, "\r\n... and {} lines more\x1b[K", count - shown);
        }
        screen += "\x1b[J";
        write(screen.as_bytes());
    }

    /// What becomes readable when somebody wants something.
    pub fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let keyboard = self.keyboard.is_some().then(|| self.stdin.as_fd());
        [self.signals.as_fd()].into_iter().chain(keyboard).collect()
    }

    /// What somebody wants, if anything. One who stops it finds the terminal as it was.
    pub fn wish(&self) -> io::Result<Option<Wish>> {
        if let Some(info) = self.signals.read_signal()? {
            let signal = Signal::try_from(info.ssi_signo as i32)?;
            return Ok(Some(match signal {
                Signal::SIGWINCH => Wish::Redraw,
                Signal::SIGTSTP => {
                    self.end();
                    raise(Signal::SIGSTOP)?;
                    self.begin();
                    Wish::Redraw
                }
                Signal::SIGINT => Wish::End,
                other => Wish::Signal(other),
            }));
        }
        if self.keyboard.is_none() || !is_ready(self.stdin.as_fd(), PollFlags::POLLIN) {
            return Ok(None);
        }
        let mut keys = [0; 64];
        match rustix::io::read(&self.stdin, &mut keys) {
            // The terminal has gone.
            Ok(0) | Err(rustix::io::Errno::IO) => Ok(Some(Wish::End)),
            Ok(count) => Ok(keys[..count].contains(&b'q').then_some(Wish::End)),
            Err(rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
        let _ = self.blocked_before.thread_set_mask();
    }
}

/// Writes to the terminal, unless somebody has stopped it (^S): signals are to be answered all the same.
fn write(text: &[u8]) {
    let mut out = io::stdout();
    if is_ready(out.as_fd(), PollFlags::POLLOUT) {
        let _ = out.write_all(text).and_then(|()| out.flush());
    }
}

fn is_ready(file: BorrowedFd, flags: PollFlags) -> bool {
    poll(&mut [PollFd::new(file, flags)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}
