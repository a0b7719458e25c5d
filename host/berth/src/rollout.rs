//! What an operator asks of a rollout.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::client::{Client, NoAnswer};
use crate::serve::say;
use crate::table::{cell, lies, print, print_json, time};

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
/// A host that was there and has gone may be starting anew.
fn watch(client: &Client, endpoint: &str) -> anyhow::Result<()> {
    let in_place = std::io::stdout().is_terminal() && !client.json;
    let (mut last, mut gone) = (Value::Null, false);
    loop {
        let rollout = match client.get(&path(endpoint)) {
            Err(error) if error.is::<NoAnswer>() && !last.is_null() => {
                if !gone {
                    eprintln!("{error}: waiting until there is one again");
                }
                gone = true;
                std::thread::sleep(LOOK);
                continue;
            }
            answer => answer?,
        };
        gone = false;
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
    if !rollout["problem"].is_null() {
        say(&format!("problem    {}", cell(&rollout["problem"])));
    }
    for (name, value) in rollout["says"].as_object().into_iter().flatten() {
        say(&format!("  {name} = {}", cell(value)));
    }
    let arms = rollout["arms"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Every value that an arm has, such as rewards, has a column.
    let names: BTreeSet<&String> = arms
        .iter()
        .flat_map(|arm| arm["means"].as_object().into_iter().flat_map(Map::keys))
        .collect();
    let mut heading: Vec<String> =
        ["ARM", "REVISION", "SHARE", "IS"].into_iter().chain(NUMBERS).map(str::to_owned).collect();
    heading.extend(names.iter().map(|name| name.to_uppercase()));
    let mut rows = Vec::new();
    for arm in arms {
        let share = format!("{:.2} %", arm["share"].as_f64().unwrap_or_default() * 100.0);
        let of = [cell(&arm["name"]), cell(&arm["revision"]), share, cell(&arm["status"])];
        rows.push(of.into_iter().chain(numbers(arm, &names)).collect());
        for (slice, part) in arm["slices"].as_object().into_iter().flatten() {
            let of = [format!("  {slice}"), String::new(), String::new(), String::new()];
            rows.push(of.into_iter().chain(numbers(part, &names)).collect());
        }
    }
    let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
    print(&heading, &rows);
    say("In brackets: where the truth lies with 95 % probability, looked at once.");
}

/// The columns of what was observed.
const NUMBERS: [&str; 6] =
    ["REQUESTS", "ERRORS", "REFUSED", "ERROR RATE %", "MEDIAN MS", "99 % MS"];

/// What was observed of an arm or of a slice of it, in these columns and one for each value.
fn numbers(of: &Value, values: &BTreeSet<&String>) -> Vec<String> {
    let counts = ["requests", "errors", "refused"].map(|key| cell(&of[key]));
    let rates =
        [told(&of["error_rate"], 100.0), told(&of["median_ms"], 1.0), told(&of["p99_ms"], 1.0)];
    let means = values.iter().map(|name| told(&of["means"][name.as_str()], 1.0));
    counts.into_iter().chain(rates).chain(means).collect()
}

/// A number and where the truth lies, as far as that is known.
fn told(value: &Value, unit: f64) -> String {
    let number = |key: &str| value[key].as_f64().map(|number| significant(number * unit));
    let found = number("found").unwrap_or_default();
    lies(found, [number("lower"), number("upper")])
}

/// Three digits that count.
fn significant(number: f64) -> String {
    let whole = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    let places = (2 - whole).clamp(0, 6) as usize;
    let text = format!("{number:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_have_three_digits() {
        for (number, expected) in [
            (0.0, "0"),
            (1234.5, "1234"),
            (0.98765, "0.988"),
            (12.0, "12"),
            (-0.01, "-0.01"),
            (0.000_000_04, "0"),
        ] {
            assert_eq!(significant(number), expected);
        }
        for (value, expected) in [
            (json!({"found": 0.1, "lower": 0.0552, "upper": 0.17437}), "10 (5.52 to 17.4)"),
            (json!({"found": 0.1, "lower": 0.05, "upper": null}), "10 (from 5)"),
            (json!({"found": 0.1, "lower": null, "upper": 1.0}), "10 (to 100)"),
            (json!({"found": 0.1, "lower": null, "upper": null}), "10"),
            (Value::Null, ""),
        ] {
            assert_eq!(told(&value, 100.0), expected);
        }
    }
}
