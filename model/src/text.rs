//! Text that somebody else chose, made fit to be shown or pasted into a shell.
//! It may not know whose it is.
#![forbid(unsafe_code)]

pub mod shell;

/// The longest name that is shown to people, in characters.
const LONGEST_NAME: usize = 64;

/// A name that somebody else chose, for people: on one line and not longer than fits there, and without what a terminal obeys.
pub fn name(text: &str) -> String {
    let shown = one_line(&text.chars().take(LONGEST_NAME + 1).collect::<String>());
    match shown.chars().count() > LONGEST_NAME {
        true => shown.chars().take(LONGEST_NAME - 1).chain(['…']).collect(),
        false => shown,
    }
}

/// The same of any length. Blanks at its ends and next to each other are escaped: between them begins another column.
pub fn one_line(text: &str) -> String {
    let (mut shown, mut is_behind_blank) = (String::with_capacity(text.len()), true);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ' ' if is_behind_blank || rest.peek().is_none() => shown.extend(c.escape_unicode()),
            c => push(&mut shown, c),
        }
        is_behind_blank = c == ' ';
    }
    shown
}

/// A text of several lines, each without what a terminal obeys.
pub fn lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' { shown.push(c) } else { push(&mut shown, c) }
    }
    shown
}

fn push(shown: &mut String, c: char) {
    if is_obeyed(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
}

/// JSON in which what a terminal obeys is escaped, as JSON can have it: only in texts are there such characters, but for line
/// breaks.
pub fn json_for_terminals(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if c != '\n' && is_obeyed(c) => {
                let mut units = [0; 2];
                shown.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            c => shown.push(c),
        }
    }
    shown
}

/// Whether a terminal does something else with a character than to show it where it stands, or shows nothing.
pub fn is_obeyed(c: char) -> bool {
    !(c == ' ' || c.is_ascii_graphic()) && (is_unprintable(c) || is_invisible(c))
}

/// What Rust's `Debug` of a text escapes behind its first character: control and format characters, all spaces but one, and what
/// is for private use or not assigned.
fn is_unprintable(c: char) -> bool {
    format!("a{c}").escape_debug().nth(1) == Some('\\')
}

/// What has no shape of its own and is printable to Unicode: fillers, variation selectors, and others that it calls ignorable.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{1d159}'
            | '\u{e0100}'..='\u{e01ef}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_commands_no_terminal() {
        assert_eq!(one_line("al\u{1b}[31mice\nbob\u{202e}"), "al\\u{1b}[31mice\\nbob\\u{202e}");
        assert_eq!(lines("a\u{7}\nb\u{200b}"), "a\\u{7}\nb\\u{200b}");
        assert_eq!(one_line("Jörg 7 \\ €"), "Jörg 7 \\ €");
        assert_eq!(lines("a\n  b"), "a\n  b");
    }

    #[test]
    fn what_is_not_seen_is_shown() {
        let hidden = "\u{e0041}\u{3164}\u{ad}\u{fff9}\u{2067}\u{a0}\u{3000}\u{fe0f}\u{e000}\u{2800}\u{85}\u{600}";
        assert!(hidden.chars().all(is_obeyed));
        assert!(!"äß€日本語한국어हिन्दीไทยабв\"'\\😀e\u{301}".chars().any(is_obeyed));
    }

    #[test]
    fn a_name_is_in_one_column() {
        assert_eq!(one_line("web server 1"), "web server 1");
        assert_eq!(one_line(" kvb9   alice "), r"\u{20}kvb9 \u{20}\u{20}alice\u{20}");
        assert_eq!(one_line("{a} b"), "{a} b");
        assert_eq!(name(&"x".repeat(64)), "x".repeat(64));
        assert_eq!(name(&"é".repeat(100_000)), format!("{}…", "é".repeat(63)));
    }
}
