//! What trials leave on the disk: what they found, and optimised graphs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_inference::trial::{TRIAL_CPU, Trials};
use berth_inference::{ModelOptions, Opened, Runtime, RuntimeOptions};
use berth_onnx::encode::{graph, model_with, node, port};
use berth_onnx::networks::{dense, dense_beside, lookup, perceptron, resnet18};
use berth_tensor::{DataType, NamedTensor, Tensor};
use serde_json::Value;

use crate::durability::files;
use crate::support::files::{digits, tensors, told};
use crate::support::host::new_folder;
use crate::support::{Host, Random, Request, onnx, until};

/// Of a model whose graph has weights beside it.
const UNITS: [i64; 3] = [256, 256, 10];

fn ask(endpoint: &str) -> Request {
    Request::infer(endpoint, "x", &[1, 256], &[0.5; 256])
}

fn trials(host: &Host) -> usize {
    host.log().lines().filter(|line| line.contains("tried in")).count()
}

/// The folders of models in the store.
fn kept(host: &Host) -> Vec<PathBuf> {
    let folders = fs::read_dir(host.folder().join("data/graphs")).unwrap();
    folders.map(|folder| folder.unwrap().path()).collect()
}

/// An endpoint, and what its operator says of the model.
fn endpoint(name: &str, of_model: &str) -> String {
    format!("{}[models.m]\n{of_model}\n", tensors(name, "m@1"))
}

#[test]
fn a_model_is_tried_once_for_what_decides_what_is_found() {
    let mut host = Host::start();
    host.push_model("m", &dense(5, &UNITS));
    let mut live = Vec::new();
    // What an endpoint says of the model, and the trials until then.
    for (of_model, expected) in [
        ("", 1),
        ("max_delay_us = 100", 1),
        ("max_queue = 7", 1),
        ("max_batch = 4", 2),
        ("max_batch = 4\nmax_queue = 9", 2),
    ] {
        host.apply(&endpoint("e", of_model));
        live.push(host.send(&ask("e")).body);
        assert_eq!(trials(&host), expected, "{of_model}");
        host.restart();
        live.push(host.send(&ask("e")).body);
        assert_eq!(trials(&host), expected, "{of_model}, after a restart");
    }
    assert!(live.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(kept(&host).len(), 1, "one graph for all of them");
}

#[test]
fn a_graph_that_is_not_as_it_was_written_is_made_anew() {
    let mut host = Host::start();
    host.push_model("m", &dense(5, &UNITS));
    let live = host.apply(&tensors("e", "m@1"));
    let answered = host.send(&ask("e")).body;
    host.kill();
    let mut names: Vec<_> = files(&host.folder().join("data/graphs"));
    names.sort();
    let found: Vec<_> = names.iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(found, ["found", "graph.onnx", "weights"]);
    let mut expected = 1;
    for file in &names {
        let sound = fs::read(file).unwrap();
        let (middle, end) = (sound.len() / 2, sound.len());
        let altered = |at: usize| {
            let mut altered = sound.clone();
            altered[at] ^= 0x10;
            Some(altered)
        };
        for content in [
            None,
            Some(Vec::new()),
            Some(b"no graph".to_vec()),
            Some(sound[..middle].to_vec()),
            Some(sound[..end - 1].to_vec()),
            altered(0),
            altered(middle),
            altered(end - 1),
        ] {
            fs::remove_file(file).unwrap();
            if let Some(content) = &content {
                fs::write(file, content).unwrap();
            }
            host.restart();
            expected += 1;
            let answer = host.send(&ask("e"));
            assert_eq!((answer.status, answer.revision()), (200, &*live), "{}", answer.text());
            assert_eq!(answer.body, answered, "{}", file.display());
            host.kill();
            assert_eq!(trials(&host), expected, "{}: {}", file.display(), host.log());
            let now = fs::read(file).unwrap();
            assert!(Some(&now) != content.as_ref(), "{}", file.display());
            assert!(found_is(file) || now == sound, "{}", file.display());
        }
    }
    // What is as it was written is used.
    host.restart();
    assert_eq!(host.send(&ask("e")).body, answered);
    assert_eq!(trials(&host), expected);
}

/// Whether this is the file that says what was found, in which times are.
fn found_is(file: &Path) -> bool {
    file.ends_with("found")
}

#[test]
#[cfg(target_os = "linux")]
fn weights_are_mapped_for_as_long_as_they_are_of_use() {
    let host = Host::start_with(&["--bake", "0"]);
    host.push_model("m", &lookup(1, 4096, &[64, 10]));
    let mapped = || {
        let maps = fs::read_to_string(format!("/proc/{}/maps", host.process())).unwrap();
        maps.lines().filter(|line| line.ends_with("/weights")).count()
    };
    assert_eq!(mapped(), 0);
    host.apply(&tensors("e", "m@1"));
    assert!(mapped() > 0);
    host.ok(&["endpoint", "delete", "e"]);
    until("nothing is mapped", || mapped() == 0);
}

#[test]
fn graphs_survive_kills() {
    const ROUNDS: u64 = 20;
    let mut host = Host::start();
    let mut random = Random::seeded();
    for round in 1..=ROUNDS {
        let moment = Duration::from_micros(random.below(150_000));
        let file = host.file("m.onnx", dense(round, &UNITS));
        std::thread::scope(|scope| {
            let push = scope.spawn(|| host.cli(&["model", "push", "m", file.to_str().unwrap()]));
            // Where in the trial the kill falls, not a wait for anything.
            std::thread::sleep(moment);
            host.kill();
            push.join().unwrap();
        });
        host.restart();
        let version = host.push("model", "m", &file);
        host.apply(&tensors("e", &format!("m@{version}")));
        let answered = host.send(&ask("e"));
        assert_eq!(answered.status, 200, "{}", answered.text());
        let before = trials(&host);
        host.restart();
        assert_eq!(host.send(&ask("e")).body, answered.body, "round {round}");
        assert_eq!(trials(&host), before, "round {round}");
        for folder in kept(&host) {
            assert_eq!(folder.extension(), None, "{} is left over", folder.display());
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn where_a_graph_cannot_be_written_the_model_opens_as_it_is() {
    let mut host = Host::start();
    host.push_model("m", &dense(5, &[512, 512, 10]));
    let ask = Request::infer("e", "x", &[1, 512], &[0.5; 512]);
    for folder in kept(&host) {
        fs::remove_dir_all(folder).unwrap();
    }
    // More than the log needs, less than the weights do.
    host.limit_files("600000");
    host.apply(&tensors("e", "m@1"));
    let answered = host.send(&ask);
    assert_eq!(answered.status, 200, "{}", answered.text());
    let warned = |host: &Host| host.log().lines().filter(|line| line.contains("not kept")).count();
    assert_eq!((warned(&host), kept(&host)), (1, Vec::new()), "{}", host.log());
    host.restart();
    assert_eq!(host.send(&ask).body, answered.body);
    assert_eq!((warned(&host), kept(&host).len()), (1, 1), "{}", host.log());
}

#[test]
#[cfg(target_os = "linux")]
fn graphs_take_no_more_than_their_part_of_the_disk() {
    let Some((host, disk)) = Host::start_on_small_disk("the room for graphs") else { return };
    let kept = || {
        let sizes = files(&disk.folder().join("graphs"));
        sizes.iter().map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    let has = |digest: &Value| {
        let digest = digest.as_str().unwrap().trim_start_matches("sha256:");
        let names = files(&disk.folder().join("graphs"));
        names
            .iter()
            .any(|file| file.ends_with("graph.onnx") && file.to_str().unwrap().contains(digest))
    };
    // Of 1 MB each, beside a blob of as much: half of what is free has room for nine in the end.
    for seed in 1..=12 {
        host.push_model("m", &dense(seed, &[512, 512, 10]));
        let versions = host.json(&["model", "show", "m"]);
        let versions = versions.as_array().unwrap();
        assert!(has(&versions[versions.len() - 1]["digest"]), "{seed}: {}", host.log());
        assert!(kept() < 12 << 20, "{seed}: {}", kept());
        // One that is of use does not go.
        host.apply(&endpoint("e", &format!("max_delay_us = {seed}")));
        assert!(has(&versions[0]["digest"]), "{seed}");
    }
    assert!(!host.log().contains("WARN"), "{}", host.log());
    let versions = host.json(&["model", "show", "m"]);
    let still: Vec<bool> =
        versions.as_array().unwrap().iter().map(|version| has(&version["digest"])).collect();
    assert!(still[0] && !still[1] && still[11], "{still:?}");
    // What is as large as all of them together opens as it is.
    host.push_model("large", &dense(1, &[1024, 1024, 10]));
    let large = host.json(&["model", "show", "large"])[0]["digest"].clone();
    assert!(!has(&large));
}

/// Inputs for a model of so many rows, and of that size wherever else a dimension varies.
fn inputs(opened: &Opened, size: u64, random: &mut Random) -> Vec<NamedTensor> {
    let input = |ty: &berth_tensor::TensorType| {
        let shape: Vec<u64> =
            ty.shape.iter().map(|&of| u64::try_from(of).unwrap_or(size)).collect();
        let count: u64 = shape.iter().product();
        let mut data = Vec::new();
        for _ in 0..count {
            let number = random.below(2000) as f32 / 1000.0 - 1.0;
            match ty.datatype {
                DataType::Fp32 => data.extend(number.to_le_bytes()),
                DataType::Bytes => data.extend([2, 0, 0, 0, b'a', b'0' + (number > 0.0) as u8]),
                datatype => {
                    data.push((number > 0.0) as u8);
                    data.extend(vec![0; datatype.size().unwrap() - 1]);
                }
            }
        }
        let tensor = Tensor::new(ty.datatype, shape, data).unwrap();
        NamedTensor { name: ty.name.clone(), tensor }
    };
    opened.inputs().iter().map(input).collect()
}

#[tokio::test]
async fn a_model_is_the_same_from_its_graph() {
    let folder = new_folder();
    let graphs = folder.path().join("graphs");
    let trials = Trials::new(told("BERTH_BIN"), TRIAL_CPU, graphs.clone()).unwrap();
    let given = Runtime::load(None, RuntimeOptions::default()).unwrap();
    let options = RuntimeOptions { trials: Some(trials), ..RuntimeOptions::default() };
    let tried = Runtime::load(None, options).unwrap();
    let mut models: Vec<(String, Vec<u8>)> = DataType::ALL
        .into_iter()
        .map(|datatype| (datatype.to_string(), onnx::identity(datatype, &[-1, 3])))
        .collect();
    let named = port("y", DataType::Fp32, &[-1]);
    let doubled = graph(
        &[node("Add", &["x", "x"], &["y"])],
        &[],
        &[port("x", DataType::Fp32, &[-1])],
        &[named],
    );
    let read = |name: &str| fs::read(digits().join(name)).unwrap();
    models.extend([
        ("digits 1".to_owned(), read("digits-1.onnx")),
        ("digits 2".to_owned(), read("digits-2.onnx")),
        ("perceptron".to_owned(), perceptron(1)),
        ("large perceptron".to_owned(), dense(2, &[1024, 1024, 10])),
        ("ResNet-18".to_owned(), resnet18()),
        ("two inputs".to_owned(), onnx::two_inputs()),
        ("BOOL".to_owned(), onnx::with_truth()),
        ("declared".to_owned(), model_with(doubled, "berth.batching", "together")),
        ("beside".to_owned(), dense_beside(3, &[256, 256, 4], "data/weights").0),
    ]);
    let mut random = Random(1);
    for (at, (name, bytes)) in models.iter().enumerate() {
        let folder = folder.path().join(at.to_string());
        fs::create_dir_all(folder.join("data")).unwrap();
        let file = folder.join("model.onnx");
        fs::write(&file, bytes).unwrap();
        if name == "beside" {
            let weights = dense_beside(3, &[256, 256, 4], "data/weights").1;
            fs::write(folder.join("data/weights"), weights).unwrap();
        }
        let options = ModelOptions::default();
        let digest = berth_tensor::Digest::of(bytes);
        let open = |runtime: &Runtime| {
            runtime.open_tried(name, &digest, &file, &options, &|| true).unwrap()
        };
        let (given_opened, first) = (open(&given), open(&tried));
        // What opens now opens from the graph alone.
        let (again, graph) = (open(&tried), format!("{digest}-"));
        let graph = files(&graphs)
            .into_iter()
            .find(|file| file.ends_with("graph.onnx") && file.to_str().unwrap().contains(&graph));
        assert!(graph.is_some(), "{name}");
        let describe = |opened: &Arc<Opened>| {
            (
                opened.inputs().to_vec(),
                opened.outputs().to_vec(),
                opened.properties().to_vec(),
                opened.symbols().clone(),
                opened.resident_bytes(),
            )
        };
        for opened in [&first, &again] {
            assert_eq!(describe(opened), describe(&given_opened), "{name}");
        }
        for size in [1, 2, 5] {
            let inputs = inputs(&given_opened, size, &mut random);
            let mut answers = Vec::new();
            for (runtime, opened) in [(&given, &given_opened), (&tried, &first), (&tried, &again)] {
                let model = opened.in_lane(&runtime.lane());
                let deadline = Instant::now() + Duration::from_secs(60);
                answers.push(model.run(&inputs, &[], deadline).await.unwrap());
            }
            assert_eq!(answers[0], answers[1], "{name}, {size} rows");
            assert_eq!(answers[0], answers[2], "{name}, {size} rows");
        }
    }
}
