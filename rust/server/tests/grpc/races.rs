//! Many calls at once.

use bursar_proto::v1;
use tokio::task::JoinSet;

use crate::sidecar::{self, Sidecar, grant, one_limit, reserve};

#[tokio::test]
async fn of_many_calls_at_once_on_one_small_limit_exactly_those_that_fit_are_granted() {
    let sidecar = Sidecar::start(&one_limit(100));
    let clients = [sidecar.client().await, sidecar.tcp_client().await];
    let mut calls = JoinSet::new();
    for number in 0..64 {
        let mut client = clients[number % 2].clone();
        calls.spawn(async move {
            let answer = client.reserve(reserve(&format!("r{number}"), 10)).await.unwrap();
            grant(answer.get_ref()).is_some()
        });
    }
    let granted = calls.join_all().await.into_iter().filter(|granted| *granted).count();
    assert_eq!(granted, 10);
    let standing = sidecar.standing("everything");
    assert_eq!((standing.reserved, standing.remaining), (100, 0));
}

#[tokio::test]
async fn one_question_asked_many_times_at_once_is_granted_once() {
    let sidecar = Sidecar::start(&one_limit(100));
    let client = sidecar.client().await;
    let mut calls = JoinSet::new();
    for _ in 0..64 {
        let mut client = client.clone();
        calls.spawn(async move { client.reserve(reserve("r1", 10)).await.unwrap().into_inner() });
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|answer| grant(answer).is_some()));
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(sidecar.standing("everything").reserved, 10);
}

#[tokio::test]
async fn commits_and_releases_of_one_reservation_at_once_settle_it_once() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    client.reserve(reserve("r1", 10)).await.unwrap();
    let mut calls = JoinSet::new();
    for number in 0..32 {
        let mut client = client.clone();
        calls.spawn(async move {
            if number % 2 == 0 {
                client.commit(sidecar::commit("r1", 7)).await.map(|_| "committed")
            } else {
                client.release(sidecar::release("r1")).await.map(|_| "released")
            }
        });
    }
    calls.join_all().await;
    // Whichever came first: a commit after a release is late and counts, so the usage is there either way.
    let standing = sidecar.standing("everything");
    assert_eq!((standing.committed, standing.reserved), (7, 0));
}

#[tokio::test]
async fn a_thousand_small_calls_at_once_on_one_connection_are_all_answered() {
    let sidecar = Sidecar::start(&one_limit(1 << 40));
    for client in [sidecar.client().await, sidecar.tcp_client().await] {
        let mut calls = JoinSet::new();
        for number in 0..1_000 {
            let mut client = client.clone();
            calls.spawn(async move { client.reserve(reserve(&format!("{number:04}"), 1)).await });
        }
        for answer in calls.join_all().await {
            let answer: v1::ReserveResponse = answer.unwrap().into_inner();
            assert!(grant(&answer).is_some());
        }
    }
    assert_eq!(sidecar.standing("everything").reserved, 1_000);
}
