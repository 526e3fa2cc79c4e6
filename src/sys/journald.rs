//! The log of systemd, where there is one: for a process that has no terminal.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixDatagram;

/// Where it listens (systemd's native protocol, systemd.io/JOURNAL_NATIVE_PROTOCOL). The folder is root's.
const SOCKET: &str = "/run/systemd/journal/socket";
/// LOG_WARNING of syslog(3).
const WARNING: u8 = 4;

/// Leaves a warning there, in the name of a program. If nobody takes it now, nobody is told.
pub fn warn(program: &str, text: &str) {
    let Ok(socket) = UnixDatagram::unbound() else { return };
    if socket.set_nonblocking(true).is_ok() {
        let _ = socket.send_to(&message(program, text), SOCKET);
    }
}

/// Fields, a line each; one whose value has line breaks has its length in front.
fn message(program: &str, text: &str) -> Vec<u8> {
    let mut message = format!("PRIORITY={WARNING}\nSYSLOG_IDENTIFIER={program}\nMESSAGE\n").into_bytes();
    message.extend((text.len() as u64).to_le_bytes());
    message.extend(text.as_bytes());
    message.push(b'\n');
    message
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn a_text_of_several_lines_is_one_field() {
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=x\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(message("x", "a\nb"), expected);
    }
}
