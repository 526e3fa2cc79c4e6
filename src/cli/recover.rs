//! `kvm-bridge recover`.

use crate::monitor;
use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::reaper;
use crate::network::reaper::Found;
use crate::output;
use crate::output::errno::again_as_root;
use crate::state;
use crate::state::config::save;
use crate::state::journal::Files;
use crate::sys::process;
use clap::Args;
use model::error::{Error, Result};
use model::host::Link;
use model::ifname::IfName;
use model::journal;
use model::report::json;
use model::share::ends;
use model::text;
use model::text::shell::quote;
use serde_json::json;
use std::fmt::Write;

/// The arguments of `kvm-bridge recover`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Recover {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  kvm-bridge recover
The command does the work of the reapers at once; you can run it at any time.
Exit status: 0 everything is in order, 125 something could not be removed.";

impl Recover {
    /// Looks after every bridge that has a journal, whatever became of the one before.
    pub(super) fn run(self) -> Result<String> {
        if !process::can_change_network() {
            let what = "recover: this needs the right to change the network, CAP_NET_ADMIN";
            return Err(Error::new(what, again_as_root()));
        }
        let mut netlink = Netlink::open().map_err(unreadable)?;
        let (mut text, mut all, mut faults) = (String::new(), Vec::new(), Vec::new());
        for files in Files::all()? {
            let bridge = files.bridge();
            let (found, is_fixed) = match reaper::reconcile(&mut netlink, &files) {
                Ok(found) => found,
                Err(error) => {
                    faults.push((bridge.clone(), error.of(bridge)));
                    continue;
                }
            };
            let (kind, guests, said) = match found {
                Found::InUse(users) => ("in-use", users.len(), format!("is in use, by {}", some_of(&users))),
                Found::Kept => ("kept", 0, "is persistent, and stays".to_owned()),
                Found::Undone => ("undone", 0, "was left behind, and is removed".to_owned()),
                Found::Nothing => continue,
            };
            all.push(json!({ "bridge": bridge.as_str(), "found": kind, "guests": guests, "fixed": is_fixed }));
            let fixed = if is_fixed { "; the attachment of its uplink is fixed" } else { "" };
            let _ = writeln!(text, "{bridge} {}{fixed}", text::one_line(&said));
        }
        output::step(|| format!("looked at the journals of bridges: {}", all.len() + faults.len()));
        monitor::tidy();
        state::journal::tidy_all();
        save::tidy()?;
        faults.extend(without_journal(&mut netlink)?.into_iter().map(|bridge| {
            let dev = quote(&bridge);
            let [host_end, _] = ends(&bridge);
            let what = format!("{bridge} was made by kvm-bridge, and its journal is gone: it stays");
            let remedy = format!("To remove it: ip link del {dev}; ip link del {}", quote(&host_end));
            let error = Error::new(what, remedy);
            (bridge, error)
        }));
        if text.is_empty() && faults.is_empty() {
            text = "There is nothing to recover.\n".to_owned();
        }
        let told: Vec<String> = faults.iter().map(|(_, error)| error.to_string()).collect();
        let done = if self.json { "" } else { &text };
        let error = Error::new(format!("{done}{}", told.join("\n")), "Look at 'ip addr', and try again.");
        let error = Some(error).filter(|_| !faults.is_empty());
        if self.json {
            let faults: Vec<_> = faults
                .iter()
                .map(|(bridge, error)| json!({ "bridge": bridge.as_str(), "what": error.what(), "remedy": error.remedy().to_string() }))
                .collect();
            let mut value = json!({ "bridges": all, "faults": faults });
            if let Some(error) = &error {
                value["error"] = error.to_json();
            }
            output::print(&json(&value))?;
            text.clear();
        }
        error.map_or(Ok(text), Err)
    }
}

/// A few of many names.
fn some_of(names: &[String]) -> String {
    const MOST: usize = 5;
    let more = names.len().saturating_sub(MOST);
    let rest = if more > 0 { format!(" and {more} others") } else { String::new() };
    names.iter().take(MOST).map(String::as_str).collect::<Vec<&str>>().join(", ") + &rest
}

/// The bridges that say by their alias and index that they are ours, and of which no journal says so.
fn without_journal(netlink: &mut Netlink) -> Result<Vec<IfName>> {
    // It may have another name by now; of a journal that can't be read the name has to do.
    let all = Files::all()?;
    let known: Vec<u32> = all.iter().filter_map(|files| Some(files.read().ok()??.index)).collect();
    let is_known = |link: &Link| known.contains(&link.index) || all.iter().any(|files| *files.bridge() == link.name);
    let links = netlink.links().map_err(unreadable)?;
    Ok(links.into_iter().filter(|link| journal::looks_ours(link) && !is_known(link)).map(|link| link.name).collect())
}
