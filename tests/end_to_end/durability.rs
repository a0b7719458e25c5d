//! Kills, broken files: what was acknowledged stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::files::{another_build, guest, tensors, variant};
use crate::support::{Answer, Connection, Host, Random, Request, onnx, until};

/// What the host has said yes to, and what it was asked last.
#[derive(Default)]
struct Acknowledged {
    /// Versions with their digests, by kind.
    versions: Vec<(&'static str, u64, String)>,
    /// The number that the live revision adds.
    live: Option<u64>,
    /// The same of revisions asked for since, which may be live or not.
    asked: Vec<u64>,
}

/// Asks for one change after the other until the host is gone. `number` counts contents, `count`
/// what was acknowledged.
fn change(
    admin: &mut Connection,
    number: &mut u64,
    known: &mut Acknowledged,
    count: &AtomicU64,
) -> io::Result<()> {
    let probe = guest("empty");
    loop {
        *number += 1;
        let mut push = |kind: &'static str, content: &[u8]| {
            let target = format!("/v1/{kind}/it?who=test&why=");
            let pushed = done(admin.send(&Request::post(&target, "text/plain", content))?);
            let version = pushed["version"].as_u64().unwrap();
            let digest = pushed["digest"].as_str().unwrap().to_owned();
            known.versions.push((kind, version, digest));
            count.fetch_add(1, Ordering::Relaxed);
            io::Result::Ok(version)
        };
        let version = push("models", &onnx::adder(*number as f32))?;
        if number.is_multiple_of(20) {
            push("plugins", &another_build(&probe, *number as u32))?;
        }
        known.asked.push(*number);
        let variant = json!({"name": "main", "models": {"default": format!("it@{version}")}});
        let spec = json!({"name": "it", "variants": [variant]}).to_string();
        done(admin.send(&Request::post("/v1/endpoints", "application/json", spec))?);
        known.live = Some(*number);
        known.asked.clear();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[track_caller]
pub(crate) fn done(answer: Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}

/// The name of a content's blob.
pub(crate) fn digest(content: impl AsRef<[u8]>) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every blob, and every upload, is what its name says, and nothing else lies beside them.
pub(crate) fn check_blobs(data: &Path) {
    for file in files(&data.join("blobs")) {
        let content = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let name = name.strip_suffix(&format!("-{}", content.len())).unwrap_or(name);
        assert_eq!(name, digest(&content), "{}", file.display());
    }
    for file in files(data) {
        let name = file.to_str().unwrap();
        assert!(!name.ends_with(".partial"), "{name} is left over");
    }
}

fn check(host: &Host, known: &Acknowledged, round: usize) {
    check_blobs(&host.folder().join("data"));
    for kind in ["models", "plugins"] {
        let listed = done(host.ask_admin(&Request::get(&format!("/v1/{kind}"))));
        let listed = listed.as_array().unwrap();
        for (at, version) in listed.iter().enumerate() {
            assert_eq!(version["version"], at as u64 + 1, "round {round}: {kind} have no gap");
        }
        for (_, version, digest) in known.versions.iter().filter(|known| known.0 == kind) {
            let found = &listed[*version as usize - 1]["digest"];
            assert_eq!(found, digest, "round {round}: {kind} it@{version}");
        }
    }
    // What was being prepared when it ended is gone on with beside what answers.
    let state = || host.ask_admin(&Request::get("/v1/endpoints/it")).json()["state"].clone();
    until("it is settled", || state() != "preparing");
    let answer = host.send(&Request::infer("it", "x", &[1], &[0.0]));
    if known.live.is_none() && answer.status == 404 {
        return;
    }
    assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
    let answered = answer.output()[0] as u64;
    let good = known.live == Some(answered) || known.asked.contains(&answered);
    assert!(good, "round {round}: {answered}, not {:?} or {:?}", known.live, known.asked);
    let shown = done(host.ask_admin(&Request::get("/v1/endpoints/it")));
    assert_eq!((&shown["state"], &shown["problem"]), (&json!("live"), &Value::Null));
    assert_eq!(shown["live"], answer.revision(), "round {round}");
}

#[test]
fn what_was_acknowledged_survives_kills() {
    const ROUNDS: usize = 100;
    let mut host = Host::start();
    let mut random = Random::seeded();
    let mut known = Acknowledged::default();
    let mut number = 0;
    for round in 0..ROUNDS {
        let mut admin = Connection::open(host.admin).unwrap();
        let (count, enough) = (&AtomicU64::new(0), random.below(5));
        // Where in the next change the kill falls, not a wait for anything.
        let moment = Duration::from_micros(random.below(20_000));
        let killer = &host;
        std::thread::scope(|scope| {
            let killed = scope.spawn(move || {
                until("changes are acknowledged", || count.load(Ordering::Relaxed) >= enough);
                std::thread::sleep(moment);
                killer.kill();
            });
            change(&mut admin, &mut number, &mut known, count).expect_err("the host is gone");
            killed.join().unwrap();
        });
        if random.below(4) == 0 {
            // Once more, while it goes on with what the first kill interrupted.
            host.start_again();
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
        }
        host.restart();
        check(&host, &known, round);
        // What was being applied was gone on with, or never was committed: either way it is settled.
        let answer = host.send(&Request::infer("it", "x", &[1], &[0.0]));
        if answer.status == 200 {
            known.live = Some(answer.output()[0] as u64);
            known.asked.clear();
        }
    }
    let seen = host.json(&["endpoint", "history", "it"]).as_array().unwrap().len();
    assert!(seen >= ROUNDS, "only {seen} changes of the endpoint in {ROUNDS} rounds");
    eprintln!("{ROUNDS} kills, {} versions and {seen} changes acknowledged", known.versions.len());
}

#[test]
fn a_push_that_breaks_off_leaves_nothing() {
    let mut host = Host::start();
    let model = onnx::adder(1.0);
    let cut = |host: &Host, kill: bool| {
        let mut admin = Connection::open(host.admin).unwrap();
        let length = (model.len() + 1).to_string();
        let request = Request::new("POST", "/v1/models/m").header("content-length", &length);
        admin.begin(&request).unwrap();
        admin.write(&model).unwrap();
        if kill {
            host.kill();
        }
    };
    cut(&host, true);
    host.restart();
    assert_eq!(host.json(&["model", "list"]), json!([]));
    check_blobs(&host.folder().join("data"));
    assert_eq!(files(&host.folder().join("data/blobs")), [] as [PathBuf; 0]);

    cut(&host, false);
    assert_eq!(host.push_model("m", &model), 1, "a push that broke off takes no number");
    // What a crash, of any version, may have left.
    host.kill();
    for left in ["blobs/partial/7", "compiled/left.partial"] {
        fs::write(host.folder().join("data").join(left), "half").unwrap();
    }
    host.restart();
    check_blobs(&host.folder().join("data"));
    assert_eq!(files(&host.folder().join("data/blobs/partial")), [] as [PathBuf; 0]);
    assert_eq!(host.json(&["model", "list"])[0]["version"], 1);
}

#[test]
fn a_push_that_is_refused_leaves_nothing() {
    let host = Host::start();
    let kept = || files(&host.folder().join("data/blobs"));
    let push = |kind: &str, content: &[u8]| {
        let target = format!("/v1/{kind}");
        host.ask_admin(&Request::post(&target, "text/plain", content))
    };
    let unfit = wat::parse_str("(component)").unwrap();
    for (kind, content) in
        [("models/m", &b"no model"[..]), ("plugins/p", b"no plugin"), ("plugins/p", &unfit)]
    {
        assert_eq!(push(kind, content).status, 400, "{kind}");
        assert_eq!(kept(), [] as [PathBuf; 0], "{kind}");
    }
    // The same bytes are a good asset, which stays, whatever else they are no good as.
    assert_eq!(push("assets", b"no model").status, 200);
    let asset = kept();
    assert_eq!(asset.len(), 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for kind in ["models/m", "assets", "plugins/p"].into_iter().cycle().take(30) {
                    let expected = if kind == "assets" { 200 } else { 400 };
                    assert_eq!(push(kind, b"no model").status, expected);
                }
            });
        }
    });
    assert_eq!(kept(), asset);
    assert_eq!(host.push_model("m", &onnx::adder(1.0)), 1, "a refused push takes no number");
    check_blobs(&host.folder().join("data"));
}

/// Endpoints, each with a blob of its own that is to be broken, and one that is left whole.
const KINDS: [&str; 5] = ["altered", "missing", "component", "asset", "whole"];

/// Pushes and applies what the endpoint of `kind` stands on, which repairs it too.
fn put(host: &Host, kind: &str) {
    match kind {
        "component" => {
            let file = host.file("component.wasm", another_build(&guest("empty"), 7));
            assert_eq!(host.push("plugin", kind, &file), 1);
            let main = variant("main", "component@1", "", "");
            host.apply(&format!("name = \"component\"\n{main}"));
        }
        "asset" => {
            host.file("labels.txt", "some labels");
            assert_eq!(host.push("plugin", "probe", &guest("probe")), 1);
            host.push_model("beside", &onnx::adder(3.0));
            let main = variant("main", "probe@1", "default = \"beside@1\"", "mode = \"assets\"");
            host.apply(&format!("name = \"asset\"\n{main}assets = {{ labels = \"labels.txt\" }}"));
        }
        _ => {
            let n = KINDS.iter().position(|known| *known == kind).unwrap() as f32 + 1.0;
            assert_eq!(host.push_model(kind, &onnx::adder(n)), 1);
            host.apply(&tensors(kind, &format!("{kind}@1")));
        }
    }
}

fn ask(host: &Host, kind: &str) -> Answer {
    host.send(&match kind {
        "component" | "asset" => Request::invoke(kind, "x"),
        _ => Request::infer(kind, "x", &[1], &[0.0]),
    })
}

/// The file of the blob that the endpoint of `kind` stands on, and its digest.
fn blob(host: &Host, kind: &str) -> (PathBuf, String) {
    let digest = match kind {
        "component" => host.json(&["plugin", "show", kind])[0]["digest"].clone(),
        "asset" => ask(host, kind).json()["labels"]["digest"].clone(),
        _ => host.json(&["model", "show", kind])[0]["digest"].clone(),
    };
    let digest = digest.as_str().unwrap().trim_start_matches("sha256:").to_owned();
    (host.folder().join(format!("data/blobs/{}/{digest}", &digest[..2])), digest)
}

/// Alters the blob's file or takes it away; answers what is to be said of it.
fn break_blob(file: &Path, kind: &str) -> &'static str {
    if kind == "missing" {
        fs::remove_file(file).unwrap();
        return "is not in the store";
    }
    let mut content = fs::read(file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(file, content).unwrap();
    "is corrupt"
}

#[test]
fn a_broken_blob_is_named_and_the_others_serve() {
    let mut host = Host::start();
    KINDS.iter().for_each(|kind| put(&host, kind));
    let broken: Vec<_> = KINDS[..4].iter().map(|kind| (*kind, blob(&host, kind))).collect();
    let answers: Vec<_> = KINDS.iter().map(|kind| ask(&host, kind).body).collect();
    host.kill();
    let broken = broken.into_iter().map(|(kind, (file, digest))| {
        let said = break_blob(&file, kind);
        (kind, digest, said)
    });
    let broken: Vec<_> = broken.collect();
    let logged = host.log().len();
    host.restart();

    let log = host.log()[logged..].to_owned();
    for (kind, digest, part) in &broken {
        let named = log.lines().any(|line| line.contains(digest.as_str()) && line.contains(part));
        assert!(named, "{kind}: {log}");
        ask(&host, kind).check_error(kind, 503, "no revision that answers");
        let shown = host.json(&["endpoint", "show", kind]);
        let problem = shown["problem"].as_str().unwrap_or_default();
        assert!(problem.contains(digest.as_str()) && problem.contains(part), "{kind}: {shown}");
        let ready = host.send(&Request::get(&format!("/v2/models/{kind}/ready")));
        ready.check_error(kind, 503, "no revision that answers");
    }
    assert_eq!(ask(&host, "whole").output(), [5.0]);

    // The same content again repairs it.
    for ((kind, ..), answer) in broken.iter().zip(&answers) {
        put(&host, kind);
        assert_eq!(ask(&host, kind).body, *answer, "{kind}");
        let shown = host.json(&["endpoint", "show", kind]);
        assert_eq!(shown["problem"], Value::Null, "{shown}");
    }
    host.restart();
    for (kind, answer) in KINDS.iter().zip(&answers) {
        assert_eq!(ask(&host, kind).body, *answer, "{kind}");
    }
}

#[test]
fn what_stands_on_a_broken_blob_is_not_applied() {
    let mut host = Host::start();
    for kind in &KINDS[..4] {
        put(&host, kind);
    }
    let answers: Vec<_> = KINDS[..4].iter().map(|kind| ask(&host, kind).body).collect();
    // None of it is in use any more, so that it has to be read again.
    let files: Vec<_> = KINDS[..4].iter().map(|kind| blob(&host, kind)).collect();
    let specs: Vec<_> = KINDS[..4]
        .iter()
        .zip(&files)
        .map(|(kind, (_, digest))| {
            host.ok(&["endpoint", "delete", kind]);
            match *kind {
                "component" => {
                    format!("name = {kind:?}\n{}", variant("main", "component@1", "", ""))
                }
                "asset" => {
                    let main =
                        variant("main", "probe@1", "default = \"beside@1\"", "mode = \"assets\"");
                    format!("name = {kind:?}\n{main}assets = {{ labels = \"sha256:{digest}\" }}")
                }
                _ => tensors(kind, &format!("{kind}@1")),
            }
        })
        .collect();
    host.restart();
    host.push_model("live", &onnx::adder(9.0));
    host.apply(&tensors("live", "live@1"));
    for (((kind, (file, digest)), spec), answer) in
        KINDS.iter().zip(&files).zip(&specs).zip(&answers)
    {
        let content = fs::read(file).unwrap();
        let said = break_blob(file, kind);
        host.apply_refused(kind, spec, said);
        host.apply_refused(kind, spec, digest);
        assert_eq!(host.send(&Request::infer("live", "x", &[1], &[0.0])).output(), [9.0]);
        // Over what is live too: that goes on.
        host.apply_refused(kind, &spec.replacen(kind, "live", 1), digest);
        assert_eq!(host.send(&Request::infer("live", "x", &[1], &[0.0])).output(), [9.0]);
        fs::write(file, content).unwrap();
        host.apply(spec);
        assert_eq!(ask(&host, kind).body, *answer, "{kind}");
    }
}

#[test]
fn compiled_code_that_does_not_load_is_made_anew() {
    let mut host = Host::start();
    host.push("plugin", "empty", &guest("empty"));
    let main = variant("main", "empty@1", "", "");
    let live = host.apply(&format!("name = \"e\"\n{main}"));
    host.kill();
    let compiled = files(&host.folder().join("data/compiled"));
    assert_eq!(compiled.len(), 1, "{compiled:?}");
    let sound = fs::read(&compiled[0]).unwrap();
    let altered = |from: usize, to: usize| {
        let mut altered = sound.clone();
        altered[from..to].iter_mut().for_each(|byte| *byte ^= 0x10);
        altered
    };
    let (middle, end) = (sound.len() / 2, sound.len());
    for content in [
        Vec::new(),
        b"no code".to_vec(),
        sound[..middle].to_vec(),
        sound[..end - 1].to_vec(),
        altered(middle, middle + 1),
        altered(4096, end),
        altered(end - 1, end),
    ] {
        fs::remove_file(&compiled[0]).unwrap();
        fs::write(&compiled[0], content).unwrap();
        host.restart();
        let answer = host.send(&Request::invoke("e", "x"));
        assert_eq!((answer.status, answer.revision()), (200, &*live), "{}", answer.text());
        host.kill();
        assert!(fs::read(&compiled[0]).unwrap() == sound);
    }
}

#[test]
fn a_store_that_is_none_is_refused() {
    let host = Host::start();
    let folder = host.folder().join("foreign");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("berth.sqlite"), "no database, only some text that is long enough")
        .unwrap();
    let arguments =
        ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", "foreign"];
    host.refused(&arguments, "berth.sqlite: file is not a database");
}
