//! What a new policy would count anew: counters that the policy in force does not have.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::compile::Compiled;
use crate::policy::{Limit, Unit};

/// A limit of a new policy with counters that the policy in force does not have: they would begin empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anew {
    /// The limit's name.
    pub limit: Arc<str>,
    /// What would be counted anew, in the order written.
    pub units: Vec<Unit>,
    /// Why.
    pub because: Difference,
}

/// Why a limit's counters are not those of the policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// No limit of that name is in force.
    NewLimit,
    /// The limit in force counts other units.
    NewUnits,
    /// The limit in force is another in these parts, by their names in a policy file.
    Changed(Vec<&'static str>),
}

impl fmt::Display for Difference {
    /// What differs, in words: `its window and scope changed`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewLimit => out.write_str("it is a new limit"),
            Self::NewUnits => out.write_str("it did not before"),
            Self::Changed(parts) => write!(out, "its {} changed", parts.join(" and ")),
        }
    }
}

impl Compiled {
    /// The limits of which it would count something anew, were it to follow on the policy in force; in the
    /// order written. Limits that are left out make no counter, and `request` windows keep none.
    pub fn counts_anew(&self, in_force: &Self) -> Vec<Anew> {
        let known = in_force.policy().limits.iter();
        let known: HashMap<&str, &Limit> = known.map(|limit| (&*limit.name, limit)).collect();
        let limits = self.policy().limits.iter().filter(|limit| limit.window.counts());
        limits.filter_map(|limit| anew(limit, known.get(&*limit.name).copied())).collect()
    }
}

fn anew(limit: &Limit, known: Option<&Limit>) -> Option<Anew> {
    let units = limit.amounts.iter().map(|amount| amount.unit);
    let because = match known {
        None => Difference::NewLimit,
        Some(known) if known.identity() != limit.identity() => {
            Difference::Changed(limit.parts_changed(known))
        }
        Some(known) => {
            let counted = |unit: &Unit| known.amounts.iter().any(|amount| amount.unit == *unit);
            let units: Vec<Unit> = units.filter(|unit| !counted(unit)).collect();
            let limit = limit.name.clone();
            return (!units.is_empty()).then_some(Anew {
                limit,
                units,
                because: Difference::NewUnits,
            });
        }
    };
    Some(Anew { limit: limit.name.clone(), units: units.collect(), because })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails loudly")]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::policy::{Amount, LabelMatch, Policy, Unsettled, Window};
    use crate::time::Milliseconds;

    fn limit(name: &str, units: &[Unit]) -> Limit {
        let amount = |unit: &Unit| Amount { unit: *unit, amount: 100 };
        Limit {
            name: name.into(),
            matches: vec![LabelMatch { key: "feature".into(), values: vec!["search".into()] }],
            except: Vec::new(),
            scope: vec!["tenant".into()],
            window: Window::Fixed(Milliseconds(60_000)),
            amounts: units.iter().map(amount).collect(),
            overrides: Vec::new(),
        }
    }

    fn compiled(limits: Vec<Limit>) -> Compiled {
        let policy = Policy {
            name: "change".into(),
            time_zone: TimeZone::UTC,
            labels: Vec::new(),
            ttl: Milliseconds(60_000),
            unsettled: Unsettled::Release,
            limits,
            rollups: Vec::new(),
        };
        policy.compile().unwrap()
    }

    fn changed(change: impl FnOnce(&mut Limit)) -> Vec<Anew> {
        let mut after = limit("minute", &[Unit::Tokens]);
        change(&mut after);
        compiled(vec![after]).counts_anew(&compiled(vec![limit("minute", &[Unit::Tokens])]))
    }

    #[test]
    fn an_edited_amount_and_a_limit_left_out_count_nothing_anew() {
        assert_eq!(changed(|limit| limit.amounts[0].amount = 7), []);
        let both = compiled(vec![limit("a", &[Unit::Tokens]), limit("b", &[Unit::Requests])]);
        let one = compiled(vec![limit("b", &[Unit::Requests])]);
        assert_eq!(one.counts_anew(&both), []);
        assert_eq!(both.counts_anew(&both), []);
    }

    #[test]
    fn every_part_that_makes_counters_what_they_are_is_named() {
        let what = |found: Vec<Anew>| found[0].because.to_string();
        assert_eq!(
            what(changed(|limit| limit.window = Window::Fixed(Milliseconds(1_000)))),
            "its window changed"
        );
        assert_eq!(what(changed(|limit| limit.scope.clear())), "its scope changed");
        assert_eq!(what(changed(|limit| limit.matches.clear())), "its match changed");
        let moved = changed(|limit| std::mem::swap(&mut limit.matches, &mut limit.except));
        assert_eq!(what(moved), "its match and except changed");
    }

    #[test]
    fn a_new_name_and_a_new_unit_are_said_to_be_new() {
        let renamed = changed(|limit| limit.name = "other".into());
        assert_eq!(renamed[0].because, Difference::NewLimit);
        let before = compiled(vec![limit("minute", &[Unit::Tokens])]);
        let after = compiled(vec![limit("minute", &[Unit::Requests, Unit::Tokens])]);
        let anew = Anew {
            limit: "minute".into(),
            units: vec![Unit::Requests],
            because: Difference::NewUnits,
        };
        assert_eq!(after.counts_anew(&before), [anew]);
    }

    #[test]
    fn a_limit_on_each_request_alone_keeps_no_counters() {
        let cap = || Limit { window: Window::Request, ..limit("minute", &[Unit::Tokens]) };
        assert_eq!(compiled(vec![cap()]).counts_anew(&compiled(vec![])), []);
        // And becomes one that counts.
        let found =
            compiled(vec![limit("minute", &[Unit::Tokens])]).counts_anew(&compiled(vec![cap()]));
        assert_eq!(found[0].because, Difference::Changed(vec!["window"]));
    }
}
