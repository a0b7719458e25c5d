//! The text of an endpoint file.

use anyhow::anyhow;
use berth_serving::EndpointSpec;

/// Reads an endpoint file; what does not fit is named with its line.
pub(crate) fn parse(text: &str) -> anyhow::Result<EndpointSpec> {
    // The parser's message shows the line, with its key, over several lines.
    toml::from_str(text).map_err(|error| {
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
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(!message.contains('\n'));
        }
    }
}
