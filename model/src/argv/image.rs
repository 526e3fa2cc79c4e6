//! What the name of a disk image leads to: a file of this host, or something elsewhere.
//!
//! As bdrv_open of QEMU's block.c has it: a name with a colon before its first slash begins with a protocol; `json:` has
//! the options of -blockdev behind it; options that name a file name it literally.
#![forbid(unsafe_code)]

pub mod elsewhere;

use crate::argv::json;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file, device or folder of this host, by its path.
    Local(Vec<u8>),
    /// Anything else, by a text that is the same from every folder.
    Elsewhere(Vec<u8>),
}

/// Drivers that open a file of this host.
const LOCAL: [&str; 3] = ["file", "host_device", "host_cdrom"];
/// Drivers without any data of their own.
const EMPTY: [&str; 2] = ["null-co", "null-aio"];
/// How an image is used, and not which one it is.
const USES: [&str; 18] = [
    "aio",
    "auto-read-only",
    "bps",
    "cache",
    "copy-on-read",
    "detect-zeroes",
    "discard",
    "force-share",
    "format",
    "id",
    "if",
    "index",
    "iops",
    "media",
    "node-name",
    "read-only",
    "readonly",
    "snapshot",
];
/// The options under which a driver has the image that it stands in front of.
const BEHIND: [&str; 3] = ["file", "image", "test"];
/// More drivers in front of each other than anybody stacks.
const MAX_DEPTH: u32 = 16;

/// The protocol that a name begins with, and the rest.
fn protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[at] == b':').then(|| (&name[..at], &name[at + 1..]))
}

/// What a name leads to, as -hda, -cdrom and `file=` take it; `None` for no image.
pub fn of_name(name: &[u8]) -> Option<Place> {
    named(name, 0)
}

fn named(name: &[u8], depth: u32) -> Option<Place> {
    let Some((protocol, rest)) = protocol(name) else {
        return (!name.is_empty()).then(|| Place::Local(name.to_vec()));
    };
    match protocol {
        _ if depth > MAX_DEPTH => None,
        b"file" | b"host_device" | b"host_cdrom" => Some(Place::Local(rest.to_vec())),
        b"json" => described(&json::parse(rest), depth + 1),
        // vvfat_parse_filename: the folder is behind the last colon.
        b"fat" => rest.rsplit(|byte| *byte == b':').next().map(|folder| Place::Local(folder.to_vec())),
        b"blkdebug" | b"blkverify" => {
            let at = rest.iter().position(|byte| *byte == b':')?;
            named(&rest[at + 1..], depth + 1)
        }
        b"null-co" | b"null-aio" => None,
        b"rbd" => Some(Place::Elsewhere(ceph(rest))),
        _ => Some(Place::Elsewhere(name.to_vec())),
    }
}

/// What options lead to, as -blockdev has them.
pub fn of_options(options: &Value) -> Option<Place> {
    described(options, 0)
}

fn described(options: &Value, depth: u32) -> Option<Place> {
    let options = nested(options.as_object()?);
    let text = |key: &str| options.get(key).and_then(Value::as_str);
    let driver = text("driver");
    if depth > MAX_DEPTH || driver.is_some_and(|driver| EMPTY.contains(&driver)) {
        return None;
    }
    let local = |path: &str| (!path.is_empty()).then(|| Place::Local(path.as_bytes().to_vec()));
    if let Some(path) = text("filename").filter(|_| driver.is_none_or(|driver| LOCAL.contains(&driver))) {
        return local(path);
    }
    if driver == Some("vvfat") {
        return text("dir").and_then(local);
    }
    if let Some(inner) = BEHIND.iter().find_map(|key| options.get(*key).filter(|inner| inner.is_object())) {
        return described(inner, depth + 1);
    }
    // A format on a node that another option describes, or a drive with nothing in it.
    let driver = driver.filter(|_| !options.contains_key("file"))?;
    Some(Place::Elsewhere(elsewhere(driver, &options)))
}

/// `{"a.b": x}` as `{"a": {"b": x}}`.
fn nested(options: &Map<String, Value>) -> Map<String, Value> {
    let mut all = Map::new();
    for (key, value) in options {
        let mut at = &mut all;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), value.clone());
                break;
            }
            let inner = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
            match inner {
                Value::Object(inner) => at = inner,
                _ => break,
            }
        }
    }
    all
}

/// The same text for the same options, in whatever order and spelling.
fn elsewhere(driver: &str, options: &Map<String, Value>) -> Vec<u8> {
    let text = |key: &str| options.get(key).and_then(Value::as_str);
    if let ("rbd", Some(pool), Some(image)) = (driver, text("pool"), text("image")) {
        let space = text("namespace").map(|space| format!("{space}/")).unwrap_or_default();
        let snapshot = text("snapshot").map(|snapshot| format!("@{snapshot}")).unwrap_or_default();
        return format!("rbd:{pool}/{space}{image}{snapshot}").into_bytes();
    }
    let mut flat = BTreeMap::new();
    flatten("", &Value::Object(options.clone()), &mut flat);
    flat.retain(|key, _| key != "driver" && !USES.iter().any(|use_| key.split('.').next() == Some(use_)));
    let options: Vec<String> = flat.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("{driver}:{}", options.join(",")).into_bytes()
}

fn flatten(prefix: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    let below = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Object(options) => options.iter().for_each(|(key, value)| flatten(&below(key), value, flat)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(&below(&at.to_string()), value, flat));
        }
        Value::String(text) => drop(flat.insert(prefix.to_owned(), text.clone())),
        other => drop(flat.insert(prefix.to_owned(), other.to_string())),
    }
}

/// `POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]`, without the options behind it (qemu_rbd_parse_filename): who opens an image is not
/// which one it is.
fn ceph(rest: &[u8]) -> Vec<u8> {
    let mut end = rest.len();
    let mut bytes = rest.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b':' => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    [b"rbd:", &rest[..end]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(name: &str) -> String {
        match of_name(name.as_bytes()) {
            Some(Place::Local(path)) => format!("local {}", String::from_utf8(path).unwrap()),
            Some(Place::Elsewhere(text)) => String::from_utf8(text).unwrap(),
            None => String::new(),
        }
    }

    #[test]
    fn a_local_image_is_one_in_every_spelling() {
        for name in [
            "/x/d",
            "file:/x/d",
            "host_device:/x/d",
            "host_cdrom:/x/d",
            "fat:/x/d",
            "fat:rw:/x/d",
            "fat:floppy:32:rw:/x/d",
            "blkdebug::/x/d",
            "blkdebug:conf:file:/x/d",
            "blkverify:/raw:/x/d",
            r#"json:{"filename":"/x/d"}"#,
            r#"json:{"driver":"file","filename":"/x/d"}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/x/d"}}"#,
            r#"json:{"driver":"qcow2","file.driver":"file","file.filename":"/x/d"}"#,
            r#"json:{'driver':'raw','file':{'driver':'host_device','filename':'/x/d'}}"#,
            r#"json:{"driver":"vvfat","dir":"/x/d"}"#,
            r#"json:{"driver":"blkdebug","image":{"filename":"/x/d"}}"#,
            r#"json:{"driver":"throttle","throttle-group":"g","file":{"driver":"qcow2","file":{"filename":"/x/d"}}}"#,
        ] {
            assert_eq!(of(name), "local /x/d", "{name}");
        }
        assert_eq!((of("./a:b"), of("a"), of("")), ("local ./a:b".to_owned(), "local a".to_owned(), String::new()));
    }

    #[test]
    fn what_is_elsewhere_is_the_same_from_everywhere() {
        for name in [
            "nbd:host:10809:exportname=x",
            "nbd:unix:/run/sock",
            "nbd://host/x",
            "nbd+unix:///x?socket=/s",
            "http://host/x",
            "https://host/x",
            "ftp://host/x",
            "ftps://host/x",
            "iscsi://host/iqn/0",
            "iser://host/iqn/0",
            "ssh://host/x",
            "nfs://host/x",
            "gluster://host/volume/x",
            "gluster+tcp://host/volume/x",
            "gluster+unix:///volume/x?socket=/s",
            "sheepdog:host:7000:x",
            "vxhs://host/x",
            "nvme://0000:00:04.0/1",
            "io_uring:/dev/x",
            "virtio-blk-vhost-user:x",
        ] {
            assert_eq!(of(name), name);
        }
        for name in [
            "rbd:vms/virt-1",
            "rbd:vms/virt-1:id=admin",
            "rbd:vms/virt-1:conf=/etc/ceph/x.conf:id=admin",
            r#"json:{"driver":"rbd","pool":"vms","image":"virt-1","user":"admin"}"#,
            r#"json:{"driver":"raw","file":{"driver":"rbd","pool":"vms","image":"virt-1"}}"#,
        ] {
            assert_eq!(of(name), "rbd:vms/virt-1", "{name}");
        }
        let nbd =
            r#"json:{"server":{"type":"inet","port":"1","host":"h"},"driver":"nbd","node-name":"n","read-only":true}"#;
        assert_eq!(of(nbd), "nbd:server.host=h,server.port=1,server.type=inet");
        for nothing in ["null-co://", r#"json:{"driver":"null-co","size":1}"#, "json:{", "blkdebug:x"] {
            assert_eq!(of(nothing), "", "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(name in "(json|fat|rbd|blkdebug|file|x)?[:/a-z{}\"'.\\\\]{0,20}") {
            of_name(name.as_bytes());
        }
    }
}
