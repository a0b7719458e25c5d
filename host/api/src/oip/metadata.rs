//! The bodies besides those of inference. Health bodies carry what the protocol's text prints and
//! what its clients read.

use std::collections::BTreeMap;

use berth_tensor::TensorType;
use serde::Serialize;

/// Answers `GET /v2`.
#[derive(Clone, Debug, Serialize)]
pub struct ServerMetadata {
    /// The server's name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The protocol's extensions that it speaks.
    pub extensions: Vec<&'static str>,
}

/// Answers `GET /v2/health/live`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerLive {
    /// Whether the server runs.
    pub live: bool,
}

/// Answers `GET /v2/health/ready`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerReady {
    /// Whether everything that should answer can.
    pub ready: bool,
    /// Whether the server runs: what the protocol's text prints here.
    pub live: bool,
}

/// Answers `GET /v2/models/{name}/ready`.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReady {
    /// The name asked for.
    pub name: String,
    /// Whether it can answer.
    pub ready: bool,
}

/// Answers `GET /v2/models/{name}`.
#[derive(Clone, Debug, Serialize)]
pub struct ModelMetadata {
    /// The name asked for.
    pub name: String,
    /// The versions that can be asked for by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    /// What runs it, as `project_format`, such as `onnxruntime_onnx`.
    pub platform: String,
    /// What it takes.
    pub inputs: Vec<TensorType>,
    /// What it answers.
    pub outputs: Vec<TensorType>,
    /// Further facts about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// Answers whatever failed.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// What is wrong and what to do.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use berth_tensor::DataType;

    use super::*;

    fn check(body: &impl Serialize, expected: &str) {
        assert_eq!(serde_json::to_string(body).unwrap(), expected);
    }

    #[test]
    fn bodies_are_the_protocols() {
        check(
            &ServerMetadata { name: "berth", version: "1", extensions: vec![] },
            r#"{"name":"berth","version":"1","extensions":[]}"#,
        );
        check(&ServerLive { live: true }, r#"{"live":true}"#);
        check(&ServerReady { ready: false, live: true }, r#"{"ready":false,"live":true}"#);
        check(&ModelReady { name: "m".into(), ready: true }, r#"{"name":"m","ready":true}"#);
        let input = TensorType { name: "x".into(), datatype: DataType::Fp32, shape: vec![-1, 64] };
        let mut model = ModelMetadata {
            name: "m".into(),
            versions: vec![],
            platform: "onnxruntime_onnx".into(),
            inputs: vec![input],
            outputs: vec![],
            properties: BTreeMap::new(),
        };
        check(
            &model,
            r#"{"name":"m","platform":"onnxruntime_onnx","inputs":[{"name":"x","datatype":"FP32","shape":[-1,64]}],"outputs":[]}"#,
        );
        model.inputs.clear();
        model.versions.push("a".into());
        model.properties.insert("k".into(), "v".into());
        check(
            &model,
            r#"{"name":"m","versions":["a"],"platform":"onnxruntime_onnx","inputs":[],"outputs":[],"properties":{"k":"v"}}"#,
        );
        check(&ErrorBody { error: "no".into() }, r#"{"error":"no"}"#);
    }
}
