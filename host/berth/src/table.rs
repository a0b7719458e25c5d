//! Answers as tables for people.

use serde_json::Value;

use crate::serve::say;

/// Prints rows under a heading, columns aligned. Of a cell of several lines, the first.
pub(crate) fn print(heading: &[&str], rows: &[Vec<String>]) {
    let first_line = |cell: &String| cell.lines().next().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(first_line).collect()).collect();
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    say(&line(heading.to_vec()));
    for row in &rows {
        say(&line(row.iter().map(String::as_str).collect()));
    }
}

/// Prints JSON as it is.
pub(crate) fn print_json(value: &Value) {
    say(&format!("{value:#}"));
}

/// A cell: text as it is, nothing for null, anything else as JSON.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number and where the truth lies, as far as that is known: `0.31 (0.12 to 0.8)`, `0.31 (from 0.12)`.
pub(crate) fn lies(found: String, bounds: [Option<String>; 2]) -> String {
    match bounds {
        [Some(lower), Some(upper)] => format!("{found} ({lower} to {upper})"),
        [Some(lower), None] => format!("{found} (from {lower})"),
        [None, Some(upper)] => format!("{found} (to {upper})"),
        [None, None] => found,
    }
}

/// The first twelve digits of a digest.
pub(crate) fn short(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().take(12).collect()
}

/// Milliseconds since 1970 as UTC.
pub(crate) fn time(value: &Value) -> String {
    let utc = berth_monitor::predictions::utc(value.as_u64().unwrap_or(0));
    format!("{}Z", utc.get(..19).unwrap_or_default().replace('T', " "))
}

/// Inputs or outputs in a line: `scores FP32[batch,10]`, with -1 for what varies and has no name.
pub(crate) fn types(value: &Value, symbols: &Value) -> String {
    let shape = |ty: &Value| {
        let name =
            |at: usize| symbols[cell(&ty["name"])][at].as_str().filter(|symbol| !symbol.is_empty());
        let sizes = ty["shape"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shown = sizes
            .iter()
            .enumerate()
            .map(|(at, size)| name(at).map_or_else(|| size.to_string(), str::to_owned));
        shown.collect::<Vec<_>>().join(",")
    };
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let shown = all
        .iter()
        .map(|ty| format!("{} {}[{}]", cell(&ty["name"]), cell(&ty["datatype"]), shape(ty)));
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_dates() {
        for (ms, expected) in [
            (0u64, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_795_254_407_999, "2026-11-21 09:46:47Z"),
        ] {
            assert_eq!(time(&json!(ms)), expected);
        }
    }
}
