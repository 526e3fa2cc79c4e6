//! The log of the host: systemd's journal, else syslog's, else none. For what happens when nobody has a terminal to be told on.
#![forbid(unsafe_code)]

use nix::unistd::getpid;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where systemd's journal listens (systemd.io/JOURNAL_NATIVE_PROTOCOL). Its folder is root's, as is that of the other.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where all others do (syslog(3)).
const SYSLOG: &str = "/dev/log";
/// LOG_DAEMON of syslog(3).
const DAEMON: u8 = 3 << 3;

/// What is written there.
#[derive(Debug)]
pub struct Entry<'a> {
    /// In whose name.
    pub program: &'a str,
    /// How urgent it is, as syslog(3) counts: 4 for a warning, 6 for what is good to know.
    pub priority: u8,
    /// Fields for programs, which only systemd's journal keeps: names and values of one line each.
    pub fields: &'a [(&'a str, &'a str)],
    /// For people, of any number of lines.
    pub text: &'a str,
}

/// Writes it. If nobody takes it now, nobody is told.
pub fn write(entry: &Entry) {
    if !send(&for_journal(entry), Path::new(JOURNAL)) {
        let Entry { program, priority, text, .. } = entry;
        send(format!("<{}>{program}[{}]: {text}", DAEMON | priority, getpid()).as_bytes(), Path::new(SYSLOG));
    }
}

fn send(message: &[u8], socket: &Path) -> bool {
    let Ok(own) = UnixDatagram::unbound() else { return false };
    own.set_nonblocking(true).is_ok() && own.send_to(message, socket).is_ok()
}

/// Fields, a line each; one whose value has line breaks has its length in front.
fn for_journal(entry: &Entry) -> Vec<u8> {
    let mut message = format!("PRIORITY={}\nSYSLOG_IDENTIFIER={}\n", entry.priority, entry.program);
    entry.fields.iter().for_each(|(name, value)| message += &format!("{name}={value}\n"));
    let mut message = (message + "MESSAGE\n").into_bytes();
    message.extend((entry.text.len() as u64).to_le_bytes());
    message.extend(entry.text.as_bytes());
    message.push(b'\n');
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_several_lines_is_one_field() {
        let entry = Entry { program: "x", priority: 4, fields: &[("A", "b")], text: "a\nb" };
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=x\nA=b\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(for_journal(&entry), expected);
    }

    #[test]
    fn nobody_waits_for_a_log_that_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(!send(b"x", &path));
        let _log = UnixDatagram::bind(&path).unwrap();
        assert!((0..100_000).any(|_| !send(&[b'x'; 1000], &path)));
    }
}
