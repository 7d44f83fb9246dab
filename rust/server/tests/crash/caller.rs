//! The callers: each has one call in flight, all the time, and repeats it until it is answered.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use bursar_proto::v1;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::chance::Chance;
use crate::life::{self, Life, Reservation, Settled};
use crate::link::{Client, Line, Link};
use crate::plan::Event;
use crate::settings::{TENANTS, TIGHT};

/// How many of the latest answers each caller asks again after a kill, and how many of any before.
const ASKED_AGAIN_NEW: usize = 6;
const ASKED_AGAIN_OLD: usize = 2;
/// How long most reservations live: past the end of the test.
const TTL_LONG_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
/// How long those live that nobody settles: until the clock moves.
const TTL_SHORT_MS: u64 = 1_000;

/// All callers.
pub(crate) struct Callers {
    in_flight: Arc<AtomicUsize>,
    finish: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Life>>,
}

/// Both ends of what the parent hears.
pub(crate) struct Events {
    pub(crate) sender: Sender<Event>,
    pub(crate) receiver: Receiver<Event>,
}

/// Starts the callers on a thread of their own.
pub(crate) fn start(callers: usize, seed: u64) -> (Link, Callers, Events) {
    let (lines, line) = watch::channel(None);
    let (sender, receiver) = mpsc::channel();
    let in_flight = Arc::new(AtomicUsize::new(0));
    let finish = Arc::new(AtomicBool::new(false));
    let make = {
        let (in_flight, finish, events) = (in_flight.clone(), finish.clone(), sender.clone());
        move |number: usize| Caller {
            number,
            chance: Chance::new(seed ^ Chance::new(u64::try_from(number).unwrap()).bits()),
            line: line.clone(),
            client: None,
            checked: 0,
            in_flight: in_flight.clone(),
            finish: finish.clone(),
            events: events.clone(),
            ids: 0,
            lives: Vec::new(),
        }
    };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let tasks: Vec<_> = (0..callers).map(|at| tokio::spawn(make(at).live())).collect();
            let mut lives = Vec::new();
            for task in tasks {
                lives.extend(task.await.unwrap_or_else(|error| {
                    eprintln!("a caller met what must not be: {error}");
                    // The parent waits for the others, which will wait for ever.
                    std::process::exit(1);
                }));
            }
            lives
        })
    });
    (Link(lines), Callers { in_flight, finish, thread }, Events { sender, receiver })
}

impl Callers {
    /// How many calls were begun and not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Lets every caller finish what it began, and gives all that was acknowledged.
    pub(crate) fn finish(self) -> Vec<Life> {
        self.finish.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// One caller.
struct Caller {
    number: usize,
    chance: Chance,
    line: watch::Receiver<Option<Line>>,
    /// To the child of that number.
    client: Option<(u64, Client)>,
    /// The number of the child that was asked again all it should be.
    checked: u64,
    in_flight: Arc<AtomicUsize>,
    finish: Arc<AtomicBool>,
    events: Sender<Event>,
    ids: u64,
    lives: Vec<Life>,
}

/// A call to come: begun anew each time it is repeated.
macro_rules! ask {
    ($caller:expr, $method:ident, $request:expr) => {{
        let request = $request.clone();
        $caller
            .ask(move |mut client: Client| {
                let request = request.clone();
                async move { client.$method(request).await.map(tonic::Response::into_inner) }
            })
            .await
    }};
}

impl Caller {
    async fn live(mut self) -> Vec<Life> {
        while !self.finish.load(Ordering::SeqCst) {
            match self.chance.below(20) {
                0..3 => self.record().await,
                _ => self.reserve().await,
            }
        }
        // At the very end everything once more.
        let (line, mut client) = self.connected().await;
        for life in &self.lives {
            life::ask_again(life, &mut client, line.now).await.unwrap();
        }
        self.lives
    }

    async fn record(&mut self) {
        let (line, _) = self.connected().await;
        // Usage is counted even past a limit, so none is recorded for the tenant that must stay below its own.
        let tenant = TENANTS[self.chance.index(TENANTS.len())];
        let (_, feature) = self.labels();
        let request = v1::RecordRequest {
            record_id: self.id(),
            model: "openai/gpt-4.1-mini".into(),
            labels: [("tenant".into(), tenant.into()), ("feature".into(), feature)].into(),
            lines: self.lines(30),
            occurred_at_unix_ms: line.now - 5,
            durability: self.durability(),
            ..v1::RecordRequest::default()
        };
        let answer = ask!(self, record, request);
        self.lives.push(Life::Recorded(Box::new((request, answer))));
    }

    async fn reserve(&mut self) {
        let (tenant, feature) = self.labels();
        let left_alone = self.chance.below(10) == 0 && tenant != TIGHT;
        let input = 10 + self.chance.below(90);
        let request = v1::ReserveRequest {
            reservation_id: self.id(),
            model: "openai/gpt-4.1-mini".into(),
            labels: [("tenant".into(), tenant.into()), ("feature".into(), feature)].into(),
            input: Some(v1::reserve_request::Input::InputTokens(input)),
            output_tokens_max: self.chance.below(200),
            ttl_ms: if left_alone { TTL_SHORT_MS } else { TTL_LONG_MS },
            durability: self.durability(),
            ..v1::ReserveRequest::default()
        };
        let answer = ask!(self, reserve, request);
        let grant = match answer.outcome {
            Some(v1::reserve_response::Outcome::Grant(grant)) => grant,
            denied => {
                assert_eq!(tenant, TIGHT, "{denied:?}");
                return;
            }
        };
        let mut reservation = Reservation { request, grant, settled: None };
        // The one that is left alone expires when the clock moves; one of four is committed late, unless
        // its child still serves.
        if !left_alone {
            self.settle(&mut reservation).await;
        }
        self.lives.push(Life::Reserved(Box::new(reservation)));
        if self.chance.below(8) == 0 {
            self.settle_late().await;
        }
    }

    async fn settle(&mut self, reservation: &mut Reservation) {
        let id = reservation.request.reservation_id.clone();
        let tight = reservation.request.labels.get("tenant").is_some_and(|tenant| tenant == TIGHT);
        reservation.settled = Some(match self.chance.below(8) {
            0 | 1 => {
                let request = v1::ReleaseRequest {
                    reservation_id: id,
                    durability: self.durability(),
                    ..v1::ReleaseRequest::default()
                };
                let answer = ask!(self, release, request);
                Settled::Released(request, answer)
            }
            choice => {
                let most = if tight { reservation.grant.tokens_reserved } else { 400 };
                let request = v1::CommitRequest {
                    reservation_id: id,
                    lines: self.lines(most),
                    outcome: v1::Outcome::Completed.into(),
                    durability: self.durability(),
                    ..v1::CommitRequest::default()
                };
                let answer = ask!(self, commit, request);
                if choice == 2 {
                    // The same again, at once.
                    life::same_commit(&request, &answer, &ask!(self, commit, request));
                }
                Settled::Committed(Box::new((request, answer)))
            }
        });
    }

    /// Settles one that was left alone some time ago, after it expired or just before.
    async fn settle_late(&mut self) {
        let open = |life: &Life| matches!(life, Life::Reserved(one) if one.settled.is_none());
        let Some(at) = self.lives.iter().position(open) else { return };
        let Life::Reserved(mut reservation) = self.lives.remove(at) else { return };
        self.settle(&mut reservation).await;
        self.lives.push(Life::Reserved(reservation));
    }

    /// Repeats a call until it is answered, whoever serves by then.
    async fn ask<Answer, Call, Asked>(&mut self, call: Call) -> Answer
    where
        Call: Fn(Client) -> Asked,
        Asked: Future<Output = Result<Answer, Status>>,
    {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        loop {
            let (line, client) = self.connected().await;
            match call(client).await {
                Ok(answer) => {
                    self.in_flight.fetch_sub(1, Ordering::SeqCst);
                    let _ = self.events.send(Event::Answered);
                    return answer;
                }
                Err(status) => self.gone(&line, &status).await,
            }
        }
    }

    /// A client of whoever serves now; a new child is first asked again what the ones before it said.
    async fn connected(&mut self) -> (Line, Client) {
        loop {
            let line = self.line.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            let client = match &self.client {
                Some((number, client)) if *number == line.number => client.clone(),
                _ => line.client(),
            };
            self.client = Some((line.number, client.clone()));
            if self.checked == line.number {
                return (line, client);
            }
            match self.ask_some_again(&line, client.clone()).await {
                Ok(()) => {
                    self.checked = line.number;
                    return (line, client);
                }
                Err(status) => self.gone(&line, &status).await,
            }
        }
    }

    async fn ask_some_again(&mut self, line: &Line, mut client: Client) -> Result<(), Status> {
        let older = self.lives.len().saturating_sub(ASKED_AGAIN_NEW);
        for life in self.lives.get(older..).unwrap_or_default() {
            life::ask_again(life, &mut client, line.now).await?;
        }
        for _ in 0..ASKED_AGAIN_OLD.min(older) {
            let life = self.lives.get(self.chance.index(older)).unwrap();
            life::ask_again(life, &mut client, line.now).await?;
        }
        Ok(())
    }

    /// Waits until a child that did not answer is known to be gone. Any other failure must not be.
    async fn gone(&mut self, line: &Line, status: &Status) {
        let killed = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        assert!(killed && status.details().is_empty(), "refused: {status:?}");
        let number = line.number;
        let other = |now: &Option<Line>| now.as_ref().is_none_or(|now| now.number != number);
        self.line.wait_for(other).await.unwrap();
    }

    fn id(&mut self) -> String {
        self.ids += 1;
        format!("caller-{}-{}", self.number, self.ids)
    }

    fn labels(&mut self) -> (&'static str, String) {
        let tenant = match self.chance.below(8) {
            0 => TIGHT,
            _ => TENANTS[self.chance.index(TENANTS.len())],
        };
        (tenant, format!("feature-{}", self.chance.below(5)))
    }

    /// Lines that add up to at most so many tokens.
    fn lines(&mut self, tokens_max: u64) -> Vec<v1::Line> {
        let input = self.chance.below(tokens_max / 2 + 1);
        let output = self.chance.below(tokens_max / 2 + 1);
        let line = |meter: v1::Meter, tokens| v1::Line {
            meter: meter.into(),
            tokens,
            ..v1::Line::default()
        };
        vec![line(v1::Meter::Input, input), line(v1::Meter::Output, output)]
    }

    fn durability(&mut self) -> i32 {
        let classes = [
            v1::Durability::Unspecified,
            v1::Durability::Process,
            v1::Durability::Process,
            v1::Durability::Power,
        ];
        classes[self.chance.index(classes.len())].into()
    }
}
