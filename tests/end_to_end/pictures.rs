//! Pictures of every kind, against what Pillow and numpy make of them (`tests/pictures`).

use std::path::{Path, PathBuf};

use berth_tensor::DataType;
use serde_json::{Value, json};

use crate::support::files::{plugin, variant};
use crate::support::{Answer, Host, Request, onnx};

const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The furthest that a value may be from the reference, in steps of a byte. Where pixels are picked
/// and not averaged, single ones of a JPEG are further: its transform is not libjpeg-turbo's.
fn tolerance(kind: &str, name: &str) -> f64 {
    let rounding = 0.001;
    if kind == "nearest" && name.ends_with(".jpg") { 3.0 + rounding } else { 2.0 + rounding }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures")
}

fn picture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("files").join(name)).unwrap()
}

/// For each configuration of the reference: the model's datatype, the configuration of its values,
/// and how a byte becomes one.
fn ways(kind: &str) -> (DataType, &'static str, fn(f64, usize) -> f64) {
    let plain = "scale = 1.0";
    match kind {
        "stretch" => (
            DataType::Fp32,
            "mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]",
            |byte, channel| (byte / 255.0 - MEAN[channel]) / STD[channel],
        ),
        "crop" => (DataType::Fp16, plain, |byte, _| byte),
        "nhwc" => (DataType::Uint8, "", |byte, _| byte),
        "grey" => (DataType::Fp32, "mean = [0.5], std = [0.5]", |byte, _| byte / 127.5 - 1.0),
        _ => (DataType::Fp32, plain, |byte, _| byte),
    }
}

/// A host with an endpoint for each configuration, whose model answers its input.
fn host(expected: &Value) -> Host {
    let host = Host::start();
    host.push("plugin", "image-classifier", &plugin("image-classifier"));
    for (kind, configuration) in expected["configurations"].as_object().unwrap() {
        let (element, values, _) = ways(kind);
        let side = |name: &str| configuration[name].as_i64().unwrap();
        let channels = if configuration["channels"] == "grey" { 1 } else { 3 };
        let shape = match configuration["layout"].as_str() {
            Some(_) => [-1, side("height"), side("width"), channels],
            None => [-1, channels, side("height"), side("width")],
        };
        host.push_model(kind, &onnx::seen(&["x"], element, &shape));
        let given = configuration.as_object().unwrap();
        let given: Vec<String> =
            given.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let config = format!("top = 100000, {}, {values}", given.join(", "));
        let model = format!("default = \"{kind}@1\"");
        let main = variant("main", "image-classifier@1", &model, &config);
        host.apply(&format!("name = {kind:?}\n{main}"));
    }
    host
}

/// The scores by class.
fn scores(predictions: &Value) -> Vec<f64> {
    let predictions = predictions.as_array().unwrap();
    let mut scores = vec![f64::NAN; predictions.len()];
    for prediction in predictions {
        scores[prediction["class"].as_u64().unwrap() as usize] =
            prediction["score"].as_f64().unwrap();
    }
    scores
}

/// How far the scores are from the reference at most, in steps of a byte.
fn furthest(line: &Value, scores: &[f64]) -> f64 {
    let hex = line["bytes"].as_str().unwrap();
    let (_, _, value) = ways(line["kind"].as_str().unwrap());
    let plane = if line["kind"] == "stretch" { scores.len() / 3 } else { scores.len() };
    assert_eq!(scores.len() * 2, hex.len(), "{}", line["picture"]);
    let steps = scores.iter().enumerate().map(|(at, &score)| {
        let byte = f64::from(u8::from_str_radix(&hex[at * 2..][..2], 16).unwrap());
        let channel = at / plane;
        let step = value(1.0, channel) - value(0.0, channel);
        ((score - value(byte, channel)) / step).abs()
    });
    steps.fold(0.0, f64::max)
}

#[test]
fn pixels_are_those_of_pillow_and_numpy() {
    let expected = std::fs::read(folder().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let host = host(&expected);
    let mut connection = host.connect();
    let mut table = Vec::new();
    for line in expected["pictures"].as_array().unwrap() {
        let (kind, name) = (line["kind"].as_str().unwrap(), line["picture"].as_str().unwrap());
        let answer = connection.send(&Request::invoke(kind, picture(name))).unwrap();
        if let Some(part) = line["refused"].as_str() {
            answer.check_error(name, 400, part);
            continue;
        }
        assert_eq!(answer.status, 200, "{kind} {name}: {}", answer.text());
        let scores = scores(&answer.json()["predictions"]);
        table.push((name, kind, furthest(line, &scores)));
    }
    for (name, kind, furthest) in &table {
        eprintln!("{name:24} {kind:8} {furthest:.2}");
    }
    let fits = |&(name, kind, furthest): &(&str, &str, f64)| furthest <= tolerance(kind, name);
    let wrong: Vec<_> = table.iter().filter(|line| !fits(line)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(table.len() > 100, "{} compared", table.len());
}

fn form(names: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for name in names {
        let head = format!(
            "--edge\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"{name}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&picture(name));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--edge--\r\n");
    body
}

/// A host with the endpoint `any`, whose model takes any number of pictures of 4 x 2 pixels at
/// once, and `one`, whose model takes one.
fn host_of_two() -> Host {
    let host = Host::start();
    host.push("plugin", "image-classifier", &plugin("image-classifier"));
    for (name, pictures) in [("any", -1), ("one", 1)] {
        host.push_model(name, &onnx::seen(&["x"], DataType::Fp32, &[pictures, 3, 2, 4]));
        let main = variant(
            "main",
            "image-classifier@1",
            &format!("default = \"{name}@1\""),
            "scale = 1.0, top = 24, max_pixels = 30000",
        );
        host.apply(&format!("name = {name:?}\n{main}"));
    }
    host
}

#[test]
fn several_pictures_are_answered_in_their_order() {
    let host = host_of_two();
    let send = |endpoint: &str, body: &[u8]| {
        let target = format!("/v2/models/{endpoint}/invoke");
        host.send(&Request::post(&target, "multipart/form-data; boundary=edge", body))
    };
    let names = ["420.jpg", "rgb.png", "lossy.webp"];
    for endpoint in ["any", "one"] {
        let alone = names.map(|name| host.send(&Request::invoke(endpoint, picture(name))).json());
        let answer = send(endpoint, &form(&names));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json(), json!({ "pictures": alone }), "{endpoint}");
        let one = send(endpoint, &form(&names[..1])).json();
        assert_eq!(one, json!({ "pictures": [alone[0]] }), "{endpoint}");
    }
    let refused = |names: &[&str], part: &str| {
        send("any", &form(names)).check_error(&names.concat(), 400, part);
    };
    refused(&["420.jpg", "cmyk.jpg"], "picture 2 (\"cmyk.jpg\") is none to use: a JPEG in CMYK");
    refused(&["truncated.png"], "picture 1 (\"truncated.png\")");
    refused(&[], "no picture");
    refused(&["one.jpg"; 65], "more than 64 pictures");
    send("any", b"--edge").check_error("cut", 400, "ends early");
    let target = "/v2/models/any/invoke";
    let unbound = Request::post(target, "multipart/form-data", form(&names));
    host.send(&unbound).check_error("unbound", 400, "boundary");
}

#[test]
fn tensors_are_pixels_or_ready() {
    let host = host_of_two();
    let send = |endpoint: &str, inputs: Value| -> Answer {
        let body = json!({ "inputs": inputs }).to_string();
        let target = format!("/v2/models/{endpoint}/infer");
        host.send(&Request::post(&target, "application/json", body))
    };
    let input = |name: &str, datatype: &str, shape: &[usize], data: &[usize]| json!({ "name": name, "datatype": datatype, "shape": shape, "data": data });
    // Two pictures of 4 x 2 pixels, grey, then as the model has them.
    let grey: Vec<usize> = (0..16).collect();
    let ready: Vec<usize> =
        [&grey[..8], &grey[..8], &grey[..8], &grey[8..], &grey[8..], &grey[8..]].concat();
    let floats: Vec<f64> = ready.iter().map(|&value| value as f64).collect();
    let check = |answer: Answer, pictures: usize| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let output = &answer.json()["outputs"][0];
        assert_eq!(
            (&output["name"], &output["datatype"], &output["shape"]),
            (&json!("x.seen"), &json!("FP32"), &json!([pictures, 24]))
        );
        assert_eq!(answer.output(), floats[..pictures * 24]);
    };
    for endpoint in ["any", "one"] {
        check(send(endpoint, json!([input("pixels", "UINT8", &[2, 2, 4, 1], &grey)])), 2);
        check(send(endpoint, json!([input("x", "FP32", &[1, 3, 2, 4], &ready[..24])])), 1);
    }
    check(send("any", json!([input("x", "FP32", &[2, 3, 2, 4], &ready)])), 2);
    let refused = |inputs: Value, part: &str| {
        send("any", inputs.clone()).check_error(&inputs.to_string(), 400, part);
    };
    refused(json!([input("pixels", "UINT8", &[1, 2, 4, 2], &grey)]), "1 or 3 channels, not 2");
    refused(json!([input("pixels", "UINT8", &[0, 2, 4, 1], &[])]), "it holds 0 pictures");
    refused(json!([input("pixels", "UINT8", &[1, 200, 200, 1], &[0; 40_000])]), "at most 30000");
    refused(json!([input("pixels", "UINT8", &[1, 0, 4, 1], &[])]), "are not 0 bytes");
    refused(json!([input("pixels", "INT32", &[1, 2, 4, 1], &grey[..8])]), "UINT8");
    refused(json!([input("x", "FP32", &[0, 3, 2, 4], &[])]), "holds no picture");
    refused(json!([input("z", "FP32", &[1], &[1])]), "no such input");
    let both = json!([
        input("pixels", "UINT8", &[1, 2, 4, 1], &grey[..8]),
        input("x", "FP32", &[1, 3, 2, 4], &ready[..24]),
    ]);
    refused(both, "send one input");
}

#[test]
fn configurations_that_do_not_fit_are_refused_by_key() {
    let host = Host::start();
    host.push("plugin", "image-classifier", &plugin("image-classifier"));
    host.push_model("bytes", &onnx::seen(&["x"], DataType::Uint8, &[-1, 3, 2, 4]));
    host.push_model("longs", &onnx::seen(&["x"], DataType::Int64, &[-1, 3, 2, 4]));
    let refused = |model: &str, config: &str, part: &str| {
        let models = format!("default = \"{model}@1\"");
        let main = variant("main", "image-classifier@1", &models, config);
        host.apply_refused(config, &format!("name = \"x\"\n{main}"), part);
    };
    refused("bytes", "scale = 1.0", "config.scale: refused by image-classifier@1: leave it out");
    refused("bytes", "std = [1.0]", "config.std: refused by image-classifier@1: leave it out");
    refused("bytes", "resize = \"fit\"", "`stretch` or `crop`");
    refused("bytes", "resize_short = 4", "config.resize_short");
    refused("bytes", "resize = \"crop\", resize_short = 3", "use 4 or more");
    refused("longs", "", "input `x` of longs@1 is INT64; only FP32, FP16 or UINT8 will do");
}
