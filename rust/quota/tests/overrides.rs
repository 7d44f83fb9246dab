//! Overrides: whatever they match by, the first in the policy's order that is for a scope value decides.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod memory;

use std::sync::Arc;

use bursar_quota::{
    Allowed, Amount, Basis, Bounds, Candidate, Counted, LabelMatch, Labels, Limit, Line, Meter,
    Method, Milliseconds, Override, Policy, ReserveRequest, Timestamp, Unit, Unsettled, Window,
};
use jiff::tz::TimeZone;
use memory::Memory;
use proptest::prelude::*;

const KEYS: [&str; 3] = ["tenant", "team", "user"];
const VALUES: [&str; 5] = ["a", "ab", "abc", "b", "(none)"];
const LIMIT: [Amount; 2] =
    [Amount { unit: Unit::Tokens, amount: 100 }, Amount { unit: Unit::Requests, amount: 10 }];

fn policy(overrides: Vec<Override>) -> Policy {
    let limit = Limit {
        name: "limit".into(),
        matches: Vec::new(),
        except: Vec::new(),
        scope: KEYS.map(Into::into).to_vec(),
        window: Window::Fixed(Milliseconds(60_000)),
        amounts: LIMIT.to_vec(),
        overrides,
    };
    Policy {
        name: "overrides".into(),
        time_zone: TimeZone::UTC,
        labels: Vec::new(),
        ttl: Milliseconds(60_000),
        unsettled: Unsettled::ChargeInput,
        limits: vec![limit],
        rollups: Vec::new(),
    }
}

/// What each unit's standing says, and whether it is unlimited.
fn standings(memory: &Memory, labels: &[(&str, &str)]) -> Vec<(Unit, Option<u64>)> {
    let request = ReserveRequest {
        id: "".into(),
        digest: 0,
        candidates: vec![Candidate {
            model: "a/small".into(),
            input: [Line::plain(Meter::Input, 1, Basis::Estimated)].into(),
            counted: Counted { method: Method::Given, tokenizer: "".into() },
        }],
        service_tier: "".into(),
        labels: Arc::new(Labels::new(labels.iter().copied())),
        output_tokens_max: 0,
        output_tokens_min: None,
        choices: 1,
        ttl: None,
        dry_run: true,
    };
    let explanation = memory.rules().explain(&request).unwrap();
    let amount = |entry: &bursar_quota::Explained| {
        let standing = &entry.held.as_ref().unwrap().standing;
        (entry.unit, (!standing.unlimited).then_some(standing.amount))
    };
    explanation.limits.iter().map(amount).collect()
}

/// The same worked out by looking at each override in turn.
fn expected(overrides: &[Override], labels: &[(&str, &str)]) -> Vec<(Unit, Option<u64>)> {
    let value = |key: &str| {
        labels.iter().find(|(known, _)| *known == key).map_or("(none)", |(_, value)| value)
    };
    let holds = |entry: &&Override| {
        entry.matches.iter().all(|wanted| {
            let got = value(&wanted.key);
            wanted.values.iter().any(|value| match value.strip_suffix('*') {
                Some(prefix) => got.starts_with(prefix),
                None => got == &**value,
            })
        })
    };
    let decided = |limit: &Amount| {
        let named = |entry: &Override| match &entry.allowed {
            Allowed::Unlimited => Some(None),
            Allowed::Amounts(amounts) => {
                let mut amounts = amounts.iter();
                amounts.find(|amount| amount.unit == limit.unit).map(|amount| Some(amount.amount))
            }
        };
        let first = overrides.iter().filter(holds).find_map(named);
        (limit.unit, first.unwrap_or(Some(limit.amount)))
    };
    LIMIT.iter().map(decided).collect()
}

fn overrides() -> impl Strategy<Value = Override> {
    let value = prop_oneof![
        6 => (0..VALUES.len()).prop_map(|at| VALUES[at].to_owned()),
        1 => (0..VALUES.len()).prop_map(|at| format!("{}*", VALUES[at])),
        1 => Just("*".to_owned()),
    ];
    let values = proptest::collection::vec(value, 1..4);
    // Long lists, so that some entries are not listed by all their labels.
    let long = (1..40usize).prop_map(|len| {
        let other = (0..len).map(|at| format!("other-{at}"));
        other.chain(["a".to_owned()]).collect()
    });
    let values = prop_oneof![4 => values, 1 => long];
    let keys = proptest::sample::subsequence(KEYS.to_vec(), 1..=3).prop_shuffle();
    let matches = (keys, proptest::collection::vec(values, 3)).prop_map(|(keys, values)| {
        let entry = |(key, values): (&str, Vec<String>)| LabelMatch {
            key: key.into(),
            values: values.into_iter().map(Into::into).collect(),
        };
        keys.into_iter().zip(values).map(entry).collect()
    });
    let amounts = proptest::sample::subsequence(vec![Unit::Tokens, Unit::Requests], 1..=2);
    let amounts = (amounts, 0..1000u64).prop_map(|(units, amount)| {
        Allowed::Amounts(units.into_iter().map(|unit| Amount { unit, amount }).collect())
    });
    let allowed = prop_oneof![5 => amounts, 1 => Just(Allowed::Unlimited)];
    (matches, allowed).prop_map(|(matches, allowed)| Override { matches, allowed })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn the_first_override_that_is_for_a_scope_value_and_names_the_unit_decides(
        overrides in proptest::collection::vec(overrides(), 0..8),
    ) {
        let mut memory = Memory::open(&Bounds::default());
        memory.now = Timestamp(0);
        memory.activate(policy(overrides.clone()));
        for tenant in VALUES {
            for team in VALUES {
                for user in VALUES {
                    let labels = [("tenant", tenant), ("team", team), ("user", user)];
                    let labels: Vec<_> =
                        labels.into_iter().filter(|(_, value)| *value != "(none)").collect();
                    prop_assert_eq!(standings(&memory, &labels), expected(&overrides, &labels));
                }
            }
        }
    }
}

fn mistakes(matches: &[(&str, &str)], allowed: Allowed) -> Vec<String> {
    let entry = |(key, value): &(&str, &str)| LabelMatch {
        key: (*key).into(),
        values: vec![(*value).into()],
    };
    let matches = matches.iter().map(entry).collect();
    policy(vec![Override { matches, allowed }]).check()
}

#[test]
fn a_mistake_in_an_override_names_its_place() {
    let amounts = |amounts: &[(Unit, u64)]| {
        let amount = |(unit, amount): &(Unit, u64)| Amount { unit: *unit, amount: *amount };
        Allowed::Amounts(amounts.iter().map(amount).collect())
    };
    let whom = [("tenant", "a")];
    for (got, part) in [
        (mistakes(&[], Allowed::Unlimited), "it must say which scope values it is for"),
        (mistakes(&[("feature", "a")], Allowed::Unlimited), "must be in the limit's scope"),
        (mistakes(&[("tenant", "a*b")], Allowed::Unlimited), "`*` may only be the last"),
        (mistakes(&whom, amounts(&[])), "an amount is needed, or unlimited"),
        (mistakes(&whom, amounts(&[(Unit::Concurrency, 1)])), "the limit has no amount of"),
        (mistakes(&whom, amounts(&[(Unit::Tokens, 1), (Unit::Tokens, 2)])), "has two amounts"),
        (mistakes(&whom, amounts(&[(Unit::Tokens, u64::MAX)])), "at most 2^53"),
    ] {
        let [mistake] = &got[..] else { panic!("{part}: {got:?}") };
        assert!(mistake.contains(part) && mistake.contains("overrides[0]"), "{mistake}");
    }
    let one = Override {
        matches: vec![LabelMatch { key: "tenant".into(), values: vec!["a".into()] }],
        allowed: Allowed::Unlimited,
    };
    let many = policy(vec![one; Policy::OVERRIDES_MAX + 1]).check();
    assert!(many[0].contains("overrides: at most 10000 (got 10001)"), "{many:?}");
}

#[test]
fn a_span_that_no_calendar_has_is_a_mistake() {
    use bursar_quota::CalendarUnit;
    let check = |unit| {
        let mut policy = policy(Vec::new());
        policy.limits[0].window = Window::Calendar(unit, TimeZone::UTC);
        policy.check()
    };
    for (unit, part) in [
        (CalendarUnit::Week { starts_on: 8 }, "week_starts_on must be 1 to 7 (got 8)"),
        (CalendarUnit::Month { starts_on: 29 }, "month_starts_on must be 1 to 28 (got 29)"),
        (CalendarUnit::Quarter { starts_in: 13, starts_on: 1 }, "year_starts_in must be 1 to 12"),
        (CalendarUnit::Year { starts_in: 1, starts_on: 0 }, "month_starts_on must be 1 to 28"),
    ] {
        let got = check(unit);
        let [mistake] = &got[..] else { panic!("{part}: {got:?}") };
        assert!(mistake.contains(part), "{mistake}");
    }
    assert_eq!(check(CalendarUnit::Year { starts_in: 12, starts_on: 28 }), Vec::<String>::new());
}
