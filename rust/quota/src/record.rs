//! Record: usage that had no reservation is counted where it happened.

use crate::commit::{check_lines, usage_advisories};
use crate::event::{Event, Recorded};
use crate::mapping::{advisories, changed_keys, map_usage_labels};
use crate::request::{Past, RecordAnswer, RecordRequest, Refusal};
use crate::rules::{Rules, check_labels};
use crate::settle::Changes;
use crate::usage::tokens_sum;
use crate::window::hour_of;

const OTHER_CONTENT: &str =
    "ids of reservations and records share one space; use a new id for other usage";

impl Rules<'_> {
    /// Enters usage. It counts in every window that holds its instant and has not ended.
    ///
    /// # Errors
    /// When the question is wrong, the id was used otherwise, or it happened too long ago to know that it
    /// was not counted already.
    pub fn record(
        &self,
        request: &RecordRequest,
        past: Option<&Past>,
    ) -> Result<RecordAnswer, Refusal> {
        self.check_record(request)?;
        if let Some(answer) = self.recorded_before(request, past)? {
            return Ok(answer);
        }
        match self.state.horizon() {
            Some(horizon) if request.occurred_at <= horizon => {
                return Err(Refusal::TooOld { horizon });
            }
            _ => {}
        }
        // From here on it is counted; nothing refuses it any more.
        let tokens = tokens_sum(&request.lines);
        let policy = self.policy.policy();
        let sent = &request.labels;
        let counted_by = self.scope_labels_missing(request);
        let (labels, labels_sent) = map_usage_labels(&policy.labels, sent, &counted_by);
        let values = self.policy.values(&request.model, &request.service_tier, &labels);
        let limits = self.policy.concerning(&values);
        let mut changes = Changes::default();
        let at = request.occurred_at;
        // What is over by now is in the ledger and the reports; no limit misses it.
        self.count_at(self.policy, limits, &values, at, tokens, &mut changes);
        let (effects, uncounted) = self.effects(changes);
        let recorded = Recorded {
            id: request.id.clone(),
            digest: request.digest,
            occurred_at: request.occurred_at,
            effects,
            lines: request.lines.clone(),
            outcome: request.outcome,
            model: request.model.clone(),
            model_version: request.model_version.clone(),
            service_tier: request.service_tier.clone(),
            response_id: request.response_id.clone(),
            labels,
            labels_sent,
            total_tokens_stated: request.total_tokens.filter(|total| *total != tokens),
            latency_ms: request.latency_ms,
            policy_version: self.policy_version,
            hour: hour_of(&policy.time_zone, request.occurred_at),
            uncounted,
        };
        Ok(answer(&recorded, Some(Event::Recorded(Box::new(recorded.clone())))))
    }

    fn check_record(&self, request: &RecordRequest) -> Result<(), Refusal> {
        check_labels(&request.labels)?;
        check_lines(&request.lines, true)?;
        if request.occurred_at > self.now {
            return Err(Refusal::Invalid {
                field: "occurred_at_unix_ms",
                problem: format!(
                    "usage is recorded after it happened, not before: at most {} (got {})",
                    self.now.0, request.occurred_at.0
                ),
            });
        }
        Ok(())
    }

    fn recorded_before(
        &self,
        request: &RecordRequest,
        past: Option<&Past>,
    ) -> Result<Option<RecordAnswer>, Refusal> {
        let open = self.state.reservation(&request.id).is_some();
        match past {
            None if !open => Ok(None),
            Some(Past::Recorded { sequence, recorded })
                if !open && recorded.digest == request.digest =>
            {
                let answer = answer(recorded, None);
                Ok(Some(RecordAnswer { replayed: true, sequence: *sequence, ..answer }))
            }
            _ => Err(Refusal::Conflict { id: request.id.clone(), hint: OTHER_CONTENT }),
        }
    }

    /// Scope labels of the limits that concern the call which it lacks, and which no rule speaks of.
    fn scope_labels_missing(&self, request: &RecordRequest) -> Vec<Box<str>> {
        let values = self.policy.values(&request.model, &request.service_tier, &request.labels);
        let limits = self.policy.concerning(&values);
        let missing = limits.flat_map(|limit| self.policy.scope_missing(limit, &values));
        missing.filter(|key| self.policy.rule(key).is_none()).cloned().collect()
    }
}

/// The answer a record's entry gives, now and whenever it is asked for again.
fn answer(recorded: &Recorded, event: Option<Event>) -> RecordAnswer {
    let tokens = tokens_sum(&recorded.lines);
    let mapped = changed_keys(recorded.labels_sent.as_deref(), &recorded.labels);
    let mut known = advisories(mapped, &recorded.labels);
    known.extend(usage_advisories(tokens, recorded.total_tokens_stated, recorded.uncounted));
    RecordAnswer {
        tokens_committed: tokens,
        replayed: false,
        advisories: known,
        sequence: 0,
        event,
    }
}
