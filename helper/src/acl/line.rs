//! One line of rules, in QEMU's grammar or in ours.
//!
//! QEMU's is that of `parse_acl_file` in its qemu-bridge-helper.c, and whatever that one takes for something else than its
//! writer meant is refused or allows nothing: a line longer than its buffer, which it reads as two; a NUL, at which it
//! stops; a relative include, which follows the caller's folder; words behind a name, which it takes for a part of it.
#![forbid(unsafe_code)]

use port::{Guard, Rate, Vlans};
use std::str::FromStr;

/// IFNAMSIZ less the final NUL: the longest name of an interface.
pub(crate) const MAX_NAME: usize = 15;
/// QEMU's buffer holds so many bytes and a NUL.
const MAX_LINE: usize = 4095;

/// Whose grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grammar {
    Qemu,
    Ours,
}

/// Which bridges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bridge {
    All,
    Named(Vec<u8>),
    /// What no bridge is called: all behind the first word, in QEMU's grammar.
    Words(Vec<u8>),
}

impl Bridge {
    pub(super) fn is(&self, name: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Named(own) => own == name,
            Self::Words(_) => false,
        }
    }

    pub(super) fn named(name: &[u8]) -> Self {
        if name == b"all" { Self::All } else { Self::Named(name.to_vec()) }
    }

    /// What such a rule was probably meant to say, where no bridge has the name that stands there: names are neither quoted
    /// nor listed, and there are no patterns.
    pub(super) fn slip(&self) -> Option<String> {
        let (Self::Named(written) | Self::Words(written)) = self else { return None };
        let text = super::show(written);
        if let Self::Words(_) = self {
            let (first, rest) = text.split_once([' ', '\t']).unwrap_or((&text, ""));
            return Some(match rest.trim_start() {
                rest if rest.starts_with('#') => format!("allow {first}, with '{rest}' on a line of its own"),
                rest if rest.starts_with("user ")
                    || rest.starts_with("group ")
                    || OF_OURS.iter().any(|word| rest.starts_with(word)) =>
                {
                    format!("allow {first} {rest}, in {}", super::OURS)
                }
                _ => "one line for each bridge: allow NAME".to_owned(),
            });
        }
        if text == "*" {
            return Some("allow all".to_owned());
        }
        if let Some((bridge, user)) = text.split_once(':') {
            return Some(format!("allow {bridge} user {user}, in {}", super::OURS));
        }
        if written.iter().any(|byte| b"*?[]{}".contains(byte)) {
            return Some("one line for each bridge, allow NAME, or: allow all".to_owned());
        }
        let names: Vec<&str> = text.split([',', ';', '"', '\'']).filter(|name| !name.is_empty()).collect();
        match names.as_slice() {
            [only] if *only == text => None,
            [only] => Some(format!("allow {only}")),
            _ => Some("one line for each bridge: allow NAME".to_owned()),
        }
    }
}

/// Whom a rule is for: names, or numbers in digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Everybody.
    Anybody,
    /// One user.
    User(Vec<u8>),
    /// Whoever is in the group.
    Group(Vec<u8>),
}

/// What a rule says of the ports that it allows: see [`port::Policy`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) max: Option<u32>,
    pub(super) guard: Option<Guard>,
    pub(super) isolated: bool,
    pub(super) vlans: Option<Vlans>,
    pub(super) rate: Option<Rate>,
}

impl Said {
    /// Whether it says nothing of what ports are held to.
    pub(super) fn is_silent(&self) -> bool {
        let Self { max: _, guard, isolated, vlans, rate } = self;
        guard.is_none() && !isolated && vlans.is_none() && rate.is_none()
    }

    /// Whether it allows less than a rule that says nothing of it.
    pub(super) fn restricts(&self) -> bool {
        let Self { max, guard, isolated, vlans, rate } = self;
        max.is_some()
            || guard.is_some_and(|guard| guard != Guard::Off)
            || *isolated
            || vlans.is_some()
            || rate.is_some()
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Nothing,
    Rule { allows: bool, bridge: Bridge, who: Who, said: Said },
    Include(&'a [u8]),
}

impl<'a> Line<'a> {
    /// Reads a line, with the newline if it has one.
    pub(super) fn parse(line: &'a [u8], grammar: Grammar) -> Result<Self, String> {
        if line.len() > MAX_LINE {
            return Err(format!("the line has more than {MAX_LINE} bytes"));
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err("there is a control character in the line".into());
        }
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(Self::Nothing);
        }
        match grammar {
            Grammar::Qemu => Self::of_qemu(line),
            Grammar::Ours => Self::ours(line),
        }
    }

    /// As QEMU has it, the first word ends at the first blank or, if there is none, at the first tab; the rest is one word.
    fn of_qemu(line: &'a [u8]) -> Result<Self, String> {
        let end = line.iter().position(|byte| *byte == b' ').or_else(|| line.iter().position(|byte| *byte == b'\t'));
        let (command, argument) = line.split_at(end.ok_or("the line has one word only")?);
        let argument = argument.trim_ascii();
        let first = argument.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let rule = |allows, bridge| Self::Rule { allows, bridge, who: Who::Anybody, said: Said::default() };
        match command {
            // QEMU takes all behind the first word for the name.
            b"allow" | b"deny" if argument.len() > MAX_NAME => {
                let why = format!("'{}' is no name", super::show(argument));
                let is_comment = argument.contains(&b'#');
                Err(if is_comment { format!("{why}; a comment stands on a line of its own") } else { why })
            }
            // With the words that follow there is no such bridge.
            b"allow" if argument != first => Ok(rule(true, Bridge::Words(argument.to_vec()))),
            b"allow" => Ok(rule(true, Bridge::named(argument))),
            // What was meant to deny denies, or refuses everybody.
            b"deny" => denied(first).map(|bridge| rule(false, bridge)),
            b"include" => absolute(argument).map(Self::Include),
            _ => Err("a line begins with allow, deny or include".into()),
        }
    }

    /// Words with blanks between them; one that begins with `#` and all behind it are for people.
    fn ours(line: &'a [u8]) -> Result<Self, String> {
        let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let mut words = words.take_while(|word| !word.starts_with(b"#"));
        let allows = match words.next() {
            Some(b"allow") => true,
            Some(b"deny") => false,
            Some(b"include") => {
                let path = absolute(words.next().unwrap_or_default())?;
                return if words.next().is_none() { Ok(Self::Include(path)) } else { Err(TOO_MANY.into()) };
            }
            _ => return Err("a line begins with allow, deny or include".into()),
        };
        let name = words.next().ok_or("the bridge's name is missing")?;
        if name.len() > MAX_NAME {
            return Err(format!("no bridge has a name of more than {MAX_NAME} bytes"));
        }
        let (mut who, mut said) = (Who::Anybody, Said::default());
        while let Some(key) = words.next() {
            let mut value = || words.next().ok_or("there is nothing behind the last word");
            match key {
                b"user" if who == Who::Anybody => who = Who::User(value()?.to_vec()),
                b"group" if who == Who::Anybody => who = Who::Group(value()?.to_vec()),
                // What denies denies all of them.
                b"max" if said.max.is_none() => {
                    said.max = Some(super::number(value()?).ok_or("max is followed by a number from 0 to 4294967295")?);
                }
                b"guard" if said.guard.is_none() => {
                    said.guard = Some(read(value()?).ok_or("guard is followed by on, ip or off")?);
                }
                b"isolated" if !said.isolated => said.isolated = true,
                b"vlan" if said.vlans.is_none() => {
                    said.vlans = Some(read(value()?).ok_or("vlan is followed by VLANs: 10, 10:20-30 or 10:20+30-39")?);
                }
                b"rate" if said.rate.is_none() => {
                    said.rate = Some(read(value()?).ok_or("rate is followed by a rate, as 512kbit, 100mbit or 1gbit")?);
                }
                _ => return Err(TOO_MANY.into()),
            }
        }
        let bridge = if allows { Bridge::named(name) } else { denied(name)? };
        Ok(Self::Rule { allows, bridge, who, said })
    }
}

const TOO_MANY: &str =
    "behind the name come user NAME or group NAME, max NUMBER, guard WORD, isolated, vlan ID and rate RATE, each once";
/// Words that only our grammar has, and that may stand first behind the name.
const OF_OURS: [&str; 5] = ["max ", "guard ", "isolated", "vlan ", "rate "];

/// A word as what it is to be.
fn read<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The bridge of a rule that denies: one that none can have been meant by denies nothing.
fn denied(name: &[u8]) -> Result<Bridge, String> {
    let bridge = Bridge::named(name);
    match bridge.slip() {
        None => Ok(bridge),
        Some(_) => Err(format!(
            "'{}' denies no bridge: names are neither quoted nor listed, and there are no patterns",
            super::show(name)
        )),
    }
}

fn absolute(path: &[u8]) -> Result<&[u8], String> {
    if path.starts_with(b"/") { Ok(path) } else { Err("include takes a path that begins with /".into()) }
}
