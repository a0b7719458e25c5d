//! The threads that run what must not hold up its caller, and their bounded queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::InferenceError;
use crate::deadline::{Answer, Ticket};

/// One run that waits for a thread.
pub(crate) struct Job {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) work: Box<dyn FnOnce(&Ticket) -> Answer + Send>,
}

/// A fixed number of threads behind one queue.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    capacity: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Executor {
    /// Starts `threads` threads; at most `capacity` jobs wait for them.
    pub(crate) fn start(threads: usize, capacity: usize) -> std::io::Result<Self> {
        let executor = Self { shared: Arc::new(Shared::default()), capacity: capacity.max(1) };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&executor.shared);
            std::thread::Builder::new()
                .name(format!("berth-infer-{number}"))
                .spawn(move || work(&shared))?;
        }
        Ok(executor)
    }

    /// Queues a job, or refuses it at once when the queue is full of jobs that somebody waits for.
    pub(crate) fn submit(&self, job: Job) -> Result<(), InferenceError> {
        let mut queue = lock(&self.shared.queue);
        if queue.jobs.len() >= self.capacity {
            queue.jobs.retain(|job| !job.ticket.is_dead());
        }
        if queue.jobs.len() >= self.capacity {
            return Err(InferenceError::Overloaded);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(())
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // The threads are not joined: the last job may hold the last reference to this.
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.arrived.notify_all();
    }
}

fn work(shared: &Shared) {
    while let Some(Job { ticket, work }) = next(shared) {
        if ticket.is_dead() {
            continue;
        }
        // A panic is one request's failure, not a thread less.
        let answer = catch_unwind(AssertUnwindSafe(|| work(&ticket)));
        ticket.answer(answer.unwrap_or_else(|_| {
            Err(InferenceError::Runtime("the host panicked in this run".to_owned()))
        }));
    }
}

fn next(shared: &Shared) -> Option<Job> {
    let mut queue = lock(&shared.queue);
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            return Some(job);
        }
        if queue.closed {
            return None;
        }
        queue = shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
