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
    let io = TokioIo::new(Noted::new(stream, &activity));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(STREAMS);
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
