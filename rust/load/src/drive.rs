//! The clients: closed loops of calls over so many connections, with so many in flight on each.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bursar_proto::v1;
use bursar_proto::v1::quota_service_client::QuotaServiceClient;
use bursar_proto::v1::reserve_response::Outcome;
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{LoadError, Place, Tally, calls};

/// The most calls in flight, over all connections.
pub const IN_FLIGHT_MAX: usize = 4_096;

/// The longest call that is told apart, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;
/// Significant digits of what is measured.
const DIGITS: u8 = 3;
/// How much longer than it should a round may take before somebody is taken to hang.
const STALL: Duration = Duration::from_secs(30);
/// How many releases are in flight on each connection when what a round held is given back.
const RELEASES_IN_FLIGHT: usize = 64;

/// How many callers there are.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Connections, at least one.
    pub connections: usize,
    /// Calls in flight on each, at least one.
    pub in_flight: usize,
    /// Tenants that take turns, at least one: each has a counter of its own where limits count by tenant.
    pub tenants: u64,
}

/// What one caller does, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A Reserve at this durability. It stays open until [`Driver::release`].
    Reserve(v1::Durability),
    /// A Reserve at `process` and its Commit at this durability, measured together.
    ReserveCommit(v1::Durability),
}

/// What a round of calls gave.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// How often the work was done.
    pub count: u64,
    /// How long that took, in nanoseconds.
    pub elapsed_ns: u64,
    /// The median of what one took, in nanoseconds.
    pub p50_ns: u64,
    /// What 99 of 100 took at most, in nanoseconds.
    pub p99_ns: u64,
    /// What 999 of 1,000 took at most, in nanoseconds.
    pub p999_ns: u64,
    /// What the longest took, in nanoseconds.
    pub max_ns: u64,
}

/// Connections to one server, driven from the thread that calls. Its reservations are named by its run.
#[derive(Debug)]
pub struct Driver {
    runtime: Runtime,
    clients: Vec<QuotaServiceClient<Channel>>,
    in_flight: usize,
    tenants: u64,
    run: Arc<str>,
    /// The number of the next reservation.
    next: Arc<AtomicU64>,
    /// Reservations that are open, by number.
    held: Vec<Range<u64>>,
    tally: Tally,
}

impl Driver {
    /// Connects. `run` begins the id of every reservation, and must be new to the sidecar.
    ///
    /// # Errors
    /// When the shape is beyond [`IN_FLIGHT_MAX`] or empty, or nobody answers.
    pub fn connect(place: &Place, shape: Shape, run: &str) -> Result<Self, LoadError> {
        let Shape { connections, in_flight, tenants } = shape;
        let all = connections.saturating_mul(in_flight);
        if all == 0 || all > IN_FLIGHT_MAX {
            return Err(LoadError::Wrong(format!(
                "calls in flight must be 1 to {IN_FLIGHT_MAX} over all connections \
                 (got {connections} connections with {in_flight} each)"
            )));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LoadError::system("cannot start a runtime"))?;
        let clients = runtime.block_on(async {
            let mut clients = Vec::with_capacity(connections);
            for _ in 0..connections {
                clients.push(QuotaServiceClient::new(place.connect().await?));
            }
            Ok::<_, LoadError>(clients)
        })?;
        Ok(Self {
            runtime,
            clients,
            in_flight,
            tenants,
            run: run.into(),
            next: Arc::default(),
            held: Vec::new(),
            tally: Tally::default(),
        })
    }

    /// Does the work until `span` has passed or it was done `count_max` times, whichever is first.
    ///
    /// # Errors
    /// When a call is denied, fails, or is not answered for long.
    pub fn round(
        &mut self,
        work: Work,
        span: Duration,
        count_max: u64,
    ) -> Result<Round, LoadError> {
        let first = self.next.load(Ordering::Relaxed);
        let began = Instant::now();
        let end = End { at: began + span, number: first.saturating_add(count_max) };
        let callers = self.clients.iter().flat_map(|client| {
            let caller = || self.caller(client, &self.next);
            (0..self.in_flight).map(move |_| caller())
        });
        let tasks = callers.map(|caller| caller.work(work, end));
        let done = all(&self.runtime, span, tasks)?;
        let elapsed_ns = nanoseconds(began.elapsed());
        let mut latencies = histogram()?;
        for (of_one, tally) in done {
            latencies.add(of_one).map_err(|error| LoadError::Bug(error.to_string()))?;
            self.tally.add(&tally);
        }
        if matches!(work, Work::Reserve(_)) {
            self.held.push(first..self.next.load(Ordering::Relaxed));
        }
        Ok(Round {
            count: latencies.len(),
            elapsed_ns,
            p50_ns: latencies.value_at_quantile(0.50),
            p99_ns: latencies.value_at_quantile(0.99),
            p999_ns: latencies.value_at_quantile(0.999),
            max_ns: latencies.max(),
        })
    }

    /// Releases every reservation that rounds of [`Work::Reserve`] left open.
    ///
    /// # Errors
    /// When a call fails, or is not answered for long.
    pub fn release(&mut self) -> Result<(), LoadError> {
        for held in std::mem::take(&mut self.held) {
            let next = Arc::new(AtomicU64::new(held.start));
            let callers = self.clients.iter().flat_map(|client| {
                let caller = || self.caller(client, &next);
                (0..RELEASES_IN_FLIGHT).map(move |_| caller())
            });
            let tasks = callers.map(|caller| caller.release(held.end));
            // A release takes less than a hundredth of a second even where the disk is slow.
            let span = Duration::from_millis((held.end - held.start).saturating_mul(10));
            for tally in all(&self.runtime, span, tasks)? {
                self.tally.add(&tally);
            }
        }
        Ok(())
    }

    /// Counts what rounds of [`Work::Reserve`] left open as nothing: for a server that keeps nothing.
    pub fn forget(&mut self) {
        self.held.clear();
    }

    fn caller(&self, client: &QuotaServiceClient<Channel>, next: &Arc<AtomicU64>) -> Caller {
        let (client, run, next) = (client.clone(), self.run.clone(), next.clone());
        Caller { client, run, next, tenants: self.tenants }
    }

    /// What the callers were told so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }
}

/// When a round is over.
#[derive(Debug, Clone, Copy)]
struct End {
    at: Instant,
    number: u64,
}

/// One of the callers.
struct Caller {
    client: QuotaServiceClient<Channel>,
    run: Arc<str>,
    next: Arc<AtomicU64>,
    tenants: u64,
}

impl Caller {
    /// Takes the next number before the end. All callers are on one thread, so none takes another's.
    fn number(&self, end: u64) -> Option<u64> {
        let number = self.next.load(Ordering::Relaxed);
        let taken = (number < end).then_some(number)?;
        self.next.store(taken + 1, Ordering::Relaxed);
        Some(taken)
    }

    async fn work(mut self, work: Work, end: End) -> Result<(Histogram<u64>, Tally), LoadError> {
        let (mut latencies, mut tally) = (histogram()?, Tally::default());
        let (reserve_at, commit_at) = match work {
            Work::Reserve(durability) => (durability, None),
            Work::ReserveCommit(durability) => (v1::Durability::Process, Some(durability)),
        };
        while Instant::now() < end.at {
            let Some(number) = self.number(end.number) else { break };
            let reserve = calls::reserve(&self.run, number, self.tenants, reserve_at);
            let commit = commit_at.map(|durability| calls::commit(&self.run, number, durability));
            let began = Instant::now();
            let answer = self.client.reserve(reserve).await.map_err(LoadError::call("Reserve"))?;
            match answer.into_inner().outcome {
                Some(Outcome::Grant(grant)) => tally.grant(&grant),
                Some(Outcome::Denial(denial)) => return Err(LoadError::Denied(denial.hint)),
                None => return Err(LoadError::Denied("its answer has no outcome".into())),
            }
            if let Some(commit) = commit {
                let answer = self.client.commit(commit).await.map_err(LoadError::call("Commit"))?;
                tally.commit(answer.get_ref());
            }
            latencies.saturating_record(nanoseconds(began.elapsed()));
        }
        Ok((latencies, tally))
    }

    async fn release(mut self, end: u64) -> Result<Tally, LoadError> {
        let mut tally = Tally::default();
        while let Some(number) = self.number(end) {
            let release = calls::release(&self.run, number);
            let answer = self.client.release(release).await.map_err(LoadError::call("Release"))?;
            tally.release(answer.get_ref());
        }
        Ok(tally)
    }
}

/// Runs all of them at once to their end, on this thread; the first error ends it.
fn all<T: Send + 'static>(
    runtime: &Runtime,
    span: Duration,
    tasks: impl Iterator<Item = impl Future<Output = Result<T, LoadError>> + Send + 'static>,
) -> Result<Vec<T>, LoadError> {
    let limit = span.saturating_add(STALL);
    runtime.block_on(async {
        let mut running: JoinSet<_> = tasks.collect();
        let joined = async {
            let mut done = Vec::with_capacity(running.len());
            while let Some(ended) = running.join_next().await {
                done.push(ended.map_err(|error| LoadError::Bug(error.to_string()))??);
            }
            Ok(done)
        };
        tokio::time::timeout(limit, joined)
            .await
            .unwrap_or(Err(LoadError::Stalled(limit.as_secs())))
    })
}

fn histogram() -> Result<Histogram<u64>, LoadError> {
    Histogram::new_with_max(LONGEST_NS, DIGITS).map_err(|error| LoadError::Bug(error.to_string()))
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails loudly")]
mod tests {
    use super::*;
    use crate::Echo;

    const LONG: Duration = Duration::from_secs(60);

    fn driver(echo: &Echo) -> Driver {
        let place = Place::Tcp(echo.listen_address().unwrap());
        Driver::connect(&place, Shape { connections: 2, in_flight: 3, tenants: 2 }, "run").unwrap()
    }

    fn echo() -> Echo {
        Echo::start(None, Some("127.0.0.1:0".parse().unwrap())).unwrap()
    }

    #[test]
    fn a_round_counts_what_it_was_told_and_a_release_gives_all_of_it_back() {
        let echo = echo();
        let mut driver = driver(&echo);
        let round = driver.round(Work::Reserve(v1::Durability::Process), LONG, 100).unwrap();
        assert_eq!(round.count, 100);
        driver.release().unwrap();
        let tokens = 100 * calls::RESERVED_TOKENS;
        let expected = Tally {
            granted: 100,
            tokens_granted: tokens,
            released: 100,
            tokens_released: tokens,
            ..Tally::default()
        };
        assert_eq!(driver.tally(), expected);
    }

    #[test]
    fn every_reserve_of_a_pair_is_committed() {
        let echo = echo();
        let mut driver = driver(&echo);
        let work = Work::ReserveCommit(v1::Durability::Power);
        let round = driver.round(work, Duration::from_millis(50), u64::MAX).unwrap();
        let tally = driver.tally();
        assert_eq!((tally.granted, tally.committed), (round.count, round.count));
        assert_eq!(tally.tokens_committed, round.count * calls::COMMITTED_TOKENS);
    }

    #[test]
    fn an_echo_answers_on_its_socket_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo.sock");
        let _echo = Echo::start(Some(path.clone()), None).unwrap();
        let shape = Shape { connections: 1, in_flight: 1, tenants: 1 };
        let mut driver = Driver::connect(&Place::Socket(path), shape, "run").unwrap();
        let round = driver.round(Work::Reserve(v1::Durability::Process), LONG, 5).unwrap();
        assert_eq!(round.count, 5);
    }

    #[test]
    fn nobody_there_is_said_with_the_place() {
        let shape = Shape { connections: 1, in_flight: 1, tenants: 1 };
        let place = Place::Tcp("127.0.0.1:1".parse().unwrap());
        let error = Driver::connect(&place, shape, "run").unwrap_err().to_string();
        assert!(error.starts_with("cannot connect to 127.0.0.1:1: "), "{error}");
    }
}
