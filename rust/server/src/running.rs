//! A data plane that serves: what whoever started it may ask of it, and how it is stopped.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bursar_proto::v1;
use bursar_quota::Timestamp;
use bursar_store::IndexHandle;
use tokio::sync::mpsc;

use crate::engine::{Activation, Engine};
use crate::fault::Fault;
use crate::listing::{self, Page};
use crate::plane::{self, Activate, Ask, Command};
use crate::reservations::{self, History};
use crate::settings::{PolicyFile, Settings};
use crate::shared::Shared;
use crate::watch::{Denials, Watch};
use crate::{explain, metrics, standings, status, sweep, wire};

/// Why a data plane could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The policy is not one.
    #[error("the policy has {} mistakes: {}", .0.len(), .0.join("; "))]
    BadPolicy(Vec<String>),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] bursar_store::OpenError),
    /// Nobody could connect.
    #[error(transparent)]
    Listen(#[from] crate::listen::ListenError),
    /// The ledger could not be written, or we have a bug.
    #[error("the data plane did not start: {0}")]
    Failed(String),
}

/// Why something asked of a running data plane has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It serves no longer.
    #[error("the data plane has stopped")]
    Stopped,
    /// The question is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: String,
        /// What was got, and what it must be.
        problem: String,
    },
    /// No reservation of that id is open or remembered.
    #[error("no reservation {0:?} is open or still remembered")]
    Unknown(String),
    /// Its clock is the machine's.
    #[error("the clock cannot be moved: it was not started on a hand clock")]
    NotOnHandClock,
    /// We have a bug, or the ledger could not be written.
    #[error("{0}")]
    Failed(String),
}

/// Why a policy did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The policy has mistakes, or may not follow on the one in force.
    #[error("the policy has {} mistakes: {}", .0.len(), .0.join("; "))]
    BadPolicy(Vec<String>),
    /// There is no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl From<Fault> for AskError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Invalid { field, problem } => Self::Invalid { field, problem },
            other => Self::Failed(tonic::Status::from(other).message().into()),
        }
    }
}

/// How a data plane ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As it was told to.
    Stopped,
    /// By a failure, in a sentence.
    Died(String),
}

/// Where the end is put, and waited for.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    end: Mutex<Option<End>>,
    ended: Condvar,
}

impl Fate {
    pub(crate) fn put(&self, end: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
        self.ended.notify_all();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn wait(&self, timeout: Duration) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.wait_timeout_while(end, timeout, |end| end.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// The data plane of one sidecar.
pub struct Server;

impl Server {
    /// Opens the ledger, recovers, brings the policy into force, binds, and serves on a thread of its own.
    /// Returns once it serves.
    ///
    /// # Errors
    /// When any of that fails; nothing is then left running.
    pub fn start(settings: Settings) -> Result<Running, StartError> {
        let policy =
            wire::policy_from_bytes(&settings.policy.policy).map_err(StartError::BadPolicy)?;
        let fate = Arc::new(Fate::default());
        let (commands, received) = mpsc::unbounded_channel();
        let (started, starting) = std_mpsc::sync_channel(1);
        let thread_fate = fate.clone();
        let thread = std::thread::Builder::new()
            .name("bursar-data".into())
            .spawn(move || plane::run(settings, policy, received, &started, &thread_fate))
            .map_err(|error| StartError::Failed(format!("no thread could be made: {error}")))?;
        let started = starting
            .recv()
            .unwrap_or_else(|_| Err(StartError::Failed("a panic: this is a bug in bursar".into())));
        match started {
            Ok(started) => Ok(Running {
                commands,
                fate,
                thread: Mutex::new(Some(thread)),
                listen: started.listen,
                index: started.index,
                denials: started.denials,
            }),
            Err(error) => {
                // It has said why; its end adds nothing.
                let _ = thread.join();
                Err(error)
            }
        }
    }
}

/// A data plane that serves. It stops when this is dropped.
pub struct Running {
    /// Not bounded by itself, but by the threads that ask: each waits for its answer.
    commands: mpsc::UnboundedSender<Command>,
    fate: Arc<Fate>,
    thread: Mutex<Option<JoinHandle<()>>>,
    listen: Option<SocketAddr>,
    index: IndexHandle,
    denials: Arc<Denials>,
}

impl Running {
    /// The TCP address as bound, if any.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// The index, to be read from any thread.
    pub fn index(&self) -> &IndexHandle {
        &self.index
    }

    /// What the data plane knows of its status.
    ///
    /// # Errors
    /// When it has stopped.
    pub fn status(&self) -> Result<v1::GetStatusResponse, AskError> {
        self.ask(|shared| shared.engine(|engine| Ok(status::status(engine))))
    }

    /// The policy in force.
    ///
    /// # Errors
    /// When it has stopped, or cannot read its own policy.
    pub fn policy(&self) -> Result<v1::GetPolicyResponse, AskError> {
        self.ask(|shared| shared.engine(|engine| status::policy(engine)))
    }

    /// Brings a policy into force, whole and between two calls; waits until that survives a loss of power.
    /// Gives its version, or none where the file is the one that came last.
    ///
    /// # Errors
    /// When the policy has mistakes, or would count something anew and `reset_changed` does not allow that:
    /// then the one in force stays. When it has stopped.
    pub fn activate(
        &self,
        file: PolicyFile,
        reset_changed: bool,
    ) -> Result<Option<u64>, ActivateError> {
        let policy = wire::policy_from_bytes(&file.policy).map_err(ActivateError::BadPolicy)?;
        let (answer, answered) = std_mpsc::sync_channel(1);
        let ask = Activate { policy: Arc::new(policy), file, reset_changed, answer };
        self.commands.send(Command::Activate(Box::new(ask))).map_err(|_| AskError::Stopped)?;
        match answered.recv().map_err(|_| AskError::Stopped)?.map_err(AskError::from)? {
            Activation::Entered { version, .. } => Ok(Some(version)),
            Activation::Same => Ok(None),
            Activation::Refused(mistakes) => Err(ActivateError::BadPolicy(mistakes)),
        }
    }

    /// A page of where counters stand, gathered in steps between which decisions go on.
    ///
    /// # Errors
    /// When the question is wrong, or it has stopped.
    pub fn standings(
        &self,
        request: v1::ListStandingsRequest,
    ) -> Result<v1::ListStandingsResponse, AskError> {
        let (wanted, after) = standings::wanted(request)?;
        let size = wanted.size();
        let step = move |engine: &mut Engine, page: &mut _| standings::step(engine, &wanted, page);
        Ok(standings::answered(self.gather(Page::after(after), size, step)?))
    }

    /// A page of open reservations, gathered in steps between which decisions go on.
    ///
    /// # Errors
    /// When the question is wrong, or it has stopped.
    pub fn reservations(
        &self,
        request: v1::ListReservationsRequest,
    ) -> Result<v1::ListReservationsResponse, AskError> {
        let (wanted, after) = reservations::wanted(request)?;
        let size = wanted.size();
        let step =
            move |engine: &mut Engine, page: &mut _| reservations::step(engine, &wanted, page);
        Ok(reservations::answered(self.gather(Page::after(after), size, step)?))
    }

    /// One reservation or record with its entries, which are read on the thread that asks.
    ///
    /// # Errors
    /// When it is not known, the ledger cannot be read, or it has stopped.
    pub fn reservation(
        &self,
        request: v1::GetReservationRequest,
    ) -> Result<v1::GetReservationResponse, AskError> {
        Ok(self.history(request.reservation_id)?.answered())
    }

    /// Why a request is granted or denied now, or what a reservation took. A request's input is counted on
    /// the thread that asks.
    ///
    /// # Errors
    /// When the question is wrong, a reservation is not known, or it has stopped.
    pub fn explain(&self, request: v1::ExplainRequest) -> Result<v1::ExplainResponse, AskError> {
        match request.question {
            None => Err(Fault::invalid("question", "give a request or a reservation_id").into()),
            Some(v1::explain_request::Question::Request(request)) => {
                let request = explain::request(request)?;
                self.ask(move |shared| {
                    shared.engine(|engine| explain::hypothetical(engine, &request))
                })
            }
            Some(v1::explain_request::Question::ReservationId(id)) => {
                let history = self.history(id.clone())?;
                let explained = self.ask(move |shared| {
                    shared.engine(|engine| explain::reservation(engine, &history))
                })?;
                explained.ok_or_else(|| {
                    let problem = format!("{id:?} is a record: it was never decided on");
                    Fault::invalid("reservation_id", problem).into()
                })
            }
        }
    }

    /// Begins to watch what happens; none where as many watch already as may ([`crate::WATCHERS_MAX`]).
    ///
    /// # Errors
    /// When the question is wrong.
    pub fn watch(&self, request: v1::WatchEventsRequest) -> Result<Option<Watch>, AskError> {
        let (denials, fate) = (self.denials.clone(), self.fate.clone());
        Ok(Watch::begin(request, &self.index, denials, fate)?)
    }

    /// What the data plane counts, as Prometheus' text.
    ///
    /// # Errors
    /// When it has stopped.
    pub fn metrics(&self) -> Result<String, AskError> {
        self.ask(|shared| shared.engine(|engine| Ok(metrics::render(engine, shared))))
    }

    /// Moves the hand clock, not back; what is due has expired, and what is past remembering is forgotten,
    /// when this returns.
    ///
    /// # Errors
    /// When the clock is the machine's, or it has stopped.
    pub fn set_hand_clock(&self, now: Timestamp) -> Result<(), AskError> {
        let moved = self.ask(move |shared| {
            let moved = shared.engine(|engine| {
                let moved = engine.clock.set(now);
                sweep::once(engine, usize::MAX)?;
                Ok(moved)
            });
            shared.flush();
            moved
        })?;
        if moved { Ok(()) } else { Err(AskError::NotOnHandClock) }
    }

    /// Takes no new reservations from here on; settlements go on.
    pub fn drain(&self) {
        // A data plane that has stopped takes none either.
        let _ = self.commands.send(Command::Drain);
    }

    /// Waits until it has ended, at most so long; none while it serves.
    pub fn wait(&self, timeout: Duration) -> Option<End> {
        self.fate.wait(timeout)
    }

    /// Drains, lets the calls in flight end within the grace, writes, syncs, lets the index catch up, closes.
    pub fn stop(&self, grace: Duration) -> End {
        let _ = self.commands.send(Command::Stop(grace));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of it is in its fate.
            let _ = thread.join();
        }
        self.fate.wait(Duration::MAX).unwrap_or(End::Stopped)
    }

    /// Takes steps until a page is full, nothing is left, or enough was looked at for one answer.
    fn gather<Row: Send + 'static, Place: Send + 'static>(
        &self,
        mut page: Page<Row, Place>,
        size: usize,
        step: impl Fn(&mut Engine, &mut Page<Row, Place>) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Result<Page<Row, Place>, AskError> {
        let step = Arc::new(step);
        for _ in 0..listing::STEPS_MAX {
            let one = step.clone();
            page = self.ask(move |shared| {
                shared.engine(|engine| one(engine, &mut page))?;
                Ok(page)
            })?;
            if page.ended || page.found.len() >= size {
                break;
            }
        }
        Ok(page)
    }

    /// All that the ledger says of an id.
    fn history(&self, id: String) -> Result<History, AskError> {
        let asked = id.clone();
        let latest = self.ask(move |shared| {
            let latest = shared.engine(|engine| Ok(reservations::latest(engine, &asked)));
            // What this turn entered is to be in the file before it is looked for there.
            shared.flush();
            latest
        })?;
        let latest = latest.ok_or(AskError::Unknown(id))?;
        History::read(&self.index, latest).map_err(|error| AskError::Failed(error.to_string()))
    }

    fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&Shared) -> Result<R, Fault> + Send + 'static,
    ) -> Result<R, AskError> {
        let (answer, answered) = std_mpsc::sync_channel(1);
        let ask: Ask = Box::new(move |shared| {
            // Whoever asked may have gone.
            let _ = answer.send(question(shared));
        });
        self.commands.send(Command::Ask(ask)).map_err(|_| AskError::Stopped)?;
        Ok(answered.recv().map_err(|_| AskError::Stopped)??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails loudly")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bursar_quota::Bounds;
    use prost::Message as _;

    use super::*;
    use crate::{FOLLOW_INTERVAL, Transport};

    const QUESTIONS: usize = 50;

    fn serving(folder: &std::path::Path) -> Running {
        let policy = v1::Policy {
            name: "test".into(),
            reservations: Some(v1::ReservationRules {
                ttl_ms: 60_000,
                unsettled: v1::Unsettled::Release.into(),
            }),
            ..Default::default()
        };
        Server::start(Settings {
            data_directory: folder.join("data"),
            socket: Some(folder.join("bursar.sock")),
            listen: None,
            policy: PolicyFile {
                policy: policy.encode_to_vec(),
                digest: b"test".to_vec(),
                source: Vec::new(),
            },
            segment_bytes: 1 << 20,
            ledger_bytes_max: 64 << 20,
            bounds: Bounds::default(),
            follow_interval: FOLLOW_INTERVAL,
            transport: Transport::default(),
            hand_clock: None,
            reset_changed: false,
        })
        .unwrap()
    }

    #[test]
    fn a_call_that_is_there_goes_before_the_next_question_of_operators() {
        let folder = tempfile::tempdir().unwrap();
        let running = serving(folder.path());
        let answered = Arc::new(AtomicUsize::new(0));
        let (all_are_there, wait) = std_mpsc::channel::<()>();
        let (before, found) = std_mpsc::channel();
        let counted = answered.clone();
        let first: Ask = Box::new(move |_| {
            // Like a call that has come: a task of the data plane's, ready to run.
            tokio::spawn(async move { before.send(counted.load(Ordering::Relaxed)) });
            wait.recv().unwrap();
        });
        let others = (0..QUESTIONS).map(|_| {
            let answered = answered.clone();
            let question: Ask = Box::new(move |_| {
                answered.fetch_add(1, Ordering::Relaxed);
            });
            question
        });
        for question in std::iter::once(first).chain(others) {
            running.commands.send(Command::Ask(question)).map_err(|_| "stopped").unwrap();
        }
        all_are_there.send(()).unwrap();
        assert_eq!(found.recv().unwrap(), 0, "questions that were answered first");
        running.status().unwrap();
        assert_eq!(answered.load(Ordering::Relaxed), QUESTIONS);
    }
}
