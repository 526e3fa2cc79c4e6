//! `KVM_BRIDGE=br0 sudo qemu-kvm`: sudo takes the variable away, unless its configuration keeps it.
#![forbid(unsafe_code)]

use crate::launch::NICS;
use crate::sys::program;
use std::fs;
use std::path::Path;

/// The command that has sudo keep it (sudoers(5)). Not the variable that names QEMU: who may run qemu-kvm as root only would
/// choose what root runs.
pub const KEEP: &str = "echo 'Defaults env_keep += \"KVM_BRIDGE\"' | sudo tee /etc/sudoers.d/kvm-bridge";

/// What to do for it, where there is a sudo that does not keep the variable; for root, who alone may read sudo's configuration.
pub fn hint() -> Option<String> {
    let folder = fs::read_dir("/etc/sudoers.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let files = std::iter::once(Path::new("/etc/sudoers").to_owned()).chain(folder);
    let keeps = files.filter_map(|file| fs::read_to_string(file).ok()).any(|text| is_kept_by(&text));
    (program::is_installed("sudo") && !keeps).then(|| {
        format!("if somebody runs '{NICS}=br0 sudo qemu-kvm', sudo has to be told to keep the variable: {KEEP}")
    })
}

fn is_kept_by(text: &str) -> bool {
    let is_word = |line: &str| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| word == NICS);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter(|line| line.contains("env_keep") || line.contains("!env_reset"))
        .any(|line| is_word(line) || line.contains("!env_reset"))
}

#[cfg(test)]
mod tests {
    use super::is_kept_by;

    #[test]
    fn what_keeps_the_variable_is_seen() {
        for text in
            ["Defaults env_keep += \"KVM_BRIDGE\"", "Defaults env_keep=\"A KVM_BRIDGE B\"", "Defaults !env_reset"]
        {
            assert!(is_kept_by(text), "{text}");
        }
        for text in [
            "",
            "# Defaults env_keep += KVM_BRIDGE",
            "Defaults env_keep += \"KVM_BRIDGE_QEMU\"",
            "Defaults x KVM_BRIDGE",
        ] {
            assert!(!is_kept_by(text), "{text}");
        }
    }
}
