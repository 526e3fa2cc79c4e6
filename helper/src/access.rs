//! Whether the rules on this host allow somebody a bridge, and in which words it is refused. Also for those who want to know
//! beforehand: everything here is read with the rights of the calling process.
#![forbid(unsafe_code)]

use crate::acl::{Acl, Caller, Fault, OURS, Place, QEMU, Verdict, show};
use crate::failure::Failure;
use crate::files::{self, Accounts};
use std::path::PathBuf;

/// What the rules on this host say of a bridge to a caller, and the files that say it.
pub fn judge(bridge: &[u8], caller: &Caller) -> Result<(Verdict, Vec<PathBuf>), Fault> {
    let acl = Acl::read(files::rules)?;
    Ok((acl.judge(bridge, caller, &Accounts::read())?, acl.files))
}

/// How many TAPs a caller may have on a bridge, and where that is said; `None` for any number.
pub fn check(bridge: &[u8], caller: &Caller) -> Result<Option<(u32, Place)>, Failure> {
    let verdict = judge(bridge, caller);
    let (bridge, user) = (show(bridge), || Accounts::read().user(caller.uid));
    let (what, remedy) = match verdict {
        Ok((Verdict::Allowed(max), _)) => return Ok(max),
        Ok((Verdict::Denied(place), _)) => (
            format!("access denied: {place} denies {bridge} to {}", user()),
            format!("Ask your admin to change that line: sudoedit {}", show(place.file.as_os_str().as_encoded_bytes())),
        ),
        Ok((Verdict::NoRule, files)) => {
            let user = user();
            (
                format!("access denied: no rule allows {bridge} to {user}: {}", looked_at(&files)),
                format!("Ask your admin for: sudo kvm-bridge install --allow {bridge}:{user}"),
            )
        }
        Err(fault) => (
            format!("access denied: the rules cannot be gone by: {}", fault.0),
            "Ask your admin to mend that: sudo kvm-bridge install --check".to_owned(),
        ),
    };
    Err(Failure::new(what, remedy))
}

/// Where a rule was looked for, as the end of a sentence.
pub fn looked_at(files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    match files.is_empty() {
        true => format!("there is neither {QEMU} nor {OURS}"),
        false => format!("looked in {}", files.join(" and ")),
    }
}
