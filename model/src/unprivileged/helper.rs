//! What is known of a privileged helper: the right that it has, why none works, what one says.

use crate::error::Error;
use std::fmt;
use std::path::Path;

/// Our helper's name.
pub const NAME: &str = "kvm-bridge-helper";

/// Whether a program of root's gives its caller CAP_NET_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// By its file capability.
    Capability,
    /// It is setuid root.
    Setuid,
    /// It is neither.
    Missing,
    /// It would, but for its file system, which is mounted nosuid.
    Nosuid,
    /// It would, but this process may not execute it.
    Closed,
}

impl Right {
    /// Whether it works.
    pub fn is_there(self) -> bool {
        matches!(self, Self::Capability | Self::Setuid)
    }
}

/// The end of a sentence about the program.
impl fmt::Display for Right {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Capability => "has the capability cap_net_admin",
            Self::Setuid => "is setuid root",
            Self::Missing => "has neither the capability cap_net_admin nor setuid root",
            Self::Nosuid => "is on a file system that is mounted nosuid, where it has no rights",
            Self::Closed => "is not for you to execute",
        })
    }
}

/// CAP_NET_ADMIN in its first word of permitted capabilities.
const NET_ADMIN: u32 = 1 << 12;

/// The value that permits CAP_NET_ADMIN and puts it into effect nowhere but where the program does so itself.
pub fn capability() -> [u8; 20] {
    let mut value = [0; 20];
    value[..4].copy_from_slice(&0x0200_0000_u32.to_le_bytes());
    value[4..8].copy_from_slice(&NET_ADMIN.to_le_bytes());
    value
}

/// Whether such a value permits CAP_NET_ADMIN, and either puts it into effect or is of a program that does so itself.
pub fn permits_net_admin(value: &[u8], does_itself: bool) -> bool {
    let permitted = value.get(4..8).and_then(|word| Some(u32::from_le_bytes(word.try_into().ok()?)));
    // VFS_CAP_FLAGS_EFFECTIVE.
    let is_in_effect = value.first().is_some_and(|first| first & 1 != 0);
    (is_in_effect || does_itself) && permitted.is_some_and(|permitted| permitted & NET_ADMIN != 0)
}

/// Why no helper works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperProblem {
    /// What is wrong.
    pub what: String,
    /// What fixes it, and the command, where installing ours does not.
    pub fix: Option<(&'static str, String)>,
}

impl HelperProblem {
    /// No helper works; `found` is the first that is there, with its mount point.
    pub fn of(found: Option<(&Path, Right, String)>) -> Self {
        let Some((path, right, mount)) = found else {
            return Self { what: "no helper is installed".into(), fix: None };
        };
        let fix = match right {
            Right::Nosuid => Some(("mounted with suid", format!("sudo mount -o remount,suid {mount}"))),
            Right::Closed => Some(("made executable for users", format!("sudo chmod a+rx {}", path.display()))),
            _ => None,
        };
        Self { what: format!("{} {right}", path.display()), fix }
    }

    /// The error of a user who needs one; `allow` is what installing it has to say.
    pub fn error(self, allow: &str) -> Error {
        let remedy = match self.fix {
            Some((how, command)) => format!("Have it {how}: {command}"),
            None => format!("Have it installed, once: sudo kvm-bridge install{allow}"),
        };
        Error::new(format!("only root can make TAPs, and {}", self.what), remedy)
    }
}

/// The helper's own words, ours with a remedy in the second line.
pub fn refusal(helper: &Path, said: &str) -> Error {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("it ended without a word");
    let rest: Vec<&str> = lines.collect();
    let what = first.strip_prefix(NAME).and_then(|text| text.strip_prefix(": ")).unwrap_or(first);
    let remedy =
        if rest.is_empty() { "Ask your admin for: sudo kvm-bridge install".to_owned() } else { rest.join(" ") };
    Error::new(format!("{} says: {what}", helper.display()), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_both_helpers_are_passed_on() {
        let said = |text: &str| refusal(Path::new("/x"), text).to_string();
        assert_eq!(said("kvm-bridge-helper: a\n  Do b.\n"), "/x says: a\n  Do b.");
        assert!(said("access denied by acl file\n").starts_with("/x says: access denied by acl file\n  Ask"));
        assert!(said("").contains("without a word"));
    }

    #[test]
    fn what_is_permitted_has_to_be_put_into_effect() {
        let mut value = capability();
        assert!(permits_net_admin(&value, true) && !permits_net_admin(&value, false));
        value[0] = 1;
        assert!(permits_net_admin(&value, false) && !permits_net_admin(&value[..7], true));
    }
}
