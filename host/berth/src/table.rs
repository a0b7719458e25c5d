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

/// The first twelve digits of a digest.
pub(crate) fn short(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().take(12).collect()
}

/// Milliseconds since 1970 as UTC.
pub(crate) fn time(value: &Value) -> String {
    let seconds = value.as_u64().unwrap_or(0) / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let z = days as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
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
