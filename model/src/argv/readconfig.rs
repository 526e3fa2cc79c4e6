//! The files of `-readconfig`: options in another dress.
//!
//! The grammar is that of qemu_config_foreach in QEMU's util/qemu-config.c: `[group]` or `[group "id"]`, and under it
//! lines `key = "value"` without any escapes. What is no such line is QEMU's to complain about.
#![forbid(unsafe_code)]

/// One section of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The option that it stands for.
    pub group: Vec<u8>,
    /// Its id.
    pub id: Option<Vec<u8>>,
    params: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Section {
    /// Its keys and values.
    pub fn params(&self) -> impl Iterator<Item = &(Vec<u8>, Vec<u8>)> {
        self.params.iter()
    }

    /// The last value of a key.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let found = self.params.iter().rev().find(|(own, _)| own == key.as_bytes());
        found.map(|(_, value)| value.clone())
    }
}

/// The sections of a file.
pub fn parse(text: &[u8]) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii) {
        if let Some(head) = line.strip_prefix(b"[").and_then(|line| line.strip_suffix(b"]")) {
            let end = head.iter().position(|byte| matches!(byte, b' ' | b'"')).unwrap_or(head.len());
            sections.push(Section { group: head[..end].to_vec(), id: quoted(&head[end..]), params: Vec::new() });
        } else if let (Some(at), Some(section)) = (line.iter().position(|byte| *byte == b'='), sections.last_mut()) {
            let value = quoted(&line[at + 1..]);
            section.params.extend(value.map(|value| (line[..at].trim_ascii().to_vec(), value)));
        }
    }
    sections
}

/// What stands between two quotes.
fn quoted(text: &[u8]) -> Option<Vec<u8>> {
    let inner = text.trim_ascii().strip_prefix(b"\"")?;
    let end = inner.iter().position(|byte| *byte == b'"')?;
    Some(inner[..end].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_are_read() {
        let text =
            b"# made by hand\n[machine]\n  type = \"q35\"\n\n[device \"nic0\"]\n driver=\"e1000\"\n netdev = \"lan\"\n";
        let sections = parse(text);
        assert_eq!((sections[0].group.as_slice(), &sections[0].id), (b"machine".as_slice(), &None));
        assert_eq!(sections[0].get("type"), Some(b"q35".to_vec()));
        assert_eq!((sections[1].id.as_deref(), sections[1].get("netdev")), (Some(&b"nic0"[..]), Some(b"lan".to_vec())));
        assert_eq!(sections[1].get("driver"), Some(b"e1000".to_vec()));
        assert_eq!(parse(b"key = \"value\"\nnonsense"), []);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            parse(&text);
        }
    }
}
