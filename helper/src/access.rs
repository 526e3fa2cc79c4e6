//! Whether the rules on this host allow somebody a bridge, and in which words it is refused. Also for those who want to know
//! beforehand: everything here is read with the rights of the calling process.
#![forbid(unsafe_code)]

use crate::acl::{Acl, Caller, Fault, File, Grant, OURS, QEMU, Verdict, quote, show};
use crate::failure::Failure;
use crate::files::{self, Accounts};
use std::path::Path;

/// What the rules on this host say of a bridge to a caller, and the rules themselves.
pub fn judge(bridge: &[u8], caller: &Caller) -> Result<(Verdict, Acl), Fault> {
    let acl = Acl::read(files::rules)?;
    Ok((acl.judge(bridge, caller, &Accounts::read())?, acl))
}

/// The same by the rules that QEMU's own helper reads.
pub fn judge_by_qemus(bridge: &[u8], caller: &Caller) -> Result<Verdict, Fault> {
    let qemus = |path: &Path| if path == Path::new(OURS) { File::Missing } else { files::rules(path) };
    Acl::read(qemus)?.judge(bridge, caller, &Accounts::read())
}

/// What a caller is allowed on a bridge.
pub fn check(bridge: &[u8], caller: &Caller) -> Result<Grant, Failure> {
    explain(bridge, caller, judge(bridge, caller))
}

/// What a verdict comes to, with the words in which it refuses.
pub fn explain(bridge: &[u8], caller: &Caller, verdict: Result<(Verdict, Acl), Fault>) -> Result<Grant, Failure> {
    let (bridge, user) = (show(bridge), || Accounts::read().user(caller.uid));
    let (what, remedy) = match verdict {
        Ok((Verdict::Allowed(grant), _)) => return Ok(grant),
        Ok((Verdict::Denied(place), _)) => {
            let file = quote(&show(place.file.as_os_str().as_encoded_bytes()));
            (
                format!("access denied: {place} denies {bridge} to {}", user()),
                format!("Ask your admin to change that line: sudoedit {file}"),
            )
        }
        Ok((Verdict::NoRule, acl)) => {
            let user = user();
            let rule = quote(&format!("{bridge}:{user}"));
            (
                format!("access denied: no rule allows {bridge} to {user}: {}", looked_at(&acl)),
                format!("Ask your admin for: sudo kvm-bridge install --allow {rule}"),
            )
        }
        Err(fault) => (
            format!("access denied: the rules cannot be gone by: {}", fault.0),
            "Ask your admin to fix that with an editor; then 'kvm-bridge install --check' has no complaint.".to_owned(),
        ),
    };
    Err(Failure::new(what, remedy))
}

/// Where a rule was looked for, as the end of a sentence, and what looked like one.
pub fn looked_at(acl: &Acl) -> String {
    let files: Vec<String> = acl.files.iter().map(|file| file.display().to_string()).collect();
    if files.is_empty() {
        return format!("there is neither {QEMU} nor {OURS}");
    }
    // Who has many such lines fixes them one by one.
    let slips: String = acl.slips().take(3).map(|slip| format!("; {slip}")).collect();
    let unknown: String = acl.unknown(&Accounts::read()).take(3).map(|unknown| format!("; {unknown}")).collect();
    format!("looked in {}{slips}{unknown}", files.join(" and "))
}
