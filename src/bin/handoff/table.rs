//! Columns that line up, in lines that fit a terminal.

use clap::builder::styling::Style;

use crate::format::painted;

/// What stands between two columns.
const GAP: &str = "  ";
/// How long a line may be, if its words let it.
const LINE: usize = 80;
/// The last column has this much room, whatever stands before it.
const LEAST: usize = 20;

#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), style: Style::new(), right: false }
    }

    /// At the right of its column.
    pub(crate) fn right(mut self) -> Cell {
        self.right = true;
        self
    }

    pub(crate) fn style(mut self, style: Style) -> Cell {
        self.style = style;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    /// In pieces of so many characters at the most, between its words. A word that is longer stays whole: it may be a
    /// path, which is to be copied.
    fn broken(&self, room: usize) -> Vec<Cell> {
        let mut lines: Vec<String> = Vec::new();
        for word in self.text.split(' ') {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines.into_iter().map(|text| Cell { text, ..self.clone() }).collect()
    }

    fn padded(&self, width: usize) -> String {
        let space = " ".repeat(width.saturating_sub(self.width()));
        let text = if self.style == Style::new() { self.text.clone() } else { painted(self.style, &self.text) };
        if self.right { space + &text } else { text + &space }
    }
}

impl Table {
    pub(crate) fn new() -> Table {
        Table { rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// The rows as lines, without space at their ends.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.rows().flatten()
    }

    /// The lines of each row. What does not fit its last column goes on in the next line, below its beginning.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns).map(width).collect();
        let before: usize = widths.iter().rev().skip(1).map(|width| width + GAP.len()).sum();
        let room = LINE.saturating_sub(before).max(LEAST);
        if let Some(last) = widths.last_mut() {
            *last = room.min(*last);
        }
        self.rows.iter().map(move |row| lines_of(row, &widths, before, room))
    }
}

fn lines_of(row: &[Cell], widths: &[usize], before: usize, room: usize) -> Vec<String> {
    let mut pieces = row.get(widths.len() - 1).map_or_else(Vec::new, |last| last.broken(room)).into_iter();
    let cells = row.iter().take(widths.len() - 1).cloned().chain(pieces.next());
    let first: Vec<String> = cells.zip(widths).map(|(cell, width)| cell.padded(*width)).collect();
    let indent = " ".repeat(before);
    let more = pieces.map(|piece| format!("{indent}{}", piece.padded(0)));
    std::iter::once(first.join(GAP)).chain(more).map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::GOOD;

    #[test]
    fn columns_line_up_whatever_their_style() {
        let mut table = Table::new();
        table.row(vec![Cell::new("NAME"), Cell::new("TIME").right(), Cell::new("REASON")]);
        table.row(vec![Cell::new("µ").style(GOOD), Cell::new("1.50 ms").right(), Cell::new("")]);
        let lines: Vec<String> = table.lines().collect();
        let plain = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string());
        assert_eq!(plain.collect::<Vec<_>>(), ["NAME     TIME  REASON", "µ     1.50 ms"]);
        assert!(lines[1].starts_with("\u{1b}[32mµ\u{1b}[0m   "), "{:?}", lines[1]);
    }

    #[test]
    fn what_is_too_long_goes_on_below_its_beginning() {
        let mut table = Table::new();
        let words = "a reason of more words than fit into what is left of a line of eighty characters";
        table.row(vec![Cell::new("2"), Cell::new("failed").style(GOOD), Cell::new(words)]);
        table.row(vec![Cell::new("1 → 2"), Cell::new("completed"), Cell::new("")]);
        table.row(vec![Cell::new("3"), Cell::new("failed"), Cell::new("p".repeat(70))]);
        let lines: Vec<String> = table.lines().map(|line| anstream::adapter::strip_str(&line).to_string()).collect();
        let path = format!("3      failed     {}", "p".repeat(70));
        let wanted = [
            "2      failed     a reason of more words than fit into what is left of a line of",
            "                  eighty characters",
            "1 → 2  completed",
            &path,
        ];
        assert_eq!(lines, wanted);
    }
}
