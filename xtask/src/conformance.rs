//! The ONNX project's tests of operators, through Berth and through Python's onnxruntime.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::build;
use crate::python;
use crate::table::Table;
use crate::workspace::{Metadata, cargo, root, run as run_command, say};

const SCRIPT: &str = "tests/conformance/cases.py";
const REQUIREMENTS: &str = "tests/conformance/requirements.txt";

/// The test that runs the cases and leaves `results.json` beside them.
const TEST: &str = "conformance::what_passes_in_python_passes_here";

#[derive(Deserialize)]
struct Results {
    onnx: String,
    onnxruntime: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    unserved: Option<String>,
    beyond_json: Option<String>,
    /// None where its values are no tensors.
    python: Option<Outcome>,
    library: Outcome,
    http: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    outcome: String,
    reason: String,
}

/// The folder with the cases, each run on Python's onnxruntime; written when there is none yet.
pub(crate) fn cases(metadata: &Metadata) -> Result<PathBuf> {
    let mut digest = Sha256::new();
    for file in [SCRIPT, REQUIREMENTS] {
        digest
            .update(fs::read(root().join(file)).with_context(|| format!("{file}: no such file"))?);
    }
    let digest = hex::encode(digest.finalize());
    let folder = metadata.target_directory.join("conformance");
    // Written last: a folder without it is not whole.
    let whole = folder.join("whole");
    if fs::read_to_string(&whole).is_ok_and(|present| present == digest) {
        return Ok(folder);
    }
    let python = python::obtain("conformance", REQUIREMENTS)?;
    say("writing the ONNX project's tests, and running them on Python's onnxruntime");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut script = Command::new(python);
    run_command(script.arg(root().join(SCRIPT)).arg(&folder), SCRIPT)?;
    fs::write(&whole, digest)?;
    Ok(folder)
}

/// Runs all cases, prints what came of them and writes `docs/conformance.md`; an error when one
/// that passes in Python does not pass here.
pub(crate) fn run() -> Result<()> {
    let built = build::for_tests()?;
    let folder = cases(&built.metadata)?;
    let file = folder.join("results.json");
    if file.exists() {
        fs::remove_file(&file)?;
    }
    say("running them through the inference crate, and through HTTP on the binary");
    let mut test = cargo();
    test.args(["test", "--release", "--test", "end_to_end", "--", "--exact", TEST, "--nocapture"]);
    let passed =
        run_command(test.envs(built.variables()).env("BERTH_CASES", &folder), "cargo test");
    let Ok(results) = fs::read(&file) else {
        passed?;
        bail!("{TEST} was skipped, for the reason above");
    };
    let page = serde_json::from_slice::<Results>(&results)?.page();
    let tables = page.find("\n## ").map_or("", |at| &page[at + 1..]);
    println!("{}", tables.trim_end());
    passed?;
    let path = root().join("docs/conformance.md");
    fs::write(&path, page)?;
    say(format!("wrote {}", path.display()));
    Ok(())
}

impl Results {
    fn page(&self) -> String {
        let tensors = || self.cases.iter().filter(|case| case.python.is_some());
        let passed: Vec<_> = tensors().filter(|case| python(case).is("passed")).collect();
        let here = passed.iter().filter(|case| case.library.is("passed")).count();
        let others: Vec<_> = self.cases.iter().filter(|case| case.python.is_none()).collect();
        let beyond = others.iter().filter(|case| case.library.is("unsupported")).count();
        let json = tensors().filter(|case| case.library.is("passed") && case.beyond_json.is_none());
        let (json, answered) = json.fold((0, 0), |(all, good), case| {
            (all + 1, good + usize::from(case.http.is("passed")))
        });
        format!(
            "# Conformance\n\n\
             Written by `cargo xtask conformance`, which runs the ONNX project's backend node tests (`onnx` {}: models of one operator or a few, with inputs and the outputs that are expected) in three ways: on Python's onnxruntime, through `host/inference`, and through HTTP `/infer` on the real binary; all with ONNX Runtime {}. An output is right when its datatype and shape are those expected and its values are within the case's tolerance, as the ONNX project's own runner has it. The command fails when a case that passes in Python does not pass here; `cargo xtask test` runs the same.\n\n\
             ## Cases whose values are tensors\n\n{}\n\
             Of the {} that pass in Python, {here} pass through the crate. Of those that pass through the crate, {json} have a JSON form, and {answered} of these pass through HTTP.\n\n\
             ## What is unsupported, and why\n\nOf all {} cases: {} more than above, whose values are no tensors, {beyond} of which are unsupported here.\n\n{}\n\
             ## What fails in Python and here\n\n{}",
            self.onnx,
            self.onnxruntime,
            self.counts(),
            passed.len(),
            self.cases.len(),
            others.len(),
            self.unsupported(),
            self.failed(),
        )
    }

    fn counts(&self) -> Table {
        let mut table = Table::new(&["way", "cases", "passed", "failed", "unsupported"]);
        type Way = fn(&Case) -> &Outcome;
        let ways: [(&str, Way); 3] = [
            ("Python's onnxruntime", python),
            ("the inference crate", |case| &case.library),
            ("HTTP, JSON", |case| &case.http),
        ];
        for (name, outcome) in ways {
            let all: Vec<_> =
                self.cases.iter().filter(|case| case.python.is_some()).map(outcome).collect();
            let count = |what: &str| all.iter().filter(|outcome| outcome.is(what)).count();
            let counts = [all.len(), count("passed"), count("failed"), count("unsupported")];
            let counts = counts.map(|count| count.to_string());
            table.row([name.to_owned()].into_iter().chain(counts));
        }
        table
    }

    /// Reasons, with how many cases each way has of them.
    fn unsupported(&self) -> Table {
        let mut reasons: BTreeMap<String, [usize; 3]> = BTreeMap::new();
        for case in &self.cases {
            let ways = [case.python.as_ref(), Some(&case.library), Some(&case.http)];
            for (way, outcome) in ways.into_iter().enumerate() {
                if let Some(outcome) = outcome.filter(|outcome| outcome.is("unsupported")) {
                    reasons.entry(reason(case, outcome)).or_default()[way] += 1;
                }
            }
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, counts)| std::cmp::Reverse(counts[2]));
        let mut table = Table::new(&["why", "Python", "crate", "HTTP"]);
        for (reason, counts) in reasons {
            table.row([reason].into_iter().chain(counts.map(|count| count.to_string())));
        }
        table
    }

    fn failed(&self) -> Table {
        let mut table = Table::new(&["case", "in Python"]);
        let failed = |case: &&Case| case.library.is("failed") && python(case).is("failed");
        for case in self.cases.iter().filter(failed) {
            let reason = &python(case).reason;
            // What comes after it is where in its source.
            let said = reason.split_once(" Name:").map_or(reason.as_str(), |(said, _)| said);
            table.row([case.name.clone(), said.to_owned()]);
        }
        table
    }
}

impl Outcome {
    fn is(&self, outcome: &str) -> bool {
        self.outcome == outcome
    }
}

/// What came of it in Python; of a case without tensors, what came of it here.
fn python(case: &Case) -> &Outcome {
    case.python.as_ref().unwrap_or(&case.library)
}

/// Why a case is unsupported, for a table.
fn reason(case: &Case, outcome: &Outcome) -> String {
    let said = |part: &str| outcome.reason.contains(part);
    let runtime = |what: &str| format!("ONNX Runtime: {what}");
    if said("IR version") {
        runtime("the file's format is newer than it knows")
    } else if said("*guarantees* support") {
        runtime("the operator set is newer than it knows")
    } else if ["Could not find an implementation", "find kernel", "not a registered"]
        .into_iter()
        .any(said)
    {
        runtime("no such operator for these datatypes")
    } else if said("Python's package") {
        "Python's package makes no tensor of the datatype".to_owned()
    } else if let Some(name) = &case.unserved {
        match name.as_str() {
            "sequence" | "optional" | "map" => format!("values that are no tensors: {name}"),
            _ => format!("{name} is no datatype that Berth serves"),
        }
    } else if let Some(name) = case.beyond_json.as_ref().filter(|_| said("no JSON form")) {
        format!("{name} has no JSON form")
    } else {
        runtime("the model is invalid for it, or its attributes are not implemented")
    }
}
