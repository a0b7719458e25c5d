//! Copies of requests that other arms get once the live answer was made: they change no answer, run
//! only where there is room beside live requests, on threads that give way to all others, and are the
//! first to be dropped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use berth_monitor::{End, Exposed, Observations, Sum, Value};
use berth_plugin::{Reply, Request};
use tokio::runtime::{Handle, Runtime};

use crate::compare::{Difference, OTHER};
use crate::ended::{Ended, end};
use crate::error::RequestError;
use crate::examples::{Example, beginning, excerpt};
use crate::live::{Admission, LiveRevision, PredictionId};
use crate::rolling::Rolling;

/// The most copies that wait, over all endpoints, and the most bytes of requests and answers that they
/// hold.
const COPIES: usize = 256;
const BYTES: usize = 64 << 20;

/// How long a copy waits for room.
const PATIENCE: Duration = Duration::from_secs(1);

/// How soon to look again whether there is room.
const LOOK: Duration = Duration::from_millis(5);

/// A task that finds no copy looks again so often and so soon before it ends: so a request seldom has
/// to wake one.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// Above this part of the cores, the host has no room for copies.
const BUSY: f64 = 0.75;

/// Over how long the use of the cores is measured.
const SPAN: Duration = Duration::from_millis(50);

/// The copies that wait, of all endpoints.
pub(crate) struct Shadows {
    admission: Arc<Admission>,
    cores: usize,
    queue: Mutex<Queue>,
    use_of_cores: Mutex<UseOfCores>,
    /// Started with the first copy; nothing where there is none, or the system has no threads for it.
    threads: OnceLock<Option<Runtime>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Copy>,
    bytes: usize,
    /// Tasks that take from it.
    tasks: usize,
}

struct UseOfCores {
    since: Instant,
    cpu: Duration,
    busy: bool,
}

/// A request for a shadow, with the live answer.
struct Copy {
    watched: Watched,
    at: Exposed,
    target: Arc<LiveRevision>,
    variant: usize,
    prediction: PredictionId,
    request: Arc<Request>,
    wants_tensors: bool,
    live: Reply,
    bytes: usize,
    queued: Instant,
}

/// Where what a shadow does is counted.
pub(crate) enum Watched {
    /// Between two revisions.
    Arms(Arc<Rolling>),
    /// Among the variants of the revision that it is a variant of.
    Variants,
}

impl Shadows {
    pub(crate) fn new(admission: Arc<Admission>) -> Self {
        let use_of_cores = UseOfCores { since: Instant::now(), cpu: Duration::ZERO, busy: false };
        Self {
            admission,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            queue: Mutex::default(),
            use_of_cores: Mutex::new(use_of_cores),
            threads: OnceLock::new(),
        }
    }

    /// Copies that run at once: half of the cores stay for live requests.
    fn at_once(&self) -> usize {
        (self.cores / 2).max(1)
    }

    /// The threads that copies run on; those of the requests where the system has no others.
    fn threads(&self) -> Handle {
        let start = || {
            let mut threads = tokio::runtime::Builder::new_multi_thread();
            threads.worker_threads(self.at_once()).thread_name("berth-shadow").enable_time();
            threads.on_thread_start(|| {
                berth_apart::give_way();
                // Else the models of copies would run among those of live requests.
                berth_inference::keep_runs_here();
            });
            threads.build().inspect_err(|error| {
                tracing::warn!("shadows have no threads of their own: {error}");
            })
        };
        let threads = self.threads.get_or_init(|| start().ok());
        threads.as_ref().map_or_else(Handle::current, |threads| threads.handle().clone())
    }

    /// A request has its live answer, and `target` is to have a copy of it, which counts by `at`.
    pub(crate) fn copy(
        self: &Arc<Self>,
        ended: &Ended<'_>,
        watched: Watched,
        at: Exposed,
        target: &Arc<LiveRevision>,
        variant: usize,
    ) {
        // Only what was answered can be compared with.
        let Ok(live) = ended.result else { return };
        let bytes = ended.request.body.bytes() + live.bytes();
        let mut queue = self.queue();
        if queue.waiting.len() >= COPIES || queue.bytes + bytes > BYTES {
            drop(queue);
            return target.share.shadows.dropped(target.endpoint().as_str(), "queue");
        }
        queue.bytes += bytes;
        queue.waiting.push_back(Copy {
            watched,
            at,
            target: Arc::clone(target),
            variant,
            prediction: ended.prediction,
            request: Arc::clone(ended.request),
            wants_tensors: ended.wants_tensors,
            live: live.clone(),
            bytes,
            queued: Instant::now(),
        });
        if queue.tasks < self.at_once() {
            queue.tasks += 1;
            self.threads().spawn(Arc::clone(self).work());
        }
    }

    async fn work(self: Arc<Self>) {
        let mut looks = 0;
        while let Some(next) = self.next(looks == LOOKS) {
            let Some(copy) = next else {
                looks += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            looks = 0;
            if self.find_room(&copy).await {
                copy.run().await;
            } else {
                let target = &copy.target;
                target.share.shadows.dropped(target.endpoint().as_str(), "load");
            }
        }
    }

    /// The next copy, or none yet. Where there is none and it is the `last` look, the task that asks is
    /// to end.
    fn next(&self, last: bool) -> Option<Option<Copy>> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        match &next {
            Some(copy) => queue.bytes -= copy.bytes,
            None if last => {
                queue.tasks -= 1;
                return None;
            }
            None => {}
        }
        Some(next)
    }

    async fn find_room(&self, copy: &Copy) -> bool {
        while !self.has_room() {
            if copy.queued.elapsed() > PATIENCE {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Whether fewer than half of the permits are taken, and not too much of the cores.
    fn has_room(&self) -> bool {
        let Admission { requests, instances, most_requests, most_instances } = &*self.admission;
        requests.available_permits() * 2 > *most_requests
            && instances.available_permits() * 2 > *most_instances
            && !self.is_busy()
    }

    fn is_busy(&self) -> bool {
        let mut use_of_cores = self.use_of_cores.lock().unwrap_or_else(PoisonError::into_inner);
        let span = use_of_cores.since.elapsed();
        if span >= SPAN {
            let cpu = cpu_time();
            let used = cpu.saturating_sub(use_of_cores.cpu).as_secs_f64();
            let busy = used > BUSY * span.as_secs_f64() * self.cores as f64;
            *use_of_cores = UseOfCores { since: Instant::now(), cpu, busy };
        }
        use_of_cores.busy
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copy {
    async fn run(self) {
        let Self { target, request, .. } = &self;
        let (start, variant) = (Instant::now(), &target.variants[self.variant]);
        let deadline = start + target.timeout;
        let ran = target.run(variant, request, self.wants_tensors, deadline).await;
        let latency = start.elapsed();
        let (endpoint, shadows) = (target.endpoint().as_str(), &target.share.shadows);
        if matches!(&ran, Err(RequestError::Overloaded)) {
            return shadows.dropped(endpoint, "load");
        }
        let Some(observations) = self.observations() else { return };
        let end = match end(ran.as_ref().err()) {
            End::Answered => End::Answered,
            // What the live arm has answered is no fault of the caller's.
            End::Refused | End::Failed => End::Failed,
        };
        observations.shadowed(self.at.arm, end, latency);
        let compared = match &ran {
            Ok(reply) => {
                let compared = target.compare.replies(&self.live, reply);
                let agreed = f64::from(u8::from(compared.is_ok()));
                observations.value(self.at, Value::Agreement, Sum::of(agreed));
                compared
            }
            Err(error) => Err(Difference { distance: OTHER, said: error.to_string() }),
        };
        let result = match (&ran, &compared) {
            (Err(_), _) => "failed",
            (Ok(_), Ok(())) => "agreed",
            (Ok(_), Err(_)) => "differed",
        };
        berth_monitor::shadowed(endpoint, variant.name.as_str(), result);
        if let Err(Difference { distance, said }) = compared {
            shadows.keep(target.id(), distance, || Example {
                prediction: self.prediction.text(),
                revision: target.id().to_owned(),
                variant: variant.name.to_string(),
                distance,
                difference: excerpt(&said),
                live: beginning(&self.live),
                shadow: ran.as_ref().map_or_else(ToString::to_string, beginning),
            });
        }
    }

    fn observations(&self) -> Option<&Observations> {
        match &self.watched {
            Watched::Arms(rolling) => Some(rolling.observations()),
            Watched::Variants => self.target.routed().map(|routed| routed.observations()),
        }
    }
}

impl Drop for Shadows {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take().flatten() {
            // It may be dropped by a thread that must not wait for others.
            threads.shutdown_background();
        }
    }
}

/// The time that all threads of this process have had on a core; nothing where the system does not say.
fn cpu_time() -> Duration {
    #[cfg(unix)]
    {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a value of the type that the function fills, for as long as it runs.
        if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } == 0 {
            return Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        }
    }
    Duration::ZERO
}
