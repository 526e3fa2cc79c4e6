//! Whether the rules on this host allow somebody a bridge, and in which words it is refused. Also for those who want to know
//! beforehand: everything here is read with the rights of the calling process.
#![forbid(unsafe_code)]

use crate::acl::{Acl, Caller, OURS, Place, QEMU, Verdict, show};
use crate::failure::Failure;
use crate::files::{self, Accounts};

/// How many TAPs a caller may have on a bridge, and where that is said; `None` for any number.
pub fn check(bridge: &[u8], caller: &Caller) -> Result<Option<(u32, Place)>, Failure> {
    let accounts = Accounts::read();
    let acl = Acl::read(files::rules);
    let verdict = acl.as_ref().map_err(Clone::clone).and_then(|acl| acl.judge(bridge, caller, &accounts));
    let (bridge, user) = (show(bridge), accounts.user(caller.uid));
    let (what, remedy) = match verdict {
        Ok(Verdict::Allowed(max)) => return Ok(max),
        Ok(Verdict::Denied(place)) => (
            format!("access denied: {place} denies {bridge} to {user}"),
            format!("Ask your admin to change that line: sudoedit {}", show(place.file.as_os_str().as_encoded_bytes())),
        ),
        Ok(Verdict::NoRule) => (
            format!("access denied: no rule allows {bridge} to {user}: {}", looked_at(acl.as_ref().ok())),
            format!("Ask your admin for: sudo kvm-bridge install --allow {bridge}:{user}"),
        ),
        Err(fault) => (
            format!("access denied: the rules cannot be gone by: {}", fault.0),
            "Ask your admin to mend that: sudo kvm-bridge install --check".to_owned(),
        ),
    };
    Err(Failure::new(what, remedy))
}

fn looked_at(acl: Option<&Acl>) -> String {
    let files: Vec<String> =
        acl.into_iter().flat_map(|acl| &acl.files).map(|file| file.display().to_string()).collect();
    match files.is_empty() {
        true => format!("there is neither {} nor {}", QEMU, OURS),
        false => format!("looked in {}", files.join(" and ")),
    }
}
