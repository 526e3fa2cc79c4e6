//! What doctor concludes: what was seen, how bad it is, why it matters, and the command that fixes it.
//! It may not look.

pub mod bridge;
pub mod dhcp;
pub mod fabric;
pub mod firewall;
pub mod guard;
pub mod guest;
pub mod incoming;
pub mod kernel;
pub mod mac;
pub mod nat;
pub mod qemu;
pub mod uplink;

use crate::error::{Error, Phrase};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It may keep guests off the network, or could not be looked at.
    Warning,
    /// It keeps them off.
    Failure,
}

impl Verdict {
    /// Its name for people, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing that was looked at; in JSON as docs/json.md has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: a word.
    pub name: Cow<'static, str>,
    /// The bridge, guest or file that it is about.
    pub subject: Option<String>,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen.
    pub observed: String,
    /// Why it matters.
    pub why: Cow<'static, str>,
    /// The command that fixes it.
    pub fix: Option<String>,
    /// The commands that make the bridge for good, in the manner of who looks after the uplink.
    pub permanent_setup: Option<String>,
}

impl Check {
    /// The same, of a VLAN, where it is of one.
    pub fn in_vlan(self, vlan: Option<u16>) -> Self {
        match vlan {
            Some(vlan) => Self { observed: format!("in VLAN {vlan}: {}", self.observed), ..self },
            None => self,
        }
    }

    /// The same, about this bridge, guest or file.
    pub fn of(self, subject: impl ToString) -> Self {
        Self { subject: Some(subject.to_string()), ..self }
    }
}

/// What is looked at, and why that matters: all that checks of it have in common.
#[derive(Debug, Clone, Copy)]
pub struct Topic(pub &'static str, pub &'static str);

impl Topic {
    /// It is as it should be.
    pub fn ok(self, observed: impl Into<String>) -> Check {
        let (name, why) = (self.0.into(), self.1.into());
        let observed = observed.into();
        Check { name, subject: None, verdict: Verdict::Ok, observed, why, fix: None, permanent_setup: None }
    }

    /// It may keep guests off the network, or could not be looked at.
    pub fn warning(self, observed: impl Into<String>, fix: impl Into<String>) -> Check {
        self.judged(Verdict::Warning, observed, fix)
    }

    /// It keeps guests off.
    pub fn failure(self, observed: impl Into<String>, fix: impl Into<String>) -> Check {
        self.judged(Verdict::Failure, observed, fix)
    }

    /// As bad as this.
    pub fn judged(self, verdict: Verdict, observed: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { verdict, fix: Some(fix.into()), ..self.ok(observed) }
    }

    /// What an error of ours says.
    pub fn error(self, verdict: Verdict, error: &Error) -> Check {
        self.judged(verdict, error.what(), to_paste(error.remedy()))
    }
}

/// `modprobe tun   # Load the kernel's module` of "Load the kernel's module: modprobe tun", so that it can be pasted. What
/// takes more than a command stays a sentence.
fn to_paste(remedy: &Phrase) -> String {
    remedy.as_command().map_or_else(|| remedy.to_string(), |(what, command)| format!("{command}   # {what}"))
}

/// `1 guest`, `2 guests`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
