//! Reading a scenario: text in, lines out.

use std::sync::Arc;

use bursar_quota::{
    Allowed, Amount, Basis, Bounds, CalendarUnit, Fallback, LabelMatch, LabelRule, Limit,
    Line as UsageLine, Meter, Milliseconds, Outcome, Override, Policy, Timestamp, Unit, Unsettled,
    Window,
};

/// Where every scenario starts: 2026-03-01T00:00:00Z.
pub const START: Timestamp = Timestamp(1_772_323_200_000);

/// A scenario.
#[derive(Debug)]
pub struct Script {
    pub name: String,
    pub bounds: Bounds,
    pub lines: Vec<(usize, Line)>,
}

/// Something to do, and what is expected of it.
#[derive(Debug, Clone)]
pub enum Line {
    /// A policy comes into force.
    Activate(Policy),
    /// Time passes.
    Tick(Milliseconds),
    /// It becomes this late.
    At(Timestamp),
    Reserve(Reserve, Expect),
    Commit(Commit, Expect),
    Release {
        id: String,
        reason: String,
        expect: Expect,
    },
    Record(Record, Expect),
    Peek(Peek, Expect),
}

#[derive(Debug, Clone)]
pub struct Reserve {
    pub id: String,
    /// Input as a plain number, or lines.
    pub input: Input,
    pub output_max: u64,
    pub output_min: Option<u64>,
    pub choices: u32,
    pub model: String,
    pub fallbacks: Vec<String>,
    pub tier: String,
    pub ttl: Option<Milliseconds>,
    pub dry: bool,
    pub labels: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub enum Input {
    Tokens(u64),
    Lines(Vec<UsageLine>),
}

#[derive(Debug, Clone)]
pub struct Commit {
    pub id: String,
    pub lines: Vec<UsageLine>,
    pub outcome: Outcome,
    pub model: Option<String>,
    pub tier: Option<String>,
    pub total: Option<u64>,
    pub labels: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Record {
    pub id: String,
    pub lines: Vec<UsageLine>,
    pub when: When,
    pub outcome: Outcome,
    pub model: String,
    pub tier: String,
    pub total: Option<u64>,
    pub labels: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy)]
pub enum When {
    Ago(Milliseconds),
    At(Timestamp),
}

#[derive(Debug, Clone)]
pub struct Peek {
    pub limit: String,
    pub unit: Unit,
    pub scope: Vec<(String, String)>,
}

/// The outcome's word and the facts that must hold.
#[derive(Debug, Clone)]
pub struct Expect {
    pub word: String,
    pub facts: Vec<Fact>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Remaining(u64),
    Out(u64),
    Holds(u64),
    Model(String),
    Tightest(String),
    State(String),
    Expires(Milliseconds),
    By(Vec<String>),
    Reason(String),
    Retry(Option<Milliseconds>),
    Settles,
    Scope(Vec<(String, String)>),
    Overrun(u64),
    Tokens(u64),
    Committed(u64),
    Reserved(u64),
    Replayed(bool),
    Advice(Vec<String>),
    Incomplete,
    Field(String),
}

const OUTCOMES: [&str; 11] = [
    "granted",
    "denied",
    "committed",
    "late",
    "released",
    "recorded",
    "conflict",
    "not-found",
    "not-open",
    "too-old",
    "invalid",
];

const MODEL: &str = "example/small";

/// The words of one line, taken from the front.
struct Words<'a> {
    place: String,
    words: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
}

impl<'a> Words<'a> {
    fn fail(&self, problem: &str) -> ! {
        panic!("{}: {problem}", self.place)
    }

    fn next(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    fn need(&mut self, what: &str) -> &'a str {
        let word = self.words.next();
        word.unwrap_or_else(|| self.fail(&format!("{what} is missing")))
    }

    fn number(&mut self, what: &str) -> u64 {
        let word = self.need(what);
        self.parse_number(word)
    }

    fn size(&mut self, what: &str) -> usize {
        usize::try_from(self.number(what)).unwrap()
    }

    fn parse_number(&self, word: &str) -> u64 {
        let digits = word.replace('_', "");
        digits.parse().unwrap_or_else(|_| self.fail(&format!("{word} is not a number")))
    }

    fn duration(&mut self, what: &str) -> Milliseconds {
        let word = self.need(what);
        self.parse_duration(word)
    }

    fn parse_duration(&self, word: &str) -> Milliseconds {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &word[digits.len()..] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => self.fail(&format!("{word} is not a duration")),
        };
        Milliseconds(self.parse_number(digits) * unit)
    }

    fn instant(&mut self, what: &str) -> Timestamp {
        let word = self.need(what);
        let instant: jiff::Timestamp =
            word.parse().unwrap_or_else(|_| self.fail(&format!("{word} is not an instant")));
        Timestamp(instant.as_millisecond())
    }

    fn zone(&mut self) -> jiff::tz::TimeZone {
        let name = self.need("a zone");
        jiff::tz::TimeZone::get(name).unwrap_or_else(|_| self.fail(&format!("{name} is no zone")))
    }

    fn list(&mut self, what: &str) -> Vec<&'a str> {
        self.need(what).split(',').collect()
    }

    fn pair(&self, word: &'a str) -> (String, String) {
        let (key, value) =
            word.split_once('=').unwrap_or_else(|| self.fail(&format!("{word} is not key=value")));
        (key.to_owned(), value.to_owned())
    }

    fn peek(&mut self) -> Option<&'a str> {
        self.words.peek().copied()
    }

    fn usage(&self, word: &str) -> Vec<UsageLine> {
        if word == "-" {
            return Vec::new();
        }
        let line = |part: &str| {
            let mut fields = part.split(':');
            let first = fields.next().unwrap();
            let Some(tokens) = fields.next() else {
                let tokens = self.parse_number(first);
                return UsageLine::plain(Meter::Input, tokens, Basis::Measured);
            };
            let mut line =
                UsageLine::plain(self.meter(first), self.parse_number(tokens), Basis::Measured);
            line.component = fields.next().unwrap_or_default().into();
            line
        };
        word.split(',').map(line).collect()
    }

    fn meter(&self, word: &str) -> Meter {
        match word {
            "input" => Meter::Input,
            "cache_read" => Meter::CacheRead,
            "cache_write" => Meter::CacheWrite,
            "output" => Meter::Output,
            "reasoning" => Meter::Reasoning,
            _ => self.fail(&format!("{word} is no meter")),
        }
    }
}

/// Reads a scenario.
pub fn parse(name: &str, text: &str) -> Script {
    let mut script = Script { name: name.to_owned(), bounds: Bounds::default(), lines: Vec::new() };
    let mut policy = Draft::default();
    for (at, raw) in text.lines().enumerate() {
        let number = at + 1;
        let told = raw.split('#').next().unwrap_or_default();
        let words: Vec<&str> = told.split_whitespace().collect();
        let mut words =
            Words { place: format!("{name}:{number}"), words: words.into_iter().peekable() };
        let Some(verb) = words.next() else { continue };
        if verb == "bounds" {
            bounds(&mut words, &mut script.bounds);
        } else if !policy.statement(verb, &mut words) {
            if let Some(policy) = policy.finish() {
                script.lines.push((number, Line::Activate(policy)));
            }
            let line = action(verb, &mut words);
            script.lines.push((number, line));
        }
        if let Some(word) = words.next() {
            words.fail(&format!("{word} is not understood"));
        }
    }
    script
}

fn bounds(words: &mut Words<'_>, bounds: &mut Bounds) {
    while let Some(word) = words.next() {
        match word {
            "counters" => bounds.counters_max = words.size("a number"),
            "reservations" => bounds.reservations_open_max = words.size("a number"),
            "ids" => bounds.settled_ids_max = words.size("a number"),
            "span" => bounds.settled_span = words.duration("a duration"),
            _ => words.fail(&format!("{word} is no bound")),
        }
    }
}

/// A policy as it is being told.
struct Draft {
    policy: Policy,
    changed: bool,
}

impl Default for Draft {
    fn default() -> Self {
        let policy = Policy {
            name: "scenario".into(),
            time_zone: jiff::tz::TimeZone::UTC,
            labels: Vec::new(),
            ttl: Milliseconds(300_000),
            unsettled: Unsettled::ChargeInput,
            limits: Vec::new(),
            rollups: vec!["feature".into(), "tenant".into(), "model".into(), "component".into()],
        };
        Self { policy, changed: true }
    }
}

impl Draft {
    /// Reads a statement of the policy; false if it is none.
    fn statement(&mut self, verb: &str, words: &mut Words<'_>) -> bool {
        match verb {
            "policy" => *self = Self::default(),
            "zone" => self.policy.time_zone = words.zone(),
            "ttl" => self.policy.ttl = words.duration("a duration"),
            "unsettled" => {
                self.policy.unsettled = match words.need("a rule") {
                    "release" => Unsettled::Release,
                    "charge_input" => Unsettled::ChargeInput,
                    "charge_estimate" => Unsettled::ChargeEstimate,
                    other => words.fail(&format!("{other} is no rule")),
                }
            }
            "label" => self.policy.labels.push(label(words)),
            "limit" => {
                let zone = self.policy.time_zone.clone();
                self.policy.limits.push(limit(words, zone));
            }
            "override" => {
                let name = words.need("a limit");
                let limit = self.policy.limits.iter_mut().find(|limit| *limit.name == *name);
                let limit = limit.unwrap_or_else(|| words.fail(&format!("no limit is {name}")));
                limit.overrides.push(override_of(words));
            }
            _ => return false,
        }
        self.changed = true;
        true
    }

    fn finish(&mut self) -> Option<Policy> {
        std::mem::take(&mut self.changed).then(|| self.policy.clone())
    }
}

fn label(words: &mut Words<'_>) -> LabelRule {
    let key = words.need("a key").into();
    let mut rule = LabelRule {
        key,
        values: Vec::new(),
        renamed: Vec::new(),
        missing: Fallback::None,
        otherwise: Fallback::None,
    };
    while let Some(word) = words.next() {
        match word {
            "values" => rule.values = words.list("values").into_iter().map(Into::into).collect(),
            "renamed" => {
                for pair in words.list("names") {
                    let (old, new) = words.pair(pair);
                    rule.renamed.push((old.into(), new.into()));
                }
            }
            "missing" => rule.missing = fallback(words),
            "otherwise" => rule.otherwise = fallback(words),
            _ => words.fail(&format!("{word} is not said of a label")),
        }
    }
    rule
}

fn fallback(words: &mut Words<'_>) -> Fallback {
    match words.need("what happens") {
        "deny" => Fallback::Deny,
        "skip" => Fallback::Skip,
        other => match other.strip_prefix("as:") {
            Some(value) => Fallback::As(value.into()),
            None => words.fail(&format!("{other} is neither deny, skip nor as:…")),
        },
    }
}

fn unit(word: &str) -> Option<Unit> {
    match word {
        "tokens" => Some(Unit::Tokens),
        "requests" => Some(Unit::Requests),
        "concurrency" => Some(Unit::Concurrency),
        _ => None,
    }
}

fn limit(words: &mut Words<'_>, zone: jiff::tz::TimeZone) -> Limit {
    let mut limit = Limit {
        name: Arc::from(words.need("a name")),
        matches: Vec::new(),
        except: Vec::new(),
        scope: Vec::new(),
        window: Window::Open,
        amounts: Vec::new(),
        overrides: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "per" => limit.window = window(words, &zone),
            "total" => limit.window = total(words),
            "scope" => limit.scope = words.list("keys").into_iter().map(Into::into).collect(),
            "match" => limit.matches = matches(words),
            "except" => limit.except = matches(words),
            _ => limit.amounts.push(amount(word, words)),
        }
    }
    limit
}

fn amount(word: &str, words: &mut Words<'_>) -> Amount {
    let amount = words.parse_number(word);
    let word = words.need("a unit");
    let unit = unit(word).unwrap_or_else(|| words.fail(&format!("{word} is no unit")));
    Amount { unit, amount }
}

fn override_of(words: &mut Words<'_>) -> Override {
    let matches = matches(words);
    if words.peek() == Some("unlimited") {
        words.next();
        return Override { matches, allowed: Allowed::Unlimited };
    }
    let mut amounts = Vec::new();
    while let Some(word) = words.next() {
        amounts.push(amount(word, words));
    }
    Override { matches, allowed: Allowed::Amounts(amounts) }
}

fn window(words: &mut Words<'_>, zone: &jiff::tz::TimeZone) -> Window {
    let unit = match words.need("a window") {
        "request" => return Window::Request,
        "hour" => CalendarUnit::Hour,
        "day" => CalendarUnit::Day,
        "week" => CalendarUnit::Week { starts_on: anchor(words, "on") },
        "month" => CalendarUnit::Month { starts_on: anchor(words, "on") },
        "quarter" => CalendarUnit::Quarter {
            starts_in: anchor(words, "from"),
            starts_on: anchor(words, "on"),
        },
        "year" => {
            CalendarUnit::Year { starts_in: anchor(words, "from"), starts_on: anchor(words, "on") }
        }
        length => return Window::Fixed(words.parse_duration(length)),
    };
    if words.peek() == Some("in") {
        words.next();
        return Window::Calendar(unit, words.zone());
    }
    Window::Calendar(unit, zone.clone())
}

/// The number after a word, or 1.
fn anchor(words: &mut Words<'_>, word: &str) -> i8 {
    if words.peek() != Some(word) {
        return 1;
    }
    words.next();
    i8::try_from(words.number("a day or a month")).unwrap()
}

fn total(words: &mut Words<'_>) -> Window {
    let (mut from, mut until) = (None, None);
    while let Some(word @ ("from" | "until")) = words.peek() {
        words.next();
        let instant = Some(words.instant("an instant"));
        if word == "from" {
            from = instant;
        } else {
            until = instant;
        }
    }
    Window::Total { from, until }
}

fn matches(words: &mut Words<'_>) -> Vec<LabelMatch> {
    let mut matches = Vec::new();
    while let Some(word) = words.peek().filter(|word| word.contains('=')) {
        words.next();
        let (key, values) = words.pair(word);
        let values = values.split('|').map(Into::into).collect();
        matches.push(LabelMatch { key: key.into(), values });
    }
    matches
}

fn action(verb: &str, words: &mut Words<'_>) -> Line {
    match verb {
        "tick" => Line::Tick(words.duration("a duration")),
        "at" => Line::At(words.instant("an instant")),
        "reserve" => reserve(words),
        "commit" => commit(words),
        "release" => release(words),
        "record" => record(words),
        "peek" => peek(words),
        _ => words.fail(&format!("{verb} is not a verb")),
    }
}

fn reserve(words: &mut Words<'_>) -> Line {
    let id = words.need("an id").to_owned();
    let amount = words.need("an amount");
    let (input, output) = amount.split_once('+').unwrap_or((amount, "0"));
    let (most, least) = output.split_once('/').map_or((output, None), |(a, b)| (a, Some(b)));
    let mut ask = Reserve {
        id,
        input: if input.contains(':') {
            Input::Lines(words.usage(input))
        } else {
            Input::Tokens(words.parse_number(input))
        },
        output_max: words.parse_number(most),
        output_min: least.map(|least| words.parse_number(least)),
        choices: 1,
        model: MODEL.to_owned(),
        fallbacks: Vec::new(),
        tier: String::new(),
        ttl: None,
        dry: false,
        labels: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "model" => ask.model = words.need("a model").to_owned(),
            "fallback" => {
                ask.fallbacks = words.list("models").into_iter().map(str::to_owned).collect();
            }
            "tier" => ask.tier = words.need("a tier").to_owned(),
            "ttl" => ask.ttl = Some(words.duration("a duration")),
            "dry" => ask.dry = true,
            _ if OUTCOMES.contains(&word) => return Line::Reserve(ask, expect(word, words)),
            _ if word.starts_with('x') && !word.contains('=') => {
                ask.choices = u32::try_from(words.parse_number(&word[1..])).unwrap();
            }
            _ => ask.labels.push(words.pair(word)),
        }
    }
    words.fail("what is expected?")
}

fn outcome(words: &mut Words<'_>) -> Outcome {
    match words.need("an outcome") {
        "completed" => Outcome::Completed,
        "cancelled" => Outcome::Cancelled,
        "failed" => Outcome::Failed,
        "unknown" => Outcome::Unknown,
        other => words.fail(&format!("{other} is no outcome")),
    }
}

fn commit(words: &mut Words<'_>) -> Line {
    let id = words.need("an id").to_owned();
    let lines = words.need("lines");
    let mut ask = Commit {
        id,
        lines: words.usage(lines),
        outcome: Outcome::Completed,
        model: None,
        tier: None,
        total: None,
        labels: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "outcome" => ask.outcome = outcome(words),
            "model" => ask.model = Some(words.need("a model").to_owned()),
            "tier" => ask.tier = Some(words.need("a tier").to_owned()),
            "total" => ask.total = Some(words.number("a total")),
            _ if OUTCOMES.contains(&word) => return Line::Commit(ask, expect(word, words)),
            _ => ask.labels.push(words.pair(word)),
        }
    }
    words.fail("what is expected?")
}

fn release(words: &mut Words<'_>) -> Line {
    let id = words.need("an id").to_owned();
    let mut reason = String::new();
    while let Some(word) = words.next() {
        match word {
            "reason" => reason = words.need("a reason").to_owned(),
            _ if OUTCOMES.contains(&word) => {
                return Line::Release { id, reason, expect: expect(word, words) };
            }
            _ => words.fail(&format!("{word} is not said of a release")),
        }
    }
    words.fail("what is expected?")
}

fn record(words: &mut Words<'_>) -> Line {
    let id = words.need("an id").to_owned();
    let lines = words.need("lines");
    let mut ask = Record {
        id,
        lines: words.usage(lines),
        when: When::Ago(Milliseconds(0)),
        outcome: Outcome::Completed,
        model: MODEL.to_owned(),
        tier: String::new(),
        total: None,
        labels: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "ago" => ask.when = When::Ago(words.duration("a duration")),
            "at" => ask.when = When::At(words.instant("an instant")),
            "outcome" => ask.outcome = outcome(words),
            "model" => ask.model = words.need("a model").to_owned(),
            "tier" => ask.tier = words.need("a tier").to_owned(),
            "total" => ask.total = Some(words.number("a total")),
            _ if OUTCOMES.contains(&word) => return Line::Record(ask, expect(word, words)),
            _ => ask.labels.push(words.pair(word)),
        }
    }
    words.fail("what is expected?")
}

fn peek(words: &mut Words<'_>) -> Line {
    let mut ask =
        Peek { limit: words.need("a limit").to_owned(), unit: Unit::Tokens, scope: Vec::new() };
    while let Some(word) = words.peek() {
        if let Some(unit) = unit(word) {
            ask.unit = unit;
        } else if word.contains('=') {
            ask.scope.push(words.pair(word));
        } else {
            break;
        }
        words.next();
    }
    Line::Peek(ask, expect("", words))
}

fn expect(word: &str, words: &mut Words<'_>) -> Expect {
    let mut facts = Vec::new();
    if word == "invalid" {
        facts.push(Fact::Field(words.need("a field").to_owned()));
    }
    while let Some(word) = words.next() {
        facts.push(fact(word, words));
    }
    Expect { word: word.to_owned(), facts }
}

fn fact(word: &str, words: &mut Words<'_>) -> Fact {
    let texts = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    match word {
        "out" => Fact::Out(words.number("a number")),
        "holds" => Fact::Holds(words.number("a number")),
        "model" => Fact::Model(words.need("a model").to_owned()),
        "tightest" => Fact::Tightest(words.need("a limit").to_owned()),
        "state" => Fact::State(words.need("a state").to_owned()),
        "expires" => Fact::Expires(words.duration("a duration")),
        "by" => Fact::By(texts(words.list("limits"))),
        "reason" => Fact::Reason(words.need("a reason").to_owned()),
        "retry" => match words.need("a duration") {
            "never" => Fact::Retry(None),
            length => Fact::Retry(Some(words.parse_duration(length))),
        },
        "settles" => Fact::Settles,
        "scope" => {
            let pairs = words.list("a scope");
            Fact::Scope(pairs.into_iter().map(|pair| words.pair(pair)).collect())
        }
        "overrun" => Fact::Overrun(words.number("a number")),
        "tokens" => Fact::Tokens(words.number("a number")),
        "committed" => Fact::Committed(words.number("a number")),
        "reserved" => Fact::Reserved(words.number("a number")),
        "replayed" => Fact::Replayed(true),
        "fresh" => Fact::Replayed(false),
        "advice" => Fact::Advice(texts(words.list("advice"))),
        "incomplete" => Fact::Incomplete,
        number => {
            let number = words.parse_number(number);
            match words.need("`remaining`") {
                "remaining" => Fact::Remaining(number),
                other => words.fail(&format!("{other} is no fact")),
            }
        }
    }
}
