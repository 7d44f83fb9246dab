//! A policy that comes into force while calls are decided: whole and between two of them, or not at all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bursar_proto::v1;
use bursar_server::{ActivateError, PolicyFile, Server};
use prost::Message as _;
use tokio::task::JoinSet;

use crate::sidecar::{Client, GRACE, Sidecar, commit, grant, one_limit, reserve, settings};

/// How many calls are in flight all the time.
const CALLERS: usize = 32;
/// How many versions follow on the first.
const EDITS: u64 = 20;
/// What each version grants more than the one before, so that an answer's amount tells its version.
const TOKENS: u64 = 1 << 30;

fn file(policy: &v1::Policy) -> PolicyFile {
    let policy = policy.encode_to_vec();
    PolicyFile { digest: policy.clone(), policy, source: b"policy: test".to_vec() }
}

fn with_requests(tokens: u64) -> v1::Policy {
    let mut policy = one_limit(tokens);
    policy.limits[0].amounts.push(v1::Amount { unit: v1::Unit::Requests.into(), amount: 10 });
    policy
}

/// Reserves and commits until told to stop; gives the version of each answer, in order.
async fn call(mut client: Client, caller: usize, enough: Arc<AtomicBool>) -> Vec<u64> {
    let mut versions = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let id = format!("{caller}-{}", versions.len());
        let answer = client.reserve(reserve(&id, 2)).await.unwrap().into_inner();
        let amount = grant(&answer).unwrap().tightest.as_ref().unwrap().amount;
        assert_eq!(amount, TOKENS * answer.policy_version, "half of each version");
        versions.push(answer.policy_version);
        client.commit(commit(&id, 1)).await.unwrap();
    }
    versions
}

#[tokio::test]
async fn every_answer_under_load_is_of_one_version_and_the_counter_goes_on() {
    let sidecar = Arc::new(Sidecar::start(&one_limit(TOKENS)));
    let enough = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(sidecar.client().await, caller, enough.clone()));
    }
    for edit in 2..=EDITS + 1 {
        let before = sidecar.running.status().unwrap().ledger.unwrap().sequence;
        let (serving, policy) = (sidecar.clone(), file(&one_limit(TOKENS * edit)));
        // On a thread of its own: the callers' calls are decided meanwhile.
        let activated =
            tokio::task::spawn_blocking(move || serving.running.activate(policy, false));
        assert_eq!(activated.await.unwrap().unwrap(), Some(edit));
        // Calls go on before the next one.
        while sidecar.running.status().unwrap().ledger.unwrap().sequence < before + 100 {
            tokio::task::yield_now().await;
        }
    }
    enough.store(true, Ordering::Relaxed);
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|versions| versions.is_sorted()), "a version came back");
    let seen: std::collections::BTreeSet<u64> = answers.iter().flatten().copied().collect();
    let calls = u64::try_from(answers.concat().len()).unwrap();
    assert_eq!(seen.last(), Some(&(EDITS + 1)));
    assert!(seen.len() > 2, "{seen:?}");
    let standing = sidecar.standing("everything");
    assert_eq!((standing.committed, standing.reserved), (calls, 0));
    assert_eq!(standing.incomplete_since_unix_ms, None);
}

#[tokio::test]
async fn a_refused_change_changes_nothing_and_says_each_limit_and_what_to_do() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    client.reserve(reserve("r1", 60)).await.unwrap();
    let before = sidecar.running.status().unwrap();
    let mut moved = one_limit(100);
    moved.limits[0].scope = vec!["tenant".into()];
    let mut added = one_limit(100);
    added.limits.push(v1::Limit { name: "second".into(), ..added.limits[0].clone() });
    let expected = [
        (moved, ["everything", "its scope changed"]),
        (added, ["second", "new"]),
        (with_requests(100), ["everything", "requests"]),
    ];
    for (policy, words) in expected {
        let Err(ActivateError::BadPolicy(mistakes)) =
            sidecar.running.activate(file(&policy), false)
        else {
            panic!("{words:?} came into force")
        };
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        for word in words.into_iter().chain(["--reset-changed"]) {
            assert!(mistakes[0].contains(word), "{word}: {mistakes:?}");
        }
    }
    let wrong = PolicyFile { policy: vec![0xff], ..file(&one_limit(1)) };
    assert!(matches!(sidecar.running.activate(wrong, true), Err(ActivateError::BadPolicy(_))));
    assert_eq!(sidecar.running.activate(file(&one_limit(100)), false).unwrap(), None);
    let after = sidecar.running.status().unwrap();
    assert_eq!(after.policy_version, before.policy_version);
    assert_eq!(after.ledger.unwrap().sequence, before.ledger.unwrap().sequence);
    assert_eq!(sidecar.standing("everything").reserved, 60);
}

#[tokio::test]
async fn a_unit_that_begins_empty_says_since_when_it_counts_and_the_others_go_on() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    client.reserve(reserve("r1", 60)).await.unwrap();
    sidecar.at(std::time::Duration::from_secs(9));
    assert_eq!(sidecar.running.activate(file(&with_requests(100)), true).unwrap(), Some(2));
    client.reserve(reserve("r2", 1)).await.unwrap();
    let request = v1::ListStandingsRequest::default();
    let standings = sidecar.running.standings(request).unwrap().standings;
    let of = |unit: v1::Unit| standings.iter().find(|one| one.unit() == unit).unwrap();
    assert_eq!(of(v1::Unit::Tokens).reserved, 61);
    assert_eq!(of(v1::Unit::Tokens).incomplete_since_unix_ms, None);
    assert_eq!(of(v1::Unit::Requests).reserved, 1);
    let since = crate::sidecar::START.0 + 9_000;
    assert_eq!(of(v1::Unit::Requests).incomplete_since_unix_ms, Some(since));
}

/// What a kill leaves: the files as they are while it serves.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let there = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &there);
        } else {
            std::fs::copy(entry.path(), there).unwrap();
        }
    }
}

#[tokio::test]
async fn a_version_that_is_said_to_be_in_force_is_there_again_after_a_kill() {
    let sidecar = Sidecar::start(&one_limit(100));
    assert_eq!(sidecar.running.activate(file(&one_limit(50)), false).unwrap(), Some(2));
    let ledger = sidecar.running.status().unwrap().ledger.unwrap();
    assert_eq!(ledger.durable_sequence, 2, "{ledger:?}");
    let left = tempfile::tempdir().unwrap();
    copied(&sidecar.folder.path().join("data"), &left.path().join("data"));
    let running = Server::start(settings(left.path(), &one_limit(50))).unwrap();
    assert_eq!(running.policy().unwrap().version, 2);
    assert_eq!(running.policy().unwrap().policy, Some(one_limit(50)));
    running.stop(GRACE);
}

#[tokio::test]
async fn a_reservation_settles_by_its_version_however_many_came_since() {
    let mut unsettled = one_limit(100);
    unsettled.reservations.as_mut().unwrap().unsettled = v1::Unsettled::Release.into();
    unsettled.limits[0].amounts[0].amount = 1_000;
    let sidecar = Sidecar::start(&unsettled);
    let mut client = sidecar.client().await;
    client.reserve(reserve("committed", 10)).await.unwrap();
    client.reserve(reserve("left", 20)).await.unwrap();
    for version in 2..40 {
        let policy = file(&one_limit(1_000 + version));
        assert_eq!(sidecar.running.activate(policy, false).unwrap(), Some(version));
    }
    assert_eq!(client.commit(commit("committed", 15)).await.unwrap().get_ref().tokens_overrun, 5);
    sidecar.at(std::time::Duration::from_secs(300));
    let standing = sidecar.standing("everything");
    // Nobody settled it: the version that granted it gives all of it back, those since would charge it.
    assert_eq!((standing.committed, standing.reserved), (15, 0));
}
