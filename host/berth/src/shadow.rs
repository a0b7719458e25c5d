//! What an operator asks of shadows.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::Client;
use crate::serve::say;
use crate::table::{cell, print, print_json};

/// What can be asked of shadows.
#[derive(Args)]
pub(crate) struct ShadowCommand {
    #[command(subcommand)]
    verb: ShadowVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Subcommand)]
enum ShadowVerb {
    /// Show how the answers of an endpoint's shadows compare with the live ones, and the worst examples.
    Show { name: String },
}

impl ShadowCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let ShadowVerb::Show { name } = &self.verb;
        let found = self.client.get(&format!("/v1/endpoints/{name}/shadow"))?;
        if self.client.json {
            print_json(&found);
        } else {
            show(&found);
        }
        Ok(())
    }
}

fn show(found: &Value) {
    say(&format!("endpoint   {}", cell(&found["endpoint"])));
    say(&format!("compare    {}", cell(&found["compare"])));
    say(&format!("dropped    {} copies, for want of room", cell(&found["dropped"])));
    let list = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let number = |value: &Value| value.as_f64().map_or(String::new(), |ms| format!("{ms:.2}"));
    let arms = list("arms").into_iter().map(|arm| {
        let (compared, agreed) = (arm["compared"].as_f64(), arm["agreed"].as_f64());
        let part = agreed.unwrap_or_default() / compared.unwrap_or_default() * 100.0;
        let mut row: Vec<String> =
            ["name", "copies", "errors", "compared", "agreed"].map(|key| cell(&arm[key])).into();
        row.push(if part.is_finite() { format!("{part:.2} %") } else { String::new() });
        row.extend(["median_ms", "p99_ms"].map(|key| number(&arm[key])));
        row
    });
    let heading = ["ARM", "COPIES", "ERRORS", "COMPARED", "AGREED", "PART", "MEDIAN MS", "99 % MS"];
    print(&heading, &arms.collect::<Vec<_>>());
    let examples: Vec<Vec<String>> = list("examples")
        .into_iter()
        .map(|example| {
            let mut row = vec![cell(&example["prediction"]), cell(&example["variant"])];
            row.push(example["distance"].as_f64().map_or(String::new(), |by| format!("{by:.4}")));
            row.extend(["difference", "live", "shadow"].map(|key| cell(&example[key])));
            row
        })
        .collect();
    if !examples.is_empty() {
        say("");
        print(&["PREDICTION", "VARIANT", "DISTANCE", "DIFFERENCE", "LIVE", "SHADOW"], &examples);
    }
}
