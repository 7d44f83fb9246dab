//! Denials: every limit that refused, the slowest to clear first, and when the same request would fit.

use std::cmp::Reverse;

use crate::labels::Labels;
use crate::pattern::Values;
use crate::policy::{Policy, Unit, Window};
use crate::request::{Denial, Reason, ReserveRequest, Shortfall, Standing};
use crate::reserve::Ask;
use crate::rules::Rules;
use crate::seat::{Seat, TooManyLimits};
use crate::standing::Parts;
use crate::time::Milliseconds;

/// How often we look again for an instant at which every limit has room.
const ROUNDS_MAX: usize = 8;

/// The most shortfalls in a denial; of more, the quickest to clear are left out.
const SHORTFALLS_MAX: usize = 64;

/// How a shortfall clears, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Clears {
    /// The request is larger than any may be.
    NeverForThisRequest,
    /// Neither time nor a settlement helps.
    Never,
    /// A settlement helps, time does not.
    OnSettling,
    /// After so long.
    After(Reverse<Milliseconds>),
}

/// What stood in the way where no limit did.
enum Obstacle {
    Limits(usize),
    Counters,
}

impl Rules<'_> {
    /// The denial of a request that fits by none of its models.
    pub(crate) fn denied(&self, request: &ReserveRequest, labels: &Labels) -> Denial {
        let mut refused: Vec<(Clears, Shortfall)> = Vec::new();
        let mut obstacle = None;
        let mut retry_after: Option<Milliseconds> = None;
        for candidate in &request.candidates {
            let values = self.policy.values(&candidate.model, &request.service_tier, labels);
            let least = Ask::new(request, candidate).least();
            let seats = match self.seats(&values, self.now) {
                Ok(seats) => seats,
                Err(TooManyLimits(limits)) => {
                    obstacle.get_or_insert(Obstacle::Limits(limits));
                    continue;
                }
            };
            let refusing: Vec<&Seat<'_>> =
                seats.iter().filter(|seat| seat.refuses(least)).collect();
            if refusing.is_empty() {
                obstacle.get_or_insert(Obstacle::Counters);
                continue;
            }
            for seat in refusing {
                let (clears, shortfall) = self.shortfall(seat, &values, least);
                if !refused
                    .iter()
                    .any(|(_, known)| same_counter(&known.standing, &shortfall.standing))
                {
                    refused.push((clears, shortfall));
                }
            }
            let clears = self.clears_after(&values, least);
            retry_after = [retry_after, clears].into_iter().flatten().min();
        }
        refused.sort_by_key(|(clears, _)| *clears);
        refused.truncate(SHORTFALLS_MAX);
        let (reason, hint) = match (refused.first(), obstacle) {
            (Some((clears, shortfall)), _) => (reason_of(*clears), hint_of(*clears, shortfall)),
            (None, Some(Obstacle::Limits(limits))) => (
                Reason::TooManyLimits,
                format!(
                    "{limits} limits apply to this request and at most {} may: narrow their match",
                    Policy::LIMITS_PER_REQUEST_MAX
                ),
            ),
            (None, _) => (
                Reason::TooManyCounters,
                format!(
                    "a new counter is needed and a limit's share of counters_max ({}) is used up: \
                     wait for windows to end, or send fewer distinct values of its scope",
                    self.bounds.counters_max
                ),
            ),
        };
        Denial {
            reason,
            shortfalls: refused.into_iter().map(|(_, shortfall)| shortfall).collect(),
            retry_after,
            hint,
            policy_version: self.policy_version,
        }
    }

    /// The denial of a request with labels that the policy denies.
    pub(crate) fn denied_untagged(&self, denied: &[(Box<str>, Option<Box<str>>)]) -> Denial {
        let problems = denied.iter().map(|(key, value)| match value {
            Some(value) => format!("label {key} may not be {value:?}"),
            None => format!("label {key} is missing"),
        });
        let problems: Vec<String> = problems.collect();
        self.denied_without_limit(
            Reason::Untagged,
            format!("{}: send a value that the policy allows", problems.join("; ")),
        )
    }

    /// The denial of a request when no further reservation may be open.
    pub(crate) fn denied_reservations(&self) -> Denial {
        self.denied_without_limit(
            Reason::TooManyReservations,
            format!(
                "reservations_open_max ({}) are open: settle some",
                self.bounds.reservations_open_max
            ),
        )
    }

    fn denied_without_limit(&self, reason: Reason, hint: String) -> Denial {
        Denial {
            reason,
            shortfalls: Vec::new(),
            retry_after: None,
            hint,
            policy_version: self.policy_version,
        }
    }

    fn shortfall(&self, seat: &Seat<'_>, values: &Values<'_>, least: u64) -> (Clears, Shortfall) {
        let parts = Parts::of_seat(seat, seat.counter);
        let requested = seat.asked(least);
        let settled = seat.counter.committed.saturating_add(requested) <= seat.amount.amount;
        let clears_on_settle = seat.counts() && settled;
        let retry_after = seat.clears_at(least).map(|at| self.now.until(at));
        let clears = match retry_after {
            _ if seat.limit.window == Window::Request => Clears::NeverForThisRequest,
            Some(after) => Clears::After(Reverse(after)),
            None if clears_on_settle => Clears::OnSettling,
            None => Clears::Never,
        };
        let standing = self.standing_of(&parts, self.scope_owned(seat, values));
        (clears, Shortfall { standing, requested, retry_after, clears_on_settle })
    }

    /// The least time after which a call of so many tokens fits under all limits at once, with everything
    /// as it is and nothing else happening: until a limit that refuses clears, it refuses, so the latest
    /// of them is the earliest instant worth looking at.
    fn clears_after(&self, values: &Values<'_>, least: u64) -> Option<Milliseconds> {
        let mut at = self.now;
        for _ in 0..=ROUNDS_MAX {
            let seats = self.seats(values, at).ok()?;
            let mut refusing = seats.iter().filter(|seat| seat.refuses(least)).peekable();
            if refusing.peek().is_none() {
                return Some(self.now.until(at));
            }
            for seat in refusing {
                at = at.max(seat.clears_at(least)?);
            }
        }
        None
    }
}

/// Whether two standings are of one counter, or of the one that would be made.
pub(crate) fn same_counter(a: &Standing, b: &Standing) -> bool {
    a.limit == b.limit && a.unit == b.unit && a.scope == b.scope
}

fn reason_of(clears: Clears) -> Reason {
    match clears {
        Clears::NeverForThisRequest => Reason::RequestCap,
        _ => Reason::Limit,
    }
}

fn hint_of(clears: Clears, shortfall: &Shortfall) -> String {
    let standing = &shortfall.standing;
    let (limit, remaining) = (&standing.limit, standing.remaining());
    let requested = shortfall.requested;
    let unit = match standing.unit {
        Unit::Tokens => "tokens",
        Unit::Requests => "requests",
        Unit::Concurrency => "open reservations",
    };
    // A request is one request, and takes one place among those that are open.
    let (less, or_less) = match standing.unit {
        Unit::Tokens => ("ask for less, or ", ", or ask for less"),
        Unit::Requests | Unit::Concurrency => ("", ""),
    };
    match clears {
        Clears::NeverForThisRequest => format!(
            "limit {limit} lets one request have at most {} {unit} and at least {requested} were \
             asked: ask for less",
            standing.amount
        ),
        Clears::Never => format!(
            "limit {limit} has {remaining} {unit} left and at least {requested} were asked: waiting \
             does not help; {less}have its amount raised"
        ),
        Clears::OnSettling => format!(
            "limit {limit} has {remaining} of {} {unit} left and {requested} were asked: settle a \
             reservation, or wait until one is",
            standing.amount
        ),
        Clears::After(Reverse(after)) => format!(
            "limit {limit} has {remaining} {unit} left and at least {requested} were asked: wait \
             {after}{or_less}"
        ),
    }
}
