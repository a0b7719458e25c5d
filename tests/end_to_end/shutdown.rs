//! Signals.

use std::net::TcpStream;

use crate::processors::{ONE_INSTANCE, take_the_instance};
use crate::support::files::tensors;
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
