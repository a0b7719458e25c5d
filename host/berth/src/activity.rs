//! What happens on a connection: requests under way, and what is sent of their answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What happens on a connection.
#[derive(Default)]
pub(crate) struct Activity {
    /// Requests that have no answer yet.
    pub(crate) under_way: AtomicUsize,
    /// Requests begun and bytes of answers sent. Bytes that come in do not count, a head may come one
    /// by one; nor does what HTTP/2 sends beside answers, as a client calls for it by pings.
    pub(crate) moved: AtomicU64,
}

/// A request without an answer.
pub(crate) struct UnderWay(Arc<Activity>);

impl UnderWay {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Relaxed);
        activity.moved.fetch_add(1, Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// A stream on which it is noted what is sent of answers.
pub(crate) struct Noted {
    stream: TcpStream,
    activity: Arc<Activity>,
    sent: Sent,
}

/// What is sent.
enum Sent {
    /// Nothing yet.
    Nothing,
    /// Answers alone: HTTP/1.
    Answers,
    /// Frames of HTTP/2.
    Frames(Frames),
}

/// Where in the frames of HTTP/2 a stream of bytes stands.
#[derive(Default)]
struct Frames {
    /// The head of a frame, as far as it was seen.
    head: [u8; FRAME_HEAD],
    seen: usize,
    /// Bytes of the frame that are still to come after its head.
    rest: usize,
    of_answer: bool,
}

const FRAME_HEAD: usize = 9;

/// Up to this size, in bytes, an answer is sent in one piece.
const SMALL: usize = 2 << 10;

/// The types of the frames that carry answers: DATA, HEADERS, CONTINUATION.
const OF_ANSWERS: [u8; 3] = [0, 1, 9];

impl Frames {
    /// How many of the next bytes belong to answers.
    fn of_answers(&mut self, mut bytes: &[u8]) -> usize {
        let mut count = 0;
        while !bytes.is_empty() {
            let taken = if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                count += if self.of_answer { taken } else { 0 };
                taken
            } else {
                let taken = (FRAME_HEAD - self.seen).min(bytes.len());
                self.head[self.seen..][..taken].copy_from_slice(&bytes[..taken]);
                self.seen += taken;
                if self.seen == FRAME_HEAD {
                    let [high, middle, low, kind, ..] = self.head;
                    self.seen = 0;
                    self.rest = u32::from_be_bytes([0, high, middle, low]) as usize;
                    self.of_answer = OF_ANSWERS.contains(&kind);
                    count += usize::from(self.of_answer);
                }
                taken
            };
            bytes = &bytes[taken..];
        }
        count
    }
}

impl Noted {
    pub(crate) fn new(stream: TcpStream, activity: &Arc<Activity>) -> Self {
        Self { stream, activity: Arc::clone(activity), sent: Sent::Nothing }
    }

    fn note(&mut self, bytes: &[u8]) {
        if let (Sent::Nothing, Some(&first)) = (&self.sent, bytes.first()) {
            // An answer of HTTP/1 begins with its name, a frame with the upper byte of its length.
            self.sent = if first == b'H' { Sent::Answers } else { Sent::Frames(Frames::default()) };
        }
        let moved = match &mut self.sent {
            Sent::Nothing => 0,
            Sent::Answers => bytes.len(),
            Sent::Frames(frames) => frames.of_answers(bytes),
        };
        self.activity.moved.fetch_add(moved as u64, Relaxed);
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.note(&bytes[..sent]);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A small answer is its head and its body: to copy them into one piece costs less than to
        // have the kernel gather them.
        let mut whole = [0; SMALL];
        let mut length = 0;
        for piece in pieces {
            let end = length + piece.len();
            if let Some(place) = whole.get_mut(length..end) {
                place.copy_from_slice(piece);
            }
            length = end;
        }
        if let Some(whole) = whole.get(..length) {
            return self.poll_write(cx, whole);
        }
        let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, pieces))?;
        let mut rest = sent;
        for piece in pieces {
            let taken = rest.min(piece.len());
            self.note(&piece[..taken]);
            rest -= taken;
        }
        Poll::Ready(Ok(sent))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let [_, high, middle, low] = (payload as u32).to_be_bytes();
        let mut frame = vec![high, middle, low, kind, 0, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD + payload, 7);
        frame
    }

    /// Frames by type and length of payload, cut into pieces of any size.
    fn check(frames: &[(u8, usize)], expected: usize) {
        let bytes: Vec<u8> = frames.iter().flat_map(|&(kind, size)| frame(kind, size)).collect();
        for size in [1, 2, 7, 9, 10, 1000, bytes.len()] {
            let mut seen = Frames::default();
            let count: usize = bytes.chunks(size).map(|piece| seen.of_answers(piece)).sum();
            assert_eq!(count, expected, "{frames:?} in pieces of {size}");
        }
    }

    #[test]
    fn of_frames_only_those_of_answers_count() {
        let [data, headers, settings, ping, window] = [0, 1, 4, 6, 8];
        check(&[(settings, 6), (settings, 0), (window, 4), (ping, 8), (ping, 8)], 0);
        check(&[(settings, 6), (headers, 20), (ping, 8), (data, 16_384)], 16_406);
        check(&[(ping, 8), (data, 0), (ping, 8)], 1);
    }
}
