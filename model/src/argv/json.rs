//! QEMU's dialect of JSON.
//!
//! As QEMU's qobject/json-lexer.c and json-parser.c have it: a string stands between double or single quotes, and in
//! both of them either quote can be escaped. All the rest is JSON.
#![forbid(unsafe_code)]

use serde_json::Value;

/// Reads a value; null for what QEMU refuses by itself.
pub fn parse(text: &[u8]) -> Value {
    serde_json::from_slice(&strict(text)).unwrap_or_default()
}

/// The same text with all strings between double quotes.
fn strict(text: &[u8]) -> Vec<u8> {
    let mut strict = Vec::with_capacity(text.len());
    // The quote that ends the string that we are in.
    let mut end: Option<u8> = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match (end, byte) {
            (None, b'"' | b'\'') => {
                end = Some(byte);
                strict.push(b'"');
            }
            (Some(quote), _) if byte == quote => {
                end = None;
                strict.push(b'"');
            }
            (Some(_), b'"') => strict.extend(b"\\\""),
            (Some(_), b'\\') => match bytes.next() {
                Some(b'\'') => strict.push(b'\''),
                escaped => strict.extend([Some(b'\\'), escaped].into_iter().flatten()),
            },
            _ => strict.push(byte),
        }
    }
    strict
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn both_quotes_are_read() {
        for (text, value) in [
            (r#"{"a":"b's"}"#, json!({"a": "b's"})),
            (r#"{'a':'b"s', "c" : [1, true, 'd']}"#, json!({"a": "b\"s", "c": [1, true, "d"]})),
            (r#"{'a':'\'\"\\','b':"\'\"\\"}"#, json!({"a": "'\"\\", "b": "'\"\\"})),
            (r#"{'a':'\u0041'}"#, json!({"a": "A"})),
            ("{'a':'b", Value::Null),
            ("{'a':'b\\", Value::Null),
            ("{a:1}", Value::Null),
        ] {
            assert_eq!(parse(text.as_bytes()), value, "{text}");
        }
    }

    /// A string between single quotes.
    fn single(text: &str) -> String {
        let escape = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if c < ' ' => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        format!("'{}'", text.chars().map(escape).collect::<String>())
    }

    proptest! {
        #[test]
        fn a_string_of_either_kind_comes_back(key in "[a'\"\\\\\u{0}-\u{ff}]{0,8}", value in "[a'\"\\\\\u{0}-\u{ff}]{0,8}") {
            let expected = json!({&key: &value});
            let of_single = format!("{{{}: {}}}", single(&key), single(&value));
            prop_assert_eq!(parse(of_single.as_bytes()), expected.clone(), "{}", of_single);
            prop_assert_eq!(parse(expected.to_string().as_bytes()), expected);
        }

        #[test]
        fn nothing_makes_it_fail(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            parse(&text);
        }
    }
}
