//! A port: takes connections, hands their requests on, and ends both in good order.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::activity::{Activity, Noted, UnderWay};

/// How long to wait when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// Requests at once on a connection of HTTP/2: their small answers are not counted.
const STREAMS: u32 = 64;

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
    /// later, one whose client does not take its answer, one on which there are only pings.
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
    let mut alive: Vec<Alive> = Vec::new();
    let mut ticks = interval(bounds.idle);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = pin!(stop.wait_for(|stopped| *stopped));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ticks.tick() => {
                alive.retain_mut(Alive::goes_on);
                continue;
            }
            _ = &mut stopping => break,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&room).try_acquire_owned() {
                Ok(held) => {
                    if alive.len() == alive.capacity() {
                        alive.retain(|connection| !connection.task.is_finished());
                    }
                    alive.push(Alive::begin(stream, app.clone(), held));
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

/// A connection under way.
struct Alive {
    task: AbortHandle,
    activity: Arc<Activity>,
    /// What had moved when it was last looked at; more than ever does when it was not yet.
    moved: u64,
    /// Dropped, it tells the connection to come to an end: waiting for one's own costs a connection
    /// nothing, where waiting for `stop` would take its lock at every turn.
    _stop: oneshot::Sender<Infallible>,
}

impl Alive {
    fn begin(stream: TcpStream, app: Router, held: OwnedSemaphorePermit) -> Self {
        let (_stop, stop) = oneshot::channel();
        let activity = Arc::new(Activity::default());
        let task = tokio::spawn(connection(stream, app, Arc::clone(&activity), stop, held));
        Self { task: task.abort_handle(), activity, moved: u64::MAX, _stop }
    }

    /// Ends the connection when nothing is under way and nothing has moved since this was last
    /// asked; answers whether it goes on.
    fn goes_on(&mut self) -> bool {
        let now = self.activity.moved.load(Relaxed);
        let rests = self.activity.under_way.load(Relaxed) == 0 && self.moved == now;
        if rests {
            self.task.abort();
        }
        self.moved = now;
        !rests && !self.task.is_finished()
    }
}

/// Serves one connection.
async fn connection(
    stream: TcpStream,
    app: Router,
    activity: Arc<Activity>,
    mut stop: oneshot::Receiver<Infallible>,
    _held: OwnedSemaphorePermit,
) {
    // A connection that refuses works all the same.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let under_way = UnderWay::begin(&activity);
        let answer = berth_api::answer(app.clone(), request.map(Body::new));
        async move {
            let answer = answer.await;
            drop(under_way);
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(Noted::new(stream, &activity));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS);
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = &mut stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!("a connection ended: {error}");
    }
}
