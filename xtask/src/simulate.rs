//! The pictures of docs/rollouts.md: each policy on traffic that is made up.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build::Build;
use crate::workspace::{root, run, say};

/// Endpoint files of examples/simulate, each named for its policy, and the traffic that comes to them.
const PICTURES: [(&str, &str); 15] = [
    ("canary", "equal"),
    ("canary", "broken"),
    ("canary", "quiet"),
    ("rolling", "equal"),
    ("blue-green", "equal"),
    ("blue-green", "broken"),
    ("recreate", "equal"),
    ("recreate", "unfit"),
    ("shadow", "agreeing"),
    ("shadow", "disagreeing"),
    ("ab-test", "better"),
    ("ab-test", "no-better"),
    ("bandit", "turning"),
    ("weighted", "split"),
    ("targeting", "segments"),
];

/// Draws docs/rollouts/POLICY-TRAFFIC.svg anew.
pub(crate) fn run_all() -> Result<()> {
    let metadata = Build::default().run()?;
    let examples = root().join("examples").join("simulate");
    let folder = root().join("docs").join("rollouts");
    std::fs::create_dir_all(&folder)?;
    for (policy, traffic) in PICTURES {
        say(format!("{policy}, {traffic}"));
        let file = examples.join(format!("{traffic}.traffic.toml"));
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        // The first line says what it is.
        let about = text.lines().next().unwrap_or_default().trim_start_matches(['#', ' ']);
        let (first, rest) = about.split_at_checked(1).unwrap_or((about, ""));
        let about = format!("{}{}", first.to_lowercase(), rest.trim_end_matches('.'));
        let mut simulate = Command::new(metadata.binary());
        simulate
            .current_dir(root())
            .arg("simulate")
            .arg(examples.join(format!("{policy}.toml")))
            .arg("--plugin")
            .arg(metadata.plugins().join(format!("{policy}.wasm")))
            .arg("--traffic")
            .arg(file)
            .arg("--title")
            .arg(format!("{policy}: {about}"))
            .arg("--svg")
            .arg(folder.join(format!("{policy}-{traffic}.svg")));
        run(&mut simulate, "berth simulate")?;
    }
    Ok(())
}
