//! The interfaces of the default routes, of which the first would be the uplink of a bridge to be made: what `status` has to
//! tell before there is a bridge.

use crate::netlink::Netlink;
use crate::network::links::unreadable;
use crate::network::managed;
use model::error::Result;
use model::host::Kind;
use model::ifname::IfName;
use model::layout::{Style, Tone, table};
use model::manager::Manager;
use model::text;
use serde_json::json;

/// The interface of a default route.
pub(super) struct Uplink {
    name: IfName,
    is_bridge: bool,
    manager: Option<Manager>,
}

/// Those of all default routes, the preferred one first.
pub(super) fn look(netlink: &mut Netlink) -> Result<Vec<Uplink>> {
    let mut uplinks: Vec<Uplink> = Vec::new();
    for index in netlink.default_interfaces().map_err(unreadable)? {
        let Some(link) = netlink.link_at(index).map_err(unreadable)? else { continue };
        if uplinks.iter().all(|uplink| uplink.name != link.name) {
            let (is_bridge, manager) = (link.kind == Kind::Bridge, managed::of(&link).unwrap_or_default());
            uplinks.push(Uplink { name: link.name, is_bridge, manager });
        }
    }
    Ok(uplinks)
}

impl Uplink {
    pub(super) fn name(&self) -> &IfName {
        &self.name
    }

    /// A sentence for people; none for one that is a bridge, of which there are other lines.
    pub(super) fn line(&self, style: Style) -> Option<String> {
        let by = self.manager.as_ref().map(|manager| format!(", is managed by {manager}")).unwrap_or_default();
        let name = (Some(Tone::Title), text::one_line(self.name.as_str()));
        let rest = (None, format!("  has the default route{by}: 'qemu-kvm --bridge br0' shares it"));
        (!self.is_bridge).then(|| table::wrapped(&[name, rest], "  ", style).join("\n"))
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        json!({
            "name": self.name.as_str(),
            "bridge": self.is_bridge,
            "manager": self.manager.as_ref().map(ToString::to_string),
        })
    }
}
