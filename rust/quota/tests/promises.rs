//! Promises that tables do not tell: identities, mistakes in a policy, usage groups, standings, bounds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod memory;

use std::sync::Arc;

use bursar_quota::{
    Allowed, Amount, Basis, Bounds, CalendarUnit, Candidate, CommitRequest, Counted, Effect, Event,
    Fallback, IdHash, LabelMatch, LabelRule, Labels, Limit, Line, Meter, Method, Milliseconds,
    Outcome, Override, Policy, Recorded, Refusal, ReleaseRequest, ReserveAnswer, ReserveRequest,
    Settled, Timestamp, Unit, Unsettled, UsageSums, Window, group,
};
use jiff::tz::TimeZone;
use memory::Memory;

const MINUTE: u64 = 60_000;
const START: Timestamp = Timestamp(1_772_323_200_000);

fn tokens(amount: u64) -> Vec<Amount> {
    vec![Amount { unit: Unit::Tokens, amount }]
}

fn limit(name: &str, window: Window, amounts: Vec<Amount>) -> Limit {
    let (matches, except, scope) = (Vec::new(), Vec::new(), Vec::new());
    Limit { name: name.into(), matches, except, scope, window, amounts, overrides: Vec::new() }
}

fn minute(name: &str, amount: u64) -> Limit {
    limit(name, Window::Fixed(Milliseconds(MINUTE)), tokens(amount))
}

fn policy(limits: Vec<Limit>) -> Policy {
    Policy {
        name: "promises".into(),
        time_zone: TimeZone::UTC,
        labels: Vec::new(),
        ttl: Milliseconds(5 * MINUTE),
        unsettled: Unsettled::ChargeInput,
        limits,
        rollups: vec!["feature".into(), "model".into(), "component".into()],
    }
}

fn memory(policy: Policy) -> Memory {
    let mut memory = Memory::open(&Bounds::default());
    memory.now = START;
    memory.activate(policy);
    memory
}

fn request(id: &str, input: u64) -> ReserveRequest {
    ReserveRequest {
        id: id.into(),
        digest: input,
        candidates: vec![Candidate {
            model: "a/small".into(),
            input: [Line::plain(Meter::Input, input, Basis::Estimated)].into(),
            counted: Counted { method: Method::Given, tokenizer: "".into() },
        }],
        service_tier: "".into(),
        labels: Arc::new(Labels::new([("feature", "chat")])),
        output_tokens_max: 0,
        output_tokens_min: None,
        choices: 1,
        ttl: None,
        dry_run: false,
    }
}

fn usage(id: &str, lines: Vec<Line>) -> CommitRequest {
    CommitRequest {
        id: id.into(),
        digest: lines.iter().map(|line| line.tokens).sum(),
        lines,
        outcome: Outcome::Completed,
        model: None,
        model_version: "".into(),
        service_tier: None,
        response_id: "".into(),
        labels: Arc::default(),
        total_tokens: None,
        latency_ms: 0,
        first_token_ms: 0,
    }
}

fn of(tokens: u64) -> Vec<Line> {
    vec![Line::plain(Meter::Input, tokens, Basis::Measured)]
}

fn granted(answer: Result<ReserveAnswer, Refusal>) -> bursar_quota::Grant {
    match answer.unwrap() {
        ReserveAnswer::Granted(grant, _) | ReserveAnswer::Replayed(grant) => *grant,
        ReserveAnswer::Denied(denial) => panic!("{denial:?}"),
    }
}

// Identities.

fn rich() -> Limit {
    let of = |key: &str, values: [&str; 2]| LabelMatch {
        key: key.into(),
        values: values.map(Into::into).to_vec(),
    };
    Limit {
        matches: vec![of("feature", ["chat", "search"]), of("model", ["a/*", "b/*"])],
        except: vec![of("environment", ["test", "staging"])],
        scope: vec!["tenant".into(), "user".into()],
        window: Window::Calendar(CalendarUnit::Day, TimeZone::get("Europe/Berlin").unwrap()),
        ..minute("rich", 100)
    }
}

#[test]
fn an_identity_is_the_same_in_every_version() {
    assert_eq!(minute("minute", 1).identity(), 8_951_526_492_989_351_197);
    assert_eq!(rich().identity(), 13059577130429795863);
    let berlin = |unit| Window::Calendar(unit, TimeZone::get("Europe/Berlin").unwrap());
    let of = |unit| Limit { window: berlin(unit), ..minute("calendar", 1) }.identity();
    // These are as they were when calendars had no anchors.
    assert_eq!(of(CalendarUnit::Hour), 6_497_781_896_031_777_936);
    assert_eq!(of(CalendarUnit::Day), 11_924_113_261_352_237_052);
    assert_eq!(of(CalendarUnit::Month { starts_on: 1 }), 14_021_268_721_358_423_205);
    // And these have them.
    assert_eq!(of(CalendarUnit::Month { starts_on: 2 }), 8_417_530_187_240_869_313);
    assert_eq!(of(CalendarUnit::Week { starts_on: 1 }), 389_108_645_026_828_239);
    let quarter = CalendarUnit::Quarter { starts_in: 1, starts_on: 1 };
    assert_eq!(of(quarter), 8_539_683_658_983_917_547);
    assert_eq!(of(CalendarUnit::Year { starts_in: 4, starts_on: 6 }), 1_725_849_642_037_575_255);
}

#[test]
fn amounts_overrides_and_the_order_of_matches_are_not_part_of_an_identity() {
    let mut other = rich();
    other.amounts = vec![Amount { unit: Unit::Requests, amount: 7 }];
    other.overrides = vec![Override { matches: Vec::new(), allowed: Allowed::Unlimited }];
    other.matches.reverse();
    other.matches[0].values.reverse();
    assert_eq!(other.identity(), rich().identity());
}

#[test]
fn everything_else_is_part_of_an_identity() {
    let change = |change: fn(&mut Limit)| {
        let mut other = rich();
        change(&mut other);
        other.identity()
    };
    let zone = |name| Window::Calendar(CalendarUnit::Day, TimeZone::get(name).unwrap());
    let mut identities = vec![
        rich().identity(),
        change(|limit| limit.name = "richer".into()),
        change(|limit| limit.matches.clear()),
        change(|limit| limit.except.clear()),
        change(|limit| std::mem::swap(&mut limit.matches, &mut limit.except)),
        change(|limit| limit.scope.reverse()),
        change(|limit| limit.scope.clear()),
        change(|limit| limit.window = Window::Fixed(Milliseconds(MINUTE))),
        change(|limit| limit.window = Window::Request),
        change(|limit| limit.window = Window::Total { from: None, until: None }),
        change(|limit| {
            limit.window = Window::Total { from: Some(Timestamp(0)), until: None };
        }),
        change(|limit| {
            limit.window = Window::Total { from: None, until: Some(Timestamp(0)) };
        }),
        Limit { window: zone("Europe/Paris"), ..rich() }.identity(),
    ];
    let len = identities.len();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), len);
}

// Mistakes in a policy.

#[test]
fn every_mistake_of_a_policy_is_said_at_once() {
    let label = LabelRule {
        key: "model".into(),
        values: vec!["a".into()],
        renamed: vec![("x".into(), "y".into())],
        missing: Fallback::None,
        otherwise: Fallback::Skip,
    };
    let bad = Limit {
        matches: vec![LabelMatch { key: "featre".into(), values: vec!["a*b".into()] }],
        scope: vec!["tenant".into(), "tenant".into()],
        window: Window::Fixed(Milliseconds(1)),
        amounts: vec![
            Amount { unit: Unit::Concurrency, amount: 1 },
            Amount { unit: Unit::Tokens, amount: u64::MAX },
        ],
        ..minute("Bad", 1)
    };
    let policy = Policy {
        labels: vec![label],
        ttl: Milliseconds(0),
        rollups: vec!["nothing".into()],
        ..policy(vec![bad, minute("twice", 1), minute("twice", 1)])
    };
    let mistakes = policy.check();
    for part in [
        "ttl must be 1 s to 7 d (got 0 ms)",
        "limits: \"twice\" is given twice",
        "labels.model: it comes from the request",
        "\"x\" becomes \"y\"",
        "skip is only for a missing label",
        "a name is [a-z]",
        "\"featre\" is neither built in nor declared",
        "`*` may only be the last",
        "scope: \"tenant\" is given twice",
        "at most 2^53",
        "concurrency is never written beside",
        "concurrency has no window",
        "a fixed window has 1 s to 366 d (got 1 ms)",
        "rollups: \"nothing\"",
    ] {
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part}: {mistakes:#?}");
    }
    assert_eq!(policy.compile().unwrap_err(), mistakes);
}

// Standings.

#[test]
fn exhausted_in_is_at_the_windows_rate_so_far_and_only_within_the_window() {
    let mut memory = memory(policy(vec![minute("minute", 100)]));
    memory.set_now(START.after(Milliseconds(10_000)));
    granted(memory.reserve(&request("a", 20)));
    let tightest = granted(memory.reserve(&request("b", 20))).tightest.unwrap();
    assert_eq!(tightest.exhausted_in, Some(Milliseconds(15_000)));
    memory.set_now(START.after(Milliseconds(30_000)));
    let tightest = granted(memory.reserve(&request("b", 20))).tightest.unwrap();
    assert_eq!(tightest.exhausted_in, None, "the window ends after as long");
    let tightest = granted(memory.reserve(&request("c", 60))).tightest.unwrap();
    assert_eq!(tightest.exhausted_in, Some(Milliseconds(0)));
}

#[test]
fn a_limit_that_comes_back_says_since_when_it_counts() {
    let hour = || limit("hour", Window::Fixed(Milliseconds(60 * MINUTE)), tokens(100));
    let mut memory = memory(policy(vec![hour()]));
    let tightest = granted(memory.reserve(&request("a", 20))).tightest.unwrap();
    assert_eq!(tightest.incomplete_since, None);
    memory.set_now(START.after(Milliseconds(1000)));
    memory.activate(policy(vec![]));
    memory.set_now(START.after(Milliseconds(2000)));
    memory.activate(policy(vec![hour()]));
    let tightest = granted(memory.reserve(&request("b", 20))).tightest.unwrap();
    assert_eq!(tightest.incomplete_since, Some(memory.now));
    assert_eq!(tightest.remaining(), 60, "what it counted before it keeps");
}

// Usage groups.

fn groups(memory: &Memory) -> Vec<(Vec<String>, UsageSums)> {
    let mut sums = std::collections::BTreeMap::<Vec<String>, UsageSums>::new();
    for (_, event) in &memory.ledger {
        let Some(version) = event.policy_version() else { continue };
        let policy = &memory.policies[usize::try_from(version).unwrap() - 1];
        for (key, more) in group(event, &policy.policy().rollups) {
            let values = key.labels.iter().map(|(_, value)| value.to_owned()).collect();
            sums.entry(values).or_default().add(&more);
        }
    }
    sums.retain(|_, sums| !sums.is_zero());
    sums.into_iter().collect()
}

#[test]
fn calls_and_latency_go_once_to_the_group_without_a_component() {
    let mut memory = memory(policy(vec![minute("minute", 1000)]));
    granted(memory.reserve(&request("a", 10)));
    let mut lines = of(5);
    lines.push(Line { component: "retrieval".into(), ..lines[0].clone() });
    lines.push(Line::plain(Meter::Output, 7, Basis::Estimated));
    memory.commit(&CommitRequest { latency_ms: 250, ..usage("a", lines) }).unwrap();
    let groups = groups(&memory);
    let [(plain, sums), (retrieval, more)] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!(plain, &["", "chat", "a/small"]);
    assert_eq!(retrieval, &["retrieval", "chat", "a/small"]);
    assert_eq!((sums.calls, sums.calls_overrun, sums.calls_assumed), (1, 1, 0));
    assert_eq!((sums.latency_ms_sum, sums.latency_calls), (250, 1));
    assert_eq!(sums.tokens[&(Meter::Output, Basis::Estimated)], 7);
    assert_eq!((more.calls, more.tokens[&(Meter::Input, Basis::Measured)]), (0, 5));
}

#[test]
fn late_usage_takes_the_place_of_what_expiry_reported_where_it_was_reported() {
    let mut memory = memory(policy(vec![minute("minute", 1000)]));
    granted(memory.reserve(&request("a", 10)));
    memory.set_now(START.after(Milliseconds(5 * MINUTE)));
    let charged = groups(&memory);
    assert_eq!(charged[0].0, ["", "chat", "a/small"]);
    assert_eq!((charged[0].1.calls, charged[0].1.calls_assumed), (1, 1));
    let late = CommitRequest { model: Some("b/other".into()), ..usage("a", of(12)) };
    memory.commit(&late).unwrap();
    let groups = groups(&memory);
    let [(other, sums)] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!(other, &["", "chat", "b/other"], "nothing is left under the model granted");
    assert_eq!((sums.calls, sums.calls_late, sums.calls_assumed), (1, 1, 0));
    assert_eq!(sums.tokens[&(Meter::Input, Basis::Measured)], 12);
}

#[test]
fn a_release_after_expiry_leaves_nothing_in_the_reports() {
    let mut memory = memory(policy(vec![minute("minute", 1000)]));
    granted(memory.reserve(&request("a", 10)));
    memory.set_now(START.after(Milliseconds(5 * MINUTE)));
    memory.release(&ReleaseRequest { id: "a".into(), digest: 1, reason: "".into() }).unwrap();
    assert_eq!(groups(&memory), []);
}

// Bounds and damage.

#[test]
fn usage_that_a_counter_cannot_hold_is_not_refused() {
    let mut memory = memory(policy(vec![minute("minute", 1000)]));
    granted(memory.reserve(&request("a", 10)));
    let key = memory.state.counters().next().unwrap().0.clone();
    let mut counter = memory.state.counter(&key);
    counter.committed = u64::MAX - 5;
    memory.state.put_counter(key.clone(), counter);
    let answer = memory.commit(&usage("a", of(20))).unwrap();
    assert_eq!(answer.tokens_committed, 20);
    assert!(matches!(&answer.event, Some(Event::Settled(settled)) if settled.uncounted));
    assert_eq!(memory.state.counter(&key).reserved, 0);
    assert_eq!(memory.state.counter(&key).committed, u64::MAX - 5);
}

#[test]
fn labels_in_another_order_are_the_same_labels() {
    assert_eq!(Labels::new([("a", "1"), ("b", "2")]), Labels::new([("b", "2"), ("a", "1")]));
}

#[test]
fn an_id_has_the_same_hash_in_every_version() {
    assert_eq!(IdHash::of("018f-id").0, 116_625_105_644_856_448_236_477_511_655_605_224_546);
}

#[test]
fn an_event_names_every_row_it_touches() {
    let mut memory = memory(policy(vec![minute("minute", 1000)]));
    granted(memory.reserve(&request("a", 10)));
    memory.commit(&usage("a", of(20))).unwrap();
    let rows: Vec<usize> = memory.ledger.iter().map(|(_, event)| event.touches().len()).collect();
    // A policy; a counter and a reservation; a counter, a reservation and an id.
    assert_eq!(rows, [1, 2, 3]);
}

#[test]
fn an_event_that_does_not_follow_is_an_error() {
    let mut memory = memory(policy(vec![minute("minute", 1000)]));
    granted(memory.reserve(&request("a", 10)));
    let (_, event) = memory.ledger.last().unwrap().clone();
    assert!(memory.state.apply(9, START, &event).is_err(), "open already");
    let key = memory.state.counters().next().unwrap().0.clone();
    let effect = Effect { counter: key, committed: -1, reserved: 0 };
    memory.commit(&usage("a", of(0))).unwrap();
    let Some((_, Event::Settled(settled))) = memory.ledger.last() else { panic!() };
    let again = Settled { effects: vec![effect], ..(**settled).clone() };
    let event = Event::Settled(Box::new(again));
    assert!(memory.state.apply(10, START, &event).is_err(), "below zero");
}

#[test]
fn a_record_of_a_missing_label_is_entered_as_it_counts() {
    let scoped = Limit { scope: vec!["tenant".into()], ..minute("minute", 1000) };
    let mut memory = memory(policy(vec![scoped]));
    let answer = memory
        .record(&bursar_quota::RecordRequest {
            id: "u".into(),
            digest: 1,
            model: "a/small".into(),
            model_version: "".into(),
            service_tier: "".into(),
            labels: Arc::default(),
            lines: of(3),
            outcome: Outcome::Completed,
            occurred_at: START,
            response_id: "".into(),
            total_tokens: None,
            latency_ms: 0,
        })
        .unwrap();
    let Some(Event::Recorded(recorded)) = answer.event else { panic!() };
    let Recorded { labels, labels_sent, .. } = *recorded;
    assert_eq!(labels.get("tenant"), Some("(none)"));
    assert_eq!(labels_sent, Some(Arc::default()));
}

/// Says of a line of source what the rules must not know, if it does.
fn forbidden(line: &str) -> Option<&'static str> {
    let words = ["::now()", "std::fs", "std::net", "std::thread", "std::env", "std::process"];
    words.into_iter().find(|word| line.contains(word))
}

#[test]
fn the_rules_have_no_clock_no_files_and_no_threads() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        files += 1;
        for (at, line) in text.lines().enumerate() {
            assert_eq!(forbidden(line), None, "{}:{}", path.display(), at + 1);
        }
    }
    assert!(files > 10);
}
