//! Text in columns, for people: a header, and no column that says nothing. Where a terminal is too narrow for a row, what
//! does not fit goes below it.
#![forbid(unsafe_code)]

use crate::output::style::{Style, Tone};

/// Between two columns.
const GAP: &str = "  ";

/// A cell: its tone and its text.
pub type Cell = (Option<Tone>, String);

/// The lines of a table, the header first: each with its row's further lines behind it, where it had to be divided. `width` is
/// what a line may have.
pub fn lines(header: &[&str], rows: &[Vec<Cell>], width: Option<usize>, style: Style) -> Vec<Vec<String>> {
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
        if used > 0 && width.is_some_and(|width| used + own > width) {
            parts.push(Vec::new());
            used = GAP.len();
        }
        used += own + GAP.len();
        parts.last_mut().into_iter().for_each(|part| part.push(place));
    }
    let line = |row: &Vec<Cell>, part: &Vec<usize>| {
        let mut text = String::new();
        for (at, place) in part.iter().enumerate() {
            let (tone, cell) = match row.get(columns[*place]) {
                Some((tone, cell)) if !cell.is_empty() => (*tone, cell.as_str()),
                _ => (None, "-"),
            };
            let padding = " ".repeat(widths[*place].saturating_sub(length(cell)));
            let is_last = at + 1 == part.len();
            text += &tone.map_or_else(|| cell.to_owned(), |tone| style.paint(tone, cell));
            if !is_last {
                text += &padding;
                text += GAP;
            }
        }
        text
    };
    let row = |row: &Vec<Cell>| {
        let lines = parts.iter().enumerate().map(|(at, part)| match at {
            0 => line(row, part),
            _ => format!("{GAP}{}", line(row, part)),
        });
        lines.collect()
    };
    [&header].into_iter().chain(rows).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { has_trees: false, has_colours: false };

    fn cells(row: &[&str]) -> Vec<Cell> {
        row.iter().map(|text| (None, (*text).to_owned())).collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_empty_ones_are_left_out() {
        let rows = [cells(&["kvb0", "alice", "", "1"]), cells(&["a-long-name", "", "", "22"])];
        let found = lines(&["PORT", "VM", "NOTHING", "IN"], &rows, None, PLAIN).concat();
        assert_eq!(found, ["PORT         VM     IN", "kvb0         alice  1", "a-long-name  -      22"]);
        assert_eq!(lines(&["PORT"], &[], None, PLAIN).concat(), [""]);
    }

    #[test]
    fn what_does_not_fit_goes_below() {
        let rows = [cells(&["kvb0", "alice", "running"]), cells(&["kvb11", "bob", "down"])];
        let found = lines(&["PORT", "VM", "STATE"], &rows, Some(14), PLAIN);
        let expected = [["PORT   VM", "  STATE"], ["kvb0   alice", "  running"], ["kvb11  bob", "  down"]];
        assert_eq!(found, expected);
        // A column that is wider than the terminal stands alone.
        assert_eq!(lines(&["PORT", "VM"], &rows, Some(2), PLAIN)[1], ["kvb0", "  alice"]);
    }

    #[test]
    fn colours_take_no_room() {
        let style = Style { has_trees: true, has_colours: true };
        let rows = [vec![(Some(Tone::Good), "é".to_owned()), (None, "x".to_owned())]];
        assert_eq!(lines(&["AB", "C"], &rows, None, style)[1], ["\x1b[32mé\x1b[m   x"]);
    }
}
