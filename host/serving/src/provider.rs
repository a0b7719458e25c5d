//! An execution provider as an endpoint file names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `"cpu"`, or with options `{ cuda = { device_id = 1 } }`: text, numbers, true or false.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct ProviderSpec {
    name: String,
    options: BTreeMap<String, String>,
}

impl From<ProviderSpec> for (String, BTreeMap<String, String>) {
    fn from(spec: ProviderSpec) -> Self {
        (spec.name, spec.options)
    }
}

impl From<ProviderSpec> for Value {
    fn from(spec: ProviderSpec) -> Self {
        if spec.options.is_empty() {
            return spec.name.into();
        }
        let options: Map<_, _> =
            spec.options.into_iter().map(|(key, value)| (key, value.into())).collect();
        Map::from_iter([(spec.name, options.into())]).into()
    }
}

impl TryFrom<Value> for ProviderSpec {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let form = || {
            format!("{value} is no provider: write \"NAME\" or {{ NAME = {{ OPTION = VALUE }} }}")
        };
        let (name, options) = match &value {
            Value::String(name) => (name, None),
            Value::Object(map) if map.len() == 1 => {
                let (name, options) = map.iter().next().ok_or_else(form)?;
                (name, Some(options.as_object().ok_or_else(form)?))
            }
            _ => return Err(form()),
        };
        let option = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            Value::Bool(_) | Value::Number(_) => Ok((key.clone(), value.to_string())),
            _ => Err(format!("option {key} of {name} is neither text, number nor true or false")),
        };
        let options = options.into_iter().flatten().map(option).collect::<Result<_, _>>()?;
        Ok(Self { name: name.clone(), options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_a_name_or_a_name_with_options() {
        let options = |options: &[(&str, &str)]| {
            let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            options.iter().map(owned).collect::<BTreeMap<_, _>>()
        };
        for (json, name, expected, written) in [
            (r#""cpu""#, "cpu", options(&[]), r#""cpu""#),
            (r#"{"cuda":{}}"#, "cuda", options(&[]), r#""cuda""#),
            (
                r#"{"cuda":{"use_tf32":true,"device_id":1,"gpu_mem_limit":"2"}}"#,
                "cuda",
                options(&[("device_id", "1"), ("gpu_mem_limit", "2"), ("use_tf32", "true")]),
                r#"{"cuda":{"device_id":"1","gpu_mem_limit":"2","use_tf32":"true"}}"#,
            ),
        ] {
            let spec: ProviderSpec = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&spec).unwrap(), written);
            assert_eq!(serde_json::from_str::<ProviderSpec>(written).unwrap(), spec);
            assert_eq!(<(String, BTreeMap<_, _>)>::from(spec), (name.to_owned(), expected));
        }
        for (json, problem) in [
            ("1", "1 is no provider: write \"NAME\" or { NAME = { OPTION = VALUE } }"),
            ("{}", "{} is no provider"),
            (r#"{"cuda":{},"cpu":{}}"#, "is no provider"),
            (r#"{"cuda":1}"#, "is no provider"),
            (r#"{"cuda":{"device_id":[0]}}"#, "option device_id of cuda is neither text"),
        ] {
            let error = serde_json::from_str::<ProviderSpec>(json).unwrap_err().to_string();
            assert!(error.contains(problem), "{json}: {error}");
        }
    }
}
