//! Tables of nftables, and rules in chains of others.

use crate::sys::program::Program;
use model::error::{Error, Result};
use model::ifname::IfName;
use model::mac::Mac;
use model::nat::Nat;
use model::nat::firewall::{self, Blocked};
use model::nat::guest::Guest;
use model::nat::ruleset;
use serde_json::Value;

/// Makes the table of the bridge of this index and MAC address as it has to be, whatever it was, and looks whether it is there.
pub fn apply(bridge: &IfName, link: (u32, Mac), nat: &Nat, guests: &[Guest]) -> Result<()> {
    carry_out(&ruleset::add(bridge, link, nat, guests))?;
    masqueraded(bridge)?.map(|_| ()).ok_or_else(|| {
        let table = ruleset::table(bridge);
        let what = format!("the table inet {table} was made, and is not there");
        Error::new(what, "See who else changes the host's rules: nft monitor.")
    })
}

/// Removes it, whether or not it is there.
pub fn remove(bridge: &IfName) -> Result<()> {
    carry_out(&ruleset::remove(&ruleset::table(bridge)))
}

/// How many first packets of connections were masqueraded; `None` where the table is not there as we made it.
pub fn masqueraded(bridge: &IfName) -> Result<Option<u64>> {
    Ok(list(&ruleset::table(bridge))?.as_ref().and_then(ruleset::masqueraded))
}

/// Whether the table is there as `apply` makes it.
pub fn are_whole(bridge: &IfName, link: (u32, Mac), nat: &Nat, guests: &[Guest]) -> Result<bool> {
    let listed = list(&ruleset::table(bridge))?;
    Ok(listed.is_some_and(|listed| ruleset::is_whole(&listed, &ruleset::add(bridge, link, nat, guests))))
}

/// What others drop of a bridge's packets.
pub fn blocked(bridge: &IfName) -> Result<Vec<Blocked>> {
    Ok(firewall::blocked(&all()?, bridge))
}

/// Lets guests' packets pass a chain of others. What can't be fixed says whose it is.
pub fn unblock(blocked: &Blocked, bridge: &IfName) -> Result<()> {
    let Some(fix) = &blocked.fix else {
        let what = format!("{} drops what guests of {bridge} send, and only its owner can change it", blocked.by);
        return Err(Error::new(what, format!("Have it accept what comes in and goes out by {bridge}.")));
    };
    fix.add.iter().try_for_each(|words| run(words)).map_err(|error| error.of(&blocked.by))
}

/// Takes back all that was added to chains of others. What somebody else has removed already is fine.
pub fn block_again(blocked: &[Blocked], bridge: &IfName) -> Result<()> {
    for words in blocked.iter().filter_map(|blocked| blocked.fix.as_ref()).flat_map(|fix| &fix.remove) {
        let _ = run(words);
    }
    // What has lost its place in the journal. Where that can't be looked for, the bridge goes all the same.
    let left = all().map(|all| firewall::left(&all, bridge)).unwrap_or_default();
    left.iter().try_for_each(|words| run(words))
}

pub(in crate::network) fn carry_out(commands: &Value) -> Result<()> {
    Program::new("nft").words(["-j", "-f", "-"]).reading(&commands.to_string())?.run().map(|_| ())
}

/// A table of ours; `None` where there is none.
pub(super) fn list(table: &str) -> Result<Option<Value>> {
    // `list table` fails for one that is missing as for any other reason.
    let tables = nft(&["list", "tables", "inet"])?;
    let names = tables["nftables"].as_array().into_iter().flatten().map(|item| &item["table"]["name"]);
    if !names.into_iter().any(|name| name == table) {
        return Ok(None);
    }
    nft(&["list", "table", "inet", table]).map(Some)
}

fn all() -> Result<Value> {
    // Without the elements of sets, of which anybody's packets can make as many as a set may have.
    nft(&["-t", "list", "ruleset"])
}

fn nft(words: &[&str]) -> Result<Value> {
    let said = Program::new("nft").words([&["-j"], words].concat()).run()?;
    serde_json::from_str(&said).map_err(|error| {
        let what = format!("nft {} does not answer as expected: {error}", words.join(" "));
        Error::new(what, "See whether another version of nftables can be had.")
    })
}

fn run(words: &[String]) -> Result<()> {
    let Some((program, rest)) = words.split_first() else { return Ok(()) };
    Program::new(program).words(rest).run().map(|_| ())
}
