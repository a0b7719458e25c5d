//! Requests from many connections, and the judgement of what came back.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::{Connection, Request};
use crate::pictures::Picture;

/// Longer is a hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// Different answers that one connection remembers; there are as many as pictures times revisions.
const MOST_ANSWERS: usize = 10_000;

/// How requests follow each other.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection asks again as soon as it has its answer.
    Closed,
    /// So many a second over all connections, whatever comes back.
    Open(f64),
    /// As many, each at a random time among eight.
    Random(f64),
}

/// What was asked and what came back of it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Exchange {
    status: u16,
    revision: String,
    picture: usize,
    /// Empty unless the status is 200.
    body: Vec<u8>,
}

/// Everything that one run of traffic saw.
#[derive(Default)]
pub(crate) struct Tally {
    exchanges: HashMap<Exchange, u64>,
    /// Requests without an answer, by reason.
    broken: BTreeMap<String, u64>,
    /// Microseconds to answers with status 200 from when the request was due, which in an open loop
    /// counts the wait for a free connection.
    pub(crate) since_due: Vec<u32>,
    /// The same from when it was sent.
    pub(crate) answered: Vec<u32>,
    /// Microseconds to every other answer, from when it was sent.
    pub(crate) refused: Vec<u32>,
    /// How long traffic ran.
    pub(crate) elapsed: Duration,
}

impl Tally {
    /// Every different answer with status 200.
    pub(crate) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        let good = self.exchanges.keys().filter(|exchange| exchange.status == 200);
        good.map(|exchange| exchange.body.as_slice())
    }
}

/// Traffic under way.
pub(crate) struct Traffic {
    threads: Vec<JoinHandle<Tally>>,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    requests: Vec<Request>,
    pace: Pace,
    start: Instant,
    stop: AtomicBool,
    next: AtomicU64,
    seen: Mutex<HashMap<String, Instant>>,
}

impl Traffic {
    /// Starts sending the requests in turn to `address` over so many connections.
    pub(crate) fn start(
        address: SocketAddr,
        requests: &[Request],
        connections: usize,
        pace: Pace,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            address,
            requests: requests.to_vec(),
            pace,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let thread = |_| {
            let shared = shared.clone();
            std::thread::Builder::new().stack_size(256 << 10).spawn(move || shared.work())
        };
        let threads = (0..connections)
            .map(thread)
            .collect::<Result<_, _>>()
            .context("too many connections")?;
        Ok(Self { threads, shared })
    }

    /// When the first answer of that revision arrived, if one has.
    pub(crate) fn first_answer(&self, revision: &str) -> Option<Instant> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).get(revision).copied()
    }

    /// Lets what is under way finish and adds everything up.
    pub(crate) fn stop(self) -> Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads {
            let Ok(part) = thread.join() else { bail!("a thread of the traffic panicked") };
            for (exchange, count) in part.exchanges {
                *sum.exchanges.entry(exchange).or_default() += count;
            }
            for (reason, count) in part.broken {
                *sum.broken.entry(reason).or_default() += count;
            }
            sum.since_due.extend(part.since_due);
            sum.answered.extend(part.answered);
            sum.refused.extend(part.refused);
        }
        // With what was under way, which is counted too.
        sum.elapsed = self.shared.start.elapsed();
        sum.since_due.sort_unstable();
        sum.answered.sort_unstable();
        sum.refused.sort_unstable();
        Ok(sum)
    }
}

impl Shared {
    fn work(&self) -> Tally {
        let mut connection = Connection::new(self.address, PATIENCE);
        let mut tally = Tally::default();
        let mut revision = String::new();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = match self.pace {
                Pace::Closed => Instant::now(),
                Pace::Open(per_second) => {
                    self.start + Duration::from_secs_f64(number as f64 / per_second)
                }
                Pace::Random(per_second) => {
                    let place = number as f64 + 8.0 * random(number);
                    self.start + Duration::from_secs_f64(place / per_second)
                }
            };
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            let picture = (number % self.requests.len() as u64) as usize;
            let answer = match connection.send(&self.requests[picture]) {
                Ok(answer) => answer,
                Err(error) => {
                    *tally.broken.entry(error.to_string()).or_default() += 1;
                    // A host that is gone must not be asked without pause.
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
            };
            if answer.status == 200 {
                tally.since_due.push(micros(due.elapsed()));
                tally.answered.push(micros(sent.elapsed()));
                if answer.revision != revision {
                    revision.clone_from(&answer.revision);
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(answer.revision.clone()).or_insert_with(Instant::now);
                }
            } else {
                tally.refused.push(micros(sent.elapsed()));
            }
            let body = if answer.status == 200 { answer.body } else { Vec::new() };
            let exchange =
                Exchange { status: answer.status, revision: answer.revision, picture, body };
            if tally.exchanges.len() < MOST_ANSWERS || tally.exchanges.contains_key(&exchange) {
                *tally.exchanges.entry(exchange).or_default() += 1;
            } else {
                *tally
                    .broken
                    .entry("too many different answers to remember".to_owned())
                    .or_default() += 1;
            }
        }
        tally
    }
}

/// A number from 0 to 1 for each number, by the last step of splitmix64 (Steele, Lea and Flood, 2014).
fn random(number: u64) -> f64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) as f64 / u64::MAX as f64
}

/// A duration in microseconds, at most about an hour.
pub(crate) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The value below which a share `q` of the sorted values lies, in milliseconds, for people.
pub(crate) fn quantile(sorted: &[u32], q: f64) -> String {
    let index = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or("-".to_owned(), |&micros| format!("{:.2} ms", f64::from(micros) / 1e3))
}

/// What one revision answers to every picture, asked one by one without other traffic.
pub(crate) struct Edition {
    /// Its name, from the `berth-revision` header.
    pub(crate) revision: String,
    /// The answers, in the order of the pictures.
    pub(crate) bodies: Vec<Vec<u8>>,
}

impl Edition {
    /// Asks the host, which must not change meanwhile.
    pub(crate) fn ask(address: SocketAddr, pictures: &[Picture]) -> Result<Self> {
        let mut connection = Connection::new(address, PATIENCE);
        let mut edition = Self { revision: String::new(), bodies: Vec::new() };
        for picture in pictures {
            let answer = connection
                .send(&picture.request)
                .with_context(|| format!("asking for {}", picture.name))?;
            if answer.status != 200 {
                bail!("{} was answered with {}: {}", picture.name, answer.status, answer.text());
            }
            if !edition.bodies.is_empty() && edition.revision != answer.revision {
                bail!(
                    "the revision changed from {} to {} meanwhile",
                    edition.revision,
                    answer.revision
                );
            }
            edition.revision = answer.revision;
            edition.bodies.push(answer.body);
        }
        Ok(edition)
    }

    fn says(&self, exchange: &Exchange) -> bool {
        self.bodies.get(exchange.picture) == Some(&exchange.body)
    }
}

/// What a tally comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Requests.
    pub(crate) requests: u64,
    /// Right answers by revision.
    pub(crate) right: BTreeMap<String, u64>,
    /// Answers that are not wholly those of the revision that they name.
    pub(crate) wrong: u64,
    /// Answers that are not 200, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Requests without an answer, by reason.
    pub(crate) broken: BTreeMap<String, u64>,
}

impl Verdict {
    /// Judges every answer by what its revision said when it was asked alone. A revision that was
    /// not asked alone must answer every picture as one and the same of the editions did.
    pub(crate) fn of<'a>(tally: &Tally, editions: impl IntoIterator<Item = &'a Edition>) -> Self {
        let editions: Vec<_> = editions.into_iter().collect();
        let mut verdict = Self { broken: tally.broken.clone(), ..Self::default() };
        verdict.requests = verdict.broken.values().sum();
        let mut revisions: BTreeMap<&str, Vec<(&Exchange, u64)>> = BTreeMap::new();
        for (exchange, &count) in &tally.exchanges {
            verdict.requests += count;
            if exchange.status == 200 {
                revisions.entry(&exchange.revision).or_default().push((exchange, count));
            } else {
                *verdict.refused.entry(exchange.status).or_default() += count;
            }
        }
        for (revision, answers) in revisions {
            let known = editions.iter().find(|edition| edition.revision == revision);
            let matches = |edition: &Edition| {
                answers
                    .iter()
                    .filter(|(exchange, _)| edition.says(exchange))
                    .map(|(_, count)| count)
                    .sum::<u64>()
            };
            let right = match known {
                Some(edition) => matches(edition),
                None => editions.iter().copied().map(matches).max().unwrap_or(0),
            };
            verdict.wrong += answers.iter().map(|(_, count)| count).sum::<u64>() - right;
            verdict.right.insert(revision.to_owned(), right);
        }
        verdict
    }

    /// How many answers were right.
    pub(crate) fn answered(&self) -> u64 {
        self.right.values().sum()
    }

    /// The requests without a right answer, but for those refused with one of `permitted`.
    pub(crate) fn failures(&self, permitted: &[u16]) -> u64 {
        let refused = self.refused.iter().filter(|(status, _)| !permitted.contains(status));
        self.wrong
            + refused.map(|(_, count)| count).sum::<u64>()
            + self.broken.values().sum::<u64>()
    }

    /// What went otherwise than right, for people; empty when nothing did.
    pub(crate) fn complaints(&self) -> String {
        let wrong = (self.wrong > 0).then(|| format!("{} not of their revision", self.wrong));
        let refused =
            self.refused.iter().map(|(status, count)| format!("{count} with status {status}"));
        let broken = self.broken.iter().map(|(reason, count)| format!("{count} broken: {reason}"));
        wrong.into_iter().chain(refused).chain(broken).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition(revision: &str, bodies: &[&str]) -> Edition {
        Edition {
            revision: revision.to_owned(),
            bodies: bodies.iter().map(|body| body.as_bytes().to_vec()).collect(),
        }
    }

    #[test]
    fn answers_are_judged_by_their_revision() {
        let editions = [edition("a", &["1", "2"]), edition("b", &["1", "3"])];
        let check =
            |answers: &[(u16, &str, usize, &str)], right: u64, wrong: u64, failures: u64| {
                let mut tally = Tally::default();
                for &(status, revision, picture, body) in answers {
                    let (revision, body) = (revision.to_owned(), body.as_bytes().to_vec());
                    *tally
                        .exchanges
                        .entry(Exchange { status, revision, picture, body })
                        .or_default() += 1;
                }
                let verdict = Verdict::of(&tally, &editions);
                assert_eq!(verdict.requests, answers.len() as u64);
                let found = (verdict.answered(), verdict.wrong, verdict.failures(&[429]));
                assert_eq!(found, (right, wrong, failures), "{answers:?}");
            };
        check(&[], 0, 0, 0);
        check(&[(200, "a", 0, "1"), (200, "a", 1, "2"), (200, "b", 1, "3")], 3, 0, 0);
        check(&[(200, "a", 0, "1"), (200, "a", 1, "3")], 1, 1, 1);
        // A revision without an edition of its own must be one of them in everything.
        check(&[(200, "c", 0, "1"), (200, "c", 1, "3")], 2, 0, 0);
        check(&[(200, "c", 0, "1"), (200, "c", 1, "3"), (200, "c", 1, "2")], 2, 1, 1);
        check(&[(429, "", 0, ""), (503, "", 0, ""), (500, "", 0, "")], 0, 0, 2);
    }

    #[test]
    fn quantiles_are_taken_from_what_is_there() {
        for (sorted, q, expected) in [
            (&[][..], 0.5, "-"),
            (&[1000], 0.99, "1.00 ms"),
            (&[1000, 2000, 3000], 0.5, "2.00 ms"),
            (&[1000, 2000, 3000], 1.0, "3.00 ms"),
        ] {
            assert_eq!(quantile(sorted, q), expected, "{sorted:?} {q}");
        }
    }
}
