//! QEMU's command line for strangers: its options and what its network is made of, without the values of anything else.

use crate::anonymous::Anonymizer;
use crate::optstr;
use crate::optstr::Param;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Options whose values tell of a machine and of nobody.
const OPEN: [&str; 8] = ["M", "machine", "accel", "cpu", "smp", "m", "bridge", "boot"];
/// Options whose values begin with a type, and of which these keys are kept.
const TYPED: [&str; 4] = ["device", "netdev", "nic", "net"];
const KEPT: [&str; 19] = [
    "id",
    "netdev",
    "mac",
    "bus",
    "addr",
    "model",
    "queues",
    "mq",
    "vectors",
    "vhost",
    "ifname",
    "script",
    "downscript",
    "br",
    "fd",
    "fds",
    "type",
    "driver",
    "hostfwd",
];

/// The words of a command line, each value that is not kept replaced by one that stands for it.
pub fn masked(words: &[OsString], anonymizer: &mut Anonymizer) -> Vec<String> {
    let mut option = None;
    let words = words.iter().map(|word| {
        let text = word.to_string_lossy();
        match (text.strip_prefix('-'), option.take()) {
            (Some(name), _) if !name.is_empty() => {
                let name = name.strip_prefix('-').unwrap_or(name).to_owned();
                // What is behind an equals sign is a value: only ours have one.
                let (name, value) =
                    name.split_once('=').map_or((name.as_str(), None), |(name, value)| (name, Some(value)));
                let told = match value {
                    Some(value) if OPEN.contains(&name) => format!("-{name}={value}"),
                    Some(value) => format!("-{name}={}", anonymizer.value(value)),
                    None => text.trim_start_matches('-').to_owned(),
                };
                option = Some(name.to_owned());
                format!("-{}", told.trim_start_matches('-'))
            }
            (_, Some(name)) => value_of(&name, word.as_bytes(), anonymizer),
            _ => anonymizer.value(&text),
        }
    });
    words.collect()
}

/// The value of an option.
fn value_of(option: &str, value: &[u8], anonymizer: &mut Anonymizer) -> String {
    let is_typed = TYPED.contains(&option);
    if OPEN.contains(&option) {
        return String::from_utf8_lossy(value).into_owned();
    }
    let mut params = optstr::parse(value);
    if !is_typed && params.iter().all(|param| param.key.is_none()) {
        return anonymizer.value(&String::from_utf8_lossy(value));
    }
    for Param { key, value } in &mut params {
        let is_kept = match key.as_deref() {
            Some(key) => is_typed && KEPT.iter().any(|kept| kept.as_bytes() == key),
            None => is_typed,
        };
        if let Some(value) = value.as_mut().filter(|_| !is_kept) {
            *value = anonymizer.value(&String::from_utf8_lossy(value)).into_bytes();
        }
    }
    String::from_utf8_lossy(&optstr::render(&params)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_replaced_but_those_of_the_network() {
        let line = "/opt/q/qemu-kvm --bridge br0,vm=x -m 1G -name alice -drive file=/home/a.img,if=virtio \
                    -device e1000,netdev=n0,mac=52:54:00:00:00:01,serial=S3CR3T -netdev tap,id=n0,ifname=kvb0,helper=/opt/h \
                    -append password=secret -smbios type=11,value=secret disk.qcow2 -nographic --odd=secret";
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let masked = masked(&words, &mut Anonymizer::default()).join(" ");
        assert_eq!(
            masked,
            "value-1 -bridge br0,vm=x -m 1G -name value-2 -drive file=value-3,if=value-4 \
             -device e1000,netdev=n0,mac=52:54:00:00:00:01,serial=value-5 -netdev tap,id=n0,ifname=kvb0,helper=value-6 \
             -append password=value-7 -smbios type=value-8,value=value-7 value-9 -nographic -odd=value-7"
        );
    }
}
