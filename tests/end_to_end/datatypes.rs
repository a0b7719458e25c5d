//! Tensors of every datatype, over JSON, through ONNX Runtime and through a processor.

use berth_tensor::DataType;
use serde_json::{Value, json};

use crate::support::files::{bare, guest, plugin, tensors, variant};
use crate::support::{Host, Request, onnx};

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

#[test]
fn what_is_no_number_is_written_as_python_does() {
    let host = Host::start();
    host.push_model("same", &onnx::identity(DataType::Fp32, &[-1]));
    host.push_model("half", &onnx::to_half());
    host.apply(&tensors("same", "same@1"));
    host.apply(&tensors("half", "half@1"));
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[3],"data":[NaN,Infinity,-Infinity]}]}"#;
    let answer = host.send(&Request::post("/v2/models/same/infer", "application/json", body));
    assert!(answer.text().contains(r#""data":[NaN,Infinity,-Infinity]"#), "{}", answer.text());
    let answer = host.send(&Request::infer("half", "x", &[1], &[0.5]));
    answer.check_error("an FP16 output", 500, "FP16 has no JSON form");
}
