//! Text that somebody else chose, made fit to be shown or pasted into a shell.
//! It may not know whose it is.
#![forbid(unsafe_code)]

pub mod shell;

/// A name that somebody else chose, for people: on one line, and without what a terminal obeys.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The same of a text that may have several lines.
pub fn lines(text: &str) -> String {
    text.split('\n').map(one_line).collect::<Vec<_>>().join("\n")
}

/// JSON in which what a terminal obeys is escaped, as JSON can have it: only in texts are there such characters, but for line
/// breaks.
pub fn json_for_terminals(json: &str) -> String {
    let mut units = [0; 2];
    json.chars()
        .map(|c| match c {
            c if c != '\n' && is_obeyed(c) => {
                c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }
            c => c.to_string(),
        })
        .collect()
}

/// Whether a terminal does something else with a character than to show it where it stands.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_commands_no_terminal() {
        assert_eq!(one_line("al\u{1b}[31mice\nbob\u{202e}"), "al\\u{1b}[31mice\\nbob\\u{202e}");
        assert_eq!(lines("a\u{7}\nb\u{200b}"), "a\\u{7}\nb\\u{200b}");
        assert_eq!(one_line("Jörg 7 \\ €"), "Jörg 7 \\ €");
    }
}
