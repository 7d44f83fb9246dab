//! The engine as the tasks of the data plane's thread share it, and the turns in which it writes.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

use crate::engine::Engine;
use crate::fault::{Fault, Unavailable};
use crate::metrics::Latencies;
use crate::slots::Slots;
use crate::watch::Denials;
use crate::wire::ask::Durability;

/// One engine and the notices about it. All of it lives on one thread, so the lock is never waited for.
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    /// Something was appended in this turn.
    pub(crate) turn: Notify,
    /// A sync has ended, well or badly.
    pub(crate) synced: Arc<Notify>,
    /// The engine is poisoned.
    pub(crate) poisoned: Notify,
    /// Denials on their way to those who watch.
    pub(crate) denials: Arc<Denials>,
    /// There is no room any more, or there is again.
    pub(crate) room: Notify,
    /// How long answers took.
    pub(crate) latencies: Latencies,
    /// Calls that have no answer yet.
    calls: AtomicUsize,
    /// The last such call has ended.
    idle: Notify,
    /// What connections take while they are open.
    pub(crate) slots: Arc<Slots>,
}

impl Shared {
    pub(crate) fn new(engine: Engine, slots: Arc<Slots>) -> Arc<Self> {
        let synced = Arc::new(Notify::new());
        let notice = synced.clone();
        engine.store.on_durable(Box::new(move || notice.notify_one()));
        Arc::new(Self {
            engine: Mutex::new(engine),
            turn: Notify::new(),
            synced,
            poisoned: Notify::new(),
            denials: Arc::default(),
            room: Notify::new(),
            latencies: Latencies::default(),
            calls: AtomicUsize::new(0),
            idle: Notify::new(),
            slots,
        })
    }

    /// Takes note of a call until what is given is dropped, answered or not.
    pub(crate) fn call(&self) -> Call<'_> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Call(self)
    }

    /// Waits until no call is without an answer.
    pub(crate) async fn idle(&self) {
        while self.calls.load(Ordering::Relaxed) > 0 {
            self.idle.notified().await;
        }
    }

    /// Lets the engine do one thing; the first one that appends in a turn schedules the turn's write, behind
    /// everything else that is ready.
    pub(crate) fn engine<R>(
        &self,
        act: impl FnOnce(&mut Engine) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let mut engine = self.lock()?;
        let _alarm = Alarm(&self.poisoned);
        let before = engine.has_unwritten();
        let result = act(&mut engine);
        if !before && engine.has_unwritten() {
            self.turn.notify_one();
        }
        if engine.poisoned.is_some() {
            self.poisoned.notify_one();
        }
        if let Err(fault) = &result {
            engine.counts.failed(fault.name());
        }
        result
    }

    /// Waits until an entry has survived what it must; 0 waits for nothing.
    pub(crate) async fn settled(&self, sequence: u64, durability: Durability) -> Result<(), Fault> {
        if sequence == 0 {
            return Ok(());
        }
        poll_fn(|context| {
            let mut engine = match self.lock() {
                Ok(engine) => engine,
                Err(fault) => return Poll::Ready(Err(fault)),
            };
            if engine.poisoned.is_some() {
                return Poll::Ready(Err(Fault::Unavailable(Unavailable::Poisoned)));
            }
            let written = engine.written >= sequence;
            match durability {
                Durability::Process if written => return Poll::Ready(Ok(())),
                Durability::Process => engine.process_waiting.push(context.waker().clone()),
                Durability::Power if engine.store.durable() >= sequence => {
                    return Poll::Ready(Ok(()));
                }
                Durability::Power => {
                    engine.power_waiting.push((sequence, context.waker().clone()));
                    if written {
                        engine.store.request_sync();
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Writes the turns, one after the other.
    pub(crate) async fn write_turns(&self) {
        loop {
            self.turn.notified().await;
            // Never, but where a test holds a turn's write back.
            while bursar_store::held("turn") {
                tokio::task::yield_now().await;
            }
            self.flush();
        }
    }

    /// Writes what is appended now.
    pub(crate) fn flush(&self) {
        let _ = self.engine(|engine| {
            engine.flush();
            Ok(())
        });
    }

    /// Wakes those who wait for syncs, one sync after the other, and whoever watches the room.
    pub(crate) async fn follow_syncs(&self) {
        let mut had_room = true;
        loop {
            self.synced.notified().await;
            let has_room = self.engine(|engine| Ok(engine.synced())).unwrap_or_default();
            if std::mem::replace(&mut had_room, has_room) != has_room {
                self.room.notify_one();
            }
        }
    }

    /// Wakes everyone who waits for an entry, also where the engine panicked: they are then told so.
    pub(crate) fn wake_all(&self) {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).wake_all();
    }

    /// Why nothing more is answered, if so.
    pub(crate) fn why_poisoned(&self) -> Option<String> {
        match self.engine.lock() {
            Ok(engine) => engine.poisoned.clone(),
            Err(_) => Some(PANICKED.into()),
        }
    }

    /// A panic while the engine was at work leaves it poisoned: what it had changed is not known.
    fn lock(&self) -> Result<MutexGuard<'_, Engine>, Fault> {
        self.engine.lock().map_err(|_| {
            self.poisoned.notify_one();
            Fault::Unavailable(Unavailable::Poisoned)
        })
    }

    /// The engine, once nothing else uses it.
    pub(crate) fn into_engine(self) -> Option<Engine> {
        self.engine.into_inner().ok()
    }
}

/// Tells of a panic that happens while it is held.
struct Alarm<'a>(&'a Notify);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

/// A call that has no answer yet.
pub(crate) struct Call<'a>(&'a Shared);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}

/// Why an engine is poisoned whose code panicked.
const PANICKED: &str = "a panic in the middle of a change: this is a bug in bursar";
