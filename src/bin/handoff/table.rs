//! Columns that line up.

use clap::builder::styling::Style;

use crate::format::painted;

/// What stands between two columns.
const GAP: &str = "  ";

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
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column| self.rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        self.rows.iter().map(move |row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| cell.padded(*width)).collect();
            cells.join(GAP).trim_end().to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::GOOD;

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
}
