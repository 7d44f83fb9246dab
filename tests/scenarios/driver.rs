//! Running scenarios: each line is done and what comes back is held against what is expected.

use std::io::Write as _;
use std::path::Path;

use bursar_quota::{Bounds, Milliseconds, Policy, Timestamp, Unit};

use super::parser::{self, Commit, Expect, Fact, Line, Peek, Record, Reserve, Script, When};

/// What a runner gives: the questions, in some way, and the answers as [`Reply`].
pub trait Backend {
    /// A policy comes into force.
    fn activate(&mut self, policy: &Policy);
    /// It becomes so late; what is due expires.
    fn set_now(&mut self, now: Timestamp);
    fn reserve(&mut self, ask: &Reserve) -> Reply;
    fn commit(&mut self, ask: &Commit) -> Reply;
    fn release(&mut self, id: &str, reason: &str) -> Reply;
    fn record(&mut self, ask: &Record, occurred_at: Timestamp) -> Reply;
    /// The counter of a limit that counts now; none if there is none yet.
    fn standing(&mut self, limit: &str, unit: Unit, scope: &[(String, String)]) -> Option<Reply>;
    /// Called between any two lines: where a runner may close and reopen what it has.
    fn between_lines(&mut self) {}
}

/// What came back, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    pub word: String,
    pub remaining: Option<u64>,
    pub out: Option<u64>,
    pub holds: Option<u64>,
    pub model: Option<String>,
    pub tightest: Option<String>,
    pub state: Option<String>,
    pub expires_at: Option<Timestamp>,
    pub by: Vec<String>,
    pub reason: Option<String>,
    pub retry: Option<Milliseconds>,
    pub settles: bool,
    pub scope: Vec<(String, String)>,
    pub overrun: Option<u64>,
    pub tokens: Option<u64>,
    pub committed: Option<u64>,
    pub reserved: Option<u64>,
    pub replayed: bool,
    pub advice: Vec<String>,
    pub incomplete: bool,
    pub field: Option<String>,
}

/// What was run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub files: usize,
    pub lines: usize,
}

/// Runs every scenario and prints what it counted.
pub fn run_all<B: Backend>(runner: &str, mut open: impl FnMut(&Bounds) -> B) -> Counts {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let script = parser::parse(&name, &std::fs::read_to_string(&path).unwrap());
        let mut backend = open(&script.bounds);
        counts.lines += run(&script, &mut backend, &mut failures);
        counts.files += 1;
    }
    assert!(failures.is_empty(), "{} lines failed:\n{}", failures.len(), failures.join("\n"));
    // Not `println!`, which a passing test keeps to itself.
    let stdout = &mut std::io::stdout();
    writeln!(
        stdout,
        "scenarios, {runner}: {} files, {} lines executed",
        counts.files, counts.lines
    )
    .unwrap();
    counts
}

/// Runs one scenario; gives the number of lines executed, and says of each that failed why.
pub fn run(script: &Script, backend: &mut impl Backend, failures: &mut Vec<String>) -> usize {
    let mut now = parser::START;
    let mut policy: Option<&Policy> = None;
    backend.set_now(now);
    for (number, line) in &script.lines {
        let place = format!("{}:{number}", script.name);
        let (reply, expect) = match line {
            Line::Activate(next) => {
                backend.activate(next);
                policy = Some(next);
                backend.between_lines();
                continue;
            }
            Line::Tick(_) | Line::At(_) => {
                now = match line {
                    Line::Tick(length) => now.after(*length),
                    Line::At(instant) => *instant,
                    _ => now,
                };
                backend.set_now(now);
                backend.between_lines();
                continue;
            }
            Line::Reserve(ask, expect) => (backend.reserve(ask), expect),
            Line::Commit(ask, expect) => (backend.commit(ask), expect),
            Line::Release { id, reason, expect } => (backend.release(id, reason), expect),
            Line::Record(ask, expect) => {
                let occurred_at = match ask.when {
                    When::Ago(length) => now.before(length),
                    When::At(instant) => instant,
                };
                (backend.record(ask, occurred_at), expect)
            }
            Line::Peek(ask, expect) => {
                let standing = backend.standing(&ask.limit, ask.unit, &ask.scope);
                (standing.unwrap_or_else(|| empty(ask, policy, &place)), expect)
            }
        };
        if let Err(why) = check(now, &reply, expect) {
            failures.push(format!("{place}: {why}"));
        }
        backend.between_lines();
    }
    script.lines.len()
}

/// The standing of a counter that nothing has made yet.
fn empty(ask: &Peek, policy: Option<&Policy>, place: &str) -> Reply {
    let limits = policy.into_iter().flat_map(|policy| &policy.limits);
    let mut limits = limits.filter(|limit| *limit.name == *ask.limit);
    let limit = limits.next().unwrap_or_else(|| panic!("{place}: no limit {}", ask.limit));
    let amount = limit.amounts.iter().find(|amount| amount.unit == ask.unit);
    Reply {
        remaining: amount.map(|amount| amount.amount),
        committed: Some(0),
        reserved: Some(0),
        ..Reply::default()
    }
}

fn check(now: Timestamp, reply: &Reply, expect: &Expect) -> Result<(), String> {
    if reply.word != expect.word {
        return Err(format!("expected {:?}, got {:?}: {reply:?}", expect.word, reply.word));
    }
    let told = expect.facts.iter().any(|fact| matches!(fact, Fact::Advice(_)));
    if !told && !reply.advice.is_empty() {
        return Err(format!("expected no advice, got {:?}", reply.advice));
    }
    for fact in &expect.facts {
        let got = got(fact, now, reply);
        if got.as_ref() != Some(fact) {
            return Err(format!("expected {fact:?}, got {got:?}"));
        }
    }
    Ok(())
}

/// What the reply says where the fact says something.
fn got(fact: &Fact, now: Timestamp, reply: &Reply) -> Option<Fact> {
    match fact {
        Fact::Remaining(_) => reply.remaining.map(Fact::Remaining),
        Fact::Out(_) => reply.out.map(Fact::Out),
        Fact::Holds(_) => reply.holds.map(Fact::Holds),
        Fact::Model(_) => reply.model.clone().map(Fact::Model),
        Fact::Tightest(_) => reply.tightest.clone().map(Fact::Tightest),
        Fact::State(_) => reply.state.clone().map(Fact::State),
        Fact::Expires(_) => reply.expires_at.map(|at| Fact::Expires(now.until(at))),
        Fact::By(_) => Some(Fact::By(reply.by.clone())),
        Fact::Reason(_) => reply.reason.clone().map(Fact::Reason),
        Fact::Retry(_) => Some(Fact::Retry(reply.retry)),
        Fact::Settles => reply.settles.then_some(Fact::Settles),
        Fact::Scope(_) => Some(Fact::Scope(reply.scope.clone())),
        Fact::Overrun(_) => reply.overrun.map(Fact::Overrun),
        Fact::Tokens(_) => reply.tokens.map(Fact::Tokens),
        Fact::Committed(_) => reply.committed.map(Fact::Committed),
        Fact::Reserved(_) => reply.reserved.map(Fact::Reserved),
        Fact::Replayed(_) => Some(Fact::Replayed(reply.replayed)),
        Fact::Advice(_) => Some(Fact::Advice(reply.advice.clone())),
        Fact::Incomplete => reply.incomplete.then_some(Fact::Incomplete),
        Fact::Field(_) => reply.field.clone().map(Fact::Field),
    }
}
