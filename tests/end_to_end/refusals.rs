//! Files that are refused: components, models, endpoint files.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::files::{self, DIGITS_CONFIG, bare, digits_endpoint, guest, plugin};
use crate::support::host::{berth, check_refused};
use crate::support::{Host, Request, beside, onnx};

#[test]
pub(crate) fn components_that_are_no_plugins_are_refused() {
    let host = Host::start();
    let weighted = fs::read(plugin("weighted")).unwrap();
    let mut two_manifests = weighted.clone();
    two_manifests.extend_from_slice(b"\0\x11\x0eberth:manifest{}");
    let component = |name: &str, bytes: &[u8]| host.file(name, bytes);
    for (name, file, part) in [
        (
            "no known world",
            guest("unknown-world"),
            "exports no world of Berth's: found wasi:cli/run",
        ),
        (
            "an import that is not granted",
            guest("forbidden-import"),
            "imports wasi:clocks/monotonic-clock@0.2",
        ),
        ("an empty file", component("empty", b""), "wasm32-wasip2"),
        ("text", component("text", b"hello"), "wasm32-wasip2"),
        ("a core module", component("core", b"\0asm\x01\0\0\0"), "core module"),
        ("half of one", component("half", &weighted[..weighted.len() / 2]), "wasm32-wasip2"),
        ("all but its end", component("end", &weighted[..weighted.len() - 1]), "wasm32-wasip2"),
        ("two manifests", component("two", &two_manifests), "there is more than one"),
        ("a model", files::digits().join("digits-1.onnx"), "wasm32-wasip2"),
    ] {
        let file = file.to_str().unwrap();
        check_refused(name, &host.cli(&["plugin", "push", "p", file]), part);
        // Looking at it needs no host, and says the same.
        check_refused(name, &berth(&["plugin", "inspect", file], None, Path::new("/")), part);
        host.refused(&["plugin", "show", "p"], "there is no plugin p");
    }
    for name in ["P", "p@1", ".p", "p q", "\u{e9}", &"p".repeat(65)] {
        let weighted = plugin("weighted");
        host.refused(&["plugin", "push", name, weighted.to_str().unwrap()], "is no name");
    }
    // One byte too many, of which none is sent.
    let large = host.file("large.wasm", "");
    fs::File::options().write(true).open(&large).unwrap().set_len((64 << 20) + 1).unwrap();
    host.refused(&["plugin", "push", "p", large.to_str().unwrap()], "limit of 67108864 bytes");
    assert_eq!(host.json(&["plugin", "list"]), json!([]));
}

#[test]
fn models_that_do_not_parse_are_refused() {
    let host = Host::start();
    let model = fs::read(files::digits().join("digits-1.onnx")).unwrap();
    for (name, content) in [
        ("an empty file", &b""[..]),
        ("text", b"hello"),
        ("half of one", &model[..model.len() / 2]),
        ("a component", &fs::read(plugin("weighted")).unwrap()),
    ] {
        let file = host.file("model.onnx", content);
        check_refused(
            name,
            &host.cli(&["model", "push", "m", file.to_str().unwrap()]),
            "model m: ",
        );
        host.refused(&["model", "show", "m"], "there is no model m");
    }
    host.refused(&["model", "push", "m", "missing.onnx"], "cannot open missing.onnx");
    assert_eq!(host.json(&["model", "list"]), json!([]));
}

/// ONNX Runtime does not guard itself against such models; the host does not open them.
#[test]
fn models_that_end_their_process_or_take_too_much_are_refused() {
    let host = Host::with_healthy(&["--trial-cpu", "1"]);
    for (name, model, part) in [
        ("fatal", onnx::fatal(), "a division of whole numbers that has no result"),
        ("slow", onnx::slow_to_open(), "give `berth serve` a higher --trial-cpu"),
    ] {
        let file = host.file(&format!("{name}.onnx"), model);
        let file = file.to_str().unwrap();
        beside(&host, &Request::healthy(), |_| {
            let pushed = host.cli(&["model", "push", name, file]);
            let said = format!("{file} is not pushed: model {name}: the file is refused");
            check_refused(name, &pushed, &said);
            check_refused(name, &pushed, part);
        });
        host.refused(&["model", "show", name], &format!("there is no model {name}"));
    }
    assert_eq!(host.push_model("adder", &onnx::adder(1.0)), 1);
}

#[test]
fn endpoint_files_that_do_not_fit_are_refused() {
    let host = Host::with_digits(&[]);
    host.push("plugin", "weighted", &plugin("weighted"));
    host.push("plugin", "targeting", &plugin("targeting"));
    host.file("three.txt", "one\ntwo\nthree");
    let good = digits_endpoint(2);
    let live = host.apply(&good);
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let config = |config: &str| with(DIGITS_CONFIG, config);
    let providers = |providers: &str| format!("models.digits.providers = {providers}\n{good}");
    let two = |routing: &str| {
        format!("name = \"digits\"\n{routing}\n{}{}", bare("a", "digits@1"), bare("b", "digits@2"))
    };
    let routed = |policy: &str, config: &str| {
        two(&format!("routing = {{ policy = \"{policy}\", config = {{ {config} }} }}"))
    };
    for (name, file, part) in [
        ("nothing", String::new(), "missing field `name`"),
        ("no TOML", "name = ".into(), "line 1"),
        ("an unknown key", format!("colour = 1\n{good}"), "unknown field `colour`"),
        ("an unknown key of a variant", with("models =", "modles ="), "modles"),
        ("a name that is none", with("\"digits\"", "\"Digits\""), "\"Digits\" is no name"),
        ("no variant", "name = \"digits\"\nvariants = []".into(), "variants: give 1 to 64"),
        (
            "a missing version of a model",
            with("digits@2", "digits@3"),
            "variants.main.models.default: there is no model digits@3; digits has version 1, 2",
        ),
        (
            "a missing model",
            with("digits@2", "numbers@1"),
            "variants.main.models.default: there is no model numbers",
        ),
        ("a missing alias", with("digits@2", "digits@best"), "there is no model digits@best"),
        ("a reference that is none", with("digits@2", "digits"), "\"digits\" is no reference"),
        (
            "a missing version of a plugin",
            with("classifier@1", "classifier@2"),
            "variants.main.processor: there is no plugin image-classifier@2; image-classifier has version 1",
        ),
        (
            "a missing plugin",
            with("image-classifier@1", "none@1"),
            "variants.main.processor: there is no plugin none",
        ),
        (
            "a policy as processor",
            with("image-classifier@1", "weighted@1"),
            "variants.main.processor: weighted@1 is a policy, expected a processor",
        ),
        (
            "a missing role",
            with("default =", "other ="),
            "variants.main.models: the processor uses the role \"default\"",
        ),
        (
            "a role too many",
            with("default =", "other = \"digits@1\", default ="),
            "variants.main.models: the processor knows no \"other\"",
        ),
        (
            "an unknown key of the configuration",
            config("{ widht = 8 }"),
            "variants.main.config.widht: refused by image-classifier@1: unknown field `widht`",
        ),
        (
            "a wrong type in the configuration",
            config("{ width = \"8\" }"),
            "variants.main.config.width: refused by image-classifier@1: invalid type",
        ),
        (
            "a configuration against the model",
            config("{ width = 7, height = 8, channels = \"grey\", shape = [1, 64] }"),
            "variants.main.config.shape: refused by image-classifier@1: 7 x 8 pixels in grey are 56 values, which shape [1, 64] does not hold; input `input` of digits@2 has shape [-1, 64]: give",
        ),
        (
            "a missing file",
            format!("{good}assets = {{ labels = \"none.txt\" }}"),
            "variants.main.assets.labels: cannot open",
        ),
        (
            "a missing blob",
            format!("{good}assets = {{ labels = \"sha256:{}\" }}", "0".repeat(64)),
            "variants.main.assets.labels: there is no blob",
        ),
        (
            "a digest that is none",
            format!("{good}assets = {{ labels = \"sha256:12\" }}"),
            "variants.main.assets.labels",
        ),
        (
            "an unknown asset",
            format!("{good}assets = {{ names = \"three.txt\" }}"),
            "variants.main.assets: the processor knows no \"names\"",
        ),
        (
            "an asset that does not fit",
            format!("{good}assets = {{ labels = \"three.txt\" }}"),
            "variants.main.config.labels: refused by image-classifier@1: 3 labels for the 10 classes of digits@2",
        ),
        ("several variants without routing", two(""), "routing: several variants need a policy"),
        (
            "two variants of one name",
            format!("{}{}", two("routing = { policy = \"weighted@1\" }"), bare("a", "digits@1")),
            "variants.a: there are two",
        ),
        (
            "a processor as policy",
            routed("image-classifier@1", ""),
            "routing.policy: image-classifier@1 is a processor, expected a policy",
        ),
        ("a missing policy", routed("none@1", ""), "routing.policy: there is no plugin none"),
        (
            "a missing key of a policy",
            routed("weighted@1", ""),
            "routing.config.weights: refused by weighted@1: missing field",
        ),
        (
            "an unknown key of a policy",
            routed("weighted@1", "weights = { a = 1 }, wait = 1"),
            "routing.config.wait: refused by weighted@1",
        ),
        (
            "an unknown arm",
            routed("weighted@1", "weights = { c = 1 }"),
            "routing.config.weights.c: refused by weighted@1: there is no arm `c`; the arms are a, b",
        ),
        (
            "a negative weight",
            routed("weighted@1", "weights = { a = -1, b = 2 }"),
            "routing.config.weights.a",
        ),
        ("no weight", routed("weighted@1", "weights = { a = 0 }"), "routing.config.weights"),
        (
            "an unknown arm of a rule",
            routed("targeting@1", "default = \"c\""),
            "routing.config.default: refused by targeting@1",
        ),
        (
            "an undeclared attribute",
            routed(
                "targeting@1",
                "default = \"a\", rules = [{ arm = \"b\", when = { attribute = \"user\", equals = \"x\" } }]",
            ),
            "routing.config.rules[0].when.attribute",
        ),
        ("a unit that is no attribute", format!("unit = \"user\"\n{good}"), "unit: "),
        (
            "an attribute from nowhere",
            format!("attributes = {{ user = {{ cookie = \"u\" }} }}\n{good}"),
            "cookie",
        ),
        ("a rollout", format!("rollout = {{ policy = \"none@1\" }}\n{good}"), "rollout.policy: "),
        ("no time", format!("timeout_ms = 0\n{good}"), "timeout_ms: "),
        (
            "a configuration without a processor",
            format!("{}config = {{ a = 1 }}", files::tensors("digits", "digits@1")),
            "variants.main.config: there is no processor",
        ),
        (
            "two models without a processor",
            files::tensors("digits", "digits@1")
                .replace("default =", "a = \"digits@1\", default ="),
            "variants.main.models: without a processor there is exactly one model",
        ),
        (
            "an unknown provider",
            providers("[\"npu\"]"),
            "models.digits.providers: there is no provider \"npu\", only cuda, cpu",
        ),
        (
            "a provider behind the CPU",
            providers("[\"cpu\", \"cuda\"]"),
            "models.digits.providers: cpu has all operators",
        ),
        (
            "an unknown option of a provider",
            providers("[{ cuda = { user_compute_stream = \"1\" } }]"),
            "models.digits.providers: cuda has no option \"user_compute_stream\"; it has ",
        ),
        ("no provider", providers("[{ cuda = 1 }]"), "is no provider: write \"NAME\" or "),
        (
            "a provider that ONNX Runtime was built without",
            providers("[{ cuda = { device_id = 0, use_tf32 = false } }, \"cpu\"]"),
            "model digits@2: the provider cuda of ONNX Runtime ",
        ),
    ] {
        host.apply_refused(name, &file, part);
        let answer = host.send(&Request::invoke("digits", files::an_eight()));
        assert_eq!((answer.revision(), answer.label().as_str()), (&*live, "8"), "{name}");
    }
    host.refused(&["apply", "none.toml"], "cannot read none.toml");
    assert_eq!(host.apply(&good), live);
    assert_eq!(host.json(&["endpoint", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn the_admin_port_refuses_in_json() {
    let host = Host::start();
    let spec = |body: &str| Request::post("/v1/endpoints", "application/json", body);
    for (request, status, part) in [
        (Request::get("/v1"), 404, "/v1"),
        (Request::get("/v2/health/live"), 404, "/v2/health/live"),
        (Request::post("/v1/models", "text/plain", ""), 405, "does not take POST"),
        (Request::get("/v1/models/none"), 404, "there is no model none"),
        (Request::get("/v1/models/No"), 400, "is no name"),
        (Request::get("/v1/models/%ff"), 400, "Invalid UTF-8"),
        (Request::post("/v1/models/m", "text/plain", "no model"), 400, "model m: "),
        (Request::post("/v1/plugins/p", "text/plain", "no plugin"), 400, "plugin p: "),
        (Request::post("/v1/plugins/p?colour=1", "text/plain", ""), 400, "colour"),
        (Request::post("/v1/plugins/p?dry_run=maybe", "text/plain", ""), 400, "dry_run"),
        (spec("{"), 400, "EOF"),
        (spec("[]"), 400, "the endpoint: "),
        (spec(r#"{"name":"e","variants":[],"colour":1}"#), 400, "colour"),
        (Request::post("/v1/endpoints", "text/plain", "{}"), 415, "application/json"),
        (spec(&"x".repeat(2 << 20)), 413, "limit"),
        (Request::get("/v1/endpoints/none"), 404, "there is no endpoint none"),
        (Request::get("/v1/endpoints/none/history"), 404, "there is no endpoint none"),
        (
            Request::post("/v1/endpoints/none/rollback", "text/plain", ""),
            404,
            "there is no endpoint none",
        ),
        (Request::new("DELETE", "/v1/endpoints/none"), 404, "there is no endpoint none"),
        (Request::new("PUT", "/v1/models/m/aliases/a"), 400, "version"),
        (Request::new("PUT", "/v1/models/m/aliases/a?version=1"), 404, "there is no model m"),
    ] {
        host.ask_admin(&request).check_error(&format!("{request:.300?}"), status, part);
    }
}
