//! Tensors of every datatype, over JSON, through ONNX Runtime and through a processor.

use berth_tensor::DataType;
use serde_json::{Value, json};

use crate::support::files::{bare, guest, plugin, tensors, variant};
use crate::support::{Answer, Host, Request, onnx};

/// The protocol's name, and three elements at the edges.
const DATATYPES: [(&str, &str); 12] = [
    ("FP32", "[0.1,-3.4028235e38,1e-45]"),
    ("UINT8", "[0,255,7]"),
    ("INT8", "[-128,127,0]"),
    ("UINT16", "[0,65535,7]"),
    ("INT16", "[-32768,32767,0]"),
    ("INT32", "[-2147483648,2147483647,0]"),
    ("INT64", "[-9223372036854775808,9223372036854775807,0]"),
    ("BYTES", r#"["","h\u00e9llo","a\"b\\\n"]"#),
    ("BOOL", "[true,false,true]"),
    ("FP64", "[0.1,1.7976931348623157e308,5e-324]"),
    ("UINT32", "[0,4294967295,7]"),
    ("UINT64", "[0,18446744073709551615,7]"),
];

#[test]
pub(crate) fn every_datatype_comes_back_as_it_was_sent() {
    let host = Host::start();
    host.push("plugin", "probe", &guest("probe"));
    host.push("plugin", "weighted", &plugin("weighted"));
    let mut variants = String::new();
    for (datatype, _) in DATATYPES {
        let name = datatype.to_lowercase();
        host.push_model(&name, &onnx::identity(DataType::from_name(datatype).unwrap(), &[-1]));
        variants += &bare(&name, &format!("{name}@1"));
        let models = format!("default = \"{name}@1\"");
        variants += &variant(&format!("{name}-guest"), "probe@1", &models, "mode = \"model\"");
        variants += &variant(&format!("{name}-echo"), "probe@1", &models, "mode = \"tensors\"");
    }
    host.apply(&format!(
        "name = \"types\"\ndirect = true\nrouting = {{ policy = \"weighted@1\", config = {{ weights = {{ fp32 = 1 }} }} }}\n{variants}"
    ));
    let mut connection = host.connect();
    for (datatype, data) in DATATYPES {
        let body = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[3],"data":{data}}}]}}"#
        );
        for (way, output) in [("", "y"), ("-guest", "y"), ("-echo", "x")] {
            let variant = format!("{}{way}", datatype.to_lowercase());
            let target = format!("/v2/models/types/versions/{variant}/infer");
            let answer =
                connection.send(&Request::post(&target, "application/json", &body)).unwrap();
            assert_eq!(answer.status, 200, "{variant}: {}", answer.text());
            let data: Value = serde_json::from_str(data).unwrap();
            let expected =
                json!([{"name": output, "datatype": datatype, "shape": [3], "data": data}]);
            assert_eq!(answer.json()["outputs"], expected, "{variant}");
        }
    }
}

/// ONNX's name, and its codes of 1, -0.5, the largest number, 0.013671875 and no number.
const FLOATS_OF_8_BITS: [(&str, [u8; 5]); 4] = [
    ("FLOAT8E4M3FN", [0x38, 0xb0, 0x7e, 0x07, 0x7f]),
    ("FLOAT8E4M3FNUZ", [0x40, 0xb8, 0x7f, 0x0e, 0x80]),
    ("FLOAT8E5M2", [0x3c, 0xb8, 0x7b, 0x23, 0x7f]),
    ("FLOAT8E5M2FNUZ", [0x40, 0xbc, 0x7f, 0x27, 0x80]),
];

/// Sends one input as it is, and asks for the outputs as they are.
fn binary(host: &Host, endpoint: &str, datatype: &str, data: &[u8], elements: usize) -> Answer {
    let head = json!({
        "inputs": [{"name": "x", "datatype": datatype, "shape": [elements], "parameters": {"binary_data_size": data.len()}}],
        "parameters": {"binary_data_output": true},
    });
    let head = head.to_string();
    let body = [head.as_bytes(), data].concat();
    let target = format!("/v2/models/{endpoint}/infer");
    let infer = Request::post(&target, "application/octet-stream", body);
    host.send(&infer.header("Inference-Header-Content-Length", &head.len().to_string()))
}

#[test]
fn floats_of_8_bits_go_as_they_are() {
    let host = Host::start();
    host.push("plugin", "probe", &guest("probe"));
    for (name, codes) in FLOATS_OF_8_BITS {
        let datatype = DataType::from_name(name).unwrap();
        let [to, back] = ["to", "back"].map(|way| format!("{way}-{}", name.to_lowercase()));
        host.push_model(&to, &onnx::casts(DataType::Fp32, datatype));
        host.push_model(&back, &onnx::casts(datatype, DataType::Fp32));
        host.apply(&tensors(&to, &format!("{to}@1")));
        host.apply(&tensors(&back, &format!("{back}@1")));

        let port = |port: &str, datatype: &str| json!([{"name": port, "datatype": datatype, "shape": [-1]}]);
        for (endpoint, sides) in [(&to, ["FP32", name]), (&back, [name, "FP32"])] {
            let metadata = host.send(&Request::get(&format!("/v2/models/{endpoint}"))).json();
            assert_eq!(metadata["inputs"], port("x", sides[0]), "{endpoint}");
            assert_eq!(metadata["outputs"], port("y", sides[1]), "{endpoint}");
        }

        let check = |answer: Answer, datatype: &str, count: usize, expected: &[u8]| {
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            let length = answer.header("inference-header-content-length").unwrap();
            let (head, data) = answer.body.split_at(length.parse().unwrap());
            let head: Value = serde_json::from_slice(head).unwrap();
            let parameters = json!({"binary_data_size": expected.len()});
            let output = json!([{"name": "y", "datatype": datatype, "shape": [count], "parameters": parameters}]);
            assert_eq!((&head["outputs"], data), (&output, expected), "{name}");
        };
        let largest = match name {
            "FLOAT8E4M3FN" => 448.0,
            "FLOAT8E4M3FNUZ" => 240.0,
            _ => 57344.0,
        };
        // A cast ends at the largest number.
        let sent = [1.0, -0.5, 1e6, 0.013_671_875, f32::NAN].map(f32::to_le_bytes).concat();
        check(binary(&host, &to, "FP32", &sent, 5), name, 5, &codes);
        // Whether no number is positive is nobody's business.
        let read = [1.0, -0.5, largest, 0.013_671_875].map(f32::to_le_bytes).concat();
        check(binary(&host, &back, name, &codes[..4], 4), "FP32", 4, &read);

        let answer = host.send(&Request::infer(&to, "x", &[1], &[1.0]));
        let part = format!("output \"y\": {name} has no JSON form; ask for it");
        answer.check_error("an output as JSON", 500, &part);
        let body =
            format!(r#"{{"inputs":[{{"name":"x","datatype":"{name}","shape":[1],"data":[1]}}]}}"#);
        let target = format!("/v2/models/{back}/infer");
        let answer = host.send(&Request::post(&target, "application/json", body));
        answer.check_error("an input as JSON", 400, &format!("{name} has no JSON form"));

        for (model, side) in [(&to, "output \"y\""), (&back, "input \"x\"")] {
            let processor = format!(
                "name = \"guest\"\n{}",
                variant("main", "probe@1", &format!("default = \"{model}@1\""), "mode = \"model\"")
            );
            let part = format!(
                "variants.main.models.default: {side} of {model}@1 is {name}, which plugins have no name for: serve the model without a processor"
            );
            host.apply_refused(model, &processor, &part);
        }
    }
    host.push_model("plain", &onnx::identity(DataType::Fp32, &[-1]));
    let echo = variant("main", "probe@1", "default = \"plain@1\"", "mode = \"tensors\"");
    host.apply(&format!("name = \"echo\"\n{echo}"));
    let answer = binary(&host, "echo", "FLOAT8E5M2", &[0x3c], 1);
    let part = "input \"x\": a processor takes no tensor of FLOAT8E5M2";
    answer.check_error("handed to a processor", 400, part);
}

#[test]
fn what_is_no_number_is_written_as_python_does() {
    let host = Host::start();
    host.push_model("same", &onnx::identity(DataType::Fp32, &[-1]));
    host.push_model("half", &onnx::casts(DataType::Fp32, DataType::Fp16));
    host.apply(&tensors("same", "same@1"));
    host.apply(&tensors("half", "half@1"));
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[3],"data":[NaN,Infinity,-Infinity]}]}"#;
    let answer = host.send(&Request::post("/v2/models/same/infer", "application/json", body));
    assert!(answer.text().contains(r#""data":[NaN,Infinity,-Infinity]"#), "{}", answer.text());
    let answer = host.send(&Request::infer("half", "x", &[1], &[0.5]));
    answer.check_error("an FP16 output", 500, "FP16 has no JSON form");
}
