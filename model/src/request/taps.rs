//! TAPs that are to stay, for users.

use crate::error::{Error, Result};
use crate::ifname::IfName;
use crate::slips;

/// A TAP that stays, for a user to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistentTap {
    /// Its name.
    pub name: IfName,
    /// The user that may attach to it, as it was said.
    pub user: String,
}

/// The TAPs that `up` is asked for, with those that are configured for the bridge: one user is for all of them, or each has one.
pub fn taps(
    bridge: &IfName,
    names: &[String],
    users: &[String],
    configured: Vec<PersistentTap>,
) -> Result<Vec<PersistentTap>> {
    if users.len() > 1 && users.len() != names.len() {
        let what = format!("{} TAPs have {} users", names.len(), users.len());
        return Err(Error::new(what, "Give --user once for all, or once for each --tap, in order."));
    }
    let users = users.iter().chain(users.last().into_iter().cycle());
    let mut taps: Vec<PersistentTap> = Vec::new();
    for (name, user) in names.iter().zip(users) {
        slips::check_value("--tap", name)?;
        let name = IfName::new(name)?;
        if name == *bridge || taps.iter().any(|tap| tap.name == name) {
            return Err(Error::new(format!("{name} is asked for twice"), "Give each TAP a name of its own."));
        }
        taps.push(PersistentTap { name, user: user.clone() });
    }
    let more: Vec<PersistentTap> =
        configured.into_iter().filter(|tap| taps.iter().all(|known| known.name != tap.name)).collect();
    taps.extend(more);
    Ok(taps)
}
