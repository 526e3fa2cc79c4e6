//! QEMU's option strings: `first,key=value,key=a,,b,flag`.
//! It may not know any option.
//!
//! The grammar is that of `get_opt_name_value` in QEMU's util/qemu-option.c: a comma ends a value and two commas are
//! one comma of it; only the first word can do without a key; a later one without `=` is a flag.
#![forbid(unsafe_code)]

/// One parameter of an option string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// The key; `None` for a first word without `=`.
    pub key: Option<Vec<u8>>,
    /// The value with its double commas made single; `None` for a flag, a later word without `=`.
    pub value: Option<Vec<u8>>,
}

/// Splits an option string. Every byte string is one: nothing can fail.
pub fn parse(text: &[u8]) -> Vec<Param> {
    let mut params = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| matches!(byte, b'=' | b',')).unwrap_or(rest.len());
        let (key, value) = if rest.get(end) == Some(&b'=') {
            let (value, tail) = take_value(&rest[end + 1..]);
            let key = rest[..end].to_vec();
            rest = tail;
            (Some(key), Some(value))
        } else if params.is_empty() {
            let (value, tail) = take_value(rest);
            rest = tail;
            (None, Some(value))
        } else {
            let key = rest[..end].to_vec();
            rest = rest.get(end + 1..).unwrap_or_default();
            (Some(key), None)
        };
        params.push(Param { key, value });
    }
    params
}

/// The value at the front, and what comes behind the comma that ends it.
fn take_value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        if byte == b',' {
            if text.get(at + 1) != Some(&b',') {
                return (value, &text[at + 1..]);
            }
            bytes.next();
        }
        value.push(byte);
    }
    (value, &[])
}

/// The last value of a key, as QEMU takes it; `first` is the key that a first word without one stands for.
pub fn get(text: &[u8], key: &str, first: &str) -> Option<Vec<u8>> {
    let found = parse(text).into_iter().rev().find(|param| match &param.key {
        Some(own) => own == key.as_bytes(),
        None => first == key,
    });
    found.and_then(|param| param.value)
}

/// Writes parameters so that `parse` reads them back.
pub fn render(params: &[Param]) -> Vec<u8> {
    let write = |Param { key, value }: &Param| {
        let value = value.as_ref().map(|value| value.split(|byte| *byte == b',').collect::<Vec<_>>().join(&b",,"[..]));
        match (key, value) {
            (Some(key), Some(value)) => [key.as_slice(), b"=", &value].concat(),
            (Some(key), None) => key.clone(),
            (None, value) => value.unwrap_or_default(),
        }
    };
    params.iter().map(write).collect::<Vec<_>>().join(&b","[..])
}

/// Writes a value so that `parse` reads it back: each comma twice.
pub fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn param(key: Option<&str>, value: Option<&str>) -> Param {
        Param { key: key.map(Into::into), value: value.map(Into::into) }
    }

    #[test]
    fn the_grammar_is_qemus() {
        for (text, params) in [
            ("", vec![]),
            ("br0", vec![param(None, Some("br0"))]),
            ("br0,mac=x", vec![param(None, Some("br0")), param(Some("mac"), Some("x"))]),
            ("file=a,,b,if=virtio", vec![param(Some("file"), Some("a,b")), param(Some("if"), Some("virtio"))]),
            ("a,,b", vec![param(None, Some("a,b"))]),
            ("x,flag,k=", vec![param(None, Some("x")), param(Some("flag"), None), param(Some("k"), Some(""))]),
            ("k=a=b", vec![param(Some("k"), Some("a=b"))]),
            (",k=v", vec![param(None, Some("")), param(Some("k"), Some("v"))]),
            ("a,", vec![param(None, Some("a"))]),
            ("k=,,,l=1", vec![param(Some("k"), Some(",")), param(Some("l"), Some("1"))]),
        ] {
            assert_eq!(parse(text.as_bytes()), params, "{text}");
            assert_eq!(parse(&render(&params)), params, "{text}");
        }
        assert_eq!(render(&parse(b"nic,model=a,,b,flag,")), b"nic,model=a,,b,flag");
    }

    #[test]
    fn the_last_value_counts() {
        assert_eq!(get(b"a,id=x,id=y", "id", "type"), Some(b"y".to_vec()));
        assert_eq!(get(b"alice,debug-threads=on", "guest", "guest"), Some(b"alice".to_vec()));
        assert_eq!(get(b"alice", "id", "guest"), None);
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(values in proptest::collection::vec("[^\0]{0,12}", 1..5)) {
            let text: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("k{i}={}", escape(v))).collect();
            let back: Vec<Option<Vec<u8>>> = parse(text.join(",").as_bytes()).into_iter().map(|p| p.value).collect();
            prop_assert_eq!(back, values.into_iter().map(|v| Some(v.into_bytes())).collect::<Vec<_>>());
        }

        #[test]
        fn nothing_makes_it_fail(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            parse(&text);
        }
    }
}
