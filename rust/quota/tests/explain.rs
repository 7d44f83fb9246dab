//! What an explanation says of each limit: how the request is held against it, or why it is not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod memory;

use std::sync::Arc;

use bursar_quota::{
    Allowed, Amount, Basis, Bounds, Candidate, Counted, Explanation, Fallback, Held, LabelMatch,
    LabelRule, Labels, Limit, Line, Meter, Method, Milliseconds, Override, Policy, Reason,
    ReserveAnswer, ReserveRequest, Timestamp, Unit, Unsettled, WhyNot, Window,
};
use jiff::tz::TimeZone;
use memory::Memory;

const MINUTE: u64 = 60_000;
const START: Timestamp = Timestamp(1_772_323_200_000);

fn limit(name: &str, tokens: u64) -> Limit {
    Limit {
        name: name.into(),
        matches: Vec::new(),
        except: Vec::new(),
        scope: Vec::new(),
        window: Window::Fixed(Milliseconds(MINUTE)),
        amounts: vec![Amount { unit: Unit::Tokens, amount: tokens }],
        overrides: Vec::new(),
    }
}

fn of(key: &str, value: &str) -> LabelMatch {
    LabelMatch { key: key.into(), values: vec![value.into()] }
}

fn memory(limits: Vec<Limit>) -> Memory {
    let rule = |key: &str, missing| LabelRule {
        key: key.into(),
        values: Vec::new(),
        renamed: vec![("chat".into(), "support-chat".into())],
        missing,
        otherwise: Fallback::None,
    };
    let mut memory = Memory::open(&Bounds::default());
    memory.now = START;
    memory.activate(Policy {
        name: "explained".into(),
        time_zone: TimeZone::UTC,
        labels: vec![rule("session", Fallback::Skip), rule("feature", Fallback::None)],
        ttl: Milliseconds(5 * MINUTE),
        unsettled: Unsettled::ChargeInput,
        limits,
        rollups: Vec::new(),
    });
    memory
}

fn request(id: &str, models: &[&str], input: u64, output: (u64, u64)) -> ReserveRequest {
    let candidate = |model: &&str| Candidate {
        model: (*model).into(),
        input: [Line::plain(Meter::Input, input, Basis::Estimated)].into(),
        counted: Counted { method: Method::Given, tokenizer: "".into() },
    };
    ReserveRequest {
        id: id.into(),
        digest: 1,
        candidates: models.iter().map(candidate).collect(),
        service_tier: "".into(),
        labels: Arc::new(Labels::new([("tenant", "acme"), ("feature", "chat")])),
        output_tokens_max: output.0,
        output_tokens_min: Some(output.1),
        choices: 1,
        ttl: None,
        dry_run: false,
    }
}

fn held<'e>(explanation: &'e Explanation, limit: &str, unit: Unit) -> &'e Held {
    let mut limits = explanation.limits.iter();
    let found = limits.find(|entry| *entry.limit == *limit && entry.unit == unit).unwrap();
    found.held.as_ref().unwrap()
}

fn why_not<'e>(explanation: &'e Explanation, limit: &str) -> &'e WhyNot {
    let found = explanation.limits.iter().find(|entry| *entry.limit == *limit).unwrap();
    found.held.as_ref().unwrap_err()
}

#[test]
fn what_does_not_apply_says_which_label_or_instant_leaves_it_out() {
    let total = |from, until| Window::Total { from, until };
    let (past, future) = (Timestamp(START.0 - 1), Timestamp(START.0 + 1));
    let explanation = memory(vec![
        Limit { matches: vec![of("tenant", "a*"), of("feature", "search")], ..limit("match", 1) },
        Limit { matches: vec![of("team", "core")], ..limit("missing", 1) },
        Limit { except: vec![of("tenant", "acme"), of("team", "(none)")], ..limit("except", 1) },
        Limit { scope: vec!["tenant".into(), "session".into()], ..limit("skipped", 1) },
        Limit { window: total(Some(future), None), ..limit("not-begun", 1) },
        Limit { window: total(None, Some(past)), ..limit("ended", 1) },
    ])
    .rules()
    .explain(&request("", &["a/large"], 10, (0, 0)))
    .unwrap();
    assert_eq!(explanation.labels.get("feature"), Some("support-chat"));
    assert!(matches!(explanation.answer, ReserveAnswer::Granted(_, None)));
    let (key, wanted) = ("feature".into(), vec!["search".into()]);
    let value = Some("support-chat".into());
    assert_eq!(*why_not(&explanation, "match"), WhyNot::Match { key, value, wanted });
    let (key, wanted) = ("team".into(), vec!["core".into()]);
    assert_eq!(*why_not(&explanation, "missing"), WhyNot::Match { key, value: None, wanted });
    let pairs = vec![("tenant".into(), "acme".into()), ("team".into(), "(none)".into())];
    assert_eq!(*why_not(&explanation, "except"), WhyNot::Except(pairs));
    assert_eq!(*why_not(&explanation, "skipped"), WhyNot::Skipped { key: "session".into() });
    assert_eq!(*why_not(&explanation, "not-begun"), WhyNot::NotBegun(future));
    assert_eq!(*why_not(&explanation, "ended"), WhyNot::Ended(past));
}

#[test]
fn the_limit_under_which_the_least_output_fits_binds_a_grant() {
    let amounts =
        vec![Amount { unit: Unit::Requests, amount: 5 }, Amount { unit: Unit::Tokens, amount: 80 }];
    let mut memory = memory(vec![
        limit("wide", 1000),
        limit("narrow", 60),
        Limit { amounts, ..limit("two", 0) },
    ]);
    memory.reserve(&request("r1", &["a/large"], 10, (0, 0))).unwrap();
    let entries = memory.ledger.len();
    let explanation = memory.rules().explain(&request("r1", &["a/large"], 20, (100, 1))).unwrap();
    let ReserveAnswer::Granted(grant, None) = &explanation.answer else { panic!() };
    assert_eq!((grant.output_tokens_granted, &*grant.id), (30, ""), "the id is not looked at");
    let narrow = held(&explanation, "narrow", Unit::Tokens);
    assert_eq!((narrow.output_tokens_fit, narrow.binds, narrow.refuses), (Some(30), true, false));
    assert_eq!((narrow.standing.reserved, narrow.requested), (10, 21), "before the request");
    let wide = held(&explanation, "wide", Unit::Tokens);
    assert_eq!((wide.output_tokens_fit, wide.binds), (Some(100), false));
    let requests = held(&explanation, "two", Unit::Requests);
    assert_eq!((requests.output_tokens_fit, requests.requested), (None, 1));
    assert_eq!(memory.ledger.len(), entries);
}

#[test]
fn the_slowest_to_clear_binds_a_denial() {
    let hour = Window::Fixed(Milliseconds(60 * MINUTE));
    let hour = Limit { window: hour, ..limit("hour", 5) };
    let mut memory = memory(vec![limit("minute", 5), hour, limit("wide", 50)]);
    memory.reserve(&request("r1", &["a/large"], 5, (0, 0))).unwrap();
    let explanation = memory.rules().explain(&request("", &["a/large"], 2, (7, 1))).unwrap();
    assert!(matches!(&explanation.answer, ReserveAnswer::Denied(_)));
    let verdict = |name| {
        let held = held(&explanation, name, Unit::Tokens);
        (held.refuses, held.binds, held.output_tokens_fit)
    };
    assert_eq!(verdict("minute"), (true, false, Some(0)));
    assert_eq!(verdict("hour"), (true, true, Some(0)));
    assert_eq!(verdict("wide"), (false, false, Some(7)));
}

#[test]
fn of_several_models_the_one_granted_is_explained() {
    let large = Limit { matches: vec![of("model", "a/large")], ..limit("large", 5) };
    let memory = memory(vec![large, limit("all", 100)]);
    let explain = |models: &[&str], input| {
        memory.rules().explain(&request("", models, input, (0, 0))).unwrap()
    };
    let granted = explain(&["a/large", "b/small"], 10);
    assert_eq!(&*granted.model, "b/small");
    assert!(matches!(why_not(&granted, "large"), WhyNot::Match { .. }));
    let denied = explain(&["a/large", "b/small"], 200);
    assert_eq!(&*denied.model, "a/large");
    assert!(held(&denied, "large", Unit::Tokens).refuses);
}

#[test]
fn limits_beyond_the_most_that_may_apply_say_so() {
    let more = Policy::LIMITS_PER_REQUEST_MAX + 1;
    let limits = (0..more).map(|at| limit(&format!("limit-{at}"), 100)).collect();
    let explanation =
        memory(limits).rules().explain(&request("", &["a/large"], 1, (0, 0))).unwrap();
    let ReserveAnswer::Denied(denial) = &explanation.answer else { panic!() };
    assert_eq!(denial.reason, Reason::TooManyLimits);
    assert!(!held(&explanation, "limit-15", Unit::Tokens).refuses);
    assert_eq!(*why_not(&explanation, "limit-16"), WhyNot::TooManyLimits(more));
}

#[test]
fn an_override_is_the_amount_that_is_explained() {
    let override_of = |tenant, allowed| Override { matches: vec![of("tenant", tenant)], allowed };
    let tokens = Allowed::Amounts(vec![Amount { unit: Unit::Tokens, amount: 40 }]);
    let scope = vec!["tenant".into()];
    let raised = Limit {
        overrides: vec![override_of("acme", tokens)],
        scope: scope.clone(),
        ..limit("raised", 5)
    };
    let free = Limit {
        overrides: vec![override_of("ac*", Allowed::Unlimited)],
        scope,
        ..limit("free", 5)
    };
    let explanation = memory(vec![raised, free])
        .rules()
        .explain(&request("", &["a/large"], 10, (1_000, 1)))
        .unwrap();
    let raised = held(&explanation, "raised", Unit::Tokens);
    assert_eq!((raised.standing.amount, raised.output_tokens_fit), (40, Some(30)));
    let free = held(&explanation, "free", Unit::Tokens);
    assert!(free.standing.unlimited && !free.refuses);
    assert_eq!(free.output_tokens_fit, Some(1_000));
}
