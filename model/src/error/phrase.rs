//! A sentence with places that each program says in its own way: a request for a bridge, one of its keys, a command.

use std::fmt::{self, Write as _};

/// Who speaks, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Voice {
    /// `qemu-kvm`, which is asked by `--bridge BR,key=value`, to root.
    #[default]
    Shim,
    /// The same to a user, who runs commands by sudo(8).
    Sudo,
    /// `kvm-bridge up`, which is asked by `up BR --key value`.
    Up,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Plain(String),
    Subject(String),
    Request { bridge: String, keys: Vec<(String, String)> },
    Key { key: String, value: String },
    Command { command: String, is_roots: bool },
    Following(String),
}

/// A sentence, or several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Phrase(Vec<Part>);

impl Phrase {
    fn with(mut self, part: Part) -> Self {
        self.0.push(part);
        self
    }

    /// The same with more text, or another phrase, behind it.
    pub fn say(mut self, more: impl Into<Self>) -> Self {
        self.0.extend(more.into().0);
        self
    }

    /// The request of a bridge as what an error is about: `--bridge br0`, `up br0`.
    pub fn subject(bridge: impl fmt::Display) -> Self {
        Self::default().with(Part::Subject(bridge.to_string()))
    }

    /// A request to be typed: `--bridge br0,uplink=eth1`, `kvm-bridge up br0 --uplink eth1`.
    pub fn request(self, bridge: impl fmt::Display, keys: &[(&str, &str)]) -> Self {
        let keys = keys.iter().map(|(key, value)| (String::from(*key), String::from(*value))).collect();
        self.with(Part::Request { bridge: bridge.to_string(), keys })
    }

    /// A key with its value, which may be empty: `attach=port`, `--attach port`.
    pub fn key(self, key: &str, value: &str) -> Self {
        self.with(Part::Key { key: key.to_owned(), value: value.to_owned() })
    }

    /// A word that follows a request on QEMU's command line, where that is the line.
    pub fn followed_by(self, word: &str) -> Self {
        self.with(Part::Following(word.to_owned()))
    }

    /// A command that does what the text before it says, behind a colon.
    pub fn run(self, command: impl Into<String>) -> Self {
        self.with(Part::Command { command: command.into(), is_roots: false })
    }

    /// The same of one that needs root.
    pub fn run_as_root(self, command: impl Into<String>) -> Self {
        self.with(Part::Command { command: command.into(), is_roots: true })
    }

    /// The text before a command at the end and that command, where this is all of it.
    pub fn as_command(&self) -> Option<(&str, &str)> {
        match self.0.as_slice() {
            [Part::Plain(text), Part::Command { command, .. }] if !text.contains('\n') => Some((text, command)),
            _ => None,
        }
    }

    /// The text, as one of the programs says it.
    pub fn in_voice(&self, voice: Voice) -> String {
        let mut text = String::new();
        for part in &self.0 {
            let _ = match (part, voice) {
                (Part::Plain(plain), _) => write!(text, "{plain}"),
                (Part::Subject(bridge), Voice::Up) => write!(text, "up {bridge}"),
                (Part::Subject(bridge), _) => write!(text, "--bridge {bridge}"),
                (Part::Request { bridge, keys }, Voice::Up) => {
                    let _ = write!(text, "kvm-bridge up {bridge}");
                    keys.iter().try_for_each(|(key, value)| write!(text, " --{key} {value}"))
                }
                (Part::Request { bridge, keys }, _) => {
                    let _ = write!(text, "--bridge {bridge}");
                    keys.iter().try_for_each(|(key, value)| write!(text, ",{key}={value}"))
                }
                (Part::Key { key, value }, Voice::Up) if value.is_empty() => write!(text, "--{key}"),
                (Part::Key { key, value }, Voice::Up) => write!(text, "--{key} {value}"),
                (Part::Key { key, value }, _) => write!(text, "{key}={value}"),
                (Part::Following(_), Voice::Up) => Ok(()),
                (Part::Following(word), _) => write!(text, " {word}"),
                (Part::Command { command, is_roots }, _) => {
                    let sudo = if *is_roots && voice == Voice::Sudo { "sudo " } else { "" };
                    write!(text, ": {sudo}{command}")
                }
            };
        }
        text
    }
}

impl From<String> for Phrase {
    fn from(text: String) -> Self {
        Self::default().with(Part::Plain(text))
    }
}

impl From<&str> for Phrase {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<&String> for Phrase {
    fn from(text: &String) -> Self {
        Self::from(text.clone())
    }
}

impl fmt::Display for Phrase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.in_voice(Voice::Shim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_says_a_request_as_it_is_typed_there() {
        let make = Phrase::from("To make it: ").request("br0", &[("uplink", "eth1")]).say(", or ").request("br0", &[]);
        assert_eq!(make.to_string(), "To make it: --bridge br0,uplink=eth1, or --bridge br0");
        let up = make.in_voice(Voice::Up);
        assert_eq!(up, "To make it: kvm-bridge up br0 --uplink eth1, or kvm-bridge up br0");
        let subject = Phrase::subject("br0").say(": there is no interface");
        assert_eq!(subject.in_voice(Voice::Up), "up br0: there is no interface");
        let leave = Phrase::from("Leave ").key("attach", "port").say(" and ").key("mtu", "").say(" out");
        assert_eq!(leave.in_voice(Voice::Up), "Leave --attach port and --mtu out");
        assert_eq!(leave.in_voice(Voice::Sudo), "Leave attach=port and mtu= out");
    }

    #[test]
    fn users_run_roots_commands_by_sudo() {
        let free = Phrase::from("To free it").run_as_root("ip link set dev eth0 nomaster");
        assert_eq!(free.in_voice(Voice::Sudo), "To free it: sudo ip link set dev eth0 nomaster");
        assert_eq!(free.as_command(), Some(("To free it", "ip link set dev eth0 nomaster")));
        assert_eq!(free.say(". Or not.").as_command(), None);
    }
}
