//! More than the host takes on at once.

use std::thread;

use serde_json::json;

use crate::support::files::{guest, tensors, variant};
use crate::support::{Answer, Host, Request, onnx, until};

/// A request that takes a model many turns of a loop.
fn turns(endpoint: &str, turns: i64) -> Request {
    let input = json!({"name": "n", "datatype": "INT64", "shape": [], "data": [turns]});
    let body = json!({"inputs": [input]}).to_string();
    Request::post(&format!("/v2/models/{endpoint}/infer"), "application/json", body)
}

/// Fails unless it is the answer to one request too many.
fn check_refusal(answer: &Answer) {
    answer.check_error("a request too many", 503, "overloaded");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// Many times as many clients as there is room for: each is refused while there is none, then asks
/// until it has its answers.
fn check(options: &[&str], processor: bool) {
    const CLIENTS: usize = 16;
    const ANSWERS: usize = 3;
    let host = Host::start_with(options);
    host.push_model("turns", &onnx::turns(100_000));
    let endpoint = match processor {
        true => {
            host.push("plugin", "probe", &guest("probe"));
            let main = variant("main", "probe@1", "default = \"turns@1\"", "mode = \"model\"");
            format!("name = \"slow\"\n{main}")
        }
        false => tensors("slow", "turns@1"),
    };
    host.apply(&format!("timeout_ms = 3600000\n{endpoint}"));
    let taken = host.fill(&turns("slow", i64::MAX / 2), &turns("slow", 7));
    let all = |client: fn(&mut dyn FnMut() -> Answer, f64)| {
        let client = |number: usize| {
            let (mut connection, request) = (host.connect(), turns("slow", number as i64));
            client(&mut || connection.send(&request).unwrap(), number as f64);
        };
        let client = &client;
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                scope.spawn(move || client(number));
            }
        });
    };
    all(|ask, _| check_refusal(&ask()));
    drop(taken);
    all(|ask, number| {
        let mut answered = 0;
        while answered < ANSWERS {
            let answer = ask();
            if answer.status == 200 {
                assert_eq!(answer.output(), [number], "another one's answer");
                answered += 1;
            } else {
                check_refusal(&answer);
            }
        }
    });
    // Nothing is kept of what was refused.
    for _ in 0..4 {
        assert_eq!(host.send(&turns("slow", 7)).output(), [7.0]);
    }
}

#[test]
fn requests_too_many_are_refused_at_once() {
    check(&["--max-requests", "1"], false);
}

#[test]
fn instances_too_many_are_refused_at_once() {
    check(&["--max-instances", "1"], true);
}

/// More endpoints that never end than there are threads: the next finds one all the same.
#[test]
fn slow_endpoints_hold_up_no_other_however_many_they_are() {
    let host = Host::start_with(&["--max-runs", "1"]);
    host.push_model("turns", &onnx::turns(5000));
    let mut held = Vec::new();
    for number in 0..5 {
        let name = format!("slow-{number}");
        host.apply(&format!("timeout_ms = 3600000\n{}", tensors(&name, "turns@1")));
        held.extend([(); 3].map(|()| {
            let mut connection = host.connect();
            connection.start(&turns(&name, i64::MAX / 2)).unwrap();
            connection
        }));
    }
    host.apply(&format!("timeout_ms = 20000\n{}", tensors("quick", "turns@1")));
    for _ in 0..5 {
        assert_eq!(host.send(&turns("quick", 3)).output(), [3.0]);
    }
}

#[test]
fn a_model_that_takes_too_long_is_given_up() {
    let host = Host::start();
    host.push_model("turns", &onnx::turns(1));
    host.push_model("adder", &onnx::adder(1.0));
    host.apply(&format!("timeout_ms = 200\n{}", tensors("slow", "turns@1")));
    host.apply(&tensors("quick", "adder@1"));
    for _ in 0..3 {
        let answer = host.send(&turns("slow", i64::MAX / 2));
        answer.check_error("slow", 504, "no answer within 200 ms");
        assert_eq!(host.send(&turns("slow", 3)).output(), [3.0]);
        let quick = Request::infer("quick", "x", &[1], &[1.0]);
        assert_eq!(host.send(&quick).output(), [2.0]);
    }
}

/// What an endpoint's old revision still holds counts.
#[test]
fn an_endpoint_holds_no_more_by_another_revision() {
    let host = Host::with_healthy(&["--max-instances", "4"]);
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push_model("adder", &onnx::adder(1.0));
    let looping = variant("main", "processor-faults@1", "default = \"adder@1\"", "mode = \"loop\"");
    let apply = |timeout: u32| {
        host.apply(&format!("name = \"looping\"\ntimeout_ms = {timeout}\n{looping}"));
    };
    apply(8000);
    let ask = || host.send(&Request::invoke("looping", "x")).status;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        let refused = || clients.iter().filter(|client| client.is_finished()).count();
        until("all but three are refused", || refused() == 9);
        apply(7999);
        assert_eq!(ask(), 503, "by the next revision");
        assert_eq!(host.send(&Request::healthy()).status, 200);
        assert_eq!(refused(), 9, "the others still run");
    });
}

/// One endpoint's plugin loops in every instance that the endpoint may hold.
#[test]
fn an_endpoint_cannot_take_every_instance() {
    let host = Host::with_healthy(&["--max-instances", "4"]);
    host.push("plugin", "processor-faults", &guest("processor-faults"));
    host.push_model("adder", &onnx::adder(1.0));
    let model = "default = \"adder@1\"";
    let looping = variant("main", "processor-faults@1", model, "mode = \"loop\"");
    host.apply(&format!("name = \"looping\"\ntimeout_ms = 1000\n{looping}"));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| host.send(&Request::invoke("looping", "x")).status))
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            assert_eq!(host.send(&Request::healthy()).status, 200);
        }
        let mut statuses: Vec<u16> =
            clients.into_iter().map(|client| client.join().unwrap()).collect();
        statuses.sort_unstable();
        assert!(statuses.starts_with(&[503]) && statuses.ends_with(&[504]), "{statuses:?}");
    });
}

/// Twelve clients on four instances, first while their bodies trickle in, then while they do not
/// take their answers.
#[test]
fn a_slow_client_holds_no_instance() {
    const SLOW: usize = 12;
    const LARGE: usize = 8 << 20;
    let host = Host::start_with(&["--max-instances", "4"]);
    host.push("plugin", "probe", &guest("probe"));
    host.push_model("adder", &onnx::adder(1.0));
    let main = variant("main", "probe@1", "default = \"adder@1\"", "mode = \"body\"");
    host.apply(&format!("name = \"echo\"\n{main}"));
    let quick = Request::invoke("echo", "x");
    let others_are_served = || {
        let mut connection = host.connect();
        for _ in 0..20 {
            let answer = connection.send(&quick).unwrap();
            assert_eq!((answer.status, &*answer.body), (200, &b"x"[..]), "{}", answer.text());
        }
    };
    let slow = Request::invoke("echo", vec![7; LARGE]);
    let head = Request::new("POST", "/v2/models/echo/invoke");
    let head = head.header("content-length", &LARGE.to_string());
    let mut clients: Vec<_> = (0..SLOW).map(|_| host.connect()).collect();
    for client in &mut clients {
        client.begin(&head).unwrap();
        client.write(&[7; LARGE / 2]).unwrap();
    }
    others_are_served();
    for client in &mut clients {
        client.write(&[7; LARGE / 2]).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, LARGE), "{}", answer.text());
    }
    // Every answer is larger than what the system takes from the host on its way to a client.
    for client in &mut clients {
        client.start(&slow).unwrap();
        assert!(client.has_begun().unwrap());
    }
    others_are_served();
    for client in &mut clients {
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, LARGE), "{}", answer.text());
    }
}

/// Two clients that take nothing of their answers hold all the room that there is for answers.
#[test]
fn answers_that_are_not_taken_are_bounded() {
    const LARGE: usize = 8 << 20;
    let host = Host::start_with(&["--max-body", "8", "--max-bodies", "16", "--max-idle", "2"]);
    host.push("plugin", "probe", &guest("probe"));
    host.push_model("adder", &onnx::adder(1.0));
    let main = variant("main", "probe@1", "default = \"adder@1\"", "mode = \"body\"");
    host.apply(&format!("name = \"echo\"\n{main}"));
    let large = Request::invoke("echo", vec![7; LARGE]);
    let small = Request::invoke("echo", "x");
    let slow = || {
        let mut client = host.connect();
        client.start(&large).unwrap();
        assert!(client.has_begun().unwrap());
        client
    };
    let refused = || {
        let answer = host.send(&large);
        answer.check_error("one too many", 503, "clients take their answers too slowly");
        assert_eq!(answer.header("retry-after"), Some("1"));
        // Neither what comes in nor a small answer needs that room.
        assert_eq!(host.send(&small).status, 200);
    };
    let (mut first, mut second) = (slow(), slow());
    refused();
    // Taken, there is room again.
    let answer = first.answer().unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, LARGE));
    until("there is room", || host.send(&large).status == 200);
    drop(first);
    let mut third = slow();
    refused();
    // Who takes nothing for too long is closed, and makes room.
    until("they are closed", || host.send(&large).status == 200);
    let lost = [&mut second, &mut third].map(|client| client.answer().is_err());
    assert!(lost.contains(&true), "the rest of an answer is gone");
}

#[test]
fn a_run_that_finds_no_memory_fails_alone() {
    let host = Host::start();
    host.push_model("zeros", &onnx::zeros());
    host.apply(&tensors("zeros", "zeros@1"));
    let zeros = |count: u64| {
        let input = json!({"name": "n", "datatype": "INT64", "shape": [1], "data": [count]});
        let body = json!({ "inputs": [input] }).to_string();
        host.send(&Request::post("/v2/models/zeros/infer", "application/json", body))
    };
    for more in [1 << 44, 1 << 45] {
        // More than any machine has.
        zeros(more).check_error("a run", 500, "there is no memory left for this run; give it less");
        assert_eq!(zeros(3).output(), [0.0; 3]);
    }
}
