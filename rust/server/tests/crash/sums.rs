//! What must be true of the files when nobody serves: the index follows from the ledger, and the ledger holds
//! what the callers were told, once.

use std::collections::BTreeMap;
use std::path::Path;

use bursar_proto::v1;
use bursar_quota::{State, Unit};
use bursar_store::Store;

use crate::life::{Life, Settled};
use crate::settings::{self, TIGHT, TIGHT_TOKENS};

/// What a counter holds: committed and reserved.
type Held = (u64, u64);
/// Counters by limit, unit as its number on the wire, and scope value; those that hold nothing are left out.
type Counters = BTreeMap<(String, i32, String), Held>;

/// Compares a replay from the first entry with the index, and with the index and what follows it in the
/// ledger, byte for byte.
pub(crate) fn prove_index(folder: &Path) {
    let data = folder.join("data");
    let options = settings::options();
    let report = bursar_store::verify(&data, &options).unwrap();
    assert!(report.problems.is_empty(), "the index does not follow from the ledger: {report:?}");
    let opened = Store::open(&data, options.clone()).unwrap();
    let mut replayed = State::default();
    bursar_store::scan(&data, 1, |sequence, instant, event| {
        replayed.apply(sequence, instant, event).unwrap();
    })
    .unwrap();
    let bytes = |state| bursar_store::dump(state, &options.bounds, replayed.instant());
    assert!(bytes(&opened.state) == bytes(&replayed), "index and tail differ from a replay");
    assert_eq!(opened.recovery.last_sequence, replayed.sequence());
}

/// Compares every counter with the sums of what was acknowledged, at a time in Unix milliseconds.
pub(crate) fn prove_sums(folder: &Path, lives: &[Life], now: i64) {
    let opened = Store::open(&folder.join("data"), settings::options()).unwrap();
    let found = found(&opened.state);
    let expected = expected(lives, now);
    assert_eq!(found, expected, "the counters are not what the callers were told");
    let tight = found.get(&("tight".into(), v1::Unit::Tokens.into(), String::new()));
    let (committed, reserved) = tight.copied().unwrap_or_default();
    assert!(
        committed + reserved <= TIGHT_TOKENS,
        "{committed} and {reserved} under {TIGHT_TOKENS}"
    );
    println!("{} ids acknowledged, {} counters as expected", lives.len(), found.len());
}

fn found(state: &State) -> Counters {
    let wire = |unit| match unit {
        Unit::Tokens => v1::Unit::Tokens,
        Unit::Requests => v1::Unit::Requests,
        Unit::Concurrency => v1::Unit::Concurrency,
    };
    state
        .counters()
        .filter(|(_, counter)| counter.committed + counter.reserved > 0)
        .map(|(key, counter)| {
            let scope = key.scope.iter().map(|(_, value)| value.to_string()).collect::<String>();
            let key = (key.limit.to_string(), wire(key.unit).into(), scope);
            (key, (counter.committed, counter.reserved))
        })
        .collect()
}

fn expected(lives: &[Life], now: i64) -> Counters {
    let mut counters = Counters::new();
    for life in lives {
        let (labels, committed, reserved) = held(life, now);
        let tenant = labels.get("tenant").unwrap();
        let feature = labels.get("feature").unwrap();
        let mut add = |limit: &str, unit: v1::Unit, scope: &str, held: Held| {
            let held_before =
                counters.entry((limit.into(), unit.into(), scope.into())).or_default();
            held_before.0 += held.0;
            held_before.1 += held.1;
        };
        let tokens = (committed.map_or(0, |tokens| tokens), reserved.map_or(0, |tokens| tokens));
        let calls = (committed.map_or(0, |_| 1), reserved.map_or(0, |_| 1));
        add("tenant", v1::Unit::Tokens, tenant, tokens);
        add("tenant", v1::Unit::Requests, tenant, calls);
        add("feature", v1::Unit::Tokens, feature, tokens);
        add("in-flight", v1::Unit::Concurrency, tenant, (0, calls.1));
        if tenant == TIGHT {
            add("tight", v1::Unit::Tokens, "", tokens);
        }
    }
    counters.retain(|_, held| *held != (0, 0));
    counters
}

/// The labels of an id, and the tokens it has committed and reserved, if any.
fn held(life: &Life, now: i64) -> (&BTreeMap<String, String>, Option<u64>, Option<u64>) {
    let sum = |lines: &[v1::Line]| lines.iter().map(|line| line.tokens).sum();
    match life {
        Life::Recorded(recorded) => (&recorded.0.labels, Some(sum(&recorded.0.lines)), None),
        Life::Reserved(one) => {
            let labels = &one.request.labels;
            match &one.settled {
                Some(Settled::Committed(one)) => (labels, Some(sum(&one.0.lines)), None),
                Some(Settled::Released(..)) => (labels, None, None),
                // Whoever expires is charged the input, by this policy.
                None if one.state_at(now) == v1::State::Expired => {
                    (labels, Some(one.grant.input_tokens), None)
                }
                None => (labels, None, Some(one.grant.tokens_reserved)),
            }
        }
    }
}
