//! Changes under traffic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::support::files::{
    DIGITS_CONFIG, an_eight, another_build, classifier, digits_endpoint, plugin,
};
use crate::support::{Host, Request, Stop, until};

#[test]
fn every_answer_belongs_wholly_to_one_revision() {
    const APPLIES: usize = 20;
    const CLIENTS: usize = 3;
    let host = Host::with_digits(&[]);
    let build = host.file("build.wasm", another_build(&plugin("image-classifier"), 2));
    assert_eq!(host.push("plugin", "image-classifier", &build), 2);
    let request = Request::invoke("digits", an_eight());

    // They differ in the model, the processor's build and its configuration.
    let second = digits_endpoint(2)
        .replace("image-classifier@1", "image-classifier@2")
        .replace("top = 3", "top = 5");
    let files = [digits_endpoint(1), second];
    let revisions = files.each_ref().map(|file| host.apply(file));
    assert_ne!(revisions[0], revisions[1]);
    let expected: HashMap<String, Vec<u8>> = files
        .iter()
        .map(|file| {
            host.apply(file);
            let answer = host.send(&request);
            (answer.revision().to_owned(), answer.body)
        })
        .collect();
    assert_ne!(expected[&revisions[0]], expected[&revisions[1]], "the answers tell them apart");

    let stop = AtomicBool::new(false);
    let answered = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let client = || {
        let mut connection = host.connect();
        while !stop.load(Ordering::Relaxed) {
            let answer = connection.send(&request).expect("no request fails");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let revision = answer.revision();
            let body = expected.get(revision).expect("a revision that was applied");
            assert_eq!(&answer.body, body, "revision {revision}");
            let which = usize::from(revision == revisions[1]);
            answered[which].fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let stopping = Stop(&stop);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let lively = || clients.iter().all(|client| !client.is_finished());
        for apply in 0..APPLIES {
            let which = apply % 2;
            assert_eq!(host.apply(&files[which]), revisions[which]);
            // Everything asked from now on is answered by the new revision.
            let answer = host.send(&request);
            assert_eq!(answer.revision(), revisions[which]);
            let before = answered[which].load(Ordering::Relaxed);
            until("clients see the new revision", || {
                !lively() || answered[which].load(Ordering::Relaxed) > before + CLIENTS
            });
        }
        drop(stopping);
        for client in clients {
            client.join().expect("a client saw no failure");
        }
    });
    let all = APPLIES / 2 * CLIENTS;
    assert!(answered.iter().all(|count| count.load(Ordering::Relaxed) >= all), "{answered:?}");
}

#[test]
fn a_request_finishes_on_the_revision_that_it_began_on() {
    let host = Host::with_digits(&["--bake", "0"]);
    let request = Request::invoke("digits", an_eight());
    let first = host.apply(&digits_endpoint(1));
    let before = host.send(&request);

    let mut slow = host.connect();
    slow.begin(&request).unwrap();
    let second = host.apply(&digits_endpoint(2));
    assert_eq!(host.send(&request).revision(), second);
    let mut deleted = host.connect();
    deleted.begin(&request).unwrap();
    host.ok(&["endpoint", "delete", "digits"]);
    host.send(&request).check_error("a deleted endpoint", 404, "no endpoint \"digits\"");

    let answer = slow.end(&request).unwrap();
    assert_eq!((answer.revision(), &answer.body), (&*first, &before.body));
    assert_eq!(deleted.end(&request).unwrap().revision(), second);
}

#[test]
fn a_revision_that_fails_leaves_the_live_one() {
    let host = Host::with_digits(&[]);
    let live = host.apply(&digits_endpoint(2));
    let wrong = classifier("digits", "digits@2", "").replace(DIGITS_CONFIG, "{ width = 7 }");
    host.apply_refused("a configuration that does not fit", &wrong, "variants.main.config");
    let answer = host.send(&Request::invoke("digits", an_eight()));
    assert_eq!((answer.revision(), answer.label().as_str()), (&*live, "8"));
    let shown = host.json(&["endpoint", "show", "digits"]);
    assert_eq!((&shown["live"], &shown["state"]), (&live.as_str().into(), &"failed".into()));
    assert!(shown["problem"].as_str().unwrap().contains("variants.main.config"), "{shown}");
    // The same revision as the live one: nothing is left to do, and nothing is wrong any more.
    assert_eq!(host.apply(&digits_endpoint(2)), live);

    let never = wrong.replace("\"digits\"", "\"never\"");
    host.apply_refused("one that never was live", &never, "variants.main.config");
    let answer = host.send(&Request::invoke("never", an_eight()));
    answer.check_error("one that never was live", 503, "no revision that answers");
    assert_eq!(answer.header("retry-after"), Some("1"));
}
