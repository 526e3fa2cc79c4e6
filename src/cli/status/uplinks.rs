//! The interfaces of the default routes, of which the first would be the uplink of a bridge to be made, and who looks after
//! them: what `status` has to tell before there is a bridge.

use crate::error::Result;
use crate::host::{Kind, Link};
use crate::keeper::{Keeper, keeper};
use crate::name::IfName;
use crate::net::observe::unreadable;
use crate::net::rtnl::Netlink;
use crate::style::{Style, Tone};
use crate::sys::process;
use serde_json::json;

/// The interface of a default route.
pub(super) struct Uplink {
    name: IfName,
    is_bridge: bool,
    keeper: Option<Keeper>,
}

/// Those of all default routes, the preferred one first.
pub(super) fn look(netlink: &mut Netlink) -> Result<Vec<Uplink>> {
    let mut uplinks: Vec<Uplink> = Vec::new();
    for index in netlink.default_interfaces().map_err(unreadable)? {
        let Some(link) = netlink.link_at(index).map_err(unreadable)? else { continue };
        if uplinks.iter().all(|uplink| uplink.name != link.name) {
            let is_bridge = link.kind == Kind::Bridge;
            uplinks.push(Uplink { name: link.name.clone(), is_bridge, keeper: keeper_of(netlink, link)? });
        }
    }
    Ok(uplinks)
}

/// Who looks after a link. Whose processes those are that would tell is for root alone to see.
pub(super) fn keeper_of(netlink: &mut Netlink, mut link: Link) -> Result<Option<Keeper>> {
    if !process::is_root() {
        return Ok(None);
    }
    link.layer3 = netlink.layer3(link.index).map_err(unreadable)?;
    Ok(keeper(&link))
}

impl Uplink {
    /// A line for people; none for one that is a bridge, of which there are other lines.
    pub(super) fn line(&self, style: Style) -> Option<String> {
        let keeper = self.keeper.as_ref();
        let who = match keeper.map(|keeper| (keeper.named(), keeper.why_not())) {
            None if !process::is_root() => "who looks after it is seen by root only".to_owned(),
            None => "nobody looks after it".to_owned(),
            Some((name, Some(why))) => format!("{name} looks after it, and {why}"),
            Some((name, None)) if keeper.is_some_and(Keeper::is_to_be_told) => {
                format!("{name} looks after it, and is told when a bridge takes it")
            }
            Some((name, None)) => format!("{name} looks after it, of which nothing runs now"),
        };
        (!self.is_bridge)
            .then(|| format!("{}  has the default route, is no bridge, {who}", style.paint(Tone::Title, &self.name)))
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        json!({
            "name": self.name.as_str(),
            "bridge": self.is_bridge,
            "keeper": self.keeper.as_ref().map(Keeper::name),
            "keeper_by": self.keeper.as_ref().and_then(Keeper::by),
            "keeper_why_not": self.keeper.as_ref().and_then(Keeper::why_not),
        })
    }
}
