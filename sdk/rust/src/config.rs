//! How configurations are read: JSON by serde, with the key named when one does not fit.
//!
//! Derive `Deserialize` with `#[serde(deny_unknown_fields)]`, so that a misspelt key is refused.

use serde::de::DeserializeOwned;

use crate::ConfigError;

/// The configuration of a plugin that has none: an empty object.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Reads a configuration from a JSON text.
///
/// The error names the path of the key that does not fit, also of one that is unknown or missing.
///
/// ```
/// #[derive(Debug, serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     width: u32,
/// }
///
/// let error = berth_sdk::config::parse::<Config>(r#"{"width": "wide"}"#).unwrap_err();
/// assert_eq!(error.key, "width");
/// ```
pub fn parse<C: DeserializeOwned>(json: &str) -> Result<C, ConfigError> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let config = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        explain(path, error.inner())
    })?;
    deserializer.end().map_err(|error| explain(String::new(), &error))?;
    Ok(config)
}

fn explain(path: String, error: &serde_json::Error) -> ConfigError {
    let mut message = error.to_string();
    // The position is one in the JSON that the host made, which the author of the file never saw.
    if let Some(end) = message.rfind(" at line ") {
        message.truncate(end);
    }
    let field = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split_once('`'))
        .map(|(field, _)| field);
    let key = match field {
        Some(field) if path.is_empty() => field.to_owned(),
        Some(field) if path != field && !path.ends_with(&format!(".{field}")) => {
            format!("{path}.{field}")
        }
        _ => path,
    };
    ConfigError { key, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Outer {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
        #[serde(default)]
        mode: Mode,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Inner {
        size: u32,
    }

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        Fast,
    }

    fn check(json: &str, key: &str, part: &str) {
        let error = parse::<Outer>(json).unwrap_err();
        assert_eq!(error.key, key, "{error:?}");
        assert!(error.message.contains(part) && !error.message.contains("at line"), "{error:?}");
    }

    #[test]
    fn errors_name_the_key() {
        assert!(parse::<Outer>(r#"{"name": "a", "inner": [{"size": 1}], "mode": "fast"}"#).is_ok());
        check(r#"{}"#, "name", "missing field");
        check(r#"{"nane": "a"}"#, "nane", "expected one of `name`, `inner`, `mode`");
        check(r#"{"name": 1}"#, "name", "invalid type: integer `1`, expected a string");
        check(r#"{"name": "a", "name": "b"}"#, "name", "duplicate field");
        check(
            r#"{"name": "a", "inner": [{"size": 1}, {"size": -1}]}"#,
            "inner[1].size",
            "invalid value",
        );
        check(
            r#"{"name": "a", "inner": [{"size": 1, "sise": 2}]}"#,
            "inner[0].sise",
            "unknown field",
        );
        check(r#"{"name": "a", "inner": [{}]}"#, "inner[0].size", "missing field");
        check(
            r#"{"name": "a", "mode": "slow"}"#,
            "mode",
            "unknown variant `slow`, expected `fast`",
        );
        check(r#"{"name": "a"} x"#, "", "trailing characters");
        check(r#"{"name": "#, "name", "EOF");
        check("[]", "", "");
    }
}
