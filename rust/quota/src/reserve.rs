//! Reserve: may this be spent, by which model, and for how much output?

use crate::event::{Event, Reserved};
use crate::labels::Labels;
use crate::mapping::{Mapped, advisories, map_labels};
use crate::pattern::Values;
use crate::policy::Unit;
use crate::request::{Candidate, Grant, Past, Refusal, ReserveAnswer, ReserveRequest, Standing};
use crate::reservation::{Hold, ReservationState};
use crate::rules::{Rules, check_labels};
use crate::seat::Seat;
use crate::standing::Parts;
use crate::usage::tokens_sum;
use crate::window::hour_of;

const OTHER_CONTENT: &str = "use a new id for another request";

/// What is asked of tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    input: u64,
    output_max: u64,
    output_min: u64,
    choices: u64,
}

impl Ask {
    pub(crate) fn new(request: &ReserveRequest, candidate: &Candidate) -> Self {
        Self {
            input: tokens_sum(&candidate.input),
            output_max: request.output_tokens_max,
            output_min: request.output_tokens_min.unwrap_or(request.output_tokens_max),
            choices: u64::from(request.choices.max(1)),
        }
    }

    /// Tokens in all with so much output for each choice.
    fn with_output(&self, output: u64) -> u64 {
        self.input.saturating_add(output.saturating_mul(self.choices))
    }

    /// The least that would do.
    pub(crate) fn least(&self) -> u64 {
        self.with_output(self.output_min)
    }

    /// The largest output for each choice that fits under every seat; none if the least does not.
    fn fits(&self, seats: &[Seat<'_>]) -> Option<u64> {
        let mut output = self.output_max;
        for seat in seats {
            if seat.refuses(self.least()) {
                return None;
            }
            output = self.fits_under(seat).map_or(output, |fits| output.min(fits));
        }
        Some(output)
    }

    /// The largest output for each choice that fits under one seat, 0 if not even the input does; none if
    /// it does not count tokens.
    pub(crate) fn fits_under(&self, seat: &Seat<'_>) -> Option<u64> {
        (seat.amount.unit == Unit::Tokens).then(|| {
            let left = seat.remaining().saturating_sub(self.input) / self.choices;
            self.output_max.min(left)
        })
    }
}

/// A model that fits.
struct Fit<'a> {
    candidate: &'a Candidate,
    output: u64,
    tokens: u64,
    tightest: Option<Standing>,
    holds: Box<[Hold]>,
    /// Scope labels that are missing and count under `(none)`.
    missing: Vec<Box<str>>,
}

impl Rules<'_> {
    /// Decides whether a request fits under every limit that applies, and for how much output.
    ///
    /// # Errors
    /// When the question is wrong, or the id was used with other content.
    pub fn reserve(
        &self,
        request: &ReserveRequest,
        past: Option<&Past>,
    ) -> Result<ReserveAnswer, Refusal> {
        check(request)?;
        if let Some(grant) = self.granted_before(request, past)? {
            return Ok(ReserveAnswer::Replayed(Box::new(grant)));
        }
        let mapped = map_labels(&self.policy.policy().labels, &request.labels);
        if !mapped.denied.is_empty() {
            return Ok(ReserveAnswer::Denied(Box::new(self.denied_untagged(&mapped.denied))));
        }
        if self.state.reservations_len() >= self.bounds.reservations_open_max {
            return Ok(ReserveAnswer::Denied(Box::new(self.denied_reservations())));
        }
        let fit = request
            .candidates
            .iter()
            .find_map(|candidate| self.fit(request, candidate, &mapped.labels));
        Ok(match fit {
            Some(fit) => self.granted(request, mapped, fit),
            None => ReserveAnswer::Denied(Box::new(self.denied(request, &mapped.labels))),
        })
    }

    fn fit<'r>(
        &self,
        request: &ReserveRequest,
        candidate: &'r Candidate,
        labels: &Labels,
    ) -> Option<Fit<'r>> {
        let values = self.policy.values(&candidate.model, &request.service_tier, labels);
        let seats = self.seats(&values, self.now).ok()?;
        let ask = Ask::new(request, candidate);
        let output = ask.fits(&seats)?;
        let tokens = ask.with_output(output);
        let mut room = self.counter_room();
        for seat in seats.iter().filter(|seat| seat.counts() && seat.live.is_none()) {
            if !room.take(seat.ready.identity) {
                return None;
            }
        }
        let mut missing: Vec<Box<str>> = Vec::new();
        let mut holds = Vec::with_capacity(seats.len());
        for seat in seats.iter().filter(|seat| seat.counts()) {
            for key in self.policy.scope_missing(seat.ready, &values) {
                if !missing.contains(key) {
                    missing.push(key.clone());
                }
            }
            holds.push(Hold {
                counter: self.seat_key(seat, &values),
                amount: seat.asked(tokens),
                by_model: seat.ready.by_model,
            });
        }
        let tightest = self.tightest_after(&seats, &values, tokens);
        Some(Fit { candidate, output, tokens, tightest, holds: holds.into(), missing })
    }

    /// The limit with the least room left once a request of so many tokens has taken its part.
    fn tightest_after(
        &self,
        seats: &[Seat<'_>],
        values: &Values<'_>,
        tokens: u64,
    ) -> Option<Standing> {
        let after = |seat: &Seat<'_>| {
            let mut counter = seat.counter;
            counter.reserved = counter.reserved.saturating_add(seat.asked(tokens));
            counter
        };
        let counting = seats.iter().filter(|seat| seat.counts());
        let parts = counting.map(|seat| (seat, Parts::of_seat(seat, after(seat))));
        let bounded = parts.filter(|(_, parts)| !parts.is_unlimited());
        let (seat, parts) = bounded.min_by(|(_, a), (_, b)| a.by_share_left(b))?;
        Some(self.standing_of(&parts, self.scope_owned(seat, values)))
    }

    pub(crate) fn scope_owned(
        &self,
        seat: &Seat<'_>,
        values: &Values<'_>,
    ) -> Box<[(Box<str>, Box<str>)]> {
        let scope = self.policy.scope(seat.ready, values);
        scope.pairs().iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn granted(&self, request: &ReserveRequest, mapped: Mapped, fit: Fit<'_>) -> ReserveAnswer {
        let policy = self.policy.policy();
        let mut keys = mapped.keys;
        for key in fit.missing {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let ttl = request.ttl.unwrap_or(policy.ttl);
        let grant = Grant {
            id: request.id.clone(),
            state: ReservationState::Open,
            model: fit.candidate.model.clone(),
            input_tokens: tokens_sum(&fit.candidate.input),
            counted: fit.candidate.counted.clone(),
            output_tokens_granted: fit.output,
            tokens_reserved: fit.tokens,
            expires_at: self.now.after(ttl),
            tightest: fit.tightest,
            advisories: advisories(keys.iter().map(|key| &**key), &mapped.labels),
            policy_version: self.policy_version,
            sequence: 0,
        };
        if request.dry_run {
            return ReserveAnswer::Granted(Box::new(grant), None);
        }
        let reserved = Reserved {
            id: request.id.clone(),
            digest: request.digest,
            model: fit.candidate.model.clone(),
            service_tier: request.service_tier.clone(),
            labels: mapped.labels,
            labels_sent: mapped.sent,
            input: fit.candidate.input.clone(),
            counted: fit.candidate.counted.clone(),
            output_tokens_granted: fit.output,
            choices: request.choices.max(1),
            ttl,
            policy_version: self.policy_version,
            unsettled: policy.unsettled,
            holds: fit.holds,
            hour: hour_of(&policy.time_zone, self.now),
            mapped: keys.into(),
        };
        ReserveAnswer::Granted(Box::new(grant), Some(Event::Reserved(Box::new(reserved))))
    }

    /// The grant as it was given, if the id was granted before; its standing is now's.
    fn granted_before(
        &self,
        request: &ReserveRequest,
        past: Option<&Past>,
    ) -> Result<Option<Grant>, Refusal> {
        let conflict = || Refusal::Conflict { id: request.id.clone(), hint: OTHER_CONTENT };
        if let Some(open) = self.state.reservation(&request.id) {
            if open.digest != request.digest {
                return Err(conflict());
            }
            let mapped = open.mapped.iter().map(|key| &**key);
            return Ok(Some(Grant {
                id: request.id.clone(),
                state: ReservationState::Open,
                model: open.model.clone(),
                input_tokens: tokens_sum(&open.input),
                counted: open.counted.clone(),
                output_tokens_granted: open.output_tokens_granted,
                tokens_reserved: open.tokens_reserved(),
                expires_at: open.expires_at,
                tightest: self.tightest_of(open.holds.iter().map(|hold| &hold.counter), &[]),
                advisories: advisories(mapped, &open.labels),
                policy_version: open.policy_version,
                sequence: open.sequence,
            }));
        }
        match past {
            None => Ok(None),
            Some(Past::Settled { granted_at, reserved, sequence, settled })
                if reserved.digest == request.digest =>
            {
                let mapped = reserved.mapped.iter().map(|key| &**key);
                let holds = reserved.holds.iter().map(|hold| &hold.counter);
                Ok(Some(Grant {
                    id: request.id.clone(),
                    state: settled.state,
                    model: reserved.model.clone(),
                    input_tokens: tokens_sum(&reserved.input),
                    counted: reserved.counted.clone(),
                    output_tokens_granted: reserved.output_tokens_granted,
                    tokens_reserved: settled.tokens_reserved,
                    expires_at: granted_at.after(reserved.ttl),
                    tightest: self.tightest_of(holds, &[]),
                    advisories: advisories(mapped, &reserved.labels),
                    policy_version: reserved.policy_version,
                    sequence: *sequence,
                }))
            }
            Some(_) => Err(conflict()),
        }
    }
}

fn check(request: &ReserveRequest) -> Result<(), Refusal> {
    check_labels(&request.labels)?;
    if request.candidates.is_empty() {
        return Err(Refusal::Invalid {
            field: "model",
            problem: "a model to call is needed, as provider/model (got none)".to_owned(),
        });
    }
    match request.output_tokens_min {
        Some(least) if least > request.output_tokens_max => Err(Refusal::Invalid {
            field: "output_tokens_min",
            problem: format!(
                "it must be at most output_tokens_max, {} (got {least})",
                request.output_tokens_max
            ),
        }),
        _ => Ok(()),
    }
}
