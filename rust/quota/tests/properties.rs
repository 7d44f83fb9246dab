//! What is always true, held against a plain model that works everything out from the list of calls.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

mod memory;
mod oracle;

use std::sync::Arc;

use bursar_quota::{
    Allowed, Amount, Basis, Bounds, CalendarUnit, Candidate, CommitRequest, Counted, LabelMatch,
    Labels, Limit, Line, Meter, Method, Milliseconds, Outcome, Override, Policy, RecordRequest,
    Refusal, ReleaseRequest, ReserveAnswer, ReserveRequest, Timestamp, Unit, Unsettled, Window,
};
use jiff::tz::TimeZone;
use memory::Memory;
use oracle::{Answer, Ask, Oracle, Rule, Span, Usage, What};
use proptest::prelude::*;

const TENANTS: [&str; 2] = ["acme", "beta"];
const MODELS: [&str; 3] = ["a/large", "a/small", "b/other"];
const IDS: u8 = 12;

/// Something a caller does.
#[derive(Debug, Clone)]
enum Act {
    Reserve { id: u8, ask: Ask },
    Commit { id: u8, usage: Usage },
    Release { id: u8, reason: bool },
    Record { id: u8, tenant: usize, model: usize, tokens: u64, ago: i64 },
    Tick(i64),
}

fn asks() -> impl Strategy<Value = Ask> {
    let models = proptest::sample::subsequence(MODELS.to_vec(), 1..=2).prop_shuffle();
    let output = (0..30u64, proptest::option::of(0..12u64));
    (0..2usize, models, 0..30u64, output, 1..3u64, 1..8i64).prop_map(
        |(tenant, models, input, (output_max, output_min), choices, ttl)| Ask {
            tenant: TENANTS[tenant].to_owned(),
            models: models.into_iter().map(str::to_owned).collect(),
            input,
            output_max,
            output_min,
            choices,
            ttl: ttl * 10_000,
        },
    )
}

fn acts() -> impl Strategy<Value = Act> {
    let usage = (proptest::option::weighted(0.8, 0..60u64), proptest::option::of(0..3usize));
    let usage = usage.prop_map(|(tokens, model)| Usage {
        tokens,
        model: model.map(|model| MODELS[model].to_owned()),
    });
    prop_oneof![
        5 => (0..IDS, asks()).prop_map(|(id, ask)| Act::Reserve { id, ask }),
        4 => (0..IDS, usage).prop_map(|(id, usage)| Act::Commit { id, usage }),
        2 => (0..IDS, any::<bool>()).prop_map(|(id, reason)| Act::Release { id, reason }),
        1 => (0..IDS, 0..2usize, 0..3usize, 0..40u64, -5..90i64).prop_map(
            |(id, tenant, model, tokens, ago)| Act::Record {
                id, tenant, model, tokens, ago: ago * 1000,
            }
        ),
        3 => prop_oneof![1..30_000i64, Just(60_000), 1_000_000..4_000_000i64].prop_map(Act::Tick),
    ]
}

/// Instants around which clocks change or days, months and hours begin.
fn beginnings() -> impl Strategy<Value = i64> {
    let around = prop_oneof![
        Just(1_774_746_000_000i64), // 2026-03-29T01:00Z: Europe's clocks go forward
        Just(1_792_890_000_000),    // 2026-10-25T01:00Z: and back
        Just(1_793_512_800_000),    // 2026-11-01T06:00Z: New York's go back
        Just(1_775_314_800_000),    // 2026-04-04T15:00Z: Lord Howe's go back by half an hour
        Just(1_777_593_600_000),    // 2026-05-01T00:00Z
    ];
    (around, -9_000_000..9_000_000i64).prop_map(|(at, by)| at + by)
}

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Chatham",
];

fn spans(begins: i64, long: bool) -> impl Strategy<Value = Span> {
    let zone = || (0..ZONES.len()).prop_map(|at| TimeZone::get(ZONES[at]).unwrap());
    let whole = begins - begins.rem_euclid(1000);
    let total = (-100..200i64, 1..400i64).prop_map(move |(from, length)| {
        Span::Between(whole + from * 1000, whole + (from + length) * 1000)
    });
    let calendar = if long { 3 } else { 0 };
    prop_oneof![
        3 => (1..120i64).prop_map(Span::Seconds),
        1 => Just(Span::Each),
        1 => total,
        1 => Just(Span::Open),
        calendar => zone().prop_map(Span::Hour),
        calendar => zone().prop_map(Span::Day),
        calendar => (zone(), 1..=7i8).prop_map(|(zone, day)| Span::Week(zone, day)),
        calendar => (zone(), prop_oneof![Just(1), Just(3), Just(12)], 1..=12i8, 1..=28i8).prop_map(
            |(zone, length, from, on)| {
                Span::Months(zone, length, (if length == 1 { 1 } else { from }, on))
            }
        ),
    ]
}

fn rule(begins: i64, long: bool) -> impl Strategy<Value = Rule> {
    let whom = (
        any::<bool>(),
        any::<bool>(),
        proptest::option::weighted(0.2, 0..2usize),
        proptest::option::weighted(0.2, 0..3usize),
    );
    let amounts = (20..150u64, proptest::option::of(1..6u64));
    let instead = (0..TENANTS.len(), proptest::option::weighted(0.7, 0..300u64));
    let instead = proptest::option::weighted(0.5, instead);
    let drawn = (whom, spans(begins, long), amounts, instead);
    drawn.prop_map(|(whom, span, (tokens, requests), instead)| {
        // What counts no tokens has no other amount of them.
        let instead = instead.filter(|(_, tokens)| tokens.is_none() || !matches!(span, Span::Open));
        let amounts = match (&span, requests) {
            (Span::Open, requests) => vec![(What::Open, requests.unwrap_or(2))],
            (_, None) => vec![(What::Tokens, tokens)],
            (_, Some(requests)) => vec![(What::Tokens, tokens), (What::Requests, requests)],
        };
        Rule {
            name: String::new(),
            by_tenant: whom.0,
            by_model: whom.1,
            only_tenant: whom.2.map(|at| TENANTS[at].to_owned()),
            not_model: whom.3.map(|at| MODELS[at].to_owned()),
            span,
            amounts,
            instead: instead.map(|(at, tokens)| (TENANTS[at].to_owned(), tokens)),
        }
    })
}

fn unit(what: What) -> Unit {
    match what {
        What::Tokens => Unit::Tokens,
        What::Requests => Unit::Requests,
        What::Open => Unit::Concurrency,
    }
}

fn limit(rule: &Rule) -> Limit {
    let one = |key: &str, value: &String| LabelMatch {
        key: key.into(),
        values: vec![value.as_str().into()],
    };
    let mut scope: Vec<Box<str>> = Vec::new();
    if rule.by_tenant {
        scope.push("tenant".into());
    }
    if rule.by_model {
        scope.push("model".into());
    }
    Limit {
        name: rule.name.as_str().into(),
        matches: rule.only_tenant.iter().map(|tenant| one("tenant", tenant)).collect(),
        except: rule.not_model.iter().map(|model| one("model", model)).collect(),
        scope,
        window: match &rule.span {
            Span::Each => Window::Request,
            Span::Open => Window::Open,
            Span::Seconds(seconds) => Window::Fixed(Milliseconds(seconds.unsigned_abs() * 1000)),
            Span::Hour(zone) => Window::Calendar(CalendarUnit::Hour, zone.clone()),
            Span::Day(zone) => Window::Calendar(CalendarUnit::Day, zone.clone()),
            Span::Week(zone, starts_on) => {
                Window::Calendar(CalendarUnit::Week { starts_on: *starts_on }, zone.clone())
            }
            Span::Months(zone, length, (starts_in, starts_on)) => {
                let (starts_in, starts_on) = (*starts_in, *starts_on);
                let unit = match length {
                    1 => CalendarUnit::Month { starts_on },
                    3 => CalendarUnit::Quarter { starts_in, starts_on },
                    _ => CalendarUnit::Year { starts_in, starts_on },
                };
                Window::Calendar(unit, zone.clone())
            }
            Span::Between(from, until) => {
                Window::Total { from: Some(Timestamp(*from)), until: Some(Timestamp(*until)) }
            }
        },
        amounts: rule
            .amounts
            .iter()
            .map(|(what, amount)| Amount { unit: unit(*what), amount: *amount })
            .collect(),
        overrides: rule.instead.iter().filter(|_| rule.by_tenant).map(instead).collect(),
    }
}

fn instead((tenant, tokens): &(String, Option<u64>)) -> Override {
    let matches = vec![LabelMatch { key: "tenant".into(), values: vec![tenant.as_str().into()] }];
    let amounts = |amount: u64| Allowed::Amounts(vec![Amount { unit: Unit::Tokens, amount }]);
    Override { matches, allowed: tokens.map_or(Allowed::Unlimited, amounts) }
}

fn policy(rules: &[Rule], unsettled: oracle::Unsettled) -> Policy {
    Policy {
        name: "property".into(),
        time_zone: TimeZone::UTC,
        labels: Vec::new(),
        ttl: Milliseconds(60_000),
        unsettled: match unsettled {
            oracle::Unsettled::Nothing => Unsettled::Release,
            oracle::Unsettled::Input => Unsettled::ChargeInput,
            oracle::Unsettled::Everything => Unsettled::ChargeEstimate,
        },
        limits: rules.iter().map(limit).collect(),
        rollups: vec!["tenant".into(), "model".into()],
    }
}

fn digest(content: &impl std::fmt::Debug) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    format!("{content:?}").hash(&mut hasher);
    hasher.finish()
}

fn tenant_label(tenant: &str) -> Arc<Labels> {
    Arc::new(Labels::new([("tenant", tenant)]))
}

fn id_of(id: u8) -> Arc<str> {
    format!("id-{id}").into()
}

fn reserve_request(id: u8, ask: &Ask) -> ReserveRequest {
    let line = Line::plain(Meter::Input, ask.input, Basis::Estimated);
    let candidate = |model: &String| Candidate {
        model: model.as_str().into(),
        input: [line.clone()].into(),
        counted: Counted { method: Method::Given, tokenizer: "".into() },
    };
    ReserveRequest {
        id: id_of(id),
        digest: digest(ask),
        candidates: ask.models.iter().map(candidate).collect(),
        service_tier: "".into(),
        labels: tenant_label(&ask.tenant),
        output_tokens_max: ask.output_max,
        output_tokens_min: ask.output_min,
        choices: u32::try_from(ask.choices).unwrap(),
        ttl: Some(Milliseconds(ask.ttl.unsigned_abs())),
        dry_run: false,
    }
}

/// What is explained of a request is what it would get under a new id.
fn check_explained(memory: &Memory, request: &ReserveRequest) {
    let anew = ReserveRequest { id: "".into(), dry_run: true, ..request.clone() };
    let answer = memory.rules().reserve(&anew, None);
    let explanation = match memory.rules().explain(request) {
        Ok(explanation) => explanation,
        Err(refusal) => return assert_eq!(Err(refusal), answer),
    };
    let held = || explanation.limits.iter().filter_map(|entry| entry.held.as_ref().ok());
    let binding: Vec<_> = held().filter(|held| held.binds).collect();
    match &explanation.answer {
        ReserveAnswer::Granted(grant, None) => {
            assert_eq!(explanation.model, grant.model);
            assert!(!held().any(|held| held.refuses), "{explanation:?}");
            let fits = held().filter_map(|held| held.output_tokens_fit).min();
            let output = fits.unwrap_or(request.output_tokens_max);
            assert_eq!(output, grant.output_tokens_granted, "{explanation:?}");
            assert_eq!(binding.len(), usize::from(output < request.output_tokens_max));
            assert!(binding.iter().all(|held| held.output_tokens_fit == Some(output)));
        }
        ReserveAnswer::Denied(denial) => {
            let [binding] = &binding[..] else { panic!("{explanation:?}") };
            assert!(binding.refuses);
            let mut standings = denial.shortfalls.iter().map(|shortfall| &shortfall.standing);
            let slowest = standings.find(|known| held().any(|held| held.standing == **known));
            assert_eq!(slowest, Some(&binding.standing));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(Ok(explanation.answer), answer);
}

fn reserve(memory: &mut Memory, id: u8, ask: &Ask, looked_ahead: i64) -> Answer {
    let request = reserve_request(id, ask);
    check_explained(memory, &request);
    let granted = |grant: &bursar_quota::Grant, replayed| Answer::Granted {
        model: grant.model.to_string(),
        output: grant.output_tokens_granted,
        replayed,
    };
    match memory.reserve(&request) {
        Err(refusal) => refused(&refusal),
        Ok(ReserveAnswer::Granted(grant, _)) => granted(&grant, false),
        Ok(ReserveAnswer::Replayed(grant)) => granted(&grant, true),
        Ok(ReserveAnswer::Denied(denial)) => {
            let names = denial.shortfalls.iter().map(|short| short.standing.limit.to_string());
            let mut by: Vec<String> = names.collect();
            by.sort();
            by.dedup();
            let within = |retry: i64| retry <= looked_ahead * 1000;
            let retry = denial.retry_after.map(|retry| i64::try_from(retry.0).unwrap());
            let retry = (looked_ahead > 0).then_some(retry.filter(|retry| within(*retry)));
            Answer::Denied { retry, by }
        }
    }
}

fn refused(refusal: &Refusal) -> Answer {
    match refusal {
        Refusal::Invalid { .. } => Answer::Invalid,
        Refusal::Conflict { .. } => Answer::Conflict,
        Refusal::NotFound(_) => Answer::NotFound,
        Refusal::NotOpen { .. } => Answer::NotOpen,
        Refusal::TooOld { .. } => panic!("nothing is forgotten here"),
    }
}

fn commit(memory: &mut Memory, id: u8, usage: &Usage) -> Answer {
    let lines = usage.tokens.map(|tokens| Line::plain(Meter::Output, tokens, Basis::Measured));
    let request = CommitRequest {
        id: id_of(id),
        digest: digest(usage),
        lines: lines.into_iter().collect(),
        outcome: if usage.tokens.is_some() { Outcome::Completed } else { Outcome::Unknown },
        model: usage.model.as_deref().map(Into::into),
        model_version: "".into(),
        service_tier: None,
        response_id: "".into(),
        labels: Arc::default(),
        total_tokens: None,
        latency_ms: 0,
        first_token_ms: 0,
    };
    match memory.commit(&request) {
        Err(refusal) => refused(&refusal),
        Ok(answer) => Answer::Committed {
            tokens: answer.tokens_committed,
            overrun: answer.tokens_overrun,
            late: answer.late,
            replayed: answer.replayed,
        },
    }
}

fn release(memory: &mut Memory, id: u8, reason: &str) -> Answer {
    let request = ReleaseRequest { id: id_of(id), digest: digest(&reason), reason: reason.into() };
    match memory.release(&request) {
        Err(refusal) => refused(&refusal),
        // What a repetition gives back is that of the first; the model does not keep it.
        Ok(answer) if answer.replayed => Answer::Released { tokens: u64::MAX, replayed: true },
        Ok(answer) => Answer::Released { tokens: answer.tokens_released, replayed: false },
    }
}

fn record(memory: &mut Memory, id: u8, whose: (&str, &str), tokens: u64, at: i64) -> Answer {
    let request = RecordRequest {
        id: id_of(id),
        digest: digest(&(whose, tokens, at)),
        model: whose.1.into(),
        model_version: "".into(),
        service_tier: "".into(),
        labels: tenant_label(whose.0),
        lines: vec![Line::plain(Meter::Input, tokens, Basis::Measured)],
        outcome: Outcome::Completed,
        occurred_at: Timestamp(at),
        response_id: "".into(),
        total_tokens: None,
        latency_ms: 0,
    };
    match memory.record(&request) {
        Err(refusal) => refused(&refusal),
        Ok(answer) => Answer::Recorded { replayed: answer.replayed },
    }
}

/// Every counter of now is what the model works out.
fn check_counters(memory: &Memory, oracle: &Oracle) {
    for rule in oracle.rules.iter().filter(|rule| !matches!(rule.span, Span::Each)) {
        for (what, _) in &rule.amounts {
            for tenant in TENANTS {
                for model in MODELS {
                    let mut scope = Vec::new();
                    if rule.by_tenant {
                        scope.push(("tenant".to_owned(), tenant.to_owned()));
                    }
                    if rule.by_model {
                        scope.push(("model".to_owned(), model.to_owned()));
                    }
                    let counter = memory.counter(&rule.name, unit(*what), &scope);
                    let counter = counter.map(|(_, counter)| counter).unwrap_or_default();
                    let taken = oracle.taken(rule, *what, (tenant, model), oracle.now);
                    assert_eq!((counter.committed, counter.reserved), taken, "{rule:?} {scope:?}");
                }
            }
        }
    }
}

/// Under every limit, what a grant added to is within the amount.
fn check_within(oracle: &Oracle, ask: &Ask, model: &str, output: u64) {
    let holds = ask.input + output * ask.choices;
    for rule in &oracle.rules {
        let concerns = rule.only_tenant.as_ref().is_none_or(|only| *only == ask.tenant)
            && rule.not_model.as_ref().is_none_or(|not| not != model);
        let within = match rule.span {
            Span::Between(from, until) => (from..until).contains(&oracle.now),
            _ => true,
        };
        for (what, amount) in rule.amounts.iter().filter(|_| concerns && within) {
            let (committed, reserved) = oracle.taken(rule, *what, (&ask.tenant, model), oracle.now);
            let added = *what != What::Tokens || holds > 0;
            let Some(amount) = rule.amount(*what, *amount, &ask.tenant) else { continue };
            assert!(!added || committed + reserved <= amount, "{rule:?}");
        }
    }
}

fn run(begins: i64, mut rules: Vec<Rule>, unsettled: u8, acts: &[Act], looked_ahead: i64) {
    for (at, rule) in rules.iter_mut().enumerate() {
        rule.name = format!("limit-{at}");
    }
    let unsettled = match unsettled {
        0 => oracle::Unsettled::Nothing,
        1 => oracle::Unsettled::Input,
        _ => oracle::Unsettled::Everything,
    };
    let mut memory = Memory::open(&Bounds::default());
    memory.now = Timestamp(begins);
    memory.activate(policy(&rules, unsettled));
    let mut oracle = Oracle::new(rules, unsettled, begins);
    for act in acts {
        let entries = memory.ledger.len();
        let (got, expected) = match act {
            Act::Tick(by) => {
                oracle.set_now(oracle.now + by);
                memory.set_now(Timestamp(oracle.now));
                check_counters(&memory, &oracle);
                continue;
            }
            Act::Reserve { id, ask } => (
                reserve(&mut memory, *id, ask, looked_ahead),
                oracle.reserve(&id_of(*id), ask, looked_ahead),
            ),
            Act::Commit { id, usage } => {
                (commit(&mut memory, *id, usage), oracle.commit(&id_of(*id), usage))
            }
            Act::Release { id, reason } => {
                let reason = if *reason { "refused" } else { "" };
                (release(&mut memory, *id, reason), oracle.release(&id_of(*id), reason))
            }
            Act::Record { id, tenant, model, tokens, ago } => {
                let whose = (TENANTS[*tenant], MODELS[*model]);
                let at = oracle.now - ago;
                (
                    record(&mut memory, *id, whose, *tokens, at),
                    oracle.record(&id_of(*id), whose.0, whose.1, *tokens, at),
                )
            }
        };
        assert_eq!(got, expected, "{act:?}");
        if let (Act::Reserve { ask, .. }, Answer::Granted { model, output, replayed: false }) =
            (act, &got)
        {
            check_within(&oracle, ask, model, *output);
        }
        let changed = matches!(
            got,
            Answer::Granted { replayed: false, .. }
                | Answer::Committed { replayed: false, .. }
                | Answer::Released { replayed: false, .. }
                | Answer::Recorded { replayed: false }
        );
        assert_eq!(memory.ledger.len(), entries + usize::from(changed), "{act:?}");
        check_counters(&memory, &oracle);
    }
    memory.check_replay();
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_answer_and_every_counter_is_what_the_list_of_calls_says(
        (begins, rules) in beginnings().prop_flat_map(|begins| {
            (Just(begins), proptest::collection::vec(rule(begins, true), 1..5))
        }),
        unsettled in 0..3u8,
        acts in proptest::collection::vec(acts(), 1..60),
    ) {
        run(begins, rules, unsettled, &acts, 0);
    }

    #[test]
    fn retry_after_is_the_first_second_at_which_the_same_request_fits(
        (begins, rules) in beginnings().prop_flat_map(|begins| {
            (Just(begins), proptest::collection::vec(rule(begins, false), 1..4))
        }),
        acts in proptest::collection::vec(acts(), 1..25),
    ) {
        run(begins, rules, 1, &acts, 900);
    }
}
