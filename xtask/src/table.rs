//! Tables for people.

/// A table with its columns aligned, which reads well as it is and as Markdown.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with nothing below its head.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    /// Appends a row of as many cells.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows[0].len();
        let width =
            |at: usize| self.rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        // Text is on the left, numbers are on the right.
        let is_number = |at: usize| {
            self.rows[1..].iter().all(|row| {
                row[at].starts_with(|first: char| first.is_ascii_digit() || first == '-')
            })
        };
        for (index, row) in self.rows.iter().enumerate() {
            for (at, cell) in row.iter().enumerate() {
                let width = width(at);
                if is_number(at) {
                    write!(f, "| {cell:>width$} ")?
                } else {
                    write!(f, "| {cell:<width$} ")?
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for at in 0..columns {
                    let line = "-".repeat(width(at) + 1);
                    write!(f, "|{line}{}", if is_number(at) { ":" } else { "-" })?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["what", "n"]);
        table.row(["a".to_owned(), "1".to_owned()]);
        table.row(["bcdef".to_owned(), "12".to_owned()]);
        assert_eq!(
            table.to_string(),
            "| what  |  n |\n|-------|---:|\n| a     |  1 |\n| bcdef | 12 |\n"
        );
    }
}
