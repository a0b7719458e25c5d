//! Bodies of requests, read whole within bounds: of each, of all together, and of time; and those of
//! answers, counted until their clients have taken them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::respond::error;

/// How long a client may take to send a body.
const TIME: Duration = Duration::from_secs(60);

/// What bodies are counted in, in bytes.
const UNIT: usize = 1 << 10;

/// An answer below this, in bytes, is not counted: the system takes it whole, or it takes no more
/// than its connection does.
const SMALL: usize = 4 << 10;

/// How much the bodies of requests may take, and those of answers.
#[derive(Clone)]
pub struct Bodies {
    most: usize,
    room: Arc<Semaphore>,
    /// In all.
    units: usize,
    /// Apart from the requests' room: who takes answers slowly keeps no request out.
    answers: Arc<Semaphore>,
}

/// An answer's body, and the room that it takes until the last of it was sent.
struct Answer {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body, and the room that it takes until this is dropped.
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Why a body was not read, or not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("too many large bodies at once; try again later")]
    NoRoom,
    #[error(
        "clients take their answers too slowly, there is no room for this one; try again later"
    )]
    NoRoomForAnswer,
    #[error(
        "the answer has about {0} bytes, more than --max-bodies lets the host hold of all together"
    )]
    AnswerTooLarge(usize),
    #[error("the body broke off: {0}")]
    BrokenOff(axum::Error),
    #[error("the body took longer than {} s", TIME.as_secs())]
    TooSlow,
}

impl BodyError {
    pub(crate) fn into_response(self) -> Response {
        let status = match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoom | Self::NoRoomForAnswer => StatusCode::SERVICE_UNAVAILABLE,
            Self::AnswerTooLarge(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BrokenOff(_) => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        };
        error(status, &self.to_string())
    }
}

impl Bodies {
    /// Bodies of requests of at most `most` bytes each and `together` bytes at once, and as much again
    /// for answers. A body that finds no room is refused with 503, so `together` must be at least
    /// `most`.
    pub fn new(most: usize, together: usize) -> Self {
        let units = (together.max(most) / UNIT + 1).min(Semaphore::MAX_PERMITS);
        let room = || Arc::new(Semaphore::new(units));
        Self { most, room: room(), units, answers: room() }
    }

    /// Refuses an answer that all of the room would not hold, in bytes.
    pub(crate) fn fits(&self, bytes: usize) -> Result<(), BodyError> {
        match bytes.div_ceil(UNIT) > self.units {
            true => Err(BodyError::AnswerTooLarge(bytes)),
            false => Ok(()),
        }
    }

    /// Counts an answer's body for as long as any part of it is held for its client.
    pub(crate) fn hold(&self, answer: Bytes) -> Result<Bytes, BodyError> {
        if answer.len() < SMALL {
            return Ok(answer);
        }
        self.fits(answer.len())?;
        let units = answer.len().div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        match Arc::clone(&self.answers).try_acquire_many_owned(units) {
            Ok(room) => Ok(Bytes::from_owner(Answer { bytes: answer, _room: room })),
            Err(_) => Err(BodyError::NoRoomForAnswer),
        }
    }

    /// Reads a body, or says why not.
    pub(crate) async fn read(&self, body: Body) -> Result<Held, BodyError> {
        let mut read = pin!(self.collect(body));
        // Most bodies are there already, and need no timer.
        if let Poll::Ready(held) = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
            return held;
        }
        tokio::time::timeout(TIME, read).await.unwrap_or(Err(BodyError::TooSlow))
    }

    async fn collect(&self, mut body: Body) -> Result<Held, BodyError> {
        // The announced length, or nothing where the client sends in chunks. It is only a claim:
        // what has arrived takes room, or idle connections could shut out the others.
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.most {
            return Err(BodyError::TooLarge(self.most));
        }
        let mut room = self.take(0, None)?;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(BodyError::BrokenOff)?;
            let Ok(piece) = frame.into_data() else { continue };
            let read = first.len() + rest.len() + piece.len();
            room = self.take(read, Some(room))?;
            // A body in one piece, as most small ones are, is not copied.
            if first.is_empty() && rest.is_empty() {
                first = piece;
                continue;
            }
            if rest.is_empty() {
                rest.reserve(announced.max(read));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&piece);
        }
        let bytes = if rest.is_empty() { first } else { rest.freeze() };
        Ok(Held { bytes, _room: room })
    }

    /// Room for `bytes` in all, of which `held` is there already.
    fn take(
        &self,
        bytes: usize,
        held: Option<OwnedSemaphorePermit>,
    ) -> Result<OwnedSemaphorePermit, BodyError> {
        if bytes > self.most {
            return Err(BodyError::TooLarge(self.most));
        }
        let have = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from((bytes.div_ceil(UNIT)).saturating_sub(have)).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(&self.room).try_acquire_many_owned(more) else {
            return Err(BodyError::NoRoom);
        };
        Ok(match held {
            None => more,
            Some(mut held) => {
                held.merge(more);
                held
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn status(bodies: &Bodies, body: Body) -> Result<usize, u16> {
        bodies
            .read(body)
            .await
            .map(|held| held.bytes.len())
            .map_err(|problem| problem.into_response().status().as_u16())
    }

    fn chunked(pieces: &[usize]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|&n| Ok::<_, std::io::Error>(Bytes::from(vec![7; n]))).collect();
        Body::new(http_body_util::StreamBody::new(Pieces(pieces.into_iter())))
    }

    struct Pieces(std::vec::IntoIter<Result<Bytes, std::io::Error>>);

    impl futures_core::Stream for Pieces {
        type Item = Result<http_body::Frame<Bytes>, std::io::Error>;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(self.0.next().map(|piece| piece.map(http_body::Frame::data)))
        }
    }

    #[tokio::test]
    async fn bodies_are_bounded_each_and_together() {
        let bodies = Bodies::new(10 * UNIT, 20 * UNIT);
        assert_eq!(status(&bodies, Body::from(vec![0; 10 * UNIT])).await, Ok(10 * UNIT));
        assert_eq!(status(&bodies, Body::from(vec![0; 10 * UNIT + 1])).await, Err(413));
        assert_eq!(status(&bodies, chunked(&[UNIT, 3 * UNIT, 5])).await, Ok(4 * UNIT + 5));
        assert_eq!(status(&bodies, chunked(&[6 * UNIT, 6 * UNIT])).await, Err(413));
        let first = bodies.read(Body::from(vec![0; 10 * UNIT])).await.ok();
        let second = bodies.read(chunked(&[9 * UNIT, UNIT])).await.ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(status(&bodies, Body::from(vec![0; 2 * UNIT])).await, Err(503));
        assert_eq!(status(&bodies, chunked(&[100, 2 * UNIT])).await, Err(503));
        drop(second);
        assert_eq!(status(&bodies, Body::from(vec![0; 2 * UNIT])).await, Ok(2 * UNIT));
    }

    #[test]
    fn answers_are_bounded_together_until_the_last_of_them_is_gone() {
        let bodies = Bodies::new(10 * UNIT, 20 * UNIT);
        let hold = |bytes: usize| {
            let held = bodies.hold(Bytes::from(vec![7; bytes]));
            held.map_err(|problem| problem.into_response().status().as_u16())
        };
        assert_eq!(hold(30 * UNIT), Err(500));
        let mut first = hold(12 * UNIT).unwrap();
        assert_eq!(first, vec![7; 12 * UNIT]);
        assert_eq!(hold(10 * UNIT), Err(503));
        assert_eq!(hold(SMALL - 1).unwrap().len(), SMALL - 1);
        let rest = first.split_off(100);
        drop(first);
        assert_eq!(hold(10 * UNIT), Err(503));
        drop(rest);
        assert_eq!(hold(10 * UNIT).unwrap().len(), 10 * UNIT);
    }

    #[tokio::test]
    async fn what_is_only_announced_takes_no_room() {
        let bodies = Bodies::new(10 * UNIT, 10 * UNIT);
        // Announces all that there is and sends nothing.
        let silent = Body::new(Announced);
        let mut reading = std::pin::pin!(bodies.read(silent));
        let waits = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_pending())).await;
        assert!(waits);
        assert_eq!(status(&bodies, Body::from(vec![0; 9 * UNIT])).await, Ok(9 * UNIT));
    }

    struct Announced;

    impl http_body::Body for Announced {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(10 * UNIT as u64)
        }
    }

    #[tokio::test]
    async fn pieces_keep_their_order() {
        let bodies = Bodies::new(UNIT, UNIT);
        let mut expected = Vec::new();
        let pieces: Vec<_> = (0..5u8).map(|n| vec![n; 3]).collect();
        pieces.iter().for_each(|piece| expected.extend_from_slice(piece));
        let pieces: Vec<_> = pieces.into_iter().map(|piece| Ok(Bytes::from(piece))).collect();
        let body = Body::new(http_body_util::StreamBody::new(Pieces(pieces.into_iter())));
        assert_eq!(bodies.read(body).await.ok().unwrap().bytes, expected);
    }
}
