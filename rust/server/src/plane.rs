//! The data plane's thread: it starts the parts, listens to whoever started it, and stops them in order.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use bursar_proto::v1::quota_service_server::SERVICE_NAME;
use bursar_quota::Compiled;
use bursar_store::{IndexHandle, Opened, Options, Store};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::accept::{ACCEPTED_MAX, Listener};
use crate::clock::Clock;
use crate::engine::{Activation, Engine};
use crate::fault::Fault;
use crate::listen::{self, Socket};
use crate::running::{End, Fate, StartError};
use crate::service::Service;
use crate::settings::{PolicyFile, Settings};
use crate::shared::Shared;
use crate::slots::Slots;
use crate::watch::Denials;
use crate::wire::ask::Durability;
use crate::{http, sweep};

/// How many threads count large texts; the data plane itself has one of its own.
const COUNTING_THREADS: usize = 2;
/// How long idle threads that count stay.
const COUNTING_IDLE: Duration = Duration::from_secs(10);

/// How long callers may take to close their connections once every call has its answer.
const LINGER: Duration = Duration::from_millis(200);

/// How long callers who wait may take to be told that nothing more is answered.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Something to be done on the data plane's thread.
pub(crate) type Ask = Box<dyn FnOnce(&Shared) + Send>;

/// What whoever started it may say.
pub(crate) enum Command {
    Ask(Ask),
    Activate(Box<Activate>),
    Drain,
    Stop(Duration),
}

/// A policy that is to come into force, compiled by whoever asks, so that no decision waits for that.
pub(crate) struct Activate {
    pub(crate) policy: Arc<Compiled>,
    pub(crate) file: PolicyFile,
    pub(crate) reset_changed: bool,
    pub(crate) answer: SyncSender<Result<Activation, Fault>>,
}

impl Activate {
    async fn run(self, shared: Arc<Shared>) {
        let answer = activate(&shared, self.policy, &self.file, self.reset_changed).await;
        // Whoever asked may have gone.
        let _ = self.answer.send(answer);
    }
}

/// What is known once it serves.
pub(crate) struct Started {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) index: IndexHandle,
    pub(crate) denials: Arc<Denials>,
}

/// The life of the data plane, on its own thread.
pub(crate) fn run(
    settings: Settings,
    policy: Compiled,
    commands: mpsc::UnboundedReceiver<Command>,
    started: &SyncSender<Result<Started, StartError>>,
    fate: &Fate,
) {
    let life = AssertUnwindSafe(|| match start(settings, policy) {
        Ok((plane, ready)) => {
            // Whoever started it waits for this.
            let _ = started.send(Ok(ready));
            plane.live(commands)
        }
        Err(error) => {
            let end = End::Died(error.to_string());
            let _ = started.send(Err(error));
            end
        }
    });
    let end = catch_unwind(life)
        .unwrap_or_else(|_| End::Died("a panic in the data plane: this is a bug in bursar".into()));
    fate.put(end);
}

/// The parts, started.
struct Plane {
    runtime: Runtime,
    shared: Arc<Shared>,
    health: HealthReporter,
    accepting: Vec<JoinHandle<()>>,
    serving: JoinHandle<Result<(), String>>,
    stop_serving: oneshot::Sender<()>,
    /// Removed when everything else has stopped.
    socket: Option<Socket>,
}

fn start(settings: Settings, policy: Compiled) -> Result<(Plane, Started), StartError> {
    let options = Options {
        segment_bytes: settings.segment_bytes,
        ledger_bytes_max: settings.ledger_bytes_max,
        follow_interval: settings.follow_interval,
        bounds: settings.bounds,
        ..Options::default()
    };
    let Opened { store, state, .. } = Store::open(&settings.data_directory, options)?;
    let index = store.index();
    let clock = match settings.hand_clock {
        Some(at) => Clock::hand(at, state.instant()),
        None => Clock::wall(state.instant()),
    };
    let transport = settings.transport;
    let slots = Slots::new(transport.connections_max, transport.connections_per_caller_max);
    let bounds = (settings.bounds, settings.ledger_bytes_max, settings.segment_bytes);
    let policy = Arc::new(policy);
    let engine = Engine::new(state, store, policy.clone(), bounds, clock);
    let shared = Shared::new(engine, slots.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(COUNTING_THREADS)
        .thread_keep_alive(COUNTING_IDLE)
        .build()
        .map_err(|error| StartError::Failed(format!("no runtime could be made: {error}")))?;
    let turns = shared.clone();
    runtime.spawn(async move { turns.write_turns().await });
    let syncs = shared.clone();
    runtime.spawn(async move { syncs.follow_syncs().await });
    let first = activate(&shared, policy, &settings.policy, settings.reset_changed);
    if let Activation::Refused(mistakes) = runtime.block_on(first).map_err(failed)? {
        return Err(StartError::BadPolicy(mistakes));
    }
    let sweeping = shared.clone();
    runtime.spawn(async move { sweep::sweep(&sweeping).await });

    let (listeners, socket, listen) = runtime.block_on(async { bind(&settings) })?;
    let (accepted_sender, accepted) = mpsc::channel(ACCEPTED_MAX);
    let accepting = listeners
        .into_iter()
        .map(|listener| {
            let accepting = listener.accept_all(
                slots.clone(),
                transport.first_request,
                accepted_sender.clone(),
            );
            runtime.spawn(accepting)
        })
        .collect();
    let health = HealthReporter::new();
    runtime.block_on(report(&health, ServingStatus::Serving));
    let (room, room_health) = (shared.clone(), health.clone());
    runtime.spawn(async move { report_room(&room, &room_health).await });
    let (stop_serving, stop) = oneshot::channel();
    let service = Service::new(shared.clone());
    let serving = runtime.spawn(http::serve(service, health.clone(), transport, accepted, stop));
    let denials = shared.denials.clone();
    let plane = Plane { runtime, shared, health, accepting, serving, stop_serving, socket };
    Ok((plane, Started { listen, index, denials }))
}

/// Brings a policy into force, and waits until that survives a loss of power.
async fn activate(
    shared: &Shared,
    policy: Arc<Compiled>,
    file: &PolicyFile,
    reset_changed: bool,
) -> Result<Activation, Fault> {
    let activation = shared.engine(|engine| engine.activate(policy, file, reset_changed))?;
    if let Activation::Entered { sequence, .. } = activation {
        shared.settled(sequence, Durability::Power).await?;
    }
    Ok(activation)
}

fn failed(fault: Fault) -> StartError {
    StartError::Failed(tonic::Status::from(fault).message().into())
}

type Bound = (Vec<Listener>, Option<Socket>, Option<SocketAddr>);

/// Binds what the settings name, inside the runtime that will accept.
fn bind(settings: &Settings) -> Result<Bound, StartError> {
    let system = |place: String| {
        move |error| StartError::Listen(listen::ListenError::System { place, error })
    };
    let mut listeners = Vec::new();
    let mut socket = None;
    let mut address = None;
    if let Some(path) = &settings.socket {
        let (listener, made) = listen::unix(path)?;
        let listener = tokio::net::UnixListener::from_std(listener)
            .map_err(system(path.display().to_string()))?;
        listeners.push(Listener::Unix(listener));
        socket = Some(made);
    }
    if let Some(wanted) = settings.listen {
        let listener = listen::tcp(wanted)?;
        address = Some(listener.local_addr().map_err(system(wanted.to_string()))?);
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(system(wanted.to_string()))?;
        listeners.push(Listener::Tcp(listener));
    }
    if listeners.is_empty() {
        let why = "it has nowhere to listen: name a socket, or an address on loopback";
        return Err(StartError::Failed(why.into()));
    }
    Ok((listeners, socket, address))
}

/// Says to whoever asks by grpc.health.v1 how the whole server and its service stand.
async fn report(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status(SERVICE_NAME, status).await;
}

impl Plane {
    fn live(self, mut commands: mpsc::UnboundedReceiver<Command>) -> End {
        let Self { runtime, shared, health, accepting, mut serving, stop_serving, socket } = self;
        let failure = runtime.block_on(async {
            let grace = match until_stopped(&shared, &health, &mut commands, &mut serving).await {
                Ok(grace) => grace,
                Err(failure) => {
                    report(&health, ServingStatus::NotServing).await;
                    say_the_last(&shared, &mut commands).await;
                    return Some(failure);
                }
            };
            drain(&shared, &health).await;
            for task in &accepting {
                task.abort();
            }
            // It has ended already if nobody hears this.
            let _ = stop_serving.send(());
            wind_down(&shared, &mut commands, &mut serving, grace).await
        });
        // Closed first, so that nobody who asks waits for an answer that cannot come.
        drop(commands);
        runtime.shutdown_background();
        let closed = close(shared);
        drop(socket);
        match failure.or(closed.err()) {
            None => End::Stopped,
            Some(why) => End::Died(why),
        }
    }
}

/// Does what is asked until told to stop, and says within what grace; or says why it cannot go on.
async fn until_stopped(
    shared: &Arc<Shared>,
    health: &HealthReporter,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    serving: &mut JoinHandle<Result<(), String>>,
) -> Result<Duration, String> {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Ask(ask)) => answer(ask, shared).await,
                Some(Command::Activate(activate)) => {
                    tokio::spawn(activate.run(shared.clone()));
                }
                Some(Command::Drain) => drain(shared, health).await,
                Some(Command::Stop(grace)) => return Ok(grace),
                None => return Ok(Duration::ZERO),
            },
            () = shared.poisoned.notified() => {
                if let Some(why) = shared.why_poisoned() {
                    return Err(why);
                }
            }
            ended = &mut *serving => return Err(match ended {
                Ok(Ok(())) => "the server ended without being told to".into(),
                Ok(Err(error)) => error,
                Err(error) => error.to_string(),
            }),
        }
    }
}

/// Does what is asked, then lets every call go first that is there: whoever asks again at once would otherwise be
/// answered again and again before anybody else.
async fn answer(ask: Ask, shared: &Shared) {
    ask(shared);
    tokio::task::yield_now().await;
}

/// Tells everyone who waits, and whoever asks meanwhile, that nothing is answered any more.
async fn say_the_last(shared: &Shared, commands: &mut mpsc::UnboundedReceiver<Command>) {
    shared.wake_all();
    let end = tokio::time::sleep(LAST_ANSWERS);
    let calm = calm(shared);
    tokio::pin!(end, calm);
    loop {
        tokio::select! {
            () = &mut calm => return,
            () = &mut end => return,
            Some(command) = commands.recv() => if let Command::Ask(ask) = command {
                answer(ask, shared).await;
            },
        }
    }
}

/// Says by grpc.health.v1 of the server as a whole whether there is room for reservations. Of the service it
/// says that it serves: whoever settles is not to be kept away.
async fn report_room(shared: &Shared, health: &HealthReporter) {
    loop {
        let serving = shared.engine(|engine| Ok(engine.synced() && !engine.draining));
        let status = match serving {
            Ok(true) => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        health.set_service_status("", status).await;
        shared.room.notified().await;
    }
}

/// Takes nothing new from here on, and says so once, however often it is told.
async fn drain(shared: &Shared, health: &HealthReporter) {
    let draining = shared.engine(|engine| Ok(std::mem::replace(&mut engine.draining, true)));
    if !draining.unwrap_or_default() {
        report(health, ServingStatus::NotServing).await;
    }
}

/// Lets the calls in flight end, at most within the grace; what is asked meanwhile is still answered.
async fn wind_down(
    shared: &Shared,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    serving: &mut JoinHandle<Result<(), String>>,
    grace: Duration,
) -> Option<String> {
    let end = tokio::time::sleep(grace);
    let calm = calm(shared);
    tokio::pin!(end, calm);
    loop {
        tokio::select! {
            ended = &mut *serving => return match ended {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(error) => Some(error.to_string()),
            },
            () = &mut calm => return None,
            () = &mut end => return None,
            () = shared.poisoned.notified() => {
                if let Some(why) = shared.why_poisoned() {
                    return Some(why);
                }
            }
            Some(command) = commands.recv() => if let Command::Ask(ask) = command {
                answer(ask, shared).await;
            },
        }
    }
}

/// Waits until every call has its answer, and the answers have had time to leave. A caller that does not
/// close its connection, or does not even read, holds nothing up.
async fn calm(shared: &Shared) {
    shared.idle().await;
    tokio::time::sleep(LINGER).await;
    shared.idle().await;
}

/// Writes and syncs what is left, and closes the store.
fn close(shared: Arc<Shared>) -> Result<(), String> {
    let Some(engine) = Arc::into_inner(shared).and_then(Shared::into_engine) else {
        return Err("a panic in the middle of a change: this is a bug in bursar".into());
    };
    if let Some(why) = engine.poisoned {
        return Err(why);
    }
    engine.store.close().map_err(|error| error.to_string())
}
