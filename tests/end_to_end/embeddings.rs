//! Texts over HTTP, through the text embedder, to ONNX Runtime and back.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use berth_tensor::DataType;

use crate::support::files::plugin;
use crate::support::{Host, Request, onnx};

const BERT: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// The folder of the example.
fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/text-embedder")
}

/// What the example's `make.py` wrote of Python's tokenizers and onnxruntime.
fn expected() -> Value {
    serde_json::from_slice(&fs::read(example().join("check/expected.json")).unwrap()).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

/// A host with the plugin and, as files of the same names, the example's tokenizers.
fn host() -> Host {
    let host = Host::start();
    host.push("plugin", "text-embedder", &plugin("text-embedder"));
    host.push("plugin", "weighted", &plugin("weighted"));
    for name in ["tokenizer.json", "byte-level.json", "split.json", "unigram.json"] {
        let folder = if name == "tokenizer.json" { "" } else { "check" };
        host.file(name, fs::read(example().join(folder).join(name)).unwrap());
    }
    host
}

/// A variant of the text embedder; what is null in the configuration is left out.
fn embedder(name: &str, model: &str, tokenizer: &str, config: &Value) -> String {
    let file = Path::new(tokenizer).file_name().unwrap().to_str().unwrap();
    let config = config.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
    let config: Vec<String> = config.map(|(key, value)| format!("{key} = {value}")).collect();
    format!(
        "[[variants]]\nname = {name:?}\nprocessor = \"text-embedder@1\"\nmodels = {{ default = {model:?} }}\nassets = {{ tokenizer = {file:?} }}\nconfig = {{ {} }}\n",
        config.join(", ")
    )
}

/// The endpoint `texts`, whose variants clients choose.
fn endpoint(first: &str, variants: &str) -> String {
    format!(
        "name = \"texts\"\ndirect = true\nrouting = {{ policy = \"weighted@1\", config = {{ weights = {{ {first} = 1 }} }} }}\n{variants}"
    )
}

fn invoke(variant: &str, input: &Value) -> Request {
    let target = format!("/v2/models/texts/versions/{variant}/invoke");
    Request::post(&target, "application/json", json!({ "input": input }).to_string())
}

#[test]
fn tokens_are_those_of_the_python_package() {
    let (host, expected) = (host(), expected());
    // The model answers what it was given, one row a text.
    host.push_model("seen", &onnx::seen(&BERT, DataType::Int64, &[-1, -1]));
    let cases = list(&expected["tokens"]);
    let (mut variants, mut checks) = (String::new(), Vec::new());
    for (at, case) in cases.iter().enumerate() {
        for (key, input) in ["ids", "mask", "types"].into_iter().zip(BERT) {
            let name = format!("{key}-{at}");
            let mut config = case["config"].clone();
            config["output"] = format!("{input}.seen").into();
            let tokenizer = case["tokenizer"].as_str().unwrap();
            variants += &embedder(&name, "seen@1", tokenizer, &config);
            checks.push((name, case, key));
        }
    }
    host.apply(&endpoint("ids-0", &variants));
    let mut connection = host.connect();
    for (variant, case, key) in checks {
        let texts: Vec<usize> =
            list(&case["texts"]).iter().map(|at| at.as_u64().unwrap() as usize).collect();
        let input = texts.iter().map(|&at| expected["texts"][at].clone()).collect();
        let answer = connection.send(&invoke(&variant, &input)).unwrap();
        assert_eq!(answer.status, 200, "{variant}: {}", answer.text());
        let answer = answer.json();
        for (row, &text) in texts.iter().enumerate() {
            let name = format!("{} {} of text {text}", case["tokenizer"], key);
            let found: Vec<u64> = list(&answer["embeddings"][row])
                .iter()
                .map(|value| value.as_f64().unwrap() as u64)
                .collect();
            assert_eq!(json!(found), case[key][row], "{name}: {}", expected["texts"][text]);
            let count: u64 =
                list(&case["mask"][row]).iter().map(|value| value.as_u64().unwrap()).sum();
            assert_eq!(answer["tokens"][row], count, "{name}");
        }
    }
}

/// The largest difference between two lists of vectors.
fn difference(found: &[Vec<f64>], expected: &Value) -> f64 {
    assert_eq!(found.len(), list(expected).len());
    let mut largest = 0.0_f64;
    for (found, expected) in found.iter().zip(list(expected)) {
        assert_eq!(found.len(), list(expected).len());
        for (found, expected) in found.iter().zip(list(expected)) {
            largest = largest.max((found - expected.as_f64().unwrap()).abs());
        }
    }
    largest
}

#[test]
fn vectors_are_those_of_onnxruntime_in_python() {
    let (host, expected) = (host(), expected());
    host.push("model", "bert", &example().join("bert.onnx"));
    let cases = list(&expected["vectors"]);
    let variant = |(at, case): (usize, &Value)| {
        embedder(&format!("v{at}"), "bert@1", "tokenizer.json", &case["config"])
    };
    host.apply(&endpoint("v0", &cases.iter().enumerate().map(variant).collect::<String>()));
    let texts = &expected["texts"];
    let mut connection = host.connect();
    for (at, case) in cases.iter().enumerate() {
        let name = format!("{}", case["config"]);
        let answer = connection.send(&invoke(&format!("v{at}"), texts)).unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["tokens"], case["tokens"], "{name}");
        let vectors: Vec<Vec<f64>> = serde_json::from_value(answer["embeddings"].clone()).unwrap();
        let off = difference(&vectors, &case["embeddings"]);
        assert!(off <= 1e-5, "{name}: off by {off}");

        // The same as tensors, and each text by itself.
        let body = json!({"inputs": [{
            "name": "input", "datatype": "BYTES", "shape": [list(texts).len()], "data": texts,
        }]});
        let target = format!("/v2/models/texts/versions/v{at}/infer");
        let answer =
            connection.send(&Request::post(&target, "application/json", body.to_string())).unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.json()["outputs"][0]["name"], "embeddings");
        assert_eq!(answer.json()["outputs"][0]["shape"], json!([vectors.len(), 64]));
        let rows: Vec<Vec<f64>> = answer.output().chunks(64).map(<[f64]>::to_vec).collect();
        assert!(difference(&rows, &case["embeddings"]) <= 1e-5, "{name}, as tensors");
        for (row, text) in list(texts).iter().enumerate() {
            let answer = connection.send(&invoke(&format!("v{at}"), text)).unwrap().json();
            let vector: Vec<Vec<f64>> =
                serde_json::from_value(answer["embeddings"].clone()).unwrap();
            let off = difference(&vector, &json!([case["embeddings"][row]]));
            assert!(off <= 1e-5, "{name}: {text} alone is off by {off}");
        }
    }
}

#[test]
fn a_model_of_one_text_and_one_length_is_run_for_each_text() {
    let host = host();
    host.push_model("seen", &onnx::seen(&BERT[..2], DataType::Int32, &[1, 8]));
    let config = json!({"output": "input_ids.seen"});
    host.apply(&endpoint("main", &embedder("main", "seen@1", "tokenizer.json", &config)));
    let answer = host.send(&invoke("main", &json!(["", "a", "a a a a a a a a a a"]))).json();
    assert_eq!(answer["tokens"], json!([2, 3, 8]));
    let rows = list(&answer["embeddings"]);
    assert_eq!(rows[0], json!([2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    assert_eq!(rows[1][3], 0.0);
    assert_eq!((&rows[2][1], &rows[2][7]), (&rows[1][1], &json!(3.0)));
}

#[test]
fn more_texts_than_one_inference_holds_are_split() {
    let host = host();
    host.push_model("seen", &onnx::seen(&BERT, DataType::Int64, &[-1, -1]));
    let config = json!({
        "output": "input_ids.seen", "max_length": 512, "padding": "max_length", "max_texts": 100,
    });
    host.apply(&endpoint("main", &embedder("main", "seen@1", "tokenizer.json", &config)));
    let texts: Vec<String> = (0..100).map(|at| "a ".repeat(at)).collect();
    let answer = host.send(&invoke("main", &json!(texts))).json();
    let tokens: Vec<usize> = (0..100).map(|at| at + 2).collect();
    assert_eq!(answer["tokens"], json!(tokens));
    for (row, ids) in list(&answer["embeddings"]).iter().enumerate() {
        let ids: Vec<f64> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id != 0.0).count(), row + 2);
        assert_eq!((ids.len(), ids[row + 1]), (512, 3.0));
    }
}

#[test]
fn what_cannot_serve_is_refused_when_it_is_applied() {
    let host = host();
    host.push("model", "bert", &example().join("bert.onnx"));
    host.push_model("maskless", &onnx::seen(&BERT[..1], DataType::Int64, &[-1, -1]));
    let good = fs::read_to_string(example().join("tokenizer.json")).unwrap();
    host.file("broken.json", &good[..good.len() / 2]);
    host.file("empty.json", "");
    host.file("bytes.json", [0xff, 0xfe]);
    host.file("config.json", r#"{"architectures": ["BertModel"]}"#);
    host.file("version.json", good.replace("\"1.0\"", "\"2.0\""));
    let cut = r#""truncation":{"direction":"Right","max_length":99999,"strategy":"LongestFirst","stride":0}"#;
    host.file("cut.json", good.replace("\"truncation\":null", cut));
    host.file("kind.json", good.replace("\"WordPiece\",\"unk", "\"Other\",\"unk"));
    let file = "asset `tokenizer` is no tokenizer.json: ";
    for (model, tokenizer, config, part) in [
        ("bert@1", "broken.json", json!({}), &*format!("{file}EOF while parsing")),
        ("bert@1", "empty.json", json!({}), &format!("{file}EOF while parsing a value")),
        ("bert@1", "bytes.json", json!({}), "asset `tokenizer` is no text in UTF-8"),
        ("bert@1", "config.json", json!({}), &format!("{file}missing field `version`")),
        ("bert@1", "version.json", json!({}), "version \"2.0\", where only \"1.0\" is known"),
        (
            "bert@1",
            "kind.json",
            json!({}),
            &format!("{file}unknown variant `Other`, expected one of"),
        ),
        ("bert@1", "cut.json", json!({}), "configure a max_length of at most 16384"),
        (
            "bert@1",
            "tokenizer.json",
            json!({"max_length": 2}),
            "it adds 2 special tokens to each text, and max_length is 2",
        ),
        (
            "bert@1",
            "tokenizer.json",
            json!({"pooling": "max"}),
            "config.pooling: refused by text-embedder@1: unknown variant `max`",
        ),
        (
            "maskless@1",
            "tokenizer.json",
            json!({}),
            "config.mask: refused by text-embedder@1: maskless@1 has no input `attention_mask`",
        ),
    ] {
        let variant = embedder("main", model, tokenizer, &config);
        host.apply_refused(tokenizer, &endpoint("main", &variant), part);
    }
    let without = embedder("main", "bert@1", "tokenizer.json", &json!({}))
        .replace("tokenizer = \"tokenizer.json\"", "");
    host.apply_refused("no asset", &endpoint("main", &without), "grant the asset `tokenizer`");
}

#[test]
fn texts_that_cannot_be_taken_are_the_callers_fault() {
    let host = host();
    host.push("model", "bert", &example().join("bert.onnx"));
    let config = json!({"max_length": 128, "max_texts": 3, "max_bytes": 10});
    let variants = embedder("main", "bert@1", "tokenizer.json", &config)
        + &embedder("bytes", "bert@1", "byte-level.json", &json!({"max_length": 128}));
    host.apply(&endpoint("main", &variants));
    let mut connection = host.connect();
    let mut check = |variant: &str, way: &str, body: &str, part: &str| {
        let target = format!("/v2/models/texts/versions/{variant}/{way}");
        let answer = connection.send(&Request::post(&target, "application/json", body)).unwrap();
        answer.check_error(body, 400, part);
    };
    for (body, part) in [
        ("", "the body is not as expected: EOF"),
        ("words", "the body is not as expected: expected value at line 1 column 1"),
        ("{}", "missing field `input`"),
        (r#"{"texts": ["a"]}"#, "unknown field `texts`, expected `input`"),
        (r#"{"input": 5}"#, "expected a text or a list of texts"),
        (r#"{"input": ["a", 5]}"#, "invalid type: integer `5`, expected a string"),
        (r#"{"input": []}"#, "send one text or more"),
        (r#"{"input": ["", "", "", ""]}"#, "4 texts; at most 3 are taken in one request"),
        (r#"{"input": ["a", "ééééé!"]}"#, "text 1 has 11 bytes; at most 10 are taken"),
        (r#"{"input": "\ud83d"}"#, "the body is not as expected"),
    ] {
        check("main", "invoke", body, part);
    }
    check("bytes", "invoke", r#"{"input": ["a", ""]}"#, "text 1 has no tokens");
    let tensor = |name: &str, datatype: &str, data: Value| {
        let shape = [list(&data).len()];
        json!({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]})
            .to_string()
    };
    for (body, part) in [
        (tensor("input", "BYTES", json!(["a", "b", "c", "d"])), "4 texts; at most 3"),
        (tensor("input", "BYTES", json!([])), "send one text or more"),
        (tensor("input", "BYTES", json!(["a long text"])), "text 0 has 11 bytes"),
        (tensor("texts", "BYTES", json!(["a"])), "takes no such input"),
        (tensor("input", "FP32", json!([1.0])), "FP32"),
    ] {
        check("main", "infer", &body, part);
    }
    let answer = host.send(&invoke("main", &json!(["a", "b", "c"])));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
