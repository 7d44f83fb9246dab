//! Deciding: what a decision looks at.

use crate::compile::Compiled;
use crate::labels::Labels;
use crate::policy::Policy;
use crate::request::Refusal;
use crate::state::{Bounds, State};
use crate::time::Timestamp;

/// What a decision looks at. It answers and changes nothing; what changes is the event in the answer.
///
/// Whoever asks hands in a `now` that never goes back, has entered the expiry of every reservation due by
/// then ([`Rules::expire`]), and gives as `past` what the ledger says of an id exactly when
/// [`State::reservation`] does not have it and [`State::remembered`] does.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Everything that was entered.
    pub state: &'a State,
    /// The policy in force.
    pub policy: &'a Compiled,
    /// Its version.
    pub policy_version: u64,
    /// The named bounds of what is kept in memory.
    pub bounds: &'a Bounds,
    /// The instant of the decision.
    pub now: Timestamp,
}

/// How many more counters an answer may make, for each limit and in all.
pub(crate) struct CounterRoom<'a> {
    rules: Rules<'a>,
    made: usize,
    made_by_limit: Vec<(u64, usize)>,
}

impl<'a> Rules<'a> {
    pub(crate) fn counter_room(&self) -> CounterRoom<'a> {
        CounterRoom { rules: *self, made: 0, made_by_limit: Vec::new() }
    }
}

impl CounterRoom<'_> {
    /// Takes room for one more counter of a limit; false if the limit's share or the whole is used up.
    pub(crate) fn take(&mut self, identity: u64) -> bool {
        let Rules { state, policy, bounds, .. } = self.rules;
        let share = (bounds.counters_max / policy.limits_counting().max(1)).max(1);
        let at = self.made_by_limit.iter().position(|(limit, _)| *limit == identity);
        let at = at.unwrap_or_else(|| {
            self.made_by_limit.push((identity, 0));
            self.made_by_limit.len() - 1
        });
        let Some((_, made)) = self.made_by_limit.get_mut(at) else { return false };
        if state.counters_of_limit(identity) + *made >= share
            || state.counters_len() + self.made >= bounds.counters_max
        {
            return false;
        }
        *made += 1;
        self.made += 1;
        true
    }
}

/// Refuses labels that only the request itself may give.
pub(crate) fn check_labels(labels: &Labels) -> Result<(), Refusal> {
    match labels.iter().find(|(key, _)| Policy::FROM_REQUEST.contains(key)) {
        None => Ok(()),
        Some((key, value)) => Err(Refusal::Invalid {
            field: "labels",
            problem: format!(
                "{key} comes from the request itself and cannot be set as a label (got {value:?})"
            ),
        }),
    }
}
