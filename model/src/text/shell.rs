//! Words of commands that people are shown, to be pasted into a shell.
#![forbid(unsafe_code)]

use crate::text;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A word for a shell, as it is where no shell minds. Bytes that are not UTF-8, and what a terminal would obey, as `printf`
/// gives them, which every POSIX shell can be asked for: a name that somebody else chose is one word on one line.
pub fn quote(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().as_bytes();
    let mut pieces: Vec<(bool, Vec<u8>)> = Vec::new();
    for chunk in word.utf8_chunks() {
        let valid =
            chunk.valid().char_indices().map(|(at, c)| (text::is_obeyed(c), &chunk.valid()[at..at + c.len_utf8()]));
        let invalid = Some((true, chunk.invalid())).filter(|(_, bytes)| !bytes.is_empty());
        for (is_odd, bytes) in valid.map(|(is_odd, text)| (is_odd, text.as_bytes())).chain(invalid) {
            match pieces.last_mut() {
                // The shell takes newlines away from the end of what printf gives: there is something behind them.
                Some((true, last)) if is_odd || last.ends_with(b"\n") => last.extend(bytes),
                Some((false, last)) if !is_odd => last.extend(bytes),
                _ => pieces.push((is_odd, bytes.to_vec())),
            }
        }
    }
    if let [] | [(false, _)] = pieces.as_slice() {
        return quote_text(&String::from_utf8_lossy(word));
    }
    let word = pieces.into_iter().map(|(is_odd, bytes)| match is_odd {
        false => quote_text(&String::from_utf8_lossy(&bytes)),
        true => {
            let kept = bytes.iter().rposition(|byte| *byte != b'\n').map_or(0, |at| at + 1);
            let odd: String = bytes.iter().take(kept).map(|byte| format!("\\{byte:03o}")).collect();
            let odd = if odd.is_empty() { odd } else { format!("\"$(printf '{odd}')\"") };
            let last = "\n".repeat(bytes.len() - kept);
            if last.is_empty() { odd } else { format!("{odd}'{last}'") }
        }
    });
    word.collect()
}

fn quote_text(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { shell_words::quote(text).into_owned() }
}

/// `shell_words` quotes a comma and an equals sign too, of which QEMU's words are full.
fn is_plain(text: &str) -> bool {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-+.,:/@%=".contains(c);
    !text.is_empty() && !text.starts_with('=') && text.chars().all(is_safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_word_is_shown_as_it_is_where_no_shell_minds() {
        assert_eq!(quote("tap,id=n,fd=7"), "tap,id=n,fd=7");
        assert_eq!((quote(""), quote("a b"), quote("$(id)")), ("''".into(), "'a b'".into(), "'$(id)'".into()));
        assert_eq!(quote("a\u{1b}[31m b"), "a\"$(printf '\\033')\"'[31m b'");
        assert_eq!(quote("a\nb"), "a\"$(printf '\\012\\142')\"");
        assert_eq!(quote(OsStr::from_bytes(b"a\xffb")), "a\"$(printf '\\377')\"b");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_what_was_quoted(bytes in proptest::collection::vec(prop_oneof![
            1..=255_u8, Just(b'\n'), Just(b'\''), Just(b'\\'), Just(b'%'), Just(0x1b),
        ], 0..12)) {
            let shown = quote(OsStr::from_bytes(&bytes));
            prop_assert!(!shown.trim_end_matches(['\n', '\'']).chars().any(text::is_obeyed), "{shown:?}");
            let script = format!("printf %s {shown}");
            let told = std::process::Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
            prop_assert_eq!(told, bytes);
        }
    }
}
