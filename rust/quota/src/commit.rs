//! Commit: what a call used is counted whole, whatever was reserved and whenever it comes.

use std::sync::Arc;

use crate::compile::{Compiled, service_tier};
use crate::event::{Event, Settled};
use crate::labels::Labels;
use crate::mapping::map_added;
use crate::policy::Fallback;
use crate::request::{Advice, Advisory, CommitAnswer, CommitRequest, Past, Refusal};
use crate::reservation::ReservationState;
use crate::rules::{Rules, check_labels};
use crate::settle::{Changes, Grounds};
use crate::usage::{Line, Outcome, tokens_sum};

/// The most labels a reservation and its settlement may have together.
const LABELS_MAX: usize = 16;

const OTHER_CONTENT: &str =
    "it was committed already; usage beyond that is recorded under a new id";

impl Rules<'_> {
    /// Settles a reservation with what was used. `granted_by` is the policy of its grant: if another model
    /// answered, limits that go by model count it under that one.
    ///
    /// # Errors
    /// When the question is wrong, nothing is known of the reservation, the id belongs to a record, or it
    /// was committed with other content.
    pub fn commit(
        &self,
        request: &CommitRequest,
        past: Option<&Past>,
        granted_by: Option<&Compiled>,
    ) -> Result<CommitAnswer, Refusal> {
        check(request)?;
        let grounds = Grounds::find(self, &request.id, past)?;
        if let Some((sequence, settled)) = grounds.replaces
            && settled.state == ReservationState::Committed
        {
            if settled.digest != request.digest {
                let id = request.id.clone();
                return Err(Refusal::Conflict { id, hint: OTHER_CONTENT });
            }
            return Ok(self.committed_before(&grounds, sequence, settled));
        }
        let labels = labels_together(&grounds, &request.labels, granted_by)?;
        // From here on it is counted; nothing refuses it any more.
        let lines = if request.lines.is_empty() {
            grounds.assumed(true).unwrap_or_default()
        } else {
            request.lines.clone()
        };
        let tokens = tokens_sum(&lines);
        let changes = self.commit_changes(request, &grounds, tokens, granted_by);
        let (effects, uncounted) = self.effects(changes);
        let settled = Settled {
            effects,
            call: true,
            outcome: Some(request.outcome),
            model: request.model.as_ref().unwrap_or(grounds.model).clone(),
            model_version: request.model_version.clone(),
            service_tier: request.service_tier.as_ref().unwrap_or(grounds.service_tier).clone(),
            response_id: request.response_id.clone(),
            labels,
            total_tokens_stated: request.total_tokens.filter(|total| *total != tokens),
            latency_ms: request.latency_ms,
            first_token_ms: request.first_token_ms,
            lines,
            uncounted,
            dispatched: true,
            ..grounds.settled(ReservationState::Committed, request.digest)
        };
        let holds = grounds.holds.iter().map(|hold| &hold.counter);
        Ok(CommitAnswer {
            tightest: self.tightest_of(holds, &settled.effects),
            ..answer(&settled, Some(Event::Settled(Box::new(settled.clone()))))
        })
    }

    fn commit_changes(
        &self,
        request: &CommitRequest,
        grounds: &Grounds<'_>,
        tokens: u64,
        granted_by: Option<&Compiled>,
    ) -> Changes {
        let mut changes = Changes::default();
        self.take_back(grounds, &mut changes);
        let model = request.model.as_ref().unwrap_or(grounds.model);
        let tier = request.service_tier.as_ref().unwrap_or(grounds.service_tier);
        let moved =
            model != grounds.model || service_tier(tier) != service_tier(grounds.service_tier);
        let moved_by = granted_by.filter(|_| moved);
        self.count_in_holds(grounds, tokens, moved_by.is_some(), &mut changes);
        if let Some(policy) = moved_by {
            let values = policy.values(model, tier, grounds.labels);
            let limits = policy.concerning(&values).filter(|limit| limit.by_model);
            let at = grounds.granted_at;
            let over = self.count_at(policy, limits, &values, at, tokens, &mut changes);
            changes.uncounted |= over;
        }
        changes
    }

    fn committed_before(
        &self,
        grounds: &Grounds<'_>,
        sequence: u64,
        settled: &Settled,
    ) -> CommitAnswer {
        let holds = grounds.holds.iter().map(|hold| &hold.counter);
        CommitAnswer {
            replayed: true,
            sequence,
            tightest: self.tightest_of(holds, &[]),
            ..answer(settled, None)
        }
    }
}

/// The answer a commit's entry gives, now and whenever it is asked for again.
fn answer(settled: &Settled, event: Option<Event>) -> CommitAnswer {
    let tokens = tokens_sum(&settled.lines);
    CommitAnswer {
        tokens_committed: tokens,
        tokens_overrun: tokens.saturating_sub(settled.tokens_reserved),
        late: settled.replaces_sequence.is_some(),
        replayed: false,
        advisories: usage_advisories(tokens, settled.total_tokens_stated, settled.uncounted),
        tightest: None,
        sequence: 0,
        event,
    }
}

/// What the caller should know of usage that was counted.
pub(crate) fn usage_advisories(
    tokens: u64,
    total_stated: Option<u64>,
    uncounted: bool,
) -> Vec<Advisory> {
    let advisory = |advice, text| Advisory { advice, limit: "".into(), text };
    let mismatch = total_stated.map(|total| {
        let text = format!("the stated total is {total} tokens, the lines add up to {tokens}");
        advisory(Advice::TotalMismatch, text)
    });
    let uncounted = uncounted.then(|| {
        let text =
            "some limit could not count this usage: it is in the ledger and the reports only";
        advisory(Advice::Uncounted, text.to_owned())
    });
    mismatch.into_iter().chain(uncounted).collect()
}

/// Refuses usage without lines where there must be some.
pub(crate) fn check_lines(lines: &[Line], needed: bool) -> Result<(), Refusal> {
    if needed && lines.is_empty() {
        return Err(Refusal::Invalid {
            field: "lines",
            problem: "a call that was completed or cancelled says what it used: at least one line \
                      (got none)"
                .to_owned(),
        });
    }
    Ok(())
}

fn check(request: &CommitRequest) -> Result<(), Refusal> {
    check_labels(&request.labels)?;
    let needed = matches!(request.outcome, Outcome::Completed | Outcome::Cancelled);
    check_lines(&request.lines, needed)
}

/// The reservation's labels and those a settlement adds. It may set one that was missing, and repeat one as
/// it was sent or as it counts; it may not change one.
fn labels_together(
    grounds: &Grounds<'_>,
    added: &Labels,
    granted_by: Option<&Compiled>,
) -> Result<Arc<Labels>, Refusal> {
    let mut changes: Vec<(&str, &str)> = Vec::new();
    for (key, value) in added.iter() {
        let rule = granted_by.and_then(|policy| policy.rule(key));
        let counted = map_added(rule, value);
        match grounds.labels.get(key) {
            None => changes.push((key, counted)),
            Some(known) if known == value || known == counted => {}
            Some(known) => {
                let stands_in = |fallback: &Fallback| matches!(fallback, Fallback::As(stand_in) if **stand_in == *known);
                let was_missing = grounds.mapped.iter().any(|mapped| **mapped == *key)
                    && rule.is_some_and(|rule| stands_in(&rule.missing));
                if !was_missing {
                    return Err(Refusal::Invalid {
                        field: "labels",
                        problem: format!(
                            "{key} was reserved as {known:?} and cannot be changed (got {value:?})"
                        ),
                    });
                }
                changes.push((key, counted));
            }
        }
    }
    if changes.is_empty() {
        return Ok(grounds.labels.clone());
    }
    let labels = grounds.labels.with(changes);
    if labels.len() > LABELS_MAX {
        return Err(Refusal::Invalid {
            field: "labels",
            problem: format!(
                "a reservation and its commit have at most {LABELS_MAX} labels together (got {})",
                labels.len()
            ),
        });
    }
    Ok(Arc::new(labels))
}
