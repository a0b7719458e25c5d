//! What an operator asks of a rollout.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::client::Client;
use crate::serve::say;
use crate::table::{cell, print, print_json, time};

/// How often a rollout that is watched is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What can be done with rollouts.
#[derive(Args)]
pub(crate) struct RolloutCommand {
    #[command(subcommand)]
    verb: RolloutVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Subcommand)]
enum RolloutVerb {
    /// Show the rollout under way at an endpoint, or the last one.
    Status { endpoint: String },
    /// Show it again and again until it is over.
    Watch { endpoint: String },
    /// Leave the shares as they are: the policy is not asked any more.
    Pause(Change),
    /// Have the policy decide again.
    Resume(Change),
    /// Let the next revision take over now.
    Promote(Change),
    /// Go back to the live revision now.
    Abort(Change),
}

#[derive(Args)]
struct Change {
    endpoint: String,
    /// Why, for the history.
    #[arg(long, value_name = "WHY", default_value = "")]
    message: String,
}

impl RolloutCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let client = &self.client;
        let (verb, change) = match self.verb {
            RolloutVerb::Status { endpoint } => {
                show(client, &client.get(&path(&endpoint))?);
                return Ok(());
            }
            RolloutVerb::Watch { endpoint } => return watch(client, &endpoint),
            RolloutVerb::Pause(change) => ("pause", change),
            RolloutVerb::Resume(change) => ("resume", change),
            RolloutVerb::Promote(change) => ("promote", change),
            RolloutVerb::Abort(change) => ("abort", change),
        };
        let target = format!("{}/{verb}", path(&change.endpoint));
        show(client, &client.post(&target, &[("why", &change.message)], &Value::Null)?);
        Ok(())
    }
}

fn path(endpoint: &str) -> String {
    format!("/v1/endpoints/{endpoint}/rollout")
}

/// On a terminal each look takes the place of the one before; elsewhere each that differs follows it.
fn watch(client: &Client, endpoint: &str) -> anyhow::Result<()> {
    let in_place = std::io::stdout().is_terminal() && !client.json;
    let mut last = Value::Null;
    loop {
        let rollout = client.get(&path(endpoint))?;
        if in_place {
            // Home, and all below is cleared.
            say("\x1b[H\x1b[J");
        }
        if in_place || rollout != last {
            show(client, &rollout);
        }
        if rollout["state"] != "rolling" {
            return Ok(());
        }
        last = rollout;
        std::thread::sleep(LOOK);
    }
}

fn show(client: &Client, rollout: &Value) {
    if client.json {
        return print_json(rollout);
    }
    let order = &rollout["order"];
    let state = match (rollout["state"].as_str(), order["outcome"].as_str()) {
        (Some("rolling"), Some(outcome)) => format!("being {outcome}"),
        (Some("rolling"), None) if rollout["paused"] == true => "paused".to_owned(),
        (Some("rolling"), None) => match &rollout["phase"] {
            Value::Null => "beginning".to_owned(),
            phase => cell(phase),
        },
        (_, Some(outcome)) => outcome.to_owned(),
        (state, None) => state.unwrap_or_default().to_owned(),
    };
    say(&format!("endpoint   {}", cell(&rollout["endpoint"])));
    say(&format!("policy     {} {}", cell(&rollout["policy"]), rollout["config"]));
    if !rollout["max_step"].is_null() {
        say(&format!("max_step   {}", rollout["max_step"]));
    }
    say(&format!("since      {}", time(&rollout["started_ms"])));
    say(&format!("state      {state}"));
    let why = if order.is_null() { &rollout["message"] } else { &order["why"] };
    say(&format!("because    {}", cell(why)));
    let number = |value: &Value| value.as_f64().map_or(String::new(), |ms| format!("{ms:.2}"));
    let rows =
        rollout["arms"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|arm| {
            let share = arm["share"].as_f64().unwrap_or_default();
            let mut row = vec![
                cell(&arm["name"]),
                cell(&arm["revision"]),
                format!("{:.2} %", share * 100.0),
                cell(&arm["status"]),
            ];
            row.extend(["requests", "errors", "refused"].map(|key| cell(&arm[key])));
            row.extend(["median_ms", "p99_ms"].map(|key| number(&arm[key])));
            row
        });
    let heading =
        ["ARM", "REVISION", "SHARE", "IS", "REQUESTS", "ERRORS", "REFUSED", "MEDIAN MS", "99 % MS"];
    print(&heading, &rows.collect::<Vec<_>>());
}
