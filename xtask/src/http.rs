//! A small HTTP/1.1 client over loopback: cheap enough to measure a host from the same machine.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Answers above this are not read: what is asked here answers in a few hundred bytes.
const LONGEST_BODY: usize = 16 << 20;
/// The same for one line of a head.
const LONGEST_LINE: u64 = 16 << 10;

/// A whole request as it goes over the wire, made once and sent often.
#[derive(Clone)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// Reads `path`.
    pub(crate) fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes())
    }

    /// Sends `body` of media type `content_type` to `path`.
    pub(crate) fn post(path: &str, content_type: &str, body: &[u8]) -> Self {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        Self([head.as_bytes(), body].concat())
    }

    /// Sends a head of JSON and the data of its tensors after it to `path`, in the protocol's binary
    /// form.
    pub(crate) fn post_binary(path: &str, json: &str, data: &[u8]) -> Self {
        let (head, length) = (json.len(), json.len() + data.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n\
             inference-header-content-length: {head}\r\ncontent-length: {length}\r\n\r\n"
        );
        Self([head.as_bytes(), json.as_bytes(), data].concat())
    }

    /// The body, empty when there is none.
    pub(crate) fn body(&self) -> &[u8] {
        let end = self.0.windows(4).position(|window| window == b"\r\n\r\n");
        end.map_or(&[], |end| &self.0[end + 4..])
    }
}

/// What came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The `berth-revision` header; empty when there is none.
    pub(crate) revision: String,
    pub(crate) body: Vec<u8>,
    /// The host closes the connection after this answer.
    closes: bool,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// One kept-alive connection, opened again when the host closes it or a request fails.
pub(crate) struct Connection {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Connection {
    /// A connection to be opened at the first request. No wait for the host exceeds `timeout`.
    pub(crate) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self { address, timeout, stream: None }
    }

    /// Sends one request and reads its answer.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.timeout))?;
                stream.set_write_timeout(Some(self.timeout))?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(&request.0)?;
        let answer = read_answer(&mut stream)?;
        if !answer.closes {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no HTTP answer that this client reads: {what}"),
    )
}

fn read_line(stream: &mut impl BufRead, line: &mut String) -> io::Result<()> {
    line.clear();
    if stream.take(LONGEST_LINE).read_line(line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the host closed the connection"));
    }
    if !line.ends_with('\n') {
        return Err(invalid("a line that is too long or not whole"));
    }
    line.truncate(line.trim_end().len());
    Ok(())
}

fn read_body(stream: &mut impl Read, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    let start = body.len();
    if length > LONGEST_BODY - start.min(LONGEST_BODY) {
        return Err(invalid("a body that is too long"));
    }
    body.resize(start + length, 0);
    stream.read_exact(&mut body[start..])
}

fn read_answer(stream: &mut impl BufRead) -> io::Result<Answer> {
    let mut line = String::new();
    read_line(stream, &mut line)?;
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let mut answer = Answer { status: status.ok_or_else(|| invalid(&line))?, ..Answer::default() };
    let mut length = None;
    let mut chunked = false;
    loop {
        read_line(stream, &mut line)?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { return Err(invalid(&line)) };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| invalid(&line))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            answer.closes = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("berth-revision") {
            value.clone_into(&mut answer.revision);
        }
    }
    if !chunked {
        read_body(stream, length.unwrap_or(0), &mut answer.body)?;
        return Ok(answer);
    }
    loop {
        read_line(stream, &mut line)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid(&line))?;
        read_body(stream, size, &mut answer.body)?;
        read_line(stream, &mut line)?;
        if size == 0 {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole() {
        let check = |wire: &str, expected: Result<(u16, &str, &str), io::ErrorKind>| {
            let answer = read_answer(&mut wire.as_bytes());
            let found = answer.as_ref().map(|answer| {
                (
                    answer.status,
                    answer.revision.as_str(),
                    std::str::from_utf8(&answer.body).expect("text"),
                )
            });
            assert_eq!(found.map_err(io::Error::kind), expected, "{wire:?}");
        };
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nBerth-Revision: r1\r\n\r\nokHTTP",
            Ok((200, "r1", "ok")),
        );
        check("HTTP/1.1 503 Service Unavailable\r\n\r\n", Ok((503, "", "")));
        let chunks =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        check(chunks, Ok((200, "", "abc")));
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", Err(io::ErrorKind::UnexpectedEof));
        check("", Err(io::ErrorKind::UnexpectedEof));
        check("SSH-2.0\r\n", Err(io::ErrorKind::InvalidData));
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            Err(io::ErrorKind::InvalidData),
        );
        check("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Err(io::ErrorKind::InvalidData));
    }
}
