//! What is recorded of predictions, what is said of them afterwards, and what both come to.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::rollouts::begin;
use crate::support::files::{bare, digits_endpoint, guest, pictures, plugin, told};
use crate::support::{Answer, Host, Request, onnx, until};

const USER: &str = "attributes = { user = { header = \"x-user\" }, region = { query = \"region\" } }\nunit = \"user\"\n";

/// An endpoint on one model, with these keys of `[predictions]`.
fn recording(name: &str, model: &str, keys: &str) -> String {
    format!("name = {name:?}\n{USER}[predictions]\n{keys}\n{}", bare("main", model))
}

/// A host whose endpoint `adder` answers its input and one more.
fn host(keys: &str) -> Host {
    let host = Host::start();
    host.push_model("adder", &onnx::adder(1.0));
    host.apply(&recording("adder", "adder@1", keys));
    host
}

fn ask(user: &str, region: &str, x: &[f32]) -> Request {
    let inputs = json!([{"name": "x", "datatype": "FP32", "shape": [x.len()], "data": x}]);
    let target = format!("/v2/models/adder/infer?region={region}");
    let body = json!({ "inputs": inputs }).to_string();
    Request::post(&target, "application/json", body).header("x-user", user)
}

fn id(answer: &Answer) -> String {
    answer.header("berth-prediction").unwrap().to_owned()
}

/// The recorded predictions, latest first.
fn recorded(host: &Host, endpoint: &str, asked: &[&str]) -> Vec<Value> {
    let query = ["predictions", "query", endpoint, "--format", "json"];
    let lines = host.ok(&[&query[..], asked].concat());
    lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn say(host: &Host, endpoint: &str, said: &Value) -> Answer {
    let target = format!("/v2/models/{endpoint}/feedback");
    host.send(&Request::post(&target, "application/json", said.to_string()))
}

/// Says something and checks how much of it was accepted, a duplicate, unknown.
#[track_caller]
fn check_said(host: &Host, said: &Value, expected: [u64; 3]) {
    let answer = say(host, "adder", said);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let [accepted, duplicate, unknown] = expected;
    let expected = json!({"accepted": accepted, "duplicate": duplicate, "unknown": unknown});
    assert_eq!(answer.json(), expected, "{said}");
}

/// The files of an endpoint.
fn files(host: &Host, endpoint: &str) -> Vec<PathBuf> {
    let folder = host.folder().join("data/predictions").join(endpoint);
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn rows_are_what_clients_saw() {
    let host = host("inputs = \"tensors\"\noutputs = \"tensors\"\nprediction = \"y\"");
    let mut connection = host.connect();
    let mut expected = BTreeMap::new();
    for n in 0..50_u8 {
        let x = [f32::from(n), 0.5];
        let (user, region) = (format!("u{n}"), if n % 2 == 0 { "eu" } else { "us" });
        // Of what has one element that, of what has several the place of the greatest is predicted.
        let x = if n % 5 == 0 { &x[..1] } else { &x[..] };
        let answer = connection.send(&ask(&user, region, x)).unwrap();
        expected.insert(id(&answer), (user, region, x.to_vec(), answer));
    }
    let wrong = host.send(&Request::infer("adder", "z", &[1], &[0.0]));
    wrong.check_error("another input", 400, "z");
    let rows = recorded(&host, "adder", &[]);
    assert_eq!(rows.len(), 51);
    let refused = &rows[0];
    assert_eq!(refused["prediction"], id(&wrong).as_str());
    assert_eq!(
        (&refused["status"], &refused["error"]),
        (&json!("invalid"), &wrong.json()["error"])
    );
    for row in &rows[1..] {
        let (user, region, x, answer) = &expected[row["prediction"].as_str().unwrap()];
        assert_eq!(row["attributes"], json!({"user": user, "region": region}));
        assert_eq!((&row["unit"], &row["status"]), (&json!(user), &json!("ok")));
        assert_eq!((&row["endpoint"], &row["propensity"]), (&json!("adder"), &json!(1.0)));
        assert_eq!(row["revision"], answer.revision());
        assert_eq!(row["variant"], answer.variant());
        assert_eq!(row["request_id"], answer.header("x-request-id").unwrap());
        let floats = |value: &Value| {
            let values = value.as_array().unwrap().iter();
            values.map(|value| value.as_f64().unwrap()).collect::<Vec<_>>()
        };
        let sent: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        assert_eq!(floats(&row["input.x"]), sent);
        assert_eq!(row["input.x.shape"], json!([x.len()]));
        assert_eq!(floats(&row["output.y"]), answer.output());
        let best = if x.len() == 1 { answer.output()[0] } else { f64::from(u8::from(x[0] < 0.5)) };
        assert_eq!(row["predicted"], best.to_string());
        assert!(row["latency_seconds"].as_f64().unwrap() > 0.0);
        assert!(row["model_seconds"].is_null());
    }
    for (asked, count) in [
        (&["--attribute", "region=eu"][..], 25),
        (&["--status", "invalid"], 1),
        (&["--variant", "main", "--limit", "7"], 7),
        (&["--variant", "other"], 0),
        (&["--since", "1h"], 51),
        (&["--until", "1h"], 0),
        (&["--id", &id(&wrong)], 1),
    ] {
        assert_eq!(recorded(&host, "adder", asked).len(), count, "{asked:?}");
    }
    for (asked, part) in [
        (&["--since", "yesterday"][..], "since: \"yesterday\" is no time"),
        (&["--id", "7"], "\"7\" is no id of a prediction"),
        (&["--attribute", "region"], "attribute: \"region\" is not ATTRIBUTE=VALUE"),
    ] {
        host.refused(&[&["predictions", "query", "adder"], asked].concat(), part);
    }
    let table = host.ok(&["predictions", "query", "adder", "--limit", "3"]);
    assert_eq!(table.lines().count(), 4);
    host.ok(&["predictions", "export", "adder", "--to", "out"]);
    let copied: HashSet<_> = fs::read_dir(host.folder().join("out"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    let kept: HashSet<_> =
        files(&host, "adder").iter().map(|file| fs::read(file).unwrap()).collect();
    assert_eq!(copied, kept);
    assert!(copied.iter().all(|file| file.starts_with(b"PAR1") && file.ends_with(b"PAR1")));
    host.ok(&["predictions", "export", "adder", "--to", "out.csv", "--status", "ok"]);
    let csv = fs::read_to_string(host.folder().join("out.csv")).unwrap();
    assert_eq!(csv.lines().count(), 51);
}

#[test]
fn only_what_is_declared_is_kept() {
    let host = Host::start();
    host.push_model("pair", &onnx::two_inputs());
    let cases = [
        ("", "user, region"),
        ("inputs = \"tensors\"", "user, region, input.a, input.b"),
        ("outputs = \"tensors\"\nredact = [\"sum\", \"user\"]", "region, output.difference"),
        ("inputs = [\"b\"]\noutputs = [\"sum\", \"body\"]", "user, region, input.b, output.sum"),
        ("inputs = [\"a\", \"b\"]\nredact = [\"b\"]", "user, region, input.a"),
    ];
    for (keys, kept) in cases {
        host.apply(&recording("adder", "pair@1", keys));
        let tensor =
            |name| json!({"name": name, "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
        let body = json!({"inputs": [tensor("a"), tensor("b")]}).to_string();
        let target = "/v2/models/adder/infer?region=eu";
        let answer = host.send(&Request::post(target, "", body).header("x-user", "zoe"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let row = recorded(&host, "adder", &["--id", &id(&answer)]).swap_remove(0);
        let attributes = ["user", "region"].into_iter().map(str::to_owned);
        let mut found: Vec<String> =
            attributes.filter(|name| !row["attributes"][name].is_null()).collect();
        let columns = row.as_object().unwrap().keys().filter(|name| name.contains('.'));
        found.extend(columns.filter(|name| !name.ends_with(".shape")).cloned());
        assert_eq!(found.join(", "), kept, "{keys}");
        assert_eq!(row["unit"].is_null(), keys.contains("user"), "{keys}");
        let text = row.to_string();
        assert_eq!(text.contains("zoe"), !keys.contains("user"), "{keys}: {text}");
    }
    for (keys, part) in [
        ("share = 0.0", "predictions.share: 0 is not above 0"),
        ("keep_days = 0", "predictions.keep_days: give 1 or more"),
        ("inputs = \"all\"", "\"none\", \"tensors\" or a list of names"),
        ("labels = \"numbers\"\npositive = \"1\"", "predictions.positive: goes with"),
        ("everything = true", "everything"),
        (
            "inputs = [\"sum\"]",
            "predictions.inputs: there is no \"sum\": give \"body\", a field of it such as \"/user/id\", \"a\", \"b\"",
        ),
        ("outputs = [\"a\"]", "predictions.outputs: there is no \"a\": give"),
        (
            "redact = [\"/a\", \"user\", \"emial\"]",
            "predictions.redact: there is no \"emial\": give \"predicted\", \"body\"",
        ),
        ("prediction = \"y\"", "predictions.prediction: there is no \"y\""),
        ("prediction = \"sum\"\nscore = \"a\"", "predictions.score: there is no \"a\""),
    ] {
        host.apply_refused(keys, &recording("adder", "pair@1", keys), part);
    }
}

#[test]
fn fields_of_bodies_are_chosen_and_left_out() {
    let host = Host::with_digits(&[]);
    let picture = &pictures()[0].png;
    for (keys, columns, body) in [
        (
            "outputs = [\"/predictions/0/label\", \"/predictions/1\", \"/none\"]\nredact = [\"/predictions/*/score\"]",
            "output./predictions/0/label, output./predictions/1",
            false,
        ),
        (
            "outputs = [\"body\"]\nredact = [\"/predictions/*/score\"]",
            "output.body, output.body.type",
            true,
        ),
        ("inputs = [\"body\", \"/a\"]\nredact = [\"/a/b\"]", "input.body, input.body.type", false),
        ("outputs = [\"body\", \"/predictions\"]\nredact = [\"body\"]", "", false),
    ] {
        let table =
            format!("[predictions]\nprediction = \"/predictions/0/label\"\n{keys}\n[[variants]]");
        host.apply(&digits_endpoint(1).replace("[[variants]]", &table));
        let answer = host.send(&Request::invoke("digits", picture));
        let row = recorded(&host, "digits", &["--id", &id(&answer)]).swap_remove(0);
        let found: Vec<&str> = row
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .filter(|name| name.contains('.'))
            .collect();
        assert_eq!(found.join(", "), columns, "{keys}: {row}");
        assert_eq!(row["predicted"], answer.label(), "{keys}");
        let seconds = ["latency_seconds", "processor_cpu_seconds", "model_seconds"]
            .map(|name| row[name].as_f64().unwrap());
        assert!(seconds.iter().all(|&seconds| seconds > 0.0), "{row}");
        assert!(seconds[0] >= seconds[2], "{row}");
        if columns.contains("/predictions/0") {
            assert_eq!(row["output./predictions/0/label"], answer.label());
        }
        if body {
            let mut expected = answer.json();
            for prediction in expected["predictions"].as_array_mut().unwrap() {
                prediction.as_object_mut().unwrap().remove("score").unwrap();
            }
            let text = row["output.body"].as_str().unwrap();
            assert_eq!(serde_json::from_str::<Value>(text).unwrap(), expected, "{keys}");
        }
    }
    let keys = "[predictions]\nredact = [\"emial\"]\n[[variants]]";
    let refused = digits_endpoint(1).replace("[[variants]]", keys);
    host.apply_refused("emial", &refused, "predictions.redact: there is no \"emial\"");
}

#[test]
fn files_are_read_as_they_are() {
    let host = host("outputs = \"tensors\"");
    let folder = host.folder().join("data/predictions/adder");
    let read = |columns: &[&str]| -> BTreeMap<String, Value> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/predictions/read.py");
        let mut python = Command::new(told("BERTH_READERS"));
        let said = python.arg(script).arg(&folder).args(columns).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).unwrap()
    };
    // A row without what later rows have: its file is the first.
    host.send(&Request::infer("adder", "z", &[1], &[0.0]));
    assert_eq!(recorded(&host, "adder", &[]).len(), 1);
    host.send(&ask("ada", "eu", &[1.0]));
    assert_eq!(recorded(&host, "adder", &[]).len(), 2);
    // As one that is being written.
    fs::write(folder.join(".2026-11-21T19-0.partial"), b"PAR1").unwrap();
    let found = read(&["output.y", "output.y.shape", "predicted"]);
    assert_eq!(found.len(), 6);
    for (way, found) in found {
        assert_eq!(found, json!([2, [1, 1, 1]]), "{way}");
    }
    // Of a folder whose columns have changed, by name.
    host.apply(&recording("adder", "adder@1", "inputs = \"tensors\"\noutputs = \"tensors\""));
    host.send(&ask("ada", "eu", &[1.0]));
    assert_eq!(recorded(&host, "adder", &[]).len(), 3);
    let found = read(&["output.y", "input.x"]);
    for way in ["pandas, each", "polars, each", "duckdb, by name"] {
        assert_eq!(found[way], json!([3, [2, 1]]), "{way}");
    }
}

#[test]
fn what_is_read_is_bothered_by_no_stray_file() {
    let host = host("prediction = \"y\"");
    let first = id(&host.send(&ask("ada", "eu", &[1.0])));
    let revision = recorded(&host, "adder", &[])[0]["revision"].as_str().unwrap().to_owned();
    let file = files(&host, "adder").swap_remove(0);
    let hour = file.file_name().unwrap().to_str().unwrap()[..13].to_owned();
    for name in [format!("{hour}-0.parquet"), "notes-of-today.parquet".into(), "x.parquet".into()] {
        fs::write(file.with_file_name(name), b"PAR1 this is none").unwrap();
    }
    assert_eq!(recorded(&host, "adder", &[]).len(), 1);
    check_said(&host, &json!({"prediction": first, "label": "2"}), [1, 0, 0]);
    assert_eq!(host.json(&["predictions", "score", "adder"])[0]["labels"], 1);
    let digest = host.json(&["endpoint", "show", "adder"])["live"].as_str().unwrap().to_owned();
    for (asked, count) in [(&revision[..6], 1), (&revision, 1), (&digest, 1), ("abcdef", 0)] {
        assert_eq!(recorded(&host, "adder", &["--revision", asked]).len(), count, "{asked}");
    }
}

#[test]
fn an_export_takes_the_place_of_the_one_before() {
    let host = host("");
    let export = |endpoint: &str| {
        host.ok(&["predictions", "export", endpoint, "--to", "out"]);
        let mut names: Vec<String> = fs::read_dir(host.folder().join("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    host.apply(&recording("adder-2", "adder@1", ""));
    host.send(&ask("ada", "eu", &[1.0]));
    host.send(&Request::infer("adder-2", "x", &[1], &[0.0]));
    let first = export("adder");
    assert_eq!(first.len(), 1);
    let other = export("adder-2");
    assert_eq!(other.len(), 2, "{other:?}");
    // As when files of an hour are merged: another file has the rows of the one before.
    let file = files(&host, "adder").swap_remove(0);
    let name = file.file_name().unwrap().to_str().unwrap();
    fs::rename(&file, file.with_file_name(format!("{}-00.parquet", &name[..13]))).unwrap();
    let again = export("adder");
    assert_eq!(again.len(), 2, "{again:?}");
    assert!(!again.contains(&first[0]), "{again:?}");
    assert!(again.iter().filter(|name| other.contains(name)).count() == 1, "{again:?}");
}

#[test]
fn a_share_is_recorded_by_chance() {
    let host = host("share = 0.25");
    let mut connection = host.connect();
    for n in 0..2000 {
        connection.send(&ask(&n.to_string(), "eu", &[1.0])).unwrap();
    }
    let rows = recorded(&host, "adder", &["--limit", "2000"]).len();
    // Five standard errors of a quarter of 2000.
    assert!((403..=597).contains(&rows), "{rows}");
}

#[test]
fn what_is_said_to_be_recorded_outlives_a_kill() {
    let mut host = host("inputs = \"tensors\"");
    let series = "berth_predictions_recorded_total{endpoint=\"adder\"}";
    let sent = thread::scope(|scope| {
        let clients = [0, 1].map(|client| {
            let mut connection = host.connect();
            scope.spawn(move || {
                let mut sent = HashSet::new();
                while let Ok(answer) = connection.send(&ask(&client.to_string(), "eu", &[1.0])) {
                    sent.insert(id(&answer));
                }
                sent
            })
        });
        until("some are recorded", || host.metric(series) > 0.0);
        let before = host.metric(series);
        until("more are recorded", || host.metric(series) > before);
        let claimed = host.metric(series) as usize;
        host.kill();
        let mut sent: HashSet<String> = HashSet::new();
        clients.into_iter().for_each(|client| sent.extend(client.join().unwrap()));
        (sent, claimed)
    });
    let (sent, claimed) = sent;
    host.restart();
    let rows = recorded(&host, "adder", &["--limit", "10000000"]);
    let ids: HashSet<&str> = rows.iter().map(|row| row["prediction"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len());
    assert!(rows.len() >= claimed, "{} of {claimed}", rows.len());
    // Both clients may have had a request under way.
    let unseen = ids.iter().filter(|id| !sent.contains(**id)).count();
    assert!(unseen <= 2, "{unseen}");
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    let host = Host::start_with(&["--predictions-memory", "1"]);
    host.push_model("adder", &onnx::adder(1.0));
    host.apply(&recording("adder", "adder@1", "inputs = \"tensors\""));
    let dropped = "berth_predictions_dropped_total{endpoint=\"adder\",reason=\"full\"}";
    // 1.2 MB of elements each.
    let large = ask("ada", "eu", &vec![1.0; 300_000]);
    for n in 1..=3 {
        assert_eq!(host.send(&large).status, 200);
        assert_eq!(host.metric(dropped), f64::from(n));
    }
    host.send(&ask("ada", "eu", &[1.0]));
    // A tensor of four bytes is not to keep the long body that it came with.
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}});
    let padding = "x".repeat(8 << 20);
    let head = json!({"parameters": {"padding": padding}, "inputs": [input]}).to_string();
    let body = [head.as_bytes(), &1.0_f32.to_le_bytes()].concat();
    let long = Request::post("/v2/models/adder/infer", "application/octet-stream", body)
        .header("inference-header-content-length", &head.len().to_string());
    let mut connection = host.connect();
    let grown = host.grown_by(|| {
        (0..16).for_each(|_| assert_eq!(connection.send(&long).unwrap().output(), [2.0]));
    });
    assert!(grown < 64 << 20, "{grown}");
    let rows = recorded(&host, "adder", &[]);
    assert_eq!(rows.len(), 17);
    assert!(rows.iter().all(|row| row["input.x"] == json!([1.0])), "{rows:?}");
}

#[test]
fn old_predictions_go() {
    let host = host("keep_days = 30");
    host.send(&ask("ada", "eu", &[1.0]));
    assert_eq!(recorded(&host, "adder", &[]).len(), 1);
    let file = files(&host, "adder").swap_remove(0);
    let old = file.with_file_name("2020-01-01T00.parquet");
    fs::copy(&file, &old).unwrap();
    until("the old file is deleted", || !old.exists());
    assert_eq!(recorded(&host, "adder", &[]).len(), 1);
}

#[test]
fn feedback_counts_once_and_for_known_predictions() {
    let mut host = host("prediction = \"y\"");
    let ids: Vec<String> =
        (0..4_u8).map(|n| id(&host.send(&ask("ada", "eu", &[f32::from(n)])))).collect();
    let reward = |id: &str, reward: f64| json!({"prediction": id, "reward": reward});
    let label = |id: &str, label: Value| json!({"prediction": id, "label": label});
    // Right after the answer, when nothing of it is on the disk yet.
    check_said(&host, &reward(&ids[0], 1.0), [1, 0, 0]);
    check_said(&host, &reward(&ids[0], 2.0), [0, 1, 0]);
    check_said(&host, &label(&ids[0], json!(1)), [1, 0, 0]);
    assert_eq!(recorded(&host, "adder", &["--id", &ids[0]])[0]["reward"], 1.0);
    let mut hyphens = ids[1].clone();
    [20, 16, 12, 8].iter().for_each(|&at| hyphens.insert(at, '-'));
    let unknown = format!("{}{:032x}", "", 7);
    let many = json!([
        reward(&hyphens, 0.5),
        reward(&ids[1], 0.5),
        reward(&ids[2], 0.0),
        reward(&unknown, 1.0),
        label(&ids[3], json!("4")),
    ]);
    check_said(&host, &many, [3, 1, 1]);
    // What was acknowledged is there after a crash.
    host.restart();
    check_said(&host, &many, [0, 4, 1]);
    for (outcome, count) in [("accepted", 0.0), ("duplicate", 4.0), ("unknown", 1.0)] {
        let series = format!("berth_feedback_total{{endpoint=\"adder\",outcome=\"{outcome}\"}}");
        assert_eq!(host.metric(&series), count, "{outcome}");
    }
    let rows = recorded(&host, "adder", &[]);
    let of = |key: &str| rows.iter().rev().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("reward"), [json!(1.0), json!(0.5), json!(0.0), Value::Null]);
    assert_eq!(of("label"), [json!("1"), Value::Null, Value::Null, json!("4")]);
    // What is known to be kept is on the disk.
    let last = id(&host.send(&ask("ada", "eu", &[1.0])));
    check_said(&host, &reward(&last, 1.0), [1, 0, 0]);
    host.kill();
    host.restart();
    check_said(&host, &reward(&last, 1.0), [0, 1, 0]);
    for (said, part) in [
        (json!({"prediction": "7", "reward": 1}), "entry 0: \"7\" is no id of a prediction"),
        (
            json!([reward(&ids[0], 1.0), {"prediction": ids[0]}]),
            "entry 1: give a reward or a label",
        ),
        (json!({"prediction": ids[0], "reward": 1, "label": 1}), "one of them"),
        (label(&ids[0], json!([1])), "entry 0: label: give text"),
        (json!({"id": ids[0], "reward": 1}), "unknown field `id`"),
    ] {
        say(&host, "adder", &said).check_error(&said.to_string(), 400, part);
    }
    say(&host, "other", &json!([])).check_error("no endpoint", 404, "there is no endpoint");
    host.push_model("plain", &onnx::adder(1.0));
    host.apply(&crate::support::files::tensors("plain", "plain@1"));
    say(&host, "plain", &json!([])).check_error("nothing recorded", 400, "records no predictions");
    host.refused(&["predictions", "score", "plain"], "put [predictions] in its file");
}

#[test]
fn feedback_comes_whatever_is_recorded_now() {
    let host = host("prediction = \"y\"\nlabels = \"numbers\"");
    host.push("plugin", "observer", &guest("observer"));
    let first = id(&host.send(&ask("ada", "eu", &[1.0])));
    let said = |id: &str, label: &str| json!({"prediction": id, "label": label});
    // Nothing is recorded any more.
    host.apply(&format!("name = \"adder\"\n{USER}{}", bare("main", "adder@1")));
    check_said(&host, &said(&first, "2.5"), [1, 0, 0]);
    assert_eq!(number(&host.json(&["predictions", "score", "adder"])[0], "mae"), 0.5);
    // The next revision records again, by chance half of what comes.
    let rollout = "rollout = { policy = \"observer@1\", config = { tick_ms = 50, weights = { next = 1 } } }\n";
    let next = recording("adder", "adder@1", "outputs = \"tensors\"").replacen(
        '\n',
        &format!("\n{rollout}"),
        1,
    );
    let file = host.file("next.toml", next);
    assert_eq!(host.json(&["apply", file.to_str().unwrap()])["state"], "rolling");
    let mut second = None;
    until("the next revision answers", || {
        let asked = id(&host.send(&ask("ada", "eu", &[1.0])));
        second = Some(asked.clone());
        recorded(&host, "adder", &["--id", &asked]).len() == 1
    });
    check_said(&host, &said(&second.unwrap(), "2"), [1, 0, 0]);
    host.ok(&["rollout", "abort", "adder"]);
    check_said(&host, &said(&first, "2.5"), [0, 1, 0]);
    host.ok(&["predictions", "score", "adder"]);
}

#[test]
fn policies_see_what_the_drawn_variant_earned() {
    let mut host = Host::start();
    host.push("plugin", "bandit", &plugin("bandit"));
    host.push_model("adder", &onnx::adder(1.0));
    host.push_model("adder", &onnx::adder(2.0));
    host.apply(&format!(
        "name = \"adder\"\n{USER}slices = [\"region=eu\"]\n[predictions]\nprediction = \"y\"\n[routing]\npolicy = \"bandit@1\"\n{}{}",
        bare("one", "adder@1"),
        bare("two", "adder@2"),
    ));
    let mut sums = BTreeMap::from([("one", 0.0), ("two", 0.0)]);
    let mut said = Vec::new();
    for user in 0..40_u8 {
        let answer = host.send(&ask(&user.to_string(), "eu", &[0.0]));
        let variant = if answer.variant() == "one" { "one" } else { "two" };
        // A label is worth 1 where it is right: 1, as the first variant answers.
        said.push(match user % 2 {
            0 => json!({"prediction": id(&answer), "reward": 0.25}),
            _ => json!({"prediction": id(&answer), "label": 1}),
        });
        let worth = if user % 2 == 0 { 0.25 } else { f64::from(u8::from(variant == "one")) };
        *sums.get_mut(variant).unwrap() += worth;
    }
    check_said(&host, &json!(said), [40, 0, 0]);
    check_said(&host, &json!(said), [0, 40, 0]);
    let shown = host.json(&["endpoint", "show", "adder"]);
    let earned = |at: usize| shown["observed"][at]["values"]["reward"].clone();
    for (at, variant) in ["one", "two"].into_iter().enumerate() {
        assert_eq!(earned(at)["sum"], json!(sums[variant]), "{}", shown["observed"]);
    }
    let count = |at: usize| earned(at)["count"].as_u64().unwrap_or(0);
    assert_eq!(count(0) + count(1), 40);
    // What was accepted is counted once, however often the host is killed.
    for _ in 0..2 {
        host.kill();
        host.restart();
        check_said(&host, &json!(said), [0, 40, 0]);
        let shown = host.json(&["endpoint", "show", "adder"]);
        for (at, variant) in ["one", "two"].into_iter().enumerate() {
            let earned = &shown["observed"][at]["values"]["reward"];
            assert_eq!(earned["sum"], json!(sums[variant]), "{}", shown["observed"]);
        }
    }
    let rows = recorded(&host, "adder", &[]);
    assert!(rows.iter().all(|row| row["drawn"] == row["variant"] && row["slices"] == 1));
    let scores = host.json(&["predictions", "score", "adder"]);
    // Two variants, each in the whole and in the declared slice.
    assert_eq!(scores.as_array().unwrap().len(), 4, "{scores}");
}

/// What was answered before a rollout began is none of its requests, nor is its reward.
#[test]
fn rewards_of_earlier_requests_are_not_the_rollouts() {
    let host = Host::start();
    host.push("plugin", "ab-test", &plugin("ab-test"));
    host.push_model("adder", &onnx::adder(1.0));
    host.push_model("adder", &onnx::adder(2.0));
    let endpoint = |model: &str, rollout: &str| {
        format!("name = \"adder\"\n{USER}{rollout}[predictions]\n{}", bare("main", model))
    };
    host.apply(&endpoint("adder@1", ""));
    let answered = |from: u32| -> Vec<(String, String)> {
        let users = (from..from + 40).map(|user| user.to_string());
        let answers = users.map(|user| host.send(&ask(&user, "eu", &[0.0])));
        answers.map(|answer| (id(&answer), answer.revision().to_owned())).collect()
    };
    let rewards = |of: &[(String, String)], reward: f64| {
        let said = of.iter().map(|(id, _)| json!({"prediction": id, "reward": reward}));
        json!(said.collect::<Vec<_>>())
    };
    let before = answered(0);
    let test =
        "rollout = { policy = \"ab-test@1\", config = { metric = \"reward\", effect = 0.1 } }\n";
    begin(&host, &endpoint("adder@2", test));
    until("both answer", || {
        let arms = host.json(&["rollout", "status", "adder"])["arms"].clone();
        arms[0]["status"] == "ready" && arms[1]["share"].as_f64() > Some(0.0)
    });
    let during = answered(100);
    check_said(&host, &rewards(&before, 0.0), [40, 0, 0]);
    check_said(&host, &rewards(&during, 1.0), [40, 0, 0]);
    let arms = host.json(&["rollout", "status", "adder"])["arms"].clone();
    for arm in arms.as_array().unwrap() {
        let revision = arm["revision"].as_str().unwrap();
        let its = during.iter().filter(|(_, answered)| answered == revision).count();
        assert!(its > 0, "{arms}");
        assert_eq!(arm["values"]["reward"]["count"], its, "{arms}");
        assert_eq!(arm["means"]["reward"]["found"], 1.0, "{arms}");
    }
}

/// Slices of what a rollout's arms answered are those of the next revision: once the rollout is over,
/// the reward of what the live one had answered is of no slice of its own, and that of what the next
/// one had is.
#[test]
fn rewards_that_come_after_a_rollout_are_in_no_slice_of_another_revision() {
    for (verb, kept) in [("abort", "live"), ("promote", "next")] {
        let mut host = Host::start();
        for policy in ["bandit", "canary"] {
            host.push("plugin", policy, &plugin(policy));
        }
        for add in [1.0, 2.0] {
            host.push_model("adder", &onnx::adder(add));
        }
        let endpoint = |slices: &str, rollout: &str| {
            format!(
                "name = \"adder\"\n{USER}slices = [{slices}]\n{rollout}[predictions]\n[routing]\npolicy = \"bandit@1\"\nconfig = {{ interval_ms = 100 }}\n{}{}",
                bare("one", "adder@1"),
                bare("two", "adder@2"),
            )
        };
        host.apply(&endpoint("\"region=vip\"", ""));
        let canary = "rollout = { policy = \"canary@1\", config = { steps = [50, 100], interval_ms = 600_000 } }\n";
        begin(&host, &endpoint("\"region=eu\", \"region=vip\", \"region=us\"", canary));
        let status = || host.json(&["rollout", "status", "adder"])["arms"].clone();
        until("both answer", || status()[1]["share"] == 0.5);
        let kept = usize::from(kept == "next");
        let revision = status()[kept]["revision"].as_str().unwrap().to_owned();
        let mut said = BTreeMap::from([("eu", Vec::new()), ("us", Vec::new())]);
        for user in 0..60 {
            for (region, said) in &mut said {
                let answer = host.send(&ask(&format!("{region}{user}"), region, &[0.0]));
                if answer.revision() == revision {
                    said.push(json!({"prediction": id(&answer), "reward": 1}));
                }
            }
        }
        host.ok(&["rollout", verb, "adder"]);
        until("the rollout is over", || {
            host.json(&["rollout", "status", "adder"])["state"] != "rolling"
        });
        // What comes in is counted at once, and after a start of the host again.
        for restarted in [false, true] {
            for said in said.values() {
                let count = said.len() as u64;
                let expected = if restarted { [0, count, 0] } else { [count, 0, 0] };
                check_said(&host, &json!(said), expected);
            }
            let observed = host.json(&["endpoint", "show", "adder"])["observed"].clone();
            let rewards = |of: &Value| of["values"]["reward"]["count"].as_u64().unwrap_or(0);
            let sum = |of: &dyn Fn(&Value) -> u64| -> u64 {
                observed.as_array().unwrap().iter().map(of).sum()
            };
            let counts = said.values().map(|said| said.len() as u64);
            assert_eq!(sum(&rewards), counts.sum::<u64>(), "{verb}: {observed}");
            for (region, of_region) in [("eu", "eu"), ("us", "us"), ("vip", "")] {
                let of = |arm: &Value| rewards(&arm["slices"][format!("region={region}")]);
                let own = said.get(of_region).filter(|_| kept == 1);
                let expected = own.map_or(0, |said| said.len() as u64);
                assert_eq!(sum(&of), expected, "{verb}, {region}: {observed}");
            }
            host.kill();
            host.restart();
        }
    }
}

/// The value of a score, and its interval around it.
fn number(score: &Value, name: &str) -> f64 {
    let value = score[name]["value"].as_f64().unwrap_or(f64::NAN);
    if let Some([low, high]) = score[name]["interval"].as_array().map(Vec::as_slice) {
        assert!(low.as_f64().unwrap() <= value && value <= high.as_f64().unwrap(), "{score}");
    }
    value
}

#[test]
fn classes_are_scored_as_by_hand() {
    let host = Host::start();
    host.push_model("truth", &onnx::with_truth());
    host.apply(&recording("adder", "truth@1", "prediction = \"truth\"\nscore = \"y\""));
    // True positives 3, false positives 2, false negatives 1, true negatives 2. Of 16 pairs of a
    // positive and a negative, 11 are in order, and 2 are ties.
    let cases = [
        (0.9, true, "eu"),
        (0.8, true, "us"),
        (0.7, false, "eu"),
        (0.0, true, "us"),
        (0.0, false, "eu"),
        (0.0, false, "us"),
        (0.6, true, "eu"),
        (0.5, false, "us"),
    ];
    let said: Vec<Value> = cases
        .iter()
        .map(|&(x, label, region)| {
            json!({"prediction": id(&host.send(&ask("ada", region, &[x]))), "label": label})
        })
        .collect();
    host.send(&ask("ada", "eu", &[0.4]));
    check_said(&host, &json!(said), [8, 0, 0]);
    let scores = host.json(&[
        "predictions",
        "score",
        "adder",
        "--slice",
        "region=eu",
        "--slice",
        "region=us",
    ]);
    let names = ["accuracy", "precision", "recall", "roc_auc"];
    for (at, slice, counts, expected) in [
        (0, Value::Null, [9, 8], [0.625, 0.6, 0.75, 0.75]),
        (1, json!("region=eu"), [5, 4], [0.75, 2.0 / 3.0, 1.0, 0.75]),
        (2, json!("region=us"), [4, 4], [0.5, 0.5, 0.5, 0.625]),
    ] {
        let score = &scores[at];
        assert_eq!(score["slice"], slice);
        assert_eq!([&score["predictions"], &score["labels"]], counts.map(|n| json!(n)).each_ref());
        for (name, expected) in names.iter().zip(expected) {
            assert!((number(score, name) - expected).abs() < 1e-12, "{name}: {score}");
        }
    }
    let windows = host.json(&["predictions", "score", "adder", "--window", "1s"]);
    let windows = windows.as_array().unwrap();
    let sum: u64 = windows.iter().map(|window| window["predictions"].as_u64().unwrap()).sum();
    assert_eq!(sum, 9);
    assert!(windows.iter().all(|window| window["window_ms"].as_u64().unwrap() % 1000 == 0));
    host.refused(&["predictions", "score", "adder", "--window", "soon"], "window: \"soon\"");
}

#[test]
fn numbers_and_rewards_are_scored_as_by_hand() {
    for keys in ["prediction = \"y\"\n", ""] {
        check_numbers(&format!("{keys}labels = \"numbers\""));
    }
}

#[track_caller]
fn check_numbers(keys: &str) {
    let host = host(keys);
    // Errors of 0.5, -2 and 0.
    let cases = [(1.0, 1.5, 1.0), (2.0, 5.0, 0.0), (3.0, 4.0, 0.25)];
    for (x, label, reward) in cases {
        let id = id(&host.send(&ask("ada", "eu", &[x])));
        let said =
            json!([{"prediction": id, "label": label}, {"prediction": id, "reward": reward}]);
        check_said(&host, &said, [2, 0, 0]);
    }
    let other = id(&host.send(&ask("ada", "eu", &[0.0])));
    for label in [json!("inf"), json!("NaN"), json!("1e400"), json!("-inf"), json!("seven")] {
        let said =
            json!([{"prediction": other, "reward": 1}, {"prediction": other, "label": label}]);
        let problem = "entry 1: label: give a finite number";
        say(&host, "adder", &said).check_error(&label.to_string(), 400, problem);
    }
    // As far from each other as numbers can be.
    check_said(&host, &json!({"prediction": other, "label": "-1e308"}), [1, 0, 0]);
    let score = &host.json(&["predictions", "score", "adder"])[0];
    for (name, expected) in
        [("mae", 2.5 / 3.0), ("rmse", (4.25_f64 / 3.0).sqrt()), ("reward", 1.25 / 3.0)]
    {
        assert!((number(score, name) - expected).abs() < 1e-12, "{name}: {score}");
    }
    assert!(score["accuracy"].is_null());
    assert!(host.ok(&["predictions", "score", "adder"]).contains("MAE"));
}

#[test]
fn a_request_is_run_again_through_another_revision_or_plugin() {
    let host = Host::with_digits(&[]);
    let keys = "[predictions]\ninputs = [\"body\"]\noutputs = [\"body\"]\nprediction = \"/predictions/0/label\"\n[[variants]]";
    let endpoint = |version| digits_endpoint(version).replace("[[variants]]", keys);
    let first = host.apply(&endpoint(1));
    let eight = pictures().into_iter().find(|picture| picture.label == 8).unwrap();
    let answer = host.send(&Request::invoke("digits", &eight.png));
    let second = host.apply(&endpoint(2));
    let replay = |more: &[&str]| host.json(&[&["replay", &id(&answer)], more].concat());
    let live = replay(&[]);
    assert_eq!((&live["endpoint"], &live["same"]), (&json!("digits"), &json!(false)));
    assert_eq!(live["recorded"]["revision"], first.as_str());
    assert_eq!(live["replayed"]["revision"], second.as_str());
    assert_eq!(live["recorded"]["predicted"], answer.label());
    assert_eq!(live["replayed"]["predicted"], "8");
    let differences = live["differences"].to_string();
    assert!(differences.contains("body/predictions/0/label"), "{differences}");
    let again = replay(&["--revision", &first[..6]]);
    assert_eq!((&again["same"], &again["differences"]), (&json!(true), &json!([])));
    // Another build: one more section that says nothing.
    let mut other = fs::read(plugin("image-classifier")).unwrap();
    other.extend_from_slice(b"\0\x02\x01x");
    let other = host.file("other.wasm", other);
    let built = replay(&["--revision", &first, "--plugin", other.to_str().unwrap()]);
    assert_eq!(built["same"], true, "{built}");
    assert_eq!(built["replayed"]["error"], Value::Null);
    assert!(host.ok(&["replay", &id(&answer)]).contains("predicted"));
    host.refused(&["replay", &id(&answer), "--revision", "abcdef"], "has no revision abcdef");
    host.refused(&["replay", &format!("{:032x}", 7)], "is not recorded here");
    host.apply(&endpoint(2).replace("inputs = [\"body\"]\n", ""));
    let answer = host.send(&Request::invoke("digits", &eight.png));
    host.refused(&["replay", &id(&answer)], "was not recorded: inputs = \"tensors\"");
}
