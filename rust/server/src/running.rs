//! A data plane that serves: what whoever started it may ask of it, and how it is stopped.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bursar_proto::v1;
use bursar_quota::Timestamp;
use bursar_store::IndexHandle;
use tokio::sync::mpsc;

use crate::engine::Activation;
use crate::fault::Fault;
use crate::plane::{self, Activate, Ask, Command};
use crate::settings::{PolicyFile, Settings};
use crate::shared::Shared;
use crate::{metrics, status, sweep, wire};

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

    /// A page of where counters stand.
    ///
    /// # Errors
    /// When the question is wrong, or it has stopped.
    pub fn standings(
        &self,
        request: v1::ListStandingsRequest,
    ) -> Result<v1::ListStandingsResponse, AskError> {
        self.ask(move |shared| shared.engine(|engine| status::standings(engine, &request)))
    }

    /// What the data plane counts, as Prometheus' text.
    ///
    /// # Errors
    /// When it has stopped.
    pub fn metrics(&self) -> Result<String, AskError> {
        self.ask(|shared| {
            let connections = shared.connections();
            shared.engine(|engine| Ok(metrics::render(engine, &shared.latencies, connections)))
        })
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
