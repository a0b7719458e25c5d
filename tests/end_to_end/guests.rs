//! Every guest has a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{
    answers, datatypes, host_calls, policies, processors, refusals, rollouts, routing_ticks,
    sandbox,
};

/// A guest, and the tests that it is for.
type Guest = (&'static str, &'static [fn()]);

/// All of `tests/guests/`.
const GUESTS: [Guest; 10] = [
    ("empty", &[processors::a_failure_is_one_requests_failure]),
    ("every-model", &[processors::a_processor_runs_two_models_at_once]),
    ("forbidden-import", &[refusals::components_that_are_no_plugins_are_refused]),
    ("host-calls", &[host_calls::no_sequence_of_host_calls_harms_the_host]),
    ("observer", &[routing_ticks::variants_have_shares_by_what_is_observed_of_them]),
    (
        "policy-faults",
        &[
            policies::an_evaluation_that_cannot_be_followed_is_refused,
            rollouts::a_policy_that_fails_leaves_the_live_revision,
        ],
    ),
    (
        "probe",
        &[
            answers::the_request_reaches_the_processor_as_it_was_sent,
            datatypes::every_datatype_comes_back_as_it_was_sent,
            processors::a_processor_reaches_what_its_variant_binds_and_nothing_else,
        ],
    ),
    (
        "processor-faults",
        &[
            processors::a_failure_is_one_requests_failure,
            processors::a_processor_that_cannot_be_made_is_refused,
            sandbox::an_endpoint_has_limits_of_its_own,
            sandbox::a_trap_is_logged_whole_once,
        ],
    ),
    ("router-faults", &[policies::the_last_shares_serve_where_a_router_fails]),
    ("unknown-world", &[refusals::components_that_are_no_plugins_are_refused]),
];

#[test]
fn every_guest_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
    let there: BTreeSet<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let tested: BTreeSet<String> = GUESTS.iter().map(|(guest, _)| (*guest).to_owned()).collect();
    assert_eq!(there, tested, "folders of tests/guests on the left, this table on the right");
    assert!(GUESTS.iter().all(|(_, tests)| !tests.is_empty()));
}

/// The modes of a guest, as its source lists them.
pub(crate) fn modes(guest: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("guests/{guest}/src/lib.rs"));
    let source = fs::read_to_string(file).unwrap();
    let (_, list) = source.split_once("enum Mode {\n").expect("an enum of modes");
    let (list, _) = list.split_once("\n}").unwrap();
    let words = list.lines().map(str::trim).filter(|line| !line.starts_with(['/', '#']));
    words.map(|word| kebab(word.trim_end_matches(','))).collect()
}

fn kebab(word: &str) -> String {
    let mut text = String::new();
    for (at, letter) in word.char_indices() {
        if at > 0 && letter.is_uppercase() {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
