//! Calls to the system that fail or are held up under a real data plane with callers: nobody is told what is not
//! so, whoever waits is told that there is no answer, and what was acknowledged is there once after a restart.
//!
//! The child is this same program, as in the test `crash`: it serves on a socket, compiled with points at which
//! a call fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what it expects in the shortest way, and prints what it measured"
)]

mod callers;
#[path = "../crash/child.rs"]
mod child;
mod served;
#[allow(dead_code, reason = "shared with the test `crash`, which uses more of it")]
#[path = "../crash/settings.rs"]
mod settings;

use bursar_proto::v1;
use tonic::Code;

use crate::callers::Told;
use crate::served::{Child, Client, Gate, Health, commit, count, record, reserve};

/// Each failure that ends a data plane: where, how, at which hit, and what it says of it. The first hits are the
/// start's own.
const ENDS: [(&str, &str, u64, &str); 11] = [
    ("write", "EIO", 60, "a write to the ledger failed: Input/output error"),
    ("write-short", "EIO", 61, "bytes were taken"),
    ("rename", "EIO", 3, "a write to the ledger failed: Input/output error"),
    ("sync", "EIO", 30, "a sync of the ledger failed: Input/output error"),
    ("sync-folder", "EIO", 2, "a sync of the ledger failed: Input/output error"),
    ("index-commit", "EIO", 2, "the index: Input/output error"),
    ("sync", "panic", 30, "the thread bursar-sync panicked"),
    ("segment-make", "panic", 3, "the thread bursar-segments panicked"),
    ("index-commit", "panic", 2, "the thread bursar-follower panicked"),
    ("append", "panic", 200, "a panic in the middle of a change"),
    ("write", "panic", 60, "a panic in the middle of a change"),
];

/// Each failure that only leaves no room for reservations.
const FULL: [(&str, &str); 3] =
    [("segment-make", "ENOSPC"), ("segment-write", "ENOSPC"), ("index-commit", "ENOSPC")];

async fn a_failure_ends_the_data_plane_and_is_told_to_whoever_waits() {
    for (point, kind, hit, reason) in ENDS {
        let folder = tempfile::tempdir().unwrap();
        let fault = format!("{point}:{kind}:{hit}");
        let child = Child::start(folder.path(), &[("BURSAR_FAULT_AT", &fault)]);
        let told = callers::call_until_it_ends(&child).await;
        let (code, said) = child.ended();
        assert_eq!(code, Some(70), "{fault}: {said}");
        assert!(said.contains(reason), "{fault}: {said}");
        told.check_refusals(&fault);
        let again = Child::start(folder.path(), &[]);
        told.check_after_restart(&again).await;
        again.stop();
        told.check_ledger(folder.path());
        println!("{fault}: {told}");
    }
}

async fn a_full_disk_refuses_reservations_and_takes_settlements() {
    for (point, kind) in FULL {
        let folder = tempfile::tempdir().unwrap();
        let flag = folder.path().join("full");
        let fault = format!("{point}:{kind}:{}", flag.display());
        let child = Child::start(folder.path(), &[("BURSAR_FAULT_WHILE", &fault)]);
        let mut health = Health::watch(&child).await;
        health.until(true).await;
        let mut client = child.client().await;
        std::fs::write(&flag, "").unwrap();
        let (mut open, mut refused) = (Vec::new(), None);
        while refused.is_none() {
            let name = format!("open-{}", open.len());
            match client.reserve(reserve(&name, v1::Durability::Process)).await {
                Ok(_) => open.push(name),
                Err(status) => refused = Some(status),
            }
        }
        let refused = refused.unwrap();
        assert_eq!((refused.code(), served::reason(&refused).as_str()), served::LEDGER_FULL);
        assert!(refused.message().contains("No space left on device"), "{refused:?}");
        health.until(false).await;
        // Whoever settles is not kept away, and is answered as ever.
        assert!(Health::of_service(&child).await);
        let mut told = Told::default();
        for name in open.iter().take(20) {
            client.commit(commit(name)).await.unwrap();
            told.committed(name);
        }
        let status = client.reserve(reserve("more", v1::Durability::Process)).await.unwrap_err();
        assert_eq!(served::reason(&status), "LEDGER_FULL");
        // What needs no room is answered: the same again, and a denial.
        let again = client.reserve(reserve(&open[0], v1::Durability::Process)).await.unwrap();
        assert!(again.get_ref().replayed);
        let asked = v1::ReserveRequest {
            labels: [("tenant".into(), settings::TIGHT.into())].into(),
            output_tokens_max: settings::TIGHT_TOKENS,
            ..reserve("much", v1::Durability::Process)
        };
        let denied = client.reserve(asked).await.unwrap().into_inner().outcome;
        assert!(matches!(denied, Some(v1::reserve_response::Outcome::Denial(_))), "{denied:?}");
        if point.starts_with("segment") {
            records_are_refused_once_nothing_is_left(&mut client).await;
        }
        std::fs::remove_file(&flag).unwrap();
        health.until(true).await;
        client.record(record("late")).await.unwrap();
        client.reserve(reserve("more", v1::Durability::Power)).await.unwrap();
        client.commit(commit("more")).await.unwrap();
        told.committed("more");
        child.stop();
        told.check_ledger(folder.path());
        println!("{fault}: refused, settled, and reserved again without a restart");
    }
}

/// Uses up the room kept for settlements: what comes then is refused, and the data plane stays up.
async fn records_are_refused_once_nothing_is_left(client: &mut Client) {
    for number in 0..10_000 {
        if let Err(status) = client.record(record(&format!("record-{number}"))).await {
            assert_eq!((status.code(), served::reason(&status).as_str()), served::DISK_FULL);
            return;
        }
    }
    panic!("there was always room");
}

async fn an_answer_waits_for_its_write() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("hold");
    let fault = format!("turn:hold:{}", flag.display());
    let child = Child::start(folder.path(), &[("BURSAR_FAULT_WHILE", &fault)]);
    let mut client = child.client().await;
    let mut other = client.clone();
    std::fs::write(&flag, "").unwrap();
    let question = reserve("r1", v1::Durability::Process);
    let answer = tokio::spawn(async move { client.reserve(question).await });
    // What needs no write is answered meanwhile, on the same connection: had the answer been given, it would
    // have come before these.
    for _ in 0..20 {
        other.count_tokens(count()).await.unwrap();
    }
    assert!(!answer.is_finished(), "answered before it was written: {:?}", answer.await);
    std::fs::remove_file(&flag).unwrap();
    answer.await.unwrap().unwrap();
    child.stop();
    println!("an answer waits for its write");
}

async fn an_answer_whose_write_fails_is_not_given() {
    let folder = tempfile::tempdir().unwrap();
    // The first write is the policy's.
    let child = Child::start(folder.path(), &[("BURSAR_FAULT_AT", "write:EIO:2")]);
    let mut client = child.client().await;
    let status = client.reserve(reserve("r1", v1::Durability::Process)).await.unwrap_err();
    assert_eq!((status.code(), served::reason(&status).as_str()), served::POISONED);
    assert_eq!(child.ended().0, Some(70));
    println!("an answer whose write fails is not given");
}

async fn an_answer_at_power_waits_for_its_sync_and_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::at(folder.path());
    let faults = [("BURSAR_FAULT_AT", "sync:stall:2"), ("BURSAR_FAULT_GATE", gate.path())];
    let child = Child::start(folder.path(), &faults);
    let mut client = child.client().await;
    let mut other = client.clone();
    let question = reserve("r1", v1::Durability::Power);
    let answer = tokio::spawn(async move { client.reserve(question).await });
    let held = gate.reached().await;
    other.reserve(reserve("r2", v1::Durability::Process)).await.unwrap();
    // The same again asks for more than it had.
    let mut third = other.clone();
    let repetition =
        tokio::spawn(async move { third.reserve(reserve("r2", v1::Durability::Power)).await });
    for number in 3..20 {
        let question = reserve(&format!("r{number}"), v1::Durability::Process);
        other.reserve(question).await.unwrap();
    }
    assert!(!answer.is_finished(), "answered before it was durable: {:?}", answer.await);
    assert!(!repetition.is_finished(), "answered before it was durable: {:?}", repetition.await);
    drop(held);
    answer.await.unwrap().unwrap();
    assert!(repetition.await.unwrap().unwrap().get_ref().replayed);
    child.stop();
    println!("an answer at power waits for its sync");
}

async fn what_was_written_while_a_sync_failed_was_never_durable() {
    let folder = tempfile::tempdir().unwrap();
    let child = Child::start(folder.path(), &[("BURSAR_FAULT_AT", "sync:EIO:2")]);
    let mut client = child.client().await;
    client.reserve(reserve("r1", v1::Durability::Process)).await.unwrap();
    let status = client.commit(commit("r1")).await.unwrap_err();
    assert_eq!((status.code(), served::reason(&status).as_str()), served::POISONED);
    assert_eq!(child.ended().0, Some(70));
    let again = Child::start(folder.path(), &[]);
    let mut client = again.client().await;
    client.commit(commit("r1")).await.unwrap();
    assert_eq!(client.commit(commit("r2")).await.unwrap_err().code(), Code::NotFound);
    again.stop();
    println!("a commit whose sync failed was not acknowledged, and once after the restart");
}

async fn what_cannot_be_read_is_no_answer_and_is_one_again() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("failing");
    let fault = format!("read:EIO:{}", flag.display());
    let child = Child::start(folder.path(), &[("BURSAR_FAULT_WHILE", &fault)]);
    let mut client = child.client().await;
    client.reserve(reserve("r1", v1::Durability::Process)).await.unwrap();
    client.commit(commit("r1")).await.unwrap();
    std::fs::write(&flag, "").unwrap();
    let status = client.commit(commit("r1")).await.unwrap_err();
    let told = (status.code(), served::reason(&status));
    assert_eq!(told, (Code::Unavailable, "LEDGER_UNREADABLE".into()), "{status:?}");
    assert!(status.message().contains("Input/output error"), "{status:?}");
    // Whoever asks nothing of the past is answered.
    client.reserve(reserve("r2", v1::Durability::Power)).await.unwrap();
    client.commit(commit("r2")).await.unwrap();
    std::fs::remove_file(&flag).unwrap();
    assert!(client.commit(commit("r1")).await.unwrap().get_ref().replayed);
    child.stop();
    println!("what cannot be read is no answer, and is one again");
}

fn main() {
    if let Some(wanted) = child::wanted() {
        child::serve(wanted);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        an_answer_waits_for_its_write().await;
        an_answer_whose_write_fails_is_not_given().await;
        an_answer_at_power_waits_for_its_sync_and_others_do_not().await;
        what_was_written_while_a_sync_failed_was_never_durable().await;
        what_cannot_be_read_is_no_answer_and_is_one_again().await;
        a_full_disk_refuses_reservations_and_takes_settlements().await;
        a_failure_ends_the_data_plane_and_is_told_to_whoever_waits().await;
    });
    println!("{} passed, 0 failed", 5 + ENDS.len() + FULL.len());
}
