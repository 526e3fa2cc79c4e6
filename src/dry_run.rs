//! Says what a launch would do, in commands that a person could type, and does nothing.

use crate::argv::{self, Backend, Line, rewrite};
use crate::config::Config;
use crate::error::Result;
use crate::launch::Qemu;
use crate::lease::{Store, VmKey};
use crate::mac::Mac;
use crate::name::IfName;
use crate::net::observe::{observe, unreadable};
use crate::net::rtnl::Netlink;
use crate::plan::plan;
use crate::step::Step;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// The commands, one a line, for a shell; QEMU's is the last.
pub fn tell(line: &Line, config: &Config, qemu: &Qemu) -> Result<String> {
    let ids = argv::rewrite::ids(line)?;
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let host = observe(&mut netlink, &line.nics, config)?;
    let plan = plan(&line.nics, config, &host)?;
    let vm = VmKey::of(&line.vm);
    let given: Vec<Option<Mac>> = line.nics.iter().map(|nic| nic.mac).collect();
    let known = Store::open()?.peek(&vm, &given)?;
    let macs = known.iter().map(|mac| mac.map_or_else(Mac::generate, Ok)).collect::<Result<Vec<Mac>>>()?;
    let bridges = plan.bridges.iter().map(|bridge| bridge.bridge.clone()).collect();
    let names = tap_names(&mut netlink, bridges, plan.taps.iter().map(|tap| tap.name.clone()).collect())?;

    let mut text = String::new();
    let steps = || plan.bridges.iter().flat_map(|bridge| &bridge.steps);
    let mut told = [Vec::new(), Vec::new()];
    for step in steps() {
        if let Step::Tell { uplink, keeper, .. } = step {
            text += &format!("# {uplink} is run by {}, which is told\n", keeper.name());
            let bridge = plan.bridges.iter().find(|bridge| bridge.steps.contains(step)).map(|bridge| &bridge.bridge);
            let commands = bridge.map(|bridge| keeper.commands(bridge, uplink)).unwrap_or_default();
            told.iter_mut().zip(commands).for_each(|(told, commands)| told.extend(commands));
        }
    }
    let [before, after] = told.map(|lines| lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    text += &before;
    let steps = steps().flat_map(|step| step.commands());
    let taps = plan.taps.iter().zip(&names).zip(&macs);
    let taps = taps.flat_map(|((tap, name), mac)| tap.commands(name, mac.of_tap(), &vm.alias()));
    let typed = |command: Vec<String>| {
        let words: Vec<String> = command.iter().map(|word| quote(word.as_ref())).collect();
        words.join(" ") + "\n"
    };
    text.extend(steps.map(typed));
    text += &after;
    text.extend(taps.map(typed));
    if known.contains(&None) {
        text += "# The MAC below is an example: the first start makes one and keeps it.\n";
    }
    let backends = names.into_iter().map(Backend::Name).collect();
    let netdevs = argv::netdevs(line, config.model.as_deref(), ids, backends, &macs);
    let words = std::iter::once(OsString::from(qemu.path())).chain(rewrite(&line.parts, &netdevs));
    let words: Vec<String> = words.map(|word| quote(&word)).collect();
    let _ = writeln!(text, "{}", words.join(" "));
    Ok(text)
}

/// The names that the TAPs would have: the kernel takes the lowest `tapN` that is free, of those not `used` by then.
fn tap_names(netlink: &mut Netlink, mut used: BTreeSet<IfName>, wanted: Vec<Option<IfName>>) -> Result<Vec<IfName>> {
    used.extend(wanted.iter().flatten().cloned());
    let mut names = Vec::new();
    for name in wanted {
        names.push(match name {
            Some(name) => name,
            None => {
                let mut number = 0;
                loop {
                    let name = IfName::new(&format!("tap{number}"))?;
                    if !used.contains(&name) && netlink.link(&name).map_err(unreadable)?.is_none() {
                        used.insert(name.clone());
                        break name;
                    }
                    number += 1;
                }
            }
        });
    }
    Ok(names)
}

/// A word for a shell, as it is where no shell minds. Bytes that are not UTF-8 as `printf` gives them, which every POSIX
/// shell can be asked for.
fn quote(word: &OsStr) -> String {
    match word.to_str() {
        Some(text) if is_plain(text) => text.to_owned(),
        Some(text) => shell_words::quote(text).into_owned(),
        None => {
            let chunks = word.as_bytes().utf8_chunks().map(|chunk| {
                let valid = match chunk.valid() {
                    "" => String::new(),
                    text => shell_words::quote(text).into_owned(),
                };
                let odd: String = chunk.invalid().iter().map(|byte| format!("\\{byte:03o}")).collect();
                if odd.is_empty() { valid } else { format!("{valid}\"$(printf '{odd}')\"") }
            });
            chunks.collect()
        }
    }
}

/// `shell_words` quotes a comma and an equals sign too, of which QEMU's words are full.
fn is_plain(text: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-+.,:/@%=".contains(c);
    !text.is_empty() && !text.starts_with('=') && text.chars().all(is_safe)
}
