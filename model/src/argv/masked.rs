//! QEMU's command line for strangers: its options and what its network is made of, without the values of anything else.

use crate::anonymous::Anonymizer;
use crate::options::{Arity, arity};
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
    let mut option: Option<String> = None;
    let words = words.iter().map(|word| {
        let text = word.to_string_lossy();
        if let Some(name) = option.take() {
            return value_of(&name, word.as_bytes(), anonymizer);
        }
        let Some(name) = text.strip_prefix('-') else { return anonymizer.value(&text) };
        let name = name.strip_prefix('-').unwrap_or(name);
        // What is behind an equals sign is a value: only ours have one.
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value)));
        let is_ours = name == "bridge" || name.starts_with("bridge-");
        if !is_ours && arity(name.as_bytes()) == Arity::Unknown {
            return anonymizer.value(&text);
        }
        match value {
            Some(value) => format!("-{name}={}", value_of(name, value.as_bytes(), anonymizer)),
            None => {
                option = (is_ours || arity(name.as_bytes()) == Arity::Value).then(|| name.to_owned());
                format!("-{name}")
            }
        }
    });
    words.collect()
}

/// The value of an option.
fn value_of(option: &str, value: &[u8], anonymizer: &mut Anonymizer) -> String {
    let text = String::from_utf8_lossy(value);
    let is_word = |word: &[u8]| word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    let (is_typed, is_open) = (TYPED.contains(&option), OPEN.contains(&option));
    let mut params = optstr::parse(value);
    let is_list = params.iter().enumerate().all(|(at, param)| match (&param.key, &param.value) {
        (Some(key), Some(_)) => is_word(key),
        (None, Some(first)) => at == 0 && (is_typed || is_open) && is_word(first),
        _ => false,
    });
    // What is JSON, or a text with an equals sign in it.
    if !is_list {
        return anonymizer.value(&text);
    }
    for Param { key, value } in &mut params {
        let is_kept = match key.as_deref() {
            Some(b"vm" | b"file" | b"dumpdtb") => false,
            Some(key) => is_open || is_typed && KEPT.iter().any(|kept| kept.as_bytes() == key),
            None => true,
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
        let line = "/opt/q/qemu-kvm --bridge br0,queues=2 -m 1G -name alice -drive file=/home/a.img,if=virtio \
                    -device e1000,netdev=n0,mac=52:54:00:00:00:01,serial=S3CR3T -netdev tap,id=n0,ifname=kvb0,helper=/opt/h \
                    -append password=secret -append -SECRET -incoming --SECRET -smbios type=11,value=secret disk.qcow2 -nographic --odd=secret";
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let masked = masked(&words, &mut Anonymizer::default()).join(" ");
        assert_eq!(
            masked,
            "value-1 -bridge br0,queues=2 -m 1G -name value-2 -drive file=value-3,if=value-4 \
             -device e1000,netdev=n0,mac=52:54:00:00:00:01,serial=value-5 -netdev tap,id=n0,ifname=kvb0,helper=value-6 \
             -append password=value-7 -append value-8 -incoming value-9 -smbios type=value-10,value=value-7 value-11 -nographic value-12"
        );
        for secret in [
            "-append=S3CRET root=/dev/vda",
            "-append=console=ttyS0,115200 S3CRET root=x",
            "-drive=file=a,S3CRET",
            "-device=virtio-net-pci,S3CRET",
            "-device={\"driver\":\"ide-hd\",\"serial\":\"S3CRET\"}",
            "-netdev={\"type\":\"stream\",\"password\":\"S3CRET\",\"a\":\"a=b\"}",
            "-bridge=br0,vm=S3CRET",
            "-S3CRET",
            "--S3CRET=1",
            "S3CRET",
        ] {
            let words: Vec<OsString> = secret.splitn(2, '=').map(OsString::from).collect();
            let masked = super::masked(&words, &mut Anonymizer::default()).join(" ");
            assert!(!masked.contains("S3CRET"), "{secret}: {masked}");
        }
    }
}
