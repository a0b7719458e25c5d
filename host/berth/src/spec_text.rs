//! The text of an endpoint file.

use anyhow::{anyhow, bail};
use berth_serving::EndpointSpec;
use serde::de::DeserializeOwned;
use toml::Value;

/// Reads an endpoint file; what does not fit is named with its line or its key.
pub(crate) fn parse(text: &str) -> anyhow::Result<EndpointSpec> {
    let spec = read(text)?;
    in_json("", &Value::Table(read(text)?))?;
    Ok(spec)
}

/// Reads TOML; what does not fit is named with its line.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    // The parser's message shows the line, with its key, over several lines.
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let key = error
            .span()
            .and_then(|span| text.get(span))
            .filter(|key| (2..64).contains(&key.len()) && !key.contains('\n'));
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        let at = key.map_or_else(String::new, |key| format!(" (at {key})"));
        anyhow!("{place}{}{at}", error.message())
    })
}

/// Refuses what TOML can say and JSON, in which the file goes to the host, cannot.
fn in_json(key: &str, value: &Value) -> anyhow::Result<()> {
    match value {
        Value::Datetime(_) => bail!("{key}: {value} has no JSON form: write it in quotes"),
        Value::Float(number) if !number.is_finite() => bail!("{key}: {value} has no JSON form"),
        Value::Array(items) => items.iter().try_for_each(|item| in_json(key, item)),
        Value::Table(table) => table.iter().try_for_each(|(inner, value)| match key {
            "" => in_json(inner, value),
            _ => in_json(&format!("{key}.{inner}"), value),
        }),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_does_not_fit_is_named_with_its_line() {
        for (text, parts) in [
            ("name = \"d\"\ncolour = 1\n", &["line 2", "colour"][..]),
            ("name = \"d\"\n[[variants]]\nname = \"m\"\nmodles = {}\n", &["line 4", "modles"]),
            ("name = \"D\"\nvariants = []\n", &["line 1", "\"D\" is no name"]),
            ("name = \n", &["line 1"]),
            ("variants = []\n", &["missing field `name`"]),
            (
                "name = \"d\"\nvariants = [{ name = \"m\", config = { a = [2026-01-01] } }]\n",
                &["variants.config.a: 2026-01-01 has no JSON form: write it in quotes"],
            ),
            (
                "name = \"d\"\nvariants = [{ name = \"m\", config = { a.b = nan } }]\n",
                &["variants.config.a.b: nan has no JSON form"],
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(!message.contains('\n'));
        }
    }

    /// What the fuzzer has found worth keeping neither panics nor runs away.
    #[test]
    fn the_fuzzers_files_are_read_or_refused() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/endpoint_file");
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read(file.unwrap().path()).unwrap();
            parse(&String::from_utf8_lossy(&text)).is_ok()
        };
        let read: Vec<bool> = std::fs::read_dir(folder).unwrap().map(read).collect();
        assert!(read.contains(&true) && read.contains(&false));
    }
}
