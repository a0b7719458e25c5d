//! A small HTTP/1.1 client that also does what others refuse to.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn post(target: &str, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        Self { body, ..Self::new("POST", target).header("content-type", content_type) }
    }

    pub(crate) fn put(target: &str, body: impl AsRef<[u8]>) -> Self {
        Self { body: body.as_ref().to_vec(), ..Self::new("PUT", target) }
    }

    /// An inference request of one FP32 input.
    pub(crate) fn infer(endpoint: &str, input: &str, shape: &[u64], data: &[f32]) -> Self {
        let body = serde_json::json!({
            "inputs": [{"name": input, "datatype": "FP32", "shape": shape, "data": data}],
        });
        let target = format!("/v2/models/{endpoint}/infer");
        Self::post(&target, "application/json", body.to_string())
    }

    /// A body for the endpoint's processor.
    pub(crate) fn invoke(endpoint: &str, body: impl AsRef<[u8]>) -> Self {
        Self::post(&format!("/v2/models/{endpoint}/invoke"), "image/png", body)
    }

    /// What the endpoint of [`super::Host::with_healthy`] answers.
    pub(crate) fn healthy() -> Self {
        Self::invoke("healthy", "x")
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: berth\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let framed = self.headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if !framed && !matches!(self.method.as_str(), "GET" | "HEAD") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        head
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The id of the revision that answered; empty when none did.
    pub(crate) fn revision(&self) -> &str {
        self.header("berth-revision").unwrap_or_default()
    }

    /// The name of the variant that answered; empty when none did.
    pub(crate) fn variant(&self) -> &str {
        self.header("berth-variant").unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} with no JSON ({error}): {:?}", self.status, self.text())
        })
    }

    /// The first prediction's label.
    #[track_caller]
    pub(crate) fn label(&self) -> String {
        let label = &self.json()["predictions"][0]["label"];
        label.as_str().unwrap_or_else(|| panic!("no prediction in {}", self.text())).to_owned()
    }

    /// The data of the first output.
    #[track_caller]
    pub(crate) fn output(&self) -> Vec<f64> {
        let data = self.json()["outputs"][0]["data"].as_array().cloned();
        let data = data.unwrap_or_else(|| panic!("no output in {}", self.text()));
        data.iter().map(|value| value.as_f64().unwrap()).collect()
    }

    /// Fails unless this is an error of that status, in the form of all errors, whose message
    /// contains `part`.
    #[track_caller]
    pub(crate) fn check_error(&self, name: &str, status: u16, part: &str) {
        assert_eq!(self.status, status, "{name}: {}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"), "{name}");
        let body = self.json();
        let message = body["error"].as_str().unwrap_or_default();
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{name}: {body}");
        assert!(
            !message.is_empty() && message.contains(part),
            "{name}: {message:?} lacks {part:?}"
        );
        assert!(!message.contains('\n'), "{name}: {message:?}");
    }
}

/// One connection, kept alive.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn start(&mut self, request: &Request) -> io::Result<()> {
        self.write(request.head().as_bytes())?;
        self.write(&request.body)
    }

    /// Sends a request and reads its answer.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<Answer> {
        self.write(request.head().as_bytes())?;
        // A host that refuses need not read the body; its answer tells more than the broken pipe.
        let written = self.write(&request.body);
        self.answer().or_else(|error| written.and(Err(error)))
    }

    /// Sends the head alone and waits until the host asks for the body: from then on the request
    /// is under way.
    pub(crate) fn begin(&mut self, request: &Request) -> io::Result<()> {
        let head = request.clone().header("expect", "100-continue").head();
        self.write(head.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
        line.clear();
        self.0.read_line(&mut line)?;
        Ok(())
    }

    /// Sends the body of a request that was begun, and reads its answer.
    pub(crate) fn end(&mut self, request: &Request) -> io::Result<Answer> {
        self.write(&request.body)?;
        self.answer()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Whether the host has closed the connection; what it sent before is dropped.
    pub(crate) fn is_closed(&mut self) -> bool {
        let stream = self.0.get_mut();
        stream.set_nonblocking(true).unwrap();
        let read = stream.read(&mut [0; 1024]);
        stream.set_nonblocking(false).unwrap();
        match read {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Whether something of an answer has come.
    pub(crate) fn has_begun(&mut self) -> io::Result<bool> {
        Ok(!self.0.fill_buf()?.is_empty())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer = Answer {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            answer.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body.resize(length, 0);
        self.0.read_exact(&mut answer.body)?;
        Ok(answer)
    }
}
