//! The engine: state, store, policies and clock together. It reads, asks the rules, and writes: in a turn
//! each question is decided in memory and its entry appended; the turn's entries are written at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bursar_quota::{
    Activated, Anew, Bounds, CommitAnswer, CommitRequest, Compiled, Difference, Event, IdHash,
    Past, RecordAnswer, RecordRequest, ReleaseAnswer, ReleaseRequest, ReserveAnswer,
    ReserveRequest, Rules, State, Timestamp, Unit,
};
use bursar_store::{ReadError, Room, Store};

use crate::clock::Clock;
use crate::deadlines::Deadlines;
use crate::fault::{Fault, Unavailable};
use crate::metrics::Counts;
use crate::settings::PolicyFile;
use crate::wire;

/// How many expiries are written at once, where many are due.
const EXPIRIES_PER_WRITE: usize = 4_096;

/// How many ids beyond the horizon one step forgets; the sweep forgets the rest.
const FORGET_STEPS: usize = 64;

/// How many policies are kept compiled; reservations rarely outlive more.
const COMPILED_MAX: usize = 8;

/// More than an activation's entry takes beside the policy and its file: a digest, and what names each limit.
const ACTIVATION_BYTES: usize = 8 << 10;

/// What became of a policy that was to come into force.
pub(crate) enum Activation {
    /// It is in force, by this entry.
    Entered { version: u64, sequence: u64 },
    /// Its file is the one that came last: what is in force stays.
    Same,
    /// What is in force stays, and this is why.
    Refused(Vec<String>),
}

/// Why a limit may not be counted anew without being told to.
fn refused(anew: &Anew) -> String {
    let words = anew.units.iter().map(|unit| match unit {
        Unit::Tokens => "tokens",
        Unit::Requests => "requests",
        Unit::Concurrency => "concurrency",
    });
    let units = words.collect::<Vec<_>>().join(" and ");
    format!(
        "limit {:?} would count {units} anew, without what was used before: {}; {}serve with \
         --reset-changed to let it begin so",
        anew.limit,
        anew.because,
        if anew.because == Difference::NewLimit { "" } else { "leave that as it was, or " }
    )
}

/// An answer with what it rests on.
pub(crate) struct Decided<Answer> {
    /// The answer.
    pub(crate) answer: Answer,
    /// When it was given.
    pub(crate) now: Timestamp,
    /// The entry that must be safe before the answer is given; 0 for none.
    pub(crate) sequence: u64,
}

/// Everything a decision needs, on one thread.
pub(crate) struct Engine {
    pub(crate) state: State,
    pub(crate) store: Store,
    pub(crate) bounds: Bounds,
    /// The most bytes the ledger may take, for people.
    pub(crate) ledger_bytes_max: u64,
    /// Bytes of one segment of the ledger.
    segment_bytes: u64,
    pub(crate) clock: Clock,
    pub(crate) deadlines: Deadlines,
    pub(crate) counts: Counts,
    /// The policy in force, with its version.
    in_force: (u64, Arc<Compiled>),
    /// Policies that were in force when a reservation was granted, at most [`COMPILED_MAX`], once needed.
    compiled: VecDeque<(u64, Arc<Compiled>)>,
    /// The last sequence written through.
    pub(crate) written: u64,
    /// Calls that wait for this turn's write.
    pub(crate) process_waiting: Vec<Waker>,
    /// Calls that wait for a sync, each with its sequence.
    pub(crate) power_waiting: Vec<(u64, Waker)>,
    /// Whether Reserve is refused because the sidecar is about to stop.
    pub(crate) draining: bool,
    /// Why nothing more is answered.
    pub(crate) poisoned: Option<String>,
}

impl Engine {
    /// An engine over a state and the store it came from, under a policy that is yet to come into force.
    pub(crate) fn new(
        state: State,
        store: Store,
        policy: Arc<Compiled>,
        (bounds, ledger_bytes_max, segment_bytes): (Bounds, u64, u64),
        mut clock: Clock,
    ) -> Self {
        let deadlines = Deadlines::of(&state, clock.now(), clock.lived());
        Self {
            deadlines,
            written: state.sequence(),
            counts: Counts::default(),
            in_force: (0, policy),
            compiled: VecDeque::new(),
            process_waiting: Vec::new(),
            power_waiting: Vec::new(),
            draining: false,
            poisoned: None,
            state,
            store,
            ledger_bytes_max,
            segment_bytes,
            bounds,
            clock,
        }
    }

    /// Brings a policy into force by a new entry, if its file is not the one that came last and either it
    /// counts nothing anew or `reset_changed` allows that. Otherwise the one in force stays.
    pub(crate) fn activate(
        &mut self,
        policy: Arc<Compiled>,
        file: &PolicyFile,
        reset_changed: bool,
    ) -> Result<Activation, Fault> {
        let last = self.state.policy_in_force();
        let last = last.map(|(version, record)| (version, *record.digest == *file.digest));
        let mut mistakes = self.too_large(file);
        if let Some((version, same)) = last {
            self.in_force = (version, self.policy(version)?);
            if same {
                return Ok(Activation::Same);
            }
            if !reset_changed {
                mistakes.extend(policy.counts_anew(&self.in_force.1).iter().map(refused));
            }
        }
        if !mistakes.is_empty() {
            return Ok(Activation::Refused(mistakes));
        }
        let version = last.map_or(0, |(version, _)| version) + 1;
        let event = Event::Activated(Activated {
            version,
            digest: file.digest.clone().into(),
            policy: file.policy.clone().into(),
            source: file.source.clone().into(),
            rollups: policy.policy().rollups.clone(),
            identities: policy.identities(),
        });
        let now = self.begin()?;
        self.check_place(file)?;
        let sequence = self.enter(now, &event)?;
        self.counts.activated(&policy);
        let (before, left) = std::mem::replace(&mut self.in_force, (version, policy));
        // Version 0 is what the engine was made with, which is not in the ledger.
        if before > 0 {
            self.keep(before, left);
        }
        Ok(Activation::Entered { version, sequence })
    }

    /// Why the entry of a policy would fit no segment of the ledger; empty if it does.
    fn too_large(&self, file: &PolicyFile) -> Vec<String> {
        let bytes = file.policy.len() + file.source.len();
        let most = usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX);
        let mistake = || {
            format!(
                "the policy takes {bytes} bytes with its file, and a segment of the ledger holds \
                 {most} of one; write less, or give the ledger larger segments"
            )
        };
        (bytes > most).then(mistake).into_iter().collect()
    }

    /// Refuses a policy that would take the room kept for settlements, or more than there is.
    fn check_place(&self, file: &PolicyFile) -> Result<(), Fault> {
        let bytes = file.policy.len() + file.source.len() + ACTIVATION_BYTES;
        if self.store.has_place(u64::try_from(bytes).unwrap_or(u64::MAX)) {
            return Ok(());
        }
        self.room_for_reservations()?;
        let why = "the ledger's segment has no place for the policy".into();
        Err(Fault::Unavailable(Unavailable::LedgerFull(why)))
    }

    /// Refuses what is new where only settlements have room, or nothing has.
    fn room_for_reservations(&self) -> Result<(), Fault> {
        match self.store.room() {
            Room::Free => Ok(()),
            Room::SettlementsOnly(why) | Room::Nothing(why) => {
                Err(Fault::Unavailable(Unavailable::LedgerFull(why)))
            }
        }
    }

    /// Refuses even settlements where not even the space kept for them is left.
    fn room_for_settlements(&self) -> Result<(), Fault> {
        match self.store.room() {
            Room::Free | Room::SettlementsOnly(_) => Ok(()),
            Room::Nothing(why) => Err(Fault::Unavailable(Unavailable::DiskFull(why))),
        }
    }

    /// Keeps a compiled policy, at most so many; the one kept longest goes first, whatever its version: an
    /// old one that was just compiled has reservations that still settle by it.
    fn keep(&mut self, version: u64, policy: Arc<Compiled>) {
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.pop_front();
        }
        self.compiled.push_back((version, policy));
    }

    pub(crate) fn reserve(
        &mut self,
        request: &ReserveRequest,
    ) -> Result<Decided<ReserveAnswer>, Fault> {
        if self.draining {
            return Err(Fault::Unavailable(Unavailable::Draining));
        }
        let now = self.begin()?;
        let past = self.past(&request.id)?;
        let answer = self.rules(now).reserve(request, past.as_ref())?;
        let sequence = match &answer {
            ReserveAnswer::Granted(_, Some(event)) => {
                self.room_for_reservations()?;
                self.enter(now, event)?
            }
            ReserveAnswer::Granted(_, None) | ReserveAnswer::Denied(_) => 0,
            ReserveAnswer::Replayed(grant) => grant.sequence,
        };
        self.counts.decided(&answer, &self.in_force.1);
        Ok(Decided { answer, now, sequence })
    }

    pub(crate) fn commit(
        &mut self,
        request: &CommitRequest,
    ) -> Result<Decided<CommitAnswer>, Fault> {
        let now = self.begin_settling()?;
        let past = self.past(&request.id)?;
        let granted_by = match (self.state.reservation(&request.id), &past) {
            (Some(open), _) => Some(open.policy_version),
            (None, Some(Past::Settled { reserved, .. })) => Some(reserved.policy_version),
            (None, _) => None,
        };
        let granted_by = granted_by.map(|version| self.policy(version)).transpose()?;
        let answer = self.rules(now).commit(request, past.as_ref(), granted_by.as_deref())?;
        let sequence = self.enter_or(now, answer.event.as_ref(), answer.sequence)?;
        self.counts.committed(&answer);
        Ok(Decided { answer, now, sequence })
    }

    pub(crate) fn release(
        &mut self,
        request: &ReleaseRequest,
    ) -> Result<Decided<ReleaseAnswer>, Fault> {
        let now = self.begin_settling()?;
        let past = self.past(&request.id)?;
        let answer = self.rules(now).release(request, past.as_ref())?;
        let sequence = self.enter_or(now, answer.event.as_ref(), answer.sequence)?;
        self.counts.released(&answer);
        Ok(Decided { answer, now, sequence })
    }

    pub(crate) fn record(
        &mut self,
        request: &RecordRequest,
    ) -> Result<Decided<RecordAnswer>, Fault> {
        let now = self.begin_settling()?;
        let past = self.past(&request.id)?;
        let answer = self.rules(now).record(request, past.as_ref())?;
        let sequence = self.enter_or(now, answer.event.as_ref(), answer.sequence)?;
        self.counts.recorded(&answer);
        Ok(Decided { answer, now, sequence })
    }

    /// What a decision of now looks at.
    pub(crate) fn rules(&self, now: Timestamp) -> Rules<'_> {
        Rules {
            state: &self.state,
            policy: &self.in_force.1,
            policy_version: self.in_force.0,
            bounds: &self.bounds,
            now,
        }
    }

    /// The policy in force and its version.
    pub(crate) fn in_force(&self) -> (u64, &Arc<Compiled>) {
        (self.in_force.0, &self.in_force.1)
    }

    /// Begins a turn's step: what is due has expired before anything else is decided at that instant.
    pub(crate) fn begin(&mut self) -> Result<Timestamp, Fault> {
        if self.poisoned.is_some() {
            return Err(Fault::Unavailable(Unavailable::Poisoned));
        }
        let now = self.clock.now();
        let mut expired = 0;
        let lived = self.clock.lived();
        while let Some(id) = self.deadlines.due(lived) {
            self.room_for_settlements()?;
            let Some(event) = self.rules(now).expire(id) else {
                return Err(Fault::Bug(format!("reservation {id} is due and not open")));
            };
            self.enter(now, &event)?;
            self.counts.expired += 1;
            expired += 1;
            if expired % EXPIRIES_PER_WRITE == 0 {
                self.flush();
            }
        }
        self.state.forget_ids(now, &self.bounds, FORGET_STEPS);
        Ok(now)
    }

    /// Begins a settlement.
    fn begin_settling(&mut self) -> Result<Timestamp, Fault> {
        let now = self.begin()?;
        self.room_for_settlements()?;
        Ok(now)
    }

    /// Whether entries were appended since the last write.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.state.sequence() > self.written
    }

    /// Writes what the turn appended, and wakes those who wait for it.
    pub(crate) fn flush(&mut self) {
        if self.poisoned.is_none() {
            match self.store.flush() {
                Ok(written) => self.written = written,
                Err(error) => self.poison(error.to_string()),
            }
            if !self.power_waiting.is_empty() {
                self.store.request_sync();
            }
        }
        for waker in self.process_waiting.drain(..) {
            waker.wake();
        }
    }

    /// Wakes those whose entries have become durable; says whether the store has room for everything.
    pub(crate) fn synced(&mut self) -> bool {
        let status = self.store.status();
        if let Some(why) = status.poisoned {
            self.poison(why);
        }
        let durable = self.store.durable();
        let all = self.poisoned.is_some();
        self.power_waiting.retain(|(sequence, waker)| {
            let done = all || *sequence <= durable;
            if done {
                waker.wake_by_ref();
            }
            !done
        });
        status.ledger_full.is_none() && status.index_full.is_none()
    }

    /// From now on nothing is answered; those who wait are told so.
    pub(crate) fn poison(&mut self, why: String) {
        self.poisoned.get_or_insert(why);
        self.wake_all();
    }

    /// Wakes everyone who waits for an entry.
    pub(crate) fn wake_all(&mut self) {
        for waker in self.process_waiting.drain(..) {
            waker.wake();
        }
        for (_, waker) in self.power_waiting.drain(..) {
            waker.wake();
        }
    }

    fn enter_or(
        &mut self,
        now: Timestamp,
        event: Option<&Event>,
        sequence: u64,
    ) -> Result<u64, Fault> {
        event.map_or(Ok(sequence), |event| self.enter(now, event))
    }

    /// Appends an event and applies it. From here on it must succeed.
    fn enter(&mut self, now: Timestamp, event: &Event) -> Result<u64, Fault> {
        let sequence = self.store.append(now, event);
        self.deadlines.note(sequence, self.clock.lived(), event, &self.state);
        if let Err(error) = self.state.apply(sequence, now, event) {
            // What was appended is never written: the ledger stays as it was.
            self.poison(format!("an entry did not follow from the state: {error}"));
            return Err(Fault::Bug(error.to_string()));
        }
        self.state.forget_ids(now, &self.bounds, FORGET_STEPS);
        Ok(sequence)
    }

    /// A policy by version, compiled from the ledger's record of it.
    pub(crate) fn policy(&mut self, version: u64) -> Result<Arc<Compiled>, Fault> {
        if version == self.in_force.0 {
            return Ok(self.in_force.1.clone());
        }
        if let Some((_, policy)) = self.compiled.iter().find(|(kept, _)| *kept == version) {
            return Ok(policy.clone());
        }
        let record = self
            .state
            .policy(version)
            .ok_or_else(|| Fault::Bug(format!("no policy of version {version} is known")))?;
        let policy = wire::policy_from_bytes(&record.policy).map_err(|mistakes| {
            Fault::Bug(format!(
                "policy version {version} is not understood: {}",
                mistakes.join("; ")
            ))
        })?;
        let policy = Arc::new(policy);
        self.keep(version, policy.clone());
        Ok(policy)
    }

    /// What the ledger says of an id that is not open and is remembered.
    fn past(&mut self, id: &Arc<str>) -> Result<Option<Past>, Fault> {
        if self.state.reservation(id).is_some() {
            return Ok(None);
        }
        let Some(remembered) = self.state.remembered(IdHash::of(id)) else { return Ok(None) };
        let sequence = remembered.sequence;
        let past = match self.read(sequence)? {
            (_, Event::Recorded(recorded)) => Past::Recorded { sequence, recorded },
            (_, Event::Settled(settled)) => match self.read(settled.reserved_sequence)? {
                (granted_at, Event::Reserved(reserved)) => {
                    Past::Settled { granted_at, reserved, sequence, settled }
                }
                _ => return Err(misplaced(settled.reserved_sequence, "a reservation")),
            },
            _ => return Err(misplaced(sequence, "a settlement")),
        };
        Ok(Some(past))
    }

    fn read(&mut self, sequence: u64) -> Result<(Timestamp, Event), Fault> {
        self.store.read(sequence).map_err(|error| match error {
            ReadError::Io { .. } | ReadError::Broken { .. } => {
                Fault::Unavailable(Unavailable::Unreadable(error.to_string().into()))
            }
            ReadError::Absent(_) | ReadError::Format { .. } | ReadError::Codec { .. } => {
                Fault::Bug(format!("entry {sequence} cannot be read: {error}"))
            }
        })
    }
}

fn misplaced(sequence: u64, expected: &str) -> Fault {
    Fault::Bug(format!("entry {sequence} is not {expected}"))
}
