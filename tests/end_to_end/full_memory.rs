//! No memory for a model, nor for a run.

use std::fs;

use berth_onnx::networks::resnet18;
use serde_json::json;

use crate::support::files::tensors;
use crate::support::host::check_refused;
use crate::support::{Host, Request, onnx};

#[test]
fn what_finds_no_memory_is_refused_and_the_rest_goes_on() {
    let host = Host::start();
    host.push_model("zeros", &onnx::zeros());
    host.apply(&tensors("zeros", "zeros@1"));
    let zeros = |count: u64| {
        let input = json!({"name": "n", "datatype": "INT64", "shape": [1], "data": [count]});
        let body = json!({ "inputs": [input] }).to_string();
        host.send(&Request::post("/v2/models/zeros/infer", "application/json", body))
    };
    let serves = || assert_eq!(zeros(3).output(), [0.0; 3]);
    serves();
    // More than any machine has.
    zeros(1 << 44).check_error("a run", 500, "there is no memory left for this run; give it less");
    serves();

    let file = host.file("resnet18.onnx", resnet18());
    let push = || host.cli(&["model", "push", "resnet18", file.to_str().unwrap()]);
    let status = fs::read_to_string(format!("/proc/{}/status", host.process())).unwrap();
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    let data: u64 = data.trim().trim_end_matches(" kB").parse().unwrap();
    // Room for all that comes and goes, and not for 45 MB of weights.
    host.limit("data", &((data << 10) + (24 << 20)).to_string());
    check_refused("a model", &push(), "model resnet18: there is no memory left for ");
    serves();
    host.limit("data", "unlimited");
    assert_eq!(host.push("model", "resnet18", &file), 1);
    serves();
}
