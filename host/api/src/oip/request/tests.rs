//! What is taken and what is refused, by example.

use super::*;

/// A body that is JSON throughout.
fn decode(body: impl Into<Vec<u8>>) -> Result<InferRequest, OipError> {
    let body = Bytes::from(body.into());
    decode_infer(&body, body.len())
}

/// The tensor of the one input `x` whose members are `members`, or the error's text.
fn input_of(members: &str) -> Result<Tensor, String> {
    let body = format!(r#"{{"inputs": [{{"name": "x", {members}}}]}}"#);
    match decode(body) {
        Ok(request) => Ok(request.inputs.into_iter().next().unwrap().tensor),
        Err(error) => Err(error.to_string()),
    }
}

fn check(datatype: &str, shape: &str, data: &str, expected: Result<&[u8], &str>) {
    // The order of members must not matter.
    for members in [
        format!(r#""shape": {shape}, "datatype": "{datatype}", "data": {data}"#),
        format!(r#""data": {data}, "datatype": "{datatype}", "shape": {shape}"#),
        format!(r#""shape":{shape},"data":{data},"other":[{{}}],"datatype":"{datatype}""#),
    ] {
        match (input_of(&members), expected) {
            (Ok(tensor), Ok(bytes)) => {
                assert_eq!(tensor.datatype().name(), datatype);
                assert_eq!(format!("{:?}", tensor.shape()), shape);
                assert_eq!(tensor.data().as_ref(), bytes, "{members}");
            }
            (Err(error), Err(problem)) => {
                assert_eq!(error, format!("input \"x\": {problem}"), "{members}");
            }
            (got, _) => panic!("{members}: {got:?}, expected {expected:?}"),
        }
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn every_datatype_with_a_json_form() {
    check("BOOL", "[2]", "[true, false]", Ok(&[1, 0]));
    check("UINT8", "[2]", "[0, 255]", Ok(&[0, 255]));
    check("UINT16", "[1]", "[65535]", Ok(&[255, 255]));
    check("UINT32", "[1]", "[4294967295]", Ok(&[255; 4]));
    check("UINT64", "[1]", "[18446744073709551615]", Ok(&[255; 8]));
    check("INT8", "[2]", "[-128, 127]", Ok(&[128, 127]));
    check("INT16", "[1]", "[-2]", Ok(&[254, 255]));
    check("INT32", "[1]", "[-2147483648]", Ok(&i32::MIN.to_le_bytes()));
    check("INT64", "[1]", "[-9223372036854775808]", Ok(&i64::MIN.to_le_bytes()));
    check(
        "FP32",
        "[5]",
        "[0.1, -0, 1e-50, 3.4028235e38, 16777217]",
        Ok(&floats(&[0.1, -0.0, 0.0, f32::MAX, 16777216.0])),
    );
    check(
        "BYTES",
        "[4]",
        r#"["][", "\"]\\", "[\\\\", ""]"#,
        Ok(b"\x02\0\0\0][\x03\0\0\0\"]\\\x03\0\0\0[\\\\\0\0\0\0"),
    );
    // Halfway between two values when first rounded to double precision, but not in truth.
    check("FP32", "[1]", "[1.00000005960464477540]", Ok(&floats(&[1.000_000_1])));
    check(
        "FP32",
        "[3]",
        "[NaN, Infinity, -Infinity]",
        Ok(&floats(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY])),
    );
    check("FP64", "[1]", "[0.30000000000000004]", Ok(&(0.1 + 0.2f64).to_le_bytes()));
    check("FP64", "[1]", "[-Infinity]", Ok(&f64::NEG_INFINITY.to_le_bytes()));
    check(
        "BYTES",
        "[3]",
        r#"["a", "", "\u0000\u00e9"]"#,
        Ok(b"\x01\0\0\0a\0\0\0\0\x03\0\0\0\0\xc3\xa9"),
    );
}

#[test]
fn flat_or_nested_as_deep_as_the_shape() {
    check("UINT8", "[2, 3]", "[[1, 2, 3], [4, 5, 6]]", Ok(&[1, 2, 3, 4, 5, 6]));
    check("UINT8", "[2, 3]", "[1,2,3,4,5,6]", Ok(&[1, 2, 3, 4, 5, 6]));
    check("UINT8", "[1, 1, 2]", "[[[1, 2]]]", Ok(&[1, 2]));
    check("UINT8", "[]", "[7]", Ok(&[7]));
    check("UINT8", "[]", "7", Ok(&[7]));
    check("UINT8", "[0, 3]", "[]", Ok(&[]));
    check("UINT8", "[2, 0]", "[[], []]", Ok(&[]));
    check("UINT8", "[2, 0]", "[]", Ok(&[]));
}

#[test]
fn data_that_does_not_fit_its_shape() {
    let deep = Err("element 0 of \"data\": it must be a number, got an array");
    check("UINT8", "[3]", "[1, 2]", Err("\"data\" has 2 elements, shape [3] takes 3"));
    check(
        "UINT8",
        "[3]",
        "[1, 2, 3, 4, [], \"5\"]",
        Err("\"data\" has 6 elements, shape [3] takes 3"),
    );
    check("BOOL", "[3]", "[true]", Err("\"data\" has 1 elements, shape [3] takes 3"));
    check("UINT8", "[]", "[]", Err("\"data\" has 0 elements, shape [] takes 1"));
    check("UINT8", "[1]", "7", Err("\"data\" must be an array, got a number"));
    check("UINT8", "[1]", "{}", Err("\"data\" must be an array, got an object"));
    check(
        "UINT8",
        "[2, 2]",
        "[[1, 2], [3]]",
        Err("\"data\" has an array of 1 in dimension 1, shape [2, 2] takes 2"),
    );
    check(
        "UINT8",
        "[2, 2]",
        "[[1, 2], [3, 4], []]",
        Err("\"data\" has an array of 3 in dimension 0, shape [2, 2] takes 2"),
    );
    check(
        "UINT8",
        "[2, 2]",
        "[[1, 2], 3]",
        Err("a row of \"data\" must be an array, got a number"),
    );
    check(
        "UINT8",
        "[2, 2]",
        "[1, 2, 3, [4]]",
        Err("element 3 of \"data\": it must be a number, got an array"),
    );
    check("UINT8", "[1]", "[[1]]", deep);
    check("UINT8", "[1, 1]", "[[[1]]]", deep);
    check(
        "UINT8",
        "[2, 1, 1]",
        "[[1], [2]]",
        Err("a row of \"data\" must be an array, got a number"),
    );
}

#[test]
fn elements_that_do_not_fit_their_datatype() {
    check("UINT8", "[2]", "[1, 256]", Err("element 1 of \"data\": 256 is out of range, 0 to 255"));
    check(
        "UINT64",
        "[1]",
        "[-1]",
        Err("element 0 of \"data\": -1 is out of range, 0 to 18446744073709551615"),
    );
    check("INT32", "[1]", "[1.0]", Err("element 0 of \"data\": 1.0 is not written as an integer"));
    check(
        "INT32",
        "[1]",
        "[true]",
        Err("element 0 of \"data\": it must be a number, got a boolean"),
    );
    check("BOOL", "[1]", "[1]", Err("element 0 of \"data\": it must be a boolean, got a number"));
    check("BYTES", "[1]", "[1]", Err("element 0 of \"data\": it must be a string, got a number"));
    check(
        "FP32",
        "[1]",
        "[\"1\"]",
        Err("element 0 of \"data\": it must be a number, got a string"),
    );
    check("FP32", "[1]", "[null]", Err("element 0 of \"data\": it must be a number, got null"));
    check("FP32", "[1]", "[1e39]", Err("element 0 of \"data\": 1e39 is out of range for FP32"));
    check("FP64", "[1]", "[-1e309]", Err("element 0 of \"data\": -1e309 is out of range for FP64"));
    check(
        "FP16",
        "[1]",
        "[1]",
        Err("FP16 has no JSON form; of the floating-point datatypes, FP32 and FP64 have one"),
    );
}

#[test]
fn shapes_that_are_none() {
    let overflow = |shape| format!("shape {shape} has more elements than can be addressed");
    for shape in
        ["[16, 1152921504606846978]", "[4, 1152921504606846978]", "[0, 9223372036854775807, 3]"]
    {
        check("FP32", shape, "[]", Err(&overflow(shape)));
    }
    check("FP32", "[-1, 4]", "[]", Err("\"shape\" has -1, which is no dimension"));
    check("FP32", "[1.5]", "[]", Err("\"shape\" has 1.5, which is no dimension"));
    check(
        "FP32",
        "[9223372036854775808]",
        "[]",
        Err("\"shape\" has 9223372036854775808, which is no dimension"),
    );
    check("FP32", "[\"1\"]", "[]", Err("a dimension of \"shape\" must be a number, got a string"));
    check("FP32", "4", "[]", Err("\"shape\" must be an array, got a number"));
    let long = format!("[{}1]", "1, ".repeat(64));
    check("FP32", &long, "[]", Err("\"shape\" has more than 64 dimensions"));
    // Only a claim: nothing is set aside for it.
    check(
        "FP64",
        "[1152921504606846975]",
        "[1]",
        Err("\"data\" has 1 elements, shape [1152921504606846975] takes 1152921504606846975"),
    );
}

/// The text of the error about `body`.
fn error_of(body: &str) -> String {
    decode(body).unwrap_err().to_string()
}

#[test]
fn what_is_missing_or_twice_is_named() {
    let x = r#"{"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}"#;
    for (body, problem) in [
        ("{}".into(), "\"inputs\" is missing"),
        ("[]".into(), "the body must be an object, got an array"),
        (r#"{"inputs": {}}"#.into(), "\"inputs\" must be an array, got an object"),
        (r#"{"inputs": [1]}"#.into(), "input \"#0\": it must be an object, got a number"),
        (format!("{{\"inputs\": [{x}, {x}]}}"), "input \"x\": is given twice"),
        (format!("{{\"inputs\": [{x}], \"inputs\": []}}"), "\"inputs\" is given twice"),
        (format!("{{\"inputs\": [{x}], \"outputs\": [{{}}]}}"), "an output has no \"name\""),
        (
            format!(
                "{{\"inputs\": [{x}], \"outputs\": [{{\"name\": \"y\"}}, {{\"name\": \"y\"}}]}}"
            ),
            "output \"y\" is asked for twice",
        ),
        (format!("{{\"inputs\": [{x}], \"id\": 7}}"), "\"id\" must be a string, got a number"),
        (
            format!("{{\"inputs\": [{x}], \"parameters\": {{\"p\": []}}}}"),
            "parameter \"p\" must be a string, a number or a boolean, got an array",
        ),
        (
            format!("{{\"inputs\": [{x}], \"parameters\": {{\"p\": 1e999}}}}"),
            "parameter \"p\": 1e999 is out of range",
        ),
        (
            format!("{{\"inputs\": [{x}], \"parameters\": {{\"p\": 1, \"p\": 1}}}}"),
            "\"parameter p\" is given twice",
        ),
        (
            format!("{{\"id\": \"{}\", \"inputs\": [{x}]}}", "i".repeat(1025)),
            "\"id\" is longer than 1024 bytes",
        ),
        (format!("{{\"inputs\": [{x}]}} x"), "malformed JSON at byte 75: expected the end"),
        (
            format!("{{\"inputs\": [{x}]"),
            "malformed JSON at byte 73: expected ',' or '}', got the end",
        ),
        (String::new(), "malformed JSON at byte 0: expected a value, got the end"),
    ] {
        assert_eq!(error_of(&body), problem, "{body}");
    }
    let many: Vec<_> = (0..1025).map(|n| x.replace('x', &n.to_string())).collect();
    assert!(
        error_of(&format!("{{\"inputs\": [{}]}}", many.join(","))).contains("more than 1024 items")
    );
    let long = error_of(&format!(
        "{{\"inputs\": [{}]}}",
        x.replace('x', &"n".repeat(1000)).replace("INT8", "X")
    ));
    assert!(long.len() < 300, "{long}");
    for (members, problem) in [
        (r#""shape": [1], "datatype": "INT8""#, "\"data\" is missing"),
        (r#""shape": [1], "data": [1]"#, "\"datatype\" is missing"),
        (r#""datatype": "INT8", "data": [1]"#, "\"shape\" is missing"),
        (
            r#""shape": [1], "datatype": "INT8", "data": [1], "data": [1]"#,
            "\"data\" is given twice",
        ),
        (
            r#""shape": [1], "datatype": "INT8", "data": [1], "shape": [1]"#,
            "\"shape\" is given twice",
        ),
        (
            r#""data": [1], "data": [1], "shape": [1], "datatype": "INT8""#,
            "\"data\" is given twice",
        ),
    ] {
        assert_eq!(input_of(members).unwrap_err(), format!("input \"x\": {problem}"));
    }
    let nameless = error_of(&format!("{{\"inputs\": [{x}, {}]}}", x.replace("name", "nom")));
    assert_eq!(nameless, "input \"#1\": \"name\" is missing");
    let datatype = input_of(r#""datatype": "fp32""#).unwrap_err();
    assert!(
        datatype.starts_with("input \"x\": datatype \"fp32\" is none of BOOL, UINT8"),
        "{datatype}"
    );
    assert!(matches!(decode(b"{\"id\": \"\xff\"}"), Err(OipError::Malformed { at: 8, .. })));
}

#[test]
fn the_rest_of_a_request() {
    let body = br#" {"other": [NaN, {"deep": []}], "outputs": [{"name": "b", "parameters": {"binary_data": false}}, {"name": "a"}],
        "parameters": {"s": "1", "n": 2.5, "b": true}, "id": "a\"b", "inputs": []} "#;
    let request = decode(body).unwrap();
    let parameters = serde_json::json!({"s": "1", "n": 2.5, "b": true});
    assert_eq!(request.id.as_deref(), Some("a\"b"));
    assert_eq!(Value::Object(request.parameters), parameters);
    assert_eq!(request.outputs, ["b", "a"]);
    for not_sent in [
        r#"{"id": "", "inputs": []}"#,
        r#"{"id": null, "parameters": null, "outputs": null, "inputs": []}"#,
    ] {
        assert_eq!(decode(not_sent).unwrap(), InferRequest::default());
    }
}

/// What the fuzzer has found worth keeping neither panics nor runs away.
#[test]
fn the_fuzzers_bodies_are_taken_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/infer_request");
    let is_taken = |file: std::io::Result<std::fs::DirEntry>| {
        decode(std::fs::read(file.unwrap().path()).unwrap()).is_ok()
    };
    let taken: Vec<bool> = std::fs::read_dir(folder).unwrap().map(is_taken).collect();
    assert!(taken.contains(&true) && taken.contains(&false));
}

#[test]
fn data_as_they_are_follow_in_the_order_of_the_inputs() {
    let head = r#"{"inputs": [
        {"name": "x", "shape": [2], "datatype": "FP16", "parameters": {"binary_data_size": 4}},
        {"name": "y", "shape": [1], "datatype": "INT8", "data": [7]},
        {"parameters": {"binary_data_size": 7}, "datatype": "BYTES", "shape": [1], "name": "z"},
        {"name": "none", "shape": [0], "datatype": "FP32", "parameters": {"binary_data_size": 0}}],
        "outputs": [{"name": "a", "parameters": {"binary_data": false}}, {"name": "b"}],
        "parameters": {"binary_data_output": true}}"#;
    let body = Bytes::from([head.as_bytes(), b"\x00\x3c\x00\xbc", b"\x03\0\0\0\xffab"].concat());
    let request = decode_infer(&body, head.len()).unwrap();
    let inputs: Vec<_> = request
        .inputs
        .iter()
        .map(|input| (input.name.as_str(), input.tensor.data().as_ref()))
        .collect();
    let expected: [(&str, &[u8]); 4] =
        [("x", b"\x00\x3c\x00\xbc"), ("y", &[7]), ("z", b"\x03\0\0\0\xffab"), ("none", b"")];
    assert_eq!(inputs, expected);
    assert_eq!(["a", "b", "c"].map(|output| request.binary.wants(output)), [false, true, true]);
}

#[test]
fn a_little_of_a_long_body_does_not_keep_all_of_it() {
    for (padding, shares) in [(0, true), (3000, true), (5000, false)] {
        let padding = "x".repeat(padding);
        let head = format!(
            r#"{{"parameters": {{"padding": "{padding}"}}, "inputs": [
            {{"name": "x", "shape": [2000], "datatype": "UINT8", "parameters": {{"binary_data_size": 2000}}}},
            {{"name": "y", "shape": [2000], "datatype": "UINT8", "parameters": {{"binary_data_size": 2000}}}}]}}"#
        );
        let body = Bytes::from([head.as_bytes(), &[7; 4000]].concat());
        let request = decode_infer(&body, head.len()).unwrap();
        let of_body =
            |input: &NamedTensor| body.as_ptr_range().contains(&input.tensor.data().as_ptr());
        assert!(request.inputs.iter().all(|input| of_body(input) == shares), "{}", padding.len());
        assert!(request.inputs.iter().all(|input| input.tensor.data()[..] == [7; 2000]));
    }
}

#[test]
fn data_that_do_not_fit_their_head_are_refused() {
    let check = |input: &str, data: &[u8], problem: &str| {
        let head = format!(r#"{{"inputs": [{{"name": "x", {input}}}]}}"#);
        let body = Bytes::from([head.as_bytes(), data].concat());
        let error = decode_infer(&body, head.len()).unwrap_err().to_string();
        assert_eq!(error, problem, "{input}");
    };
    let sized = |datatype: &str, shape: &str, size: &str| {
        let parameters = format!("\"parameters\": {{\"binary_data_size\": {size}}}");
        format!("\"datatype\": \"{datatype}\", \"shape\": {shape}, {parameters}")
    };
    let range = r#"input "x": "binary_data_size" must be 0 to 4, the bytes that are left"#;
    for size in ["5", "-1", "1.5", "\"4\"", "18446744073709551615"] {
        check(&sized("FP32", "[1]", size), &[0; 4], range);
    }
    check(
        &sized("FP32", "[1]", "4"),
        &[0; 6],
        r#"no input's "binary_data_size" takes the last 2 bytes"#,
    );
    check(
        &sized("FP32", "[2]", "4"),
        &[0; 4],
        r#"input "x": shape [2] of FP32 takes 8 bytes, got 4"#,
    );
    check(
        &format!("{}, \"data\": [1]", sized("FP32", "[1]", "4")),
        &[0; 4],
        r#"input "x": has both "data" and "binary_data_size""#,
    );
    check(
        r#""datatype": "FP32", "shape": [1], "data": [1]"#,
        &[0],
        r#"no input's "binary_data_size" takes the last 1 bytes"#,
    );
    let error = decode_infer(&Bytes::from_static(b"{}"), 3).unwrap_err().to_string();
    assert_eq!(error, "3 bytes of JSON are announced, the body has 2");
    let asked = r#"{"inputs": [], "parameters": {"binary_data_output": 1}}"#;
    assert_eq!(error_of(asked), "parameter \"binary_data_output\" must be true or false");
}
