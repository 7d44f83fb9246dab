//! Explaining: what every limit of the policy says to a request, and what Reserve would answer.

use std::sync::Arc;

use crate::compile::{Bar, Ready};
use crate::denial::same_counter;
use crate::labels::Labels;
use crate::mapping::{NONE, map_labels};
use crate::pattern::Values;
use crate::policy::{Limit, Policy, Unit, Window};
use crate::request::{Candidate, Denial, Refusal, ReserveAnswer, ReserveRequest, Standing};
use crate::reserve::Ask;
use crate::rules::Rules;
use crate::seat::Seat;
use crate::standing::Parts;
use crate::time::Timestamp;

/// Why a request would be granted or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The labels as the policy maps them.
    pub labels: Arc<Labels>,
    /// The model the limits were asked about: the one granted; of a denial the first that a limit refuses,
    /// or the request's first.
    pub model: Arc<str>,
    /// Every amount of every limit, in the policy's order.
    pub limits: Vec<Explained>,
    /// What Reserve would answer; its id is empty.
    pub answer: ReserveAnswer,
}

/// What one amount of one limit says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The limit's name.
    pub limit: Arc<str>,
    /// The unit.
    pub unit: Unit,
    /// How the request is held against it, or why it is not.
    pub held: Result<Box<Held>, WhyNot>,
}

/// How a request is held against an amount that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where it stands before the request.
    pub standing: Standing,
    /// The least that would do, in the limit's unit.
    pub requested: u64,
    /// Whether so much does not fit.
    pub refuses: bool,
    /// Whether it decides: of a grant with less output than was asked, the one under which the least fits;
    /// of a denial, the one that refuses and is the slowest to clear. At most one does.
    pub binds: bool,
    /// The output for each choice that fits under it alone, 0 if not even the input does; none if it does
    /// not count tokens.
    pub output_tokens_fit: Option<u64>,
}

/// Why a limit does not apply to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// A label of its `match` has another value.
    Match {
        /// The label's key.
        key: Box<str>,
        /// The value it has; none if it is missing, which only `(none)` matches.
        value: Option<Box<str>>,
        /// The values that match.
        wanted: Vec<Box<str>>,
    },
    /// Every label of its `except` matches: the keys with the values they have, `(none)` where missing.
    Except(Vec<(Box<str>, Box<str>)>),
    /// A label of its scope is missing, and the policy skips such limits then.
    Skipped {
        /// The label's key.
        key: Box<str>,
    },
    /// It counts from this instant on.
    NotBegun(Timestamp),
    /// It counted until this instant.
    Ended(Timestamp),
    /// More limits than [`Policy::LIMITS_PER_REQUEST_MAX`] apply, and it is one of those beyond; the number
    /// is how many do. Such a request is denied.
    TooManyLimits(usize),
    /// No calendar reaches this instant.
    NoWindow,
}

impl<'a> Rules<'a> {
    /// Says what every limit says to a request, and what Reserve would answer. The request's id is not
    /// looked at, and nothing changes.
    ///
    /// # Errors
    /// When the question is wrong, as for [`Rules::reserve`].
    pub fn explain(&self, request: &ReserveRequest) -> Result<Explanation, Refusal> {
        let asked = ReserveRequest { id: "".into(), dry_run: true, ..request.clone() };
        let answer = self.reserve(&asked, None)?;
        let labels = map_labels(&self.policy.policy().labels, &request.labels).labels;
        let mut explained = None;
        for candidate in &request.candidates {
            let limits = self.explain_limits(request, candidate, &labels);
            let refuses = |entry: &Explained| entry.held.as_ref().is_ok_and(|held| held.refuses);
            let decides = match &answer {
                ReserveAnswer::Granted(grant, _) | ReserveAnswer::Replayed(grant) => {
                    grant.model == candidate.model
                }
                ReserveAnswer::Denied(_) => limits.iter().any(refuses),
            };
            if decides {
                explained = Some((candidate, limits));
                break;
            }
            explained = explained.or(Some((candidate, limits)));
        }
        // Without a candidate the request was refused above.
        let (model, mut limits) = explained
            .map(|(candidate, limits)| (candidate.model.clone(), limits))
            .unwrap_or_default();
        mark_binding(&mut limits, &answer, request.output_tokens_max);
        Ok(Explanation { labels, model, limits, answer })
    }

    fn explain_limits(
        &self,
        request: &ReserveRequest,
        candidate: &Candidate,
        labels: &Labels,
    ) -> Vec<Explained> {
        let values = self.policy.values(&candidate.model, &request.service_tier, labels);
        let ask = Ask::new(request, candidate);
        let limits = || {
            let limit = |ready| Some((ready, self.policy.limit(ready)?));
            self.policy.ready().filter_map(limit)
        };
        let applying =
            limits().filter(|(ready, limit)| self.why_not(ready, limit, &values).is_none()).count();
        let mut explained = Vec::new();
        let mut applied = 0;
        for (ready, limit) in limits() {
            let mut why_not = self.why_not(ready, limit, &values);
            if why_not.is_none() {
                applied += 1;
                why_not = (applied > Policy::LIMITS_PER_REQUEST_MAX)
                    .then_some(WhyNot::TooManyLimits(applying));
            }
            if let Some(why_not) = why_not {
                let without = limit.amounts.iter().map(|amount| Explained {
                    limit: limit.name.clone(),
                    unit: amount.unit,
                    held: Err(why_not.clone()),
                });
                explained.extend(without);
            } else if let Some(span) = limit.window.span(self.now) {
                let mut seats = Vec::with_capacity(limit.amounts.len());
                self.seats_under((ready, limit), &values, span, &mut seats);
                explained.extend(seats.iter().map(|seat| self.explain_seat(seat, &values, &ask)));
            }
        }
        explained
    }

    fn explain_seat(&self, seat: &Seat<'a>, values: &Values<'_>, ask: &Ask) -> Explained {
        let least = ask.least();
        let parts = Parts::of_seat(seat, seat.counter);
        Explained {
            limit: seat.limit.name.clone(),
            unit: seat.amount.unit,
            held: Ok(Box::new(Held {
                standing: self.standing_of(&parts, self.scope_owned(seat, values)),
                requested: seat.asked(least),
                refuses: seat.refuses(least),
                binds: false,
                output_tokens_fit: ask.fits_under(seat),
            })),
        }
    }

    /// Why a limit does not apply to a call now; none if it does.
    fn why_not(&self, ready: &Ready, limit: &Limit, values: &Values<'_>) -> Option<WhyNot> {
        let value = |key: &str| self.policy.value(key, values);
        match self.policy.bar(ready, values) {
            Some(Bar::Match(place)) => limit.matches.get(place).map(|entry| WhyNot::Match {
                key: entry.key.clone(),
                value: value(&entry.key).map(Into::into),
                wanted: entry.values.clone(),
            }),
            Some(Bar::Except) => {
                let pair = |key: &str| (key.into(), value(key).unwrap_or(NONE).into());
                Some(WhyNot::Except(limit.except.iter().map(|entry| pair(&entry.key)).collect()))
            }
            Some(Bar::Skipped(place)) => {
                limit.scope.get(place).map(|key| WhyNot::Skipped { key: key.clone() })
            }
            None if limit.window.span(self.now).is_some() => None,
            None => Some(outside(&limit.window, self.now)),
        }
    }
}

/// Why a window holds no span of an instant.
fn outside(window: &Window, now: Timestamp) -> WhyNot {
    match window {
        Window::Total { from: Some(from), .. } if now < *from => WhyNot::NotBegun(*from),
        Window::Total { until: Some(until), .. } => WhyNot::Ended(*until),
        _ => WhyNot::NoWindow,
    }
}

/// Marks the amount that decides, if one does.
fn mark_binding(limits: &mut [Explained], answer: &ReserveAnswer, output_tokens_max: u64) {
    let held = limits.iter_mut().filter_map(|entry| entry.held.as_mut().ok());
    let binding = match answer {
        ReserveAnswer::Granted(..) | ReserveAnswer::Replayed(_) => held
            .filter_map(|held| Some((held.output_tokens_fit?, held)))
            .filter(|(fits, _)| *fits < output_tokens_max)
            .min_by_key(|(fits, _)| *fits)
            .map(|(_, held)| held),
        ReserveAnswer::Denied(denial) => held
            .filter(|held| held.refuses)
            .filter_map(|held| Some((slowness(denial, &held.standing)?, held)))
            .min_by_key(|(place, _)| *place)
            .map(|(_, held)| held),
    };
    if let Some(held) = binding {
        held.binds = true;
    }
}

/// The place of a counter among those that refused, the slowest to clear first.
fn slowness(denial: &Denial, standing: &Standing) -> Option<usize> {
    denial.shortfalls.iter().position(|shortfall| same_counter(&shortfall.standing, standing))
}
