//! Who reads beside the data plane: nobody, a neighbour who only computes, or an operator without a rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bursar_proto::v1;
use bursar_server::{AskError, Running};

use crate::{Failure, RUN};

/// The largest page that may be asked for.
const PAGE_SIZE: u32 = 1_000;

/// What is done beside the data plane.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Nothing.
    Rest,
    /// Computing, without a question.
    Compute,
    /// One question after the other.
    Read,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Rest, Self::Compute, Self::Read];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Compute => "compute",
            Self::Read => "read",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// Does it until told to stop; says what was read.
pub(crate) fn work(mode: Mode, running: &Running, stop: &AtomicBool) -> Result<String, Failure> {
    let mut reader = Reader { running, stop, questions: 0, rows: 0 };
    let began = Instant::now();
    match mode {
        Mode::Rest => {}
        Mode::Compute => {
            while !reader.stopped() {
                std::hint::black_box(0);
            }
        }
        Mode::Read => {
            while !reader.stopped() {
                reader.everything()?;
            }
        }
    }
    Ok(reader.said(began))
}

struct Reader<'a> {
    running: &'a Running,
    stop: &'a AtomicBool,
    questions: u64,
    rows: u64,
}

impl Reader<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn said(&self, began: Instant) -> String {
        let seconds = began.elapsed().as_secs_f64();
        let (questions, rows) = (self.questions as f64 / seconds, self.rows as f64 / seconds);
        format!("{questions:.0} answers/s with {rows:.0} rows/s")
    }

    /// Every kind of question once, every listing to its end, with rows and in search of what nobody has.
    fn everything(&mut self) -> Result<(), Failure> {
        self.standings(BTreeMap::new())?;
        self.standings(nobody())?;
        let id = self.reservations(BTreeMap::new())?;
        self.reservations(nobody())?;
        if id.is_empty() {
            // Told to stop before the first.
            return Ok(());
        }
        self.questions += 4;
        let by_id = v1::explain_request::Question::ReservationId(id.clone());
        self.running.explain(v1::ExplainRequest { question: Some(by_id) })?;
        let request = bursar_load::reserve(RUN, 1, 1, v1::Durability::Process);
        let request = v1::explain_request::Question::Request(request);
        self.running.explain(v1::ExplainRequest { question: Some(request) })?;
        self.running.reservation(v1::GetReservationRequest { reservation_id: id })?;
        self.running.metrics()?;
        self.past()
    }

    /// A look at what happened first, as whoever begins to watch from there has it.
    fn past(&mut self) -> Result<(), Failure> {
        let from_the_first =
            v1::WatchEventsRequest { after_sequence: Some(0), ..Default::default() };
        if let Some(mut watch) = self.running.watch(from_the_first)? {
            watch.next(Duration::ZERO)?;
        }
        self.questions += 1;
        Ok(())
    }

    fn standings(&mut self, scope: BTreeMap<String, String>) -> Result<(), AskError> {
        self.pages(|running, page_token| {
            let page = running.standings(v1::ListStandingsRequest {
                scope: scope.clone(),
                page_size: PAGE_SIZE,
                page_token,
                ..Default::default()
            })?;
            Ok((page.standings.len(), page.next_page_token))
        })
    }

    /// The id of one of them, if there are any.
    fn reservations(&mut self, labels: BTreeMap<String, String>) -> Result<String, AskError> {
        let mut id = String::new();
        self.pages(|running, page_token| {
            let page = running.reservations(v1::ListReservationsRequest {
                labels: labels.clone(),
                page_size: PAGE_SIZE,
                page_token,
                ..Default::default()
            })?;
            if let Some(first) = page.reservations.first().filter(|_| id.is_empty()) {
                id.clone_from(&first.reservation_id);
            }
            Ok((page.reservations.len(), page.next_page_token))
        })?;
        Ok(id)
    }

    /// Asks for one page after the other, each of which gives its rows and the token of the next.
    fn pages(
        &mut self,
        mut ask: impl FnMut(&Running, String) -> Result<(usize, String), AskError>,
    ) -> Result<(), AskError> {
        let mut token = String::new();
        while !self.stopped() {
            let (rows, next) = ask(self.running, token)?;
            self.count(rows);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        Ok(())
    }

    fn count(&mut self, rows: usize) {
        self.questions += 1;
        self.rows += u64::try_from(rows).unwrap_or(u64::MAX);
    }
}

fn nobody() -> BTreeMap<String, String> {
    BTreeMap::from([("tenant".into(), "nobody".into())])
}

/// Somebody at work, and how to stop them.
type AtWork = (Arc<AtomicBool>, JoinHandle<Result<String, Failure>>);

/// Whoever is told line by line what to do beside the data plane.
pub(crate) fn obey(running: &Arc<Running>, core: usize) -> Result<(), Failure> {
    let mut at_work: Option<AtWork> = None;
    for line in std::io::stdin().lines() {
        let mode = Mode::named(&line?).ok_or("no such mode")?;
        let mut said = String::new();
        if let Some((stop, thread)) = at_work.take() {
            stop.store(true, Ordering::Relaxed);
            said = thread.join().map_err(|_| "the reader panicked")??;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (told, running) = (stop.clone(), running.clone());
        at_work = Some((
            stop,
            thread::spawn(move || {
                crate::pin(core)?;
                work(mode, &running, &told)
            }),
        ));
        println!("{said}");
    }
    Ok(())
}
