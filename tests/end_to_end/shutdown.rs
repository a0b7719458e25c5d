//! Signals.

use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::processors::{ONE_INSTANCE, take_the_instance};
use crate::support::files::{tensors, told};
use crate::support::{Host, Request, onnx, until};

fn host(options: &[&str]) -> (Host, Request) {
    let host = Host::start_with(options);
    host.push_model("adder", &onnx::adder(5.0));
    host.apply(&tensors("e", "adder@1"));
    (host, Request::infer("e", "x", &[1], &[1.0]))
}

fn refuses(host: &Host) {
    until("new connections are refused", || TcpStream::connect(host.listen).is_err());
}

#[test]
fn the_first_signal_drains() {
    for signal in ["TERM", "INT"] {
        let (host, request) = host(&[]);
        let mut idle = host.connect();
        assert_eq!(idle.send(&request).unwrap().output(), [6.0]);
        let mut slow = host.connect();
        slow.begin(&request).unwrap();
        host.signal(signal);
        refuses(&host);
        assert_eq!(slow.end(&request).unwrap().output(), [6.0], "a request under way is answered");
        assert_eq!(host.ended().code(), Some(0), "{signal}");
    }
}

#[test]
fn the_second_signal_quits() {
    let (host, request) = host(&["--drain", "3600"]);
    let mut slow = host.connect();
    slow.begin(&request).unwrap();
    host.signal("TERM");
    refuses(&host);
    host.signal("TERM");
    host.ended();
    assert!(slow.end(&request).is_err(), "it was not waited for");
}

#[test]
fn what_an_operator_waits_for_is_not_waited_for() {
    let (host, request) = host(&["--drain", "3600"]);
    host.push_model("turns", &onnx::turns(0));
    // Minutes.
    host.file(
        "long.json",
        r#"{"inputs":[{"name":"n","datatype":"INT64","shape":[],"data":[999999999]}]}"#,
    );
    let long = "timeout_ms = 600_000\nwarm_up = { infer = \"long.json\" }\n";
    let file = host.file("long.toml", format!("{long}{}", tensors("long", "turns@1")));
    let mut berth = Command::new(told("BERTH_BIN"));
    berth.args(["apply", file.to_str().unwrap()]).env("BERTH_ADMIN", host.admin.to_string());
    let mut applying = berth.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it is being prepared", || {
        let shown = host.cli(&["endpoint", "show", "long", "--json"]);
        shown.stdout.contains("\"preparing\"")
    });
    assert_eq!(host.send(&request).output(), [6.0]);
    host.signal("TERM");
    assert_eq!(host.ended().code(), Some(0));
    assert!(!applying.wait().unwrap().success());
}

#[test]
fn draining_has_an_end() {
    let (host, request) = host(&["--drain", "0"]);
    let mut slow = host.connect();
    slow.begin(&request).unwrap();
    host.signal("TERM");
    assert_eq!(host.ended().code(), Some(0));
}

#[test]
fn a_guest_that_never_comes_back_does_not_keep_the_host() {
    let host = Host::with_healthy(&[&ONE_INSTANCE[..], &["--drain", "3600"]].concat());
    let _taken = take_the_instance(&host);
    host.signal("TERM");
    refuses(&host);
    host.signal("TERM");
    host.ended();
}
