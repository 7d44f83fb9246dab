//! A plain model of what bursar promises: it keeps the list of calls and works everything out from it,
//! each time anew. It has no counter, and nothing of the rules: its windows and sums are its own.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "used by one test program")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test program fails loudly")]

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

/// What a limit's window is.
#[derive(Debug, Clone)]
pub enum Span {
    Each,
    Open,
    Seconds(i64),
    Hour(TimeZone),
    Day(TimeZone),
    /// Weeks that start on a day, 1 being Monday.
    Week(TimeZone, i8),
    /// Spans of so many months, counted from a month, that start on a day.
    Months(TimeZone, i32, (i8, i8)),
    Between(i64, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Tokens,
    Requests,
    Open,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub name: String,
    pub by_tenant: bool,
    pub by_model: bool,
    pub only_tenant: Option<String>,
    pub not_model: Option<String>,
    pub span: Span,
    pub amounts: Vec<(What, u64)>,
    /// What one tenant may have instead: so many tokens, or anything at all.
    pub instead: Option<(String, Option<u64>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    Nothing,
    Input,
    Everything,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub tenant: String,
    pub models: Vec<String>,
    pub input: u64,
    pub output_max: u64,
    pub output_min: Option<u64>,
    pub choices: u64,
    pub ttl: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub tokens: Option<u64>,
    pub model: Option<String>,
}

/// How a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Open,
    Expired,
    Released { content: String },
    Committed { content: String, late: bool },
    Recorded { content: String },
}

/// One call, and all that is known of it.
#[derive(Debug, Clone)]
struct Call {
    at: i64,
    ask: Ask,
    granted: String,
    output: u64,
    stage: Stage,
    /// What it used, and under which model.
    used: Option<(u64, String)>,
}

impl Call {
    fn reserved(&self) -> u64 {
        self.ask.input + self.output * self.ask.choices
    }
}

/// What the model says must come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Granted { model: String, output: u64, replayed: bool },
    Denied { retry: Option<Option<i64>>, by: Vec<String> },
    Committed { tokens: u64, overrun: u64, late: bool, replayed: bool },
    Released { tokens: u64, replayed: bool },
    Recorded { replayed: bool },
    Conflict,
    NotFound,
    NotOpen,
    Invalid,
}

/// The model.
#[derive(Debug, Clone)]
pub struct Oracle {
    pub rules: Vec<Rule>,
    pub unsettled: Unsettled,
    pub now: i64,
    calls: BTreeMap<String, Call>,
}

fn local(zone: &TimeZone, at: i64) -> (jiff::civil::DateTime, i32) {
    let at = jiff::Timestamp::from_millisecond(at).unwrap();
    (zone.to_datetime(at), zone.to_offset(at).seconds())
}

impl Rule {
    fn concerns(&self, tenant: &str, model: &str) -> bool {
        self.only_tenant.as_deref().is_none_or(|only| only == tenant)
            && self.not_model.as_deref().is_none_or(|not| not != model)
    }

    fn goes_by_model(&self) -> bool {
        self.by_model || self.not_model.is_some()
    }

    fn same_scope(&self, a: (&str, &str), b: (&str, &str)) -> bool {
        (!self.by_tenant || a.0 == b.0) && (!self.by_model || a.1 == b.1)
    }

    fn applies_at(&self, at: i64) -> bool {
        match self.span {
            Span::Between(from, until) => from <= at && at < until,
            _ => true,
        }
    }

    /// What a tenant may have.
    pub fn amount(&self, what: What, amount: u64, tenant: &str) -> Option<u64> {
        match &self.instead {
            Some((other, None)) if self.by_tenant && other == tenant => None,
            Some((other, tokens)) if self.by_tenant && other == tenant && what == What::Tokens => {
                *tokens
            }
            _ => Some(amount),
        }
    }

    /// Whether two instants are in one window.
    fn together(&self, a: i64, b: i64) -> bool {
        match &self.span {
            Span::Each => false,
            Span::Open => true,
            Span::Seconds(seconds) => a.div_euclid(seconds * 1000) == b.div_euclid(seconds * 1000),
            Span::Hour(zone) => {
                let hour = |at| {
                    let (time, offset) = local(zone, at);
                    (time.date(), time.hour(), offset)
                };
                hour(a) == hour(b)
            }
            Span::Day(zone) => local(zone, a).0.date() == local(zone, b).0.date(),
            Span::Week(zone, starts_on) => {
                let week = |at| {
                    // The 5th of January 1970 was a Monday.
                    let monday = jiff::civil::date(1970, 1, 4 + *starts_on);
                    let since = local(zone, at).0.date().since(monday).unwrap();
                    since.get_days().div_euclid(7)
                };
                week(a) == week(b)
            }
            Span::Months(zone, length, (starts_in, starts_on)) => {
                let span = |at| {
                    let date = local(zone, at).0.date();
                    let whole = i32::from(date.year()) * 12 + i32::from(date.month());
                    let begun = whole - i32::from(date.day() < *starts_on);
                    (begun - i32::from(*starts_in)).div_euclid(*length)
                };
                span(a) == span(b)
            }
            Span::Between(..) => self.applies_at(a) && self.applies_at(b),
        }
    }
}

impl Oracle {
    pub fn new(rules: Vec<Rule>, unsettled: Unsettled, now: i64) -> Self {
        Self { rules, unsettled, now, calls: BTreeMap::new() }
    }

    /// What is committed and reserved under a rule for a caller, in the window that holds an instant.
    pub fn taken(&self, rule: &Rule, what: What, caller: (&str, &str), at: i64) -> (u64, u64) {
        let (mut committed, mut reserved) = (0, 0);
        for call in self.calls.values().filter(|call| rule.together(call.at, at)) {
            let tenant = call.ask.tenant.as_str();
            let counts = |model: &str| {
                rule.concerns(tenant, model) && rule.same_scope((tenant, model), caller)
            };
            if call.stage == Stage::Open && counts(&call.granted) {
                reserved += if what == What::Tokens { call.reserved() } else { 1 };
            }
            if let Some((tokens, answered)) = &call.used {
                let model = if rule.goes_by_model() { answered } else { &call.granted };
                if counts(model) && what != What::Open {
                    committed += if what == What::Tokens { *tokens } else { 1 };
                }
            }
        }
        (committed, reserved)
    }

    /// The rules that refuse so much at an instant.
    fn refusing(&self, ask: &Ask, model: &str, output: u64, at: i64) -> Vec<String> {
        let caller = (ask.tenant.as_str(), model);
        let tokens = ask.input + output * ask.choices;
        let concerning = self.rules.iter().filter(|rule| rule.concerns(caller.0, caller.1));
        let mut refusing = Vec::new();
        for rule in concerning.filter(|rule| rule.applies_at(at)) {
            for (what, amount) in &rule.amounts {
                let asked = if *what == What::Tokens { tokens } else { 1 };
                let (committed, reserved) = self.taken(rule, *what, caller, at);
                // What takes nothing is held up by nothing.
                let Some(amount) = rule.amount(*what, *amount, caller.0) else { continue };
                if asked > 0 && committed + reserved + asked > amount {
                    refusing.push(rule.name.clone());
                }
            }
        }
        refusing
    }

    /// The largest output that fits.
    fn fits(&self, ask: &Ask, model: &str) -> Option<u64> {
        let least = ask.output_min.unwrap_or(ask.output_max);
        (least..=ask.output_max)
            .rev()
            .find(|output| self.refusing(ask, model, *output, self.now).is_empty())
    }

    /// The first of the coming seconds at which the least fits for one of the models; none if there is none
    /// within `seconds`.
    fn first_fit(&self, ask: &Ask, seconds: i64) -> Option<i64> {
        let least = ask.output_min.unwrap_or(ask.output_max);
        // Windows here begin at whole seconds, so nothing changes between them.
        let next = self.now - self.now.rem_euclid(1000) + 1000;
        (0..seconds).map(|second| next + second * 1000).find_map(|at| {
            let mut models = ask.models.iter();
            let fits = models.any(|model| self.refusing(ask, model, least, at).is_empty());
            fits.then_some(at - self.now)
        })
    }

    /// Looks `seconds` ahead for when a denied request fits; 0: does not look.
    pub fn reserve(&mut self, id: &str, ask: &Ask, seconds: i64) -> Answer {
        if ask.output_min.is_some_and(|least| least > ask.output_max) {
            return Answer::Invalid;
        }
        if let Some(call) = self.calls.get(id) {
            let same = call.ask == *ask && !matches!(call.stage, Stage::Recorded { .. });
            let (model, output) = (call.granted.clone(), call.output);
            return if same {
                Answer::Granted { model, output, replayed: true }
            } else {
                Answer::Conflict
            };
        }
        for model in &ask.models {
            if let Some(output) = self.fits(ask, model) {
                let call = Call {
                    at: self.now,
                    ask: ask.clone(),
                    granted: model.clone(),
                    output,
                    stage: Stage::Open,
                    used: None,
                };
                self.calls.insert(id.to_owned(), call);
                return Answer::Granted { model: model.clone(), output, replayed: false };
            }
        }
        let least = ask.output_min.unwrap_or(ask.output_max);
        let refusing = |model: &String| self.refusing(ask, model, least, self.now);
        let mut by: Vec<String> = ask.models.iter().flat_map(refusing).collect();
        by.sort();
        by.dedup();
        let retry = (seconds > 0).then(|| self.first_fit(ask, seconds));
        Answer::Denied { retry, by }
    }

    fn assumed(&self, call: &Call, dispatched: bool) -> Option<u64> {
        match self.unsettled {
            Unsettled::Nothing if !dispatched => None,
            Unsettled::Nothing | Unsettled::Input => Some(call.ask.input),
            Unsettled::Everything => Some(call.reserved()),
        }
    }

    pub fn commit(&mut self, id: &str, usage: &Usage) -> Answer {
        let Some(call) = self.calls.get(id).cloned() else { return Answer::NotFound };
        let asked = format!("{usage:?}");
        let late = match &call.stage {
            Stage::Open => false,
            Stage::Expired | Stage::Released { .. } => true,
            Stage::Recorded { .. } => return Answer::NotOpen,
            Stage::Committed { content, late } if *content == asked => {
                let tokens = call.used.as_ref().unwrap().0;
                let overrun = tokens.saturating_sub(call.reserved());
                return Answer::Committed { tokens, overrun, late: *late, replayed: true };
            }
            Stage::Committed { .. } => return Answer::Conflict,
        };
        let tokens = usage.tokens.unwrap_or_else(|| self.assumed(&call, true).unwrap());
        let model = usage.model.clone().unwrap_or_else(|| call.granted.clone());
        let known = self.calls.get_mut(id).unwrap();
        known.stage = Stage::Committed { content: asked, late };
        known.used = Some((tokens, model));
        let overrun = tokens.saturating_sub(call.reserved());
        Answer::Committed { tokens, overrun, late, replayed: false }
    }

    pub fn release(&mut self, id: &str, reason: &str) -> Answer {
        let Some(call) = self.calls.get_mut(id) else { return Answer::NotFound };
        let tokens = match &call.stage {
            Stage::Open => call.reserved(),
            Stage::Expired => call.used.as_ref().map_or(0, |(tokens, _)| *tokens),
            Stage::Released { content } => {
                return if content == reason {
                    Answer::Released { tokens: u64::MAX, replayed: true }
                } else {
                    Answer::Conflict
                };
            }
            Stage::Committed { .. } | Stage::Recorded { .. } => return Answer::NotOpen,
        };
        call.stage = Stage::Released { content: reason.to_owned() };
        call.used = None;
        Answer::Released { tokens, replayed: false }
    }

    pub fn record(&mut self, id: &str, tenant: &str, model: &str, tokens: u64, at: i64) -> Answer {
        if at > self.now {
            return Answer::Invalid;
        }
        let asked = format!("{tenant} {model} {tokens} {at}");
        if let Some(call) = self.calls.get(id) {
            return match &call.stage {
                Stage::Recorded { content } if *content == asked => {
                    Answer::Recorded { replayed: true }
                }
                _ => Answer::Conflict,
            };
        }
        let ask = Ask {
            tenant: tenant.to_owned(),
            models: vec![model.to_owned()],
            input: tokens,
            output_max: 0,
            output_min: None,
            choices: 1,
            ttl: 0,
        };
        let call = Call {
            at,
            ask,
            granted: model.to_owned(),
            output: 0,
            stage: Stage::Recorded { content: asked },
            used: Some((tokens, model.to_owned())),
        };
        self.calls.insert(id.to_owned(), call);
        Answer::Recorded { replayed: false }
    }

    pub fn set_now(&mut self, now: i64) {
        self.now = now;
        let due = |call: &Call| call.stage == Stage::Open && call.at + call.ask.ttl <= now;
        let ids: Vec<String> =
            self.calls.iter().filter(|(_, call)| due(call)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let charged = self.assumed(&self.calls[&id], false);
            let call = self.calls.get_mut(&id).unwrap();
            call.stage = Stage::Expired;
            call.used = charged.map(|tokens| (tokens, call.granted.clone()));
        }
    }
}
