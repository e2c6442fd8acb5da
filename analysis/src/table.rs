//! A plain table for people: the terminal and the report both print it.

use serde::Serialize;

/// A titled table of text; every row has as many entries as there are columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextTable {
    /// What the table shows.
    pub title: String,
    /// Column headings.
    pub columns: Vec<String>,
    /// Rows of text.
    pub rows: Vec<Vec<String>>,
}

impl TextTable {
    /// An empty table with these headings.
    pub fn new<I, S>(title: impl Into<String>, columns: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        TextTable {
            title: title.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, padded or cut to the number of columns.
    pub fn push<I, S>(&mut self, row: I)
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let mut row: Vec<String> = row.into_iter().map(Into::into).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_always_fit_the_columns() {
        let mut table = TextTable::new("t", ["a", "b"]);
        table.push(["1"]);
        table.push(["1", "2", "3"]);
        assert!(table.rows.iter().all(|row| row.len() == 2));
    }
}
