//! Tables for people: columns as wide as their widest cell, no lines that a `grep` would trip over.

use std::fmt::Write as _;

/// Rows of text below a head.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|&name| name.to_owned()).collect()],
        }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        let shown = |cell: String| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The table as text, a line a row.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing into a text cannot fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_cells_shown() {
        let mut table = Table::new(&["ID", "APP"]);
        table.row(vec!["12345".into(), String::new()]);
        table.row(vec!["1".into(), "jupyter".into()]);
        assert_eq!(table.render(), "ID     APP\n12345  -\n1      jupyter\n");
    }
}
