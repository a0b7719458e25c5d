//! A port: takes connections, hands their requests on, and ends both in good order.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

/// How long to wait when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// Up to this size, in bytes, an answer is sent in one piece.
const SMALL: usize = 2 << 10;

/// What a connection over the limit is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 49\r\n\r\n\
    {\"error\":\"too many connections; try again later\"}";

/// What connections may take.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at once; the next are told 503 and closed.
    pub(crate) connections: usize,
    /// A connection on which nothing is under way and nothing has moved for so long is closed, at
    /// the latest after twice as long: one that never sends a whole head, one that is kept for
    /// later, one whose client does not take its answer.
    pub(crate) idle: Duration,
}

/// Serves `app` until `stop` becomes true and every connection has had its last answer.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) {
    let most = bounds.connections.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let room = Arc::new(Semaphore::new(most));
    // Dropped, they tell the connections to come to an end: waiting for one's own costs a connection
    // nothing, where waiting for `stop` would take its lock at every turn.
    let mut alive: Vec<oneshot::Sender<Infallible>> = Vec::new();
    let mut stopping = pin!(stop.wait_for(|stopped| *stopped));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopping => break,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&room).try_acquire_owned() {
                Ok(held) => {
                    let (this, stop) = oneshot::channel();
                    if alive.len() == alive.capacity() {
                        alive.retain(|connection| !connection.is_closed());
                    }
                    alive.push(this);
                    let place = Place { _held: held, idle: bounds.idle, stop };
                    tokio::spawn(connection(stream, app.clone(), place));
                }
                // As much as fits without waiting: whoever floods the port is not waited for.
                Err(_) => drop(stream.try_write(FULL)),
            },
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                tokio::time::sleep(NO_ROOM).await;
            }
        }
    }
    drop((listener, alive));
    // The last permit is back when the last connection has ended.
    let _ = room.acquire_many(most as u32).await;
}

/// The place of one connection among all.
struct Place {
    _held: OwnedSemaphorePermit,
    idle: Duration,
    stop: oneshot::Receiver<Infallible>,
}

/// Serves one connection.
async fn connection(stream: TcpStream, app: Router, mut place: Place) {
    // A connection that refuses works all the same.
    let _ = stream.set_nodelay(true);
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let under_way = UnderWay::begin(&activity);
        let answer = berth_api::answer(app.clone(), request.map(Body::new));
        async move {
            let answer = answer.await;
            drop(under_way);
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(Noted { stream, activity: Arc::clone(&activity) });
    let builder = Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut stopped = false;
    let mut ticks = interval(place.idle);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut moved = 0;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!("a connection ended: {error}");
                }
                break;
            }
            _ = &mut place.stop, if !stopped => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = ticks.tick() => {
                let now = activity.moved.load(Relaxed);
                if activity.under_way.load(Relaxed) == 0 && moved == now {
                    break;
                }
                moved = now;
            }
        }
    }
}

/// What happens on a connection.
#[derive(Default)]
struct Activity {
    /// Requests that have no answer yet.
    under_way: AtomicUsize,
    /// Requests begun and bytes sent. Bytes that come in do not count: a head may come one by one.
    moved: AtomicU64,
}

struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
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

/// A stream whose sent bytes are noted.
struct Noted {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Noted {
    fn note(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &sent {
            self.activity.moved.fetch_add(*bytes as u64, Relaxed);
        }
        sent
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
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A small answer is its head and its body: to copy them into one piece costs less than to
        // have the kernel gather them.
        let mut whole = [0; SMALL];
        let mut length = 0;
        for piece in bytes {
            let end = length + piece.len();
            if let Some(place) = whole.get_mut(length..end) {
                place.copy_from_slice(piece);
            }
            length = end;
        }
        let stream = Pin::new(&mut self.stream);
        let sent = match whole.get(..length) {
            Some(whole) => stream.poll_write(cx, whole),
            None => stream.poll_write_vectored(cx, bytes),
        };
        self.note(sent)
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
