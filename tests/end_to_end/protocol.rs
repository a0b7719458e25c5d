//! The data port: the Open Inference Protocol over JSON, and what it refuses.

use serde_json::{Value, json};

use crate::support::files::{an_eight, digits_endpoint, guest, tensors, variant};
use crate::support::{Host, Request, onnx};

fn host() -> Host {
    let host = Host::with_digits(&["--max-body", "1"]);
    host.push_model("two", &onnx::two_inputs());
    host.apply(&digits_endpoint(2));
    host.apply(&tensors("raw", "digits@2"));
    host.apply(&format!("direct = true\n{}", tensors("open", "digits@2")));
    host.apply(&tensors("two", "two@1"));
    host
}

#[test]
fn what_the_protocol_asks_for_is_answered() {
    let host = host();
    let input = json!([{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]);
    let scores = json!([{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}]);
    let check = |target: &str, pointer: &str, expected: Value| {
        let answer = host.send(&Request::get(target));
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{target}");
        assert_eq!(answer.json().pointer(pointer), Some(&expected), "{target} at {pointer:?}");
    };
    check("/v2", "/name", json!("berth"));
    check("/v2", "/extensions", json!(["binary_tensor_data"]));
    check("/v2/health/live", "/live", json!(true));
    check("/v2/health/ready", "/ready", json!(true));
    check("/v2/models/raw", "/name", json!("raw"));
    check("/v2/models/raw", "/platform", json!("onnxruntime_onnx"));
    check("/v2/models/raw", "/versions", json!(["main"]));
    check("/v2/models/raw", "/inputs", input.clone());
    check("/v2/models/raw", "/outputs", scores);
    check("/v2/models/raw", "/properties/model:default", json!("digits@2"));
    check("/v2/models/raw", "/properties/model:default.opset", json!("21"));
    check("/v2/models/raw", "/properties/model:default.shape:input", json!("[batch, 64]"));
    check("/v2/models/raw/versions/main", "/inputs", input);
    check("/v2/models/raw/ready", "", json!({"name": "raw", "ready": true}));
    check("/v2/models/raw/versions/main/ready", "/ready", json!(true));
    check("/v2/models/digits", "/platform", json!("berth_processor"));
    check("/v2/models/digits", "/properties/processor", json!("image-classifier@1"));
    let takes = "image/jpeg, image/png, image/webp, multipart/form-data";
    check("/v2/models/digits", "/properties/invoke:takes", json!(takes));
    check("/v2/models/digits", "/properties/invoke:answers", json!("application/json"));
}

#[test]
fn tensors_are_inferred() {
    let host = host();
    let check = |target: &str, body: Value, expected: Value| {
        let answer = host.send(&Request::post(target, "application/json", body.to_string()));
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(answer.json(), expected, "{target}");
    };
    let tensor = |name: &str, data: Value| json!({"name": name, "datatype": "FP32", "shape": [2, 2], "data": data});
    let (a, b) = (json!([1.0, 2.0, 3.0, 4.0]), json!([[4.0, 3.0], [2.0, 1.0]]));
    let inputs = json!([tensor("b", b), tensor("a", a)]);
    let sum = tensor("sum", json!([5.0, 5.0, 5.0, 5.0]));
    let difference = tensor("difference", json!([-3.0, -1.0, 1.0, 3.0]));
    let two = "/v2/models/two/infer";
    check(
        two,
        json!({"id": "42", "inputs": inputs, "parameters": {"any": 1}, "unknown": [{}]}),
        json!({"model_name": "two", "model_version": "main", "id": "42", "outputs": [sum, difference]}),
    );
    check(
        two,
        json!({"inputs": inputs, "outputs": [{"name": "difference"}, {"name": "sum"}]}),
        json!({"model_name": "two", "model_version": "main", "outputs": [difference, sum]}),
    );
    check(
        two,
        json!({"inputs": inputs, "outputs": [{"name": "sum"}]}),
        json!({"model_name": "two", "model_version": "main", "outputs": [sum]}),
    );
    let answer = host.send(&Request::infer("open/versions/main", "input", &[3, 64], &[1.0; 192]));
    let json = answer.json();
    assert_eq!((&json["model_name"], &json["model_version"]), (&json!("open"), &json!("main")));
    assert_eq!(json["outputs"][0]["shape"], json!([3, 10]));
    let scores = answer.output();
    assert!((scores.iter().sum::<f64>() - 3.0).abs() < 1e-4, "probabilities of 3 rows: {scores:?}");
}

/// As Triton's Python client sends and reads them unless told not to.
#[test]
fn tensors_go_as_they_are_after_a_head_of_json() {
    let host = host();
    let bytes = |values: [f32; 4]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    let port = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}});
    let data = [bytes([1.0, 2.0, 3.0, 4.0]), bytes([4.0, 3.0, 2.0, 1.0])].concat();
    let (sum, difference) = (bytes([5.0; 4]), bytes([-3.0, -1.0, 1.0, 3.0]));
    let check = |what: &str, request: Value, outputs: Value, follow: &[u8]| {
        let head = request.to_string();
        let body = [head.as_bytes(), &data].concat();
        let infer = Request::post("/v2/models/two/infer", "application/octet-stream", body);
        let length = head.len().to_string();
        let answer = host.send(&infer.header("Inference-Header-Content-Length", &length));
        assert_eq!(answer.status, 200, "{what}");
        let length = answer.header("inference-header-content-length");
        assert_eq!(length.is_some(), !follow.is_empty(), "{what}");
        let split = length.map_or(answer.body.len(), |length| length.parse().unwrap());
        let (head, rest) = answer.body.split_at(split);
        let head: Value = serde_json::from_slice(head).unwrap();
        assert_eq!((&head["outputs"], rest), (&outputs, follow), "{what}");
    };
    let inputs = json!([port("a"), port("b")]);
    check(
        "all outputs so",
        json!({"inputs": inputs, "parameters": {"binary_data_output": true}}),
        json!([port("sum"), port("difference")]),
        &[&*sum, &difference].concat(),
    );
    let asked = |binary: bool| json!({"name": "sum", "parameters": {"binary_data": binary}});
    check(
        "one so",
        json!({"inputs": inputs, "outputs": [asked(true)]}),
        json!([port("sum")]),
        &sum,
    );
    check(
        "this one not",
        json!({"inputs": inputs, "outputs": [asked(false)], "parameters": {"binary_data_output": true}}),
        json!([{"name": "sum", "datatype": "FP32", "shape": [2, 2], "data": [5.0, 5.0, 5.0, 5.0]}]),
        b"",
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let host = host();
    let check = |name: &str, endpoint: &str, body: &str, part: &str| {
        let target = format!("/v2/models/{endpoint}/infer");
        let answer = host.send(&Request::post(&target, "application/json", body));
        answer.check_error(name, 400, part);
        assert_ne!(answer.revision(), "", "{name}");
    };
    let one = |rest: &str| format!(r#"{{"inputs":[{{"name":"input",{rest}}}]}}"#);
    let numbers = |count: usize| vec!["0"; count].join(",");
    let fp32 = |shape: &str, count: usize| {
        one(&format!(r#""datatype":"FP32","shape":{shape},"data":[{}]"#, numbers(count)))
    };
    let named = r#"input "input": "#;
    check("wrong shape", "raw", &fp32("[1,63]", 63), named);
    check("wrong rank", "raw", &fp32("[64]", 64), named);
    check("too few data", "raw", &fp32("[1,64]", 63), named);
    check("too many data", "raw", &fp32("[1,64]", 65), named);
    check("huge shape", "raw", &fp32("[9000000000000000000,64]", 64), named);
    check("huge but countable shape", "raw", &fp32("[1000000000000,64]", 64), named);
    check("negative shape", "raw", &fp32("[-1,64]", 64), named);
    let other = one(&format!(r#""datatype":"INT32","shape":[1,64],"data":[{}]"#, numbers(64)));
    check("wrong datatype", "raw", &other, named);
    check("unknown datatype", "raw", &one(r#""datatype":"FP31","shape":[1],"data":[0]"#), "FP31");
    check("no JSON form", "raw", &one(r#""datatype":"FP16","shape":[1],"data":[0]"#), "FP16");
    let text = one(r#""datatype":"FP32","shape":[1],"data":["0"]"#);
    check("text for a number", "raw", &text, named);
    check("data missing", "raw", &one(r#""datatype":"FP32","shape":[1,64]"#), named);
    check("shape missing", "raw", &one(r#""datatype":"FP32","data":[0]"#), named);
    let unknown = fp32("[1,64]", 64).replace("\"input\"", "\"picture\"");
    check("unknown input", "raw", &unknown, r#"input "picture""#);
    check("no input", "raw", r#"{"inputs":[]}"#, named);
    let port =
        |name: &str| format!(r#"{{"name":"{name}","datatype":"FP32","shape":[1,2],"data":[0,0]}}"#);
    let inputs = |names: &[&str]| {
        let ports: Vec<String> = names.iter().map(|name| port(name)).collect();
        format!(r#"{{"inputs":[{}]}}"#, ports.join(","))
    };
    check("one of two missing", "two", &inputs(&["a"]), r#"input "b": missing"#);
    check("given twice", "two", &inputs(&["a", "b", "a"]), r#"input "a": is given twice"#);
    check("one too many", "two", &inputs(&["a", "b", "c"]), r#"input "c""#);
    let output = inputs(&["a", "b"]).replace("}]}", r#"}],"outputs":[{"name":"product"}]}"#);
    check("unknown output", "two", &output, r#"no output "product""#);
    for (name, body, part) in [
        ("nothing", "", "malformed JSON"),
        ("half", r#"{"inputs":["#, "malformed JSON at byte 11"),
        ("trailing", "{\"inputs\":[]} x", "malformed JSON"),
        ("no object", "[]", "the body must be an object"),
        ("no inputs", "{}", "\"inputs\" is missing"),
        ("an input that is none", r#"{"inputs":[1]}"#, "#0"),
        ("an input without a name", r#"{"inputs":[{"shape":[1]}]}"#, "#0"),
    ] {
        check(name, "raw", body, part);
    }
    check("deep nesting", "raw", &format!("{{\"x\":{}", "[".repeat(100_000)), "nesting");
    let answer = host.send(&Request::post("/v2/models/raw/infer", "application/json", b"\xff{}"));
    answer.check_error("no UTF-8", 400, "not UTF-8");
    for (length, part) in [
        ("10", "malformed JSON at byte 10"),
        ("100000", "100000 bytes of JSON are announced"),
        ("0", "at least 1"),
        ("-1", "at least 1"),
        ("ten", "at least 1"),
    ] {
        let binary = Request::infer("raw", "input", &[1, 64], &[0.0; 64]);
        let binary = binary.header("inference-header-content-length", length);
        host.send(&binary).check_error(length, 400, part);
    }
    let answer = host.send(&Request::invoke("raw", "x"));
    answer.check_error("a body for a model", 400, "/infer");
    let answer = host.send(&Request::infer("digits", "input", &[1, 63], &[0.0; 63]));
    answer.check_error("tensors of another shape for a classifier", 400, "input \"input\"");
}

/// Both inputs have the dimension `n0` in front.
#[test]
fn dimensions_of_one_name_are_of_one_size() {
    let host = host();
    host.push("plugin", "probe", &guest("probe"));
    for mode in ["graph", "model"] {
        let config = format!("mode = {mode:?}");
        host.apply(&format!(
            "name = {mode:?}\n{}",
            variant("main", "probe@1", "default = \"two@1\"", &config)
        ));
    }
    let input = |name: &str, rows: usize| json!({"name": name, "datatype": "FP32", "shape": [rows, 2], "data": vec![0; 2 * rows]});
    let body = json!({"inputs": [input("b", 1), input("a", 3)]}).to_string();
    let send = |endpoint: &str| {
        let target = format!("/v2/models/{endpoint}/infer");
        host.send(&Request::post(&target, "application/json", &body))
    };
    let problem =
        "dimension 0 is 1, but it is the model's \"n0\", which is 3 in dimension 0 of input \"a\"";
    send("two").check_error("two", 400, &format!("input \"b\": {problem}"));
    for (mode, code) in [("graph", "invalid-argument"), ("model", "tensor `b`")] {
        let answer = send(mode);
        answer.check_error(mode, 500, "the plugin failed");
        let entry = host.logged(answer.header("berth-prediction").unwrap());
        assert!(entry.contains(problem) && entry.contains(code), "{mode}: {entry}");
    }
}

#[test]
fn what_is_not_there_or_not_allowed_is_refused() {
    let host = host();
    let infer = |path: &str| Request::infer(path, "input", &[1, 64], &[0.0; 64]);
    for (request, status, part) in [
        (Request::get("/"), 404, "/"),
        (Request::get("/v2/modes"), 404, "/v2/modes"),
        (Request::get("/v1/models"), 404, "/v1/models"),
        (Request::get("/metrics"), 404, "/metrics"),
        (Request::get("/v2/models/none"), 404, r#"no endpoint "none""#),
        (Request::get("/v2/models/none/ready"), 404, r#"no endpoint "none""#),
        (infer("none"), 404, r#"no endpoint "none""#),
        (Request::invoke("none", "x"), 404, r#"no endpoint "none""#),
        (Request::get("/v2/models/raw/versions/2"), 404, r#"no variant "2"; it has main"#),
        (Request::get("/v2/models/raw/versions/2/ready"), 404, r#"no variant "2""#),
        (infer("open/versions/2"), 404, r#"no variant "2""#),
        (infer("raw/versions/2"), 404, r#"no variant "2""#),
        (infer("raw/versions/main"), 403, "direct = true"),
        (Request::invoke("digits/versions/main", an_eight()), 403, "direct = true"),
        (Request::get("/v2/models/%ff"), 400, "Invalid UTF-8"),
        (Request::get("/v2/models/raw%2Finfer"), 404, "raw/infer"),
        (Request::get("/v2/models/raw/infer"), 405, "does not take GET"),
        (Request::get("/v2/models/raw/invoke"), 405, "does not take GET"),
        (Request::post("/v2/models/raw", "application/json", "{}"), 405, "does not take POST"),
        (Request::post("/v2/health/live", "text/plain", ""), 405, "does not take POST"),
        (Request::new("DELETE", "/v2/models/raw"), 405, "does not take DELETE"),
        (Request::new("PUT", "/v2/models/raw/infer"), 405, "does not take PUT"),
        (Request::post("/v2/repository/models/raw/load", "text/plain", ""), 404, "repository"),
    ] {
        let answer = host.send(&request);
        answer.check_error(&format!("{request:?}"), status, part);
        assert_eq!(answer.header("allow").is_some(), status == 405, "{request:?}");
        assert!(answer.header("x-request-id").is_some(), "{request:?}");
    }
}

#[test]
fn a_picture_that_is_none_is_the_callers_fault() {
    let host = host();
    let eight = an_eight();
    let half = &eight[..eight.len() / 2];
    let mut huge = eight.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    // The checksum that such a header has.
    huge[29..33].copy_from_slice(&[0xa5, 0xb9, 0x2a, 0x9e]);
    let noise: Vec<u8> = (0..10_000u32).map(|at| ((at * at) >> 3) as u8).collect();
    for (name, body, part) in [
        ("nothing", &b""[..], "send the picture as the body"),
        ("text", b"no picture", "no JPEG, PNG or WebP"),
        ("another format", b"GIF89a\x01\0\x01\0\0\0\0;", "no JPEG, PNG or WebP"),
        ("half of one", half, "PNG"),
        ("its signature alone", &eight[..8], "PNG"),
        ("one that claims 3.6 billion pixels", &huge, "60000 x 60000 pixels"),
        ("noise", &noise, "no JPEG, PNG or WebP"),
    ] {
        host.send(&Request::invoke("digits", body)).check_error(name, 400, part);
    }
    assert_eq!(host.send(&Request::invoke("digits", &eight)).label(), "8");
}

#[test]
fn bodies_are_bounded() {
    let host = host();
    host.push("plugin", "probe", &guest("probe"));
    let echo = variant("main", "probe@1", "default = \"digits@2\"", "mode = \"body\"");
    host.apply(&format!("name = \"echo\"\n{echo}"));
    let most = vec![b'x'; 1 << 20];
    let answer = host.send(&Request::invoke("echo", &most));
    assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));

    let target = "/v2/models/echo/invoke";
    let part = "larger than 1048576 bytes";
    // Refused by what it announces, before any of it is sent.
    let announced = Request::new("POST", target).header("content-length", "1048577");
    host.send(&announced).check_error("announced", 413, part);
    let announced =
        Request::new("POST", "/v2/models/raw/infer").header("content-length", "99999999999");
    host.send(&announced).check_error("announced for infer", 413, part);
    // Refused when it turns out.
    let mut connection = host.connect();
    let chunked = Request::new("POST", target).header("transfer-encoding", "chunked");
    connection.begin(&chunked).unwrap();
    connection.write(b"100001\r\n").unwrap();
    connection.write(&[b'x'; 0x10_0001]).unwrap();
    connection.write(b"\r\n0\r\n\r\n").unwrap();
    connection.answer().unwrap().check_error("chunked", 413, part);

    let mut attribute = Request::invoke("echo", "x").header("x-user-id", &"u".repeat(2000));
    host.apply(&format!(
        "name = \"echo\"\nattributes = {{ user = {{ header = \"x-user-id\" }} }}\n{echo}"
    ));
    host.send(&attribute).check_error("an attribute", 400, "\"user\" has 2000 bytes");
    attribute = Request::invoke("echo", "x").header("x-user-id", &"u".repeat(1024));
    assert_eq!(host.send(&attribute).status, 200);
}
