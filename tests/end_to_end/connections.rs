//! Connections: too many of them, idle ones, slow ones.

use std::io;

use crate::support::files::tensors;
use crate::support::{Connection, Host, Request, onnx, until};

fn adding(options: &[&str]) -> Host {
    let host = Host::start_with(options);
    host.push_model("adder", &onnx::adder(1.0));
    host.apply(&tensors("adder", "adder@1"));
    host
}

fn ask(connection: &mut Connection) -> io::Result<u16> {
    let answer = connection.send(&Request::infer("adder", "x", &[1], &[1.0]))?;
    Ok(answer.status)
}

#[test]
fn connections_too_many_are_told_so() {
    let host = adding(&["--max-connections", "2"]);
    let (mut first, mut second) = (host.connect(), host.connect());
    for connection in [&mut first, &mut second] {
        assert_eq!(ask(connection).unwrap(), 200);
    }
    // Told without having asked.
    let refused = host.connect().answer().unwrap();
    refused.check_error("the third", 503, "too many connections");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Operators have connections of their own.
    host.ok(&["endpoint", "list"]);
    assert_eq!(ask(&mut first).unwrap(), 200);
    drop(second);
    until("there is room", || ask(&mut host.connect()).is_ok_and(|status| status == 200));
}

/// Each of these would hold its connection for ever.
#[test]
fn connections_at_rest_are_closed() {
    let host = adding(&["--max-idle", "1"]);
    let check = |name: &str, mut connection: Connection, more: &[u8]| {
        until(name, || connection.write(more).is_err() || connection.is_closed());
    };
    let silent = host.connect();
    let mut half = host.connect();
    half.write(b"POST /v2/models/adder/infer HTTP/1.1\r\nhost: x\r\n").unwrap();
    let mut dribbling = host.connect();
    dribbling.write(b"GET /v2 HTTP/1.1\r\nx-").unwrap();
    let mut kept = host.connect();
    assert_eq!(ask(&mut kept).unwrap(), 200);
    let mut pinging = host.connect();
    pinging.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    assert!(pinging.has_begun().unwrap(), "it speaks HTTP/2");
    check("nothing but pings", pinging, b"\0\0\x08\x06\0\0\0\0\0 a ping ");
    check("nothing was sent", silent, b"");
    check("half a head was sent", half, b"");
    check("a head without end", dribbling, b"x");
    check("kept alive for nothing", kept, b"");
    assert_eq!(ask(&mut host.connect()).unwrap(), 200);
}

/// A body that comes slowly, over several times the idle limit, is under way all the while.
#[test]
fn a_slow_body_is_not_at_rest() {
    let host = adding(&["--max-idle", "1"]);
    let request = Request::infer("adder", "x", &[1], &[1.0]);
    let mut slow = host.connect();
    slow.begin(&request).unwrap();
    let mut idle = host.connect();
    assert_eq!(ask(&mut idle).unwrap(), 200);
    // Once the idle one is closed, the limit has passed for the slow one too.
    until("the idle one is closed", || idle.is_closed());
    assert_eq!(slow.end(&request).unwrap().status, 200);
}
