//! Text in columns, for people: a header, and no column that says nothing. Where a terminal is too narrow for a row, what
//! does not fit goes below it.
#![forbid(unsafe_code)]

use crate::layout::{Style, Tone};

/// Between two columns.
const GAP: &str = "  ";

/// A cell: its tone and its text.
pub type Cell = (Option<Tone>, String);

/// The lines of a table, the header first: each with its row's further lines behind it, where it had to be divided.
pub fn lines(header: &[&str], rows: &[Vec<Cell>], style: Style) -> Vec<Vec<String>> {
    let says = |at: &usize| rows.iter().any(|row| row.get(*at).is_some_and(|(_, text)| !text.is_empty()));
    let columns: Vec<usize> = (0..header.len()).filter(says).collect();
    let header: Vec<Cell> = header.iter().map(|name| (Some(Tone::Quiet), (*name).to_owned())).collect();
    let length = |text: &str| text.chars().count();
    let widths: Vec<usize> = columns
        .iter()
        .map(|at| {
            let cells = rows.iter().chain([&header]).filter_map(|row| row.get(*at));
            cells.map(|(_, text)| length(text)).max().unwrap_or_default()
        })
        .collect();
    // Which of the columns stand on which line: all rows are divided alike.
    let (mut parts, mut used): (Vec<Vec<usize>>, usize) = (vec![Vec::new()], 0);
    for (place, own) in widths.iter().enumerate() {
        if used > 0 && style.width.is_some_and(|width| used + own > width) {
            parts.push(Vec::new());
            used = GAP.len();
        }
        used += own + GAP.len();
        parts.last_mut().into_iter().for_each(|part| part.push(place));
    }
    let line = |row: &Vec<Cell>, part: &Vec<usize>| {
        let mut pieces: Vec<Cell> = Vec::new();
        for (at, place) in part.iter().enumerate() {
            let (tone, cell) = match row.get(columns[*place]) {
                Some((tone, cell)) if !cell.is_empty() => (*tone, cell.as_str()),
                _ => (None, "-"),
            };
            pieces.push((tone, cell.to_owned()));
            if at + 1 < part.len() {
                pieces.push((None, " ".repeat(widths[*place].saturating_sub(length(cell)) + GAP.len())));
            }
        }
        pieces
    };
    let row = |row: &Vec<Cell>| {
        let lines = parts.iter().enumerate().flat_map(|(at, part)| {
            let indent = if at == 0 { "" } else { GAP };
            wrapped(&line(row, part), "", style.narrower(indent.len()))
                .into_iter()
                .map(move |line| format!("{indent}{line}"))
        });
        lines.collect()
    };
    [&header].into_iter().chain(rows).map(row).collect()
}

/// The lines of a text in pieces, broken at blanks where a terminal is too narrow, and within a word that is longer than a line.
/// `indent` stands before each further line.
pub fn wrapped(pieces: &[Cell], indent: &str, style: Style) -> Vec<String> {
    let all: Vec<(Option<Tone>, char)> =
        pieces.iter().flat_map(|(tone, text)| text.chars().map(|c| (*tone, c))).collect();
    let (mut rest, mut lines) = (all.as_slice(), Vec::new());
    loop {
        let before = if lines.is_empty() { "" } else { indent };
        let most = style.width.map_or(usize::MAX, |width| width.saturating_sub(before.len()).max(1));
        if rest.len() <= most {
            lines.push(format!("{before}{}", painted(rest, style)));
            return lines;
        }
        let is_blank = |at: &usize| rest[*at].1 == ' ';
        let end = (1..=most).rev().find(is_blank).unwrap_or(most);
        let blanks = |piece: &[(Option<Tone>, char)]| piece.iter().take_while(|(_, c)| *c == ' ').count();
        let used = end - rest[..end].iter().rev().take_while(|(_, c)| *c == ' ').count();
        lines.push(format!("{before}{}", painted(&rest[..used], style)));
        rest = &rest[end + blanks(&rest[end..])..];
    }
}

fn painted(line: &[(Option<Tone>, char)], style: Style) -> String {
    let runs = line.chunk_by(|(one, _), (other, _)| one == other).map(|run| {
        let text: String = run.iter().map(|(_, c)| c).collect();
        run[0].0.map_or_else(|| text.clone(), |tone| style.paint(tone, &text))
    });
    runs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { has_trees: false, has_colours: false, width: None };
    const COLOURED: Style = Style { has_trees: true, has_colours: true, width: None };

    fn cells(row: &[&str]) -> Vec<Cell> {
        row.iter().map(|text| (None, (*text).to_owned())).collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_empty_ones_are_left_out() {
        let rows = [cells(&["kvb0", "alice", "", "1"]), cells(&["a-long-name", "", "", "22"])];
        let found = lines(&["PORT", "VM", "NOTHING", "IN"], &rows, PLAIN).concat();
        assert_eq!(found, ["PORT         VM     IN", "kvb0         alice  1", "a-long-name  -      22"]);
        assert_eq!(lines(&["PORT"], &[], PLAIN).concat(), [""]);
    }

    #[test]
    fn what_does_not_fit_goes_below() {
        let rows = [cells(&["kvb0", "alice", "running"]), cells(&["kvb11", "bob", "down"])];
        let found = lines(&["PORT", "VM", "STATE"], &rows, Style { width: Some(14), ..PLAIN });
        let expected = [["PORT   VM", "  STATE"], ["kvb0   alice", "  running"], ["kvb11  bob", "  down"]];
        assert_eq!(found, expected);
        // A column that is wider than the terminal stands alone, on more than one line.
        assert_eq!(lines(&["PORT", "VM"], &rows, Style { width: Some(5), ..PLAIN })[1], ["kvb0", "  ali", "  ce"]);
    }

    #[test]
    fn a_long_line_is_broken_at_blanks() {
        let pieces = [(Some(Tone::Title), "br0".to_owned()), (None, "  one, two, abcdefghij".to_owned())];
        let found = |width: usize| wrapped(&pieces, "  ", Style { width: Some(width), ..PLAIN });
        assert_eq!(found(80), ["br0  one, two, abcdefghij"]);
        assert_eq!(found(14), ["br0  one, two,", "  abcdefghij"]);
        assert_eq!(found(8), ["br0", "  one,", "  two,", "  abcdef", "  ghij"]);
        assert!(found(1).iter().all(|line| line.trim().chars().count() <= 1));
        let coloured = wrapped(&pieces, "  ", Style { width: Some(10), ..COLOURED });
        assert_eq!(coloured[0], "\x1b[1mbr0\x1b[m  one,");
    }

    #[test]
    fn colours_take_no_room() {
        let rows = [vec![(Some(Tone::Good), "é".to_owned()), (None, "x".to_owned())]];
        assert_eq!(lines(&["AB", "C"], &rows, COLOURED)[1], ["\x1b[32mé\x1b[m   x"]);
    }
}
