//! What operators ask: which reservations are open, what the ledger says of one, why a request is granted or
//! denied, and what happens as it happens.

use std::collections::BTreeSet;
use std::time::Duration;

use bursar_proto::v1;
use bursar_server::{AskError, WATCHERS_MAX};

use crate::sidecar::{Client, Sidecar, commit, one_limit, reserve};

fn of(id: &str, tokens: u64, tenant: &str) -> v1::ReserveRequest {
    let labels = [("tenant".to_owned(), tenant.to_owned())].into();
    v1::ReserveRequest { labels, ..reserve(id, tokens) }
}

fn by_tenant(amount: u64) -> v1::Policy {
    let mut policy = one_limit(amount);
    policy.limits[0].scope = vec!["tenant".into()];
    policy
}

fn open(sidecar: &Sidecar, request: v1::ListReservationsRequest) -> Vec<v1::Reservation> {
    sidecar.running.reservations(request).unwrap().reservations
}

fn ids(found: &[v1::Reservation]) -> Vec<&str> {
    found.iter().map(|one| &*one.reservation_id).collect()
}

#[tokio::test]
async fn what_holds_a_budget_is_found_by_label_limit_and_age() {
    let sidecar = Sidecar::start(&by_tenant(1_000));
    let mut client = sidecar.client().await;
    client.reserve(v1::ReserveRequest { ttl_ms: 90_000, ..of("late", 5, "acme") }).await.unwrap();
    client.reserve(v1::ReserveRequest { ttl_ms: 60_000, ..of("soon", 7, "acme") }).await.unwrap();
    sidecar.at(Duration::from_secs(30));
    client
        .reserve(v1::ReserveRequest { ttl_ms: 90_000, ..of("young", 9, "globex") })
        .await
        .unwrap();
    client.reserve(of("settled", 1, "acme")).await.unwrap();
    client.commit(commit("settled", 1)).await.unwrap();

    let all = open(&sidecar, v1::ListReservationsRequest::default());
    assert_eq!(ids(&all), ["soon", "late", "young"], "by when they expire");
    assert_eq!((all[0].tokens_reserved, all[0].state()), (7, v1::State::Open));
    assert_eq!(all[0].expires_at_unix_ms - all[0].reserved_at_unix_ms, 60_000);
    assert_eq!((all[0].holds[0].reserved, &*all[0].holds[0].scope["tenant"]), (7, "acme"));
    let labels = |key: &str, value: &str| v1::ListReservationsRequest {
        labels: [(key.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(ids(&open(&sidecar, labels("tenant", "globex"))), ["young"]);
    assert_eq!(open(&sidecar, labels("service_tier", "standard")).len(), 3);
    assert!(open(&sidecar, labels("provider", "nobody")).is_empty());
    let old = v1::ListReservationsRequest { older_than_ms: 30_000, ..Default::default() };
    assert_eq!(ids(&open(&sidecar, old)), ["soon", "late"]);
    let limit = all[0].holds[0].limit.clone();
    let held = |limit| v1::ListReservationsRequest { limit, ..Default::default() };
    assert_eq!(open(&sidecar, held(limit)).len(), 3);
    assert!(open(&sidecar, held("another".into())).is_empty());
}

#[tokio::test]
async fn each_reservation_that_stays_open_is_listed_once_while_others_come_and_go() {
    let sidecar = Sidecar::start(&one_limit(1_000_000));
    let mut client = sidecar.client().await;
    for number in 0..3_000 {
        client.reserve(reserve(&format!("r{number:04}"), 1)).await.unwrap();
    }
    let mut request = v1::ListReservationsRequest { page_size: 700, ..Default::default() };
    let mut seen = Vec::new();
    let mut comes = 3_000;
    loop {
        let page = sidecar.running.reservations(request.clone()).unwrap();
        seen.extend(page.reservations.into_iter().map(|one| one.reservation_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        for number in (0..3_000).filter(|number| number % 3 == 0).skip(comes - 3_000).take(100) {
            // Gone, or gone already.
            let _ = client.commit(commit(&format!("r{number:04}"), 1)).await;
            client.reserve(reserve(&format!("r{comes:04}"), 1)).await.unwrap();
            comes += 1;
        }
    }
    let once: BTreeSet<_> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "none is listed twice");
    for number in (0..3_000).filter(|number| number % 3 != 0) {
        assert!(once.contains(&format!("r{number:04}")), "r{number:04} was open throughout");
    }
}

#[tokio::test]
async fn a_wrong_question_names_its_field() {
    let sidecar = Sidecar::start(&one_limit(10));
    let too_many = v1::ListReservationsRequest { page_size: 1_001, ..Default::default() };
    let strange = v1::ListReservationsRequest { page_token: "x".into(), ..Default::default() };
    for (request, field) in [(too_many, "page_size"), (strange, "page_token")] {
        match sidecar.running.reservations(request) {
            Err(AskError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{other:?}"),
        }
    }
    let nothing = v1::ExplainRequest { question: None };
    assert!(matches!(sidecar.running.explain(nothing), Err(AskError::Invalid { .. })));
    let beyond = v1::WatchEventsRequest { after_sequence: Some(99), ..Default::default() };
    assert!(matches!(sidecar.running.watch(beyond), Err(AskError::Invalid { .. })));
}

fn get(sidecar: &Sidecar, id: &str) -> Result<v1::GetReservationResponse, AskError> {
    sidecar.running.reservation(v1::GetReservationRequest { reservation_id: id.into() })
}

#[tokio::test]
async fn all_that_happened_to_a_reservation_is_told_in_order_also_after_a_restart() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    client.reserve(v1::ReserveRequest { ttl_ms: 1_000, ..reserve("r", 60) }).await.unwrap();
    let before = get(&sidecar, "r").unwrap();
    assert_eq!(before.reservation.unwrap().holds.len(), 1);
    assert_eq!(before.entries.len(), 1);
    sidecar.at(Duration::from_secs(2));
    client.commit(commit("r", 45)).await.unwrap();
    let policy = one_limit(100);
    let sidecar = sidecar.restart(&policy);
    let told = get(&sidecar, "r").unwrap();
    let kinds: Vec<_> = told.entries.iter().map(v1::Event::kind).collect();
    let (reserved, expired, committed) =
        (v1::EventKind::Reserved, v1::EventKind::Expired, v1::EventKind::Committed);
    assert_eq!(kinds, [reserved, expired, committed]);
    assert!(told.entries[2].late);
    assert_eq!(told.entries[2].tokens, 45);
    let now = told.reservation.unwrap();
    assert_eq!(
        (now.state(), now.tokens_reserved, now.tokens_committed),
        (v1::State::Committed, 60, 45)
    );
    assert!(now.holds.is_empty());
    let moved: i64 =
        told.entries.iter().flat_map(|entry| &entry.changes).map(|change| change.committed).sum();
    assert_eq!(moved, 45, "what the entries changed adds up to what was used");
    assert!(matches!(get(&sidecar, "nobody"), Err(AskError::Unknown(id)) if id == "nobody"));
}

fn explain(sidecar: &Sidecar, request: v1::ReserveRequest) -> v1::ExplainResponse {
    let question = Some(v1::explain_request::Question::Request(request));
    sidecar.running.explain(v1::ExplainRequest { question }).unwrap()
}

/// The outcome of an answer, without what differs from call to call.
fn outcome(answer: &v1::ReserveResponse) -> String {
    match answer.outcome.clone().unwrap() {
        v1::reserve_response::Outcome::Grant(grant) => {
            format!("{} {} {}", grant.model, grant.output_tokens_granted, grant.tokens_reserved)
        }
        v1::reserve_response::Outcome::Denial(denial) => format!("{denial:?}"),
    }
}

#[tokio::test]
async fn what_is_explained_is_what_reserve_then_answers() {
    let sidecar = Sidecar::start(&by_tenant(1_000));
    let mut client = sidecar.client().await;
    let mut granted = 0;
    for number in 0..60_u64 {
        let asked = v1::ReserveRequest {
            output_tokens_max: 30,
            output_tokens_min: Some(number % 7),
            ..of(
                &format!("r{number}"),
                (number * 37) % 120,
                if number % 2 == 0 { "acme" } else { "globex" },
            )
        };
        let why = explain(&sidecar, asked.clone());
        let answer = client.reserve(asked).await.unwrap().into_inner();
        assert_eq!(outcome(why.answer.as_ref().unwrap()), outcome(&answer), "{number}");
        let refuses = why.limits.iter().any(|limit| limit.refuses);
        let denied = matches!(answer.outcome, Some(v1::reserve_response::Outcome::Denial(_)));
        assert_eq!(refuses, denied, "{number}");
        granted += u32::from(!denied);
    }
    assert!((1..60).contains(&granted), "{granted}: both answers are met");
}

#[tokio::test]
async fn a_reservation_is_explained_by_what_it_took_and_a_limit_that_it_misses_by_why() {
    let mut policy = by_tenant(1_000);
    let mut other = policy.limits[0].clone();
    other.name = "globex-only".into();
    other.r#match = vec![v1::LabelMatch { key: "tenant".into(), values: vec!["globex".into()] }];
    policy.limits.push(other);
    let sidecar = Sidecar::start(&policy);
    let mut client = sidecar.client().await;
    client.reserve(of("r", 60, "acme")).await.unwrap();
    client.commit(commit("r", 20)).await.unwrap();
    let question = Some(v1::explain_request::Question::ReservationId("r".into()));
    let why = sidecar.running.explain(v1::ExplainRequest { question }).unwrap();
    assert_eq!((why.limits[0].applies, why.limits[0].requested), (true, 60));
    assert_eq!(why.limits[0].standing.as_ref().unwrap().committed, 20);
    assert_eq!(why.limits[1].why_not, "match: tenant is acme, not globex");
    let Some(v1::reserve_response::Outcome::Grant(grant)) = why.answer.unwrap().outcome else {
        panic!("it was granted")
    };
    assert_eq!((grant.state(), grant.tokens_reserved), (v1::State::Committed, 60));
}

fn next(watch: &mut bursar_server::Watch) -> v1::WatchEventsResponse {
    watch.next(Duration::from_secs(30)).unwrap().unwrap()
}

/// Watches until so many events have come.
fn until(watch: &mut bursar_server::Watch, count: usize) -> Vec<v1::Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next(watch).events);
    }
    events
}

async fn ten_pairs(client: &mut Client, from: usize) {
    for number in from..from + 10 {
        client.reserve(reserve(&format!("r{number}"), 5)).await.unwrap();
        client.commit(commit(&format!("r{number}"), 3)).await.unwrap();
    }
}

#[tokio::test]
async fn a_watcher_sees_each_entry_once_in_order_also_one_that_comes_back() {
    let sidecar = Sidecar::start(&one_limit(1_000));
    let mut client = sidecar.client().await;
    let from_start = v1::WatchEventsRequest { after_sequence: Some(0), ..Default::default() };
    let mut watch = sidecar.running.watch(from_start).unwrap().unwrap();
    ten_pairs(&mut client, 0).await;
    let first = until(&mut watch, 21);
    let sequences =
        |events: &[v1::Event]| events.iter().map(|one| one.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&first), (1..=21).collect::<Vec<_>>(), "the policy's entry is the first");
    drop(watch);
    ten_pairs(&mut client, 10).await;
    let sidecar = sidecar.restart(&one_limit(1_000));
    let on = v1::WatchEventsRequest { after_sequence: Some(21), ..Default::default() };
    let mut watch = sidecar.running.watch(on).unwrap().unwrap();
    assert_eq!(sequences(&until(&mut watch, 20)), (22..=41).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watcher_is_told_what_it_asked_for_and_of_denials() {
    let sidecar = Sidecar::start(&by_tenant(50));
    let mut client = sidecar.client().await;
    let wanted = v1::WatchEventsRequest {
        labels: [("tenant".to_owned(), "acme".to_owned())].into(),
        kinds: vec![v1::EventKind::Denied.into(), v1::EventKind::Committed.into()],
        ..Default::default()
    };
    let mut watch = sidecar.running.watch(wanted).unwrap().unwrap();
    client.reserve(of("a", 40, "acme")).await.unwrap();
    client.reserve(of("g", 60, "globex")).await.unwrap();
    client.reserve(of("b", 40, "acme")).await.unwrap();
    client.commit(commit("a", 9)).await.unwrap();
    let events = until(&mut watch, 2);
    let denied = events.iter().find(|one| one.kind() == v1::EventKind::Denied).unwrap();
    assert_eq!((denied.sequence, &*denied.reservation_id, denied.tokens), (0, "b", 40));
    assert_eq!(denied.denial.as_ref().unwrap().shortfalls[0].requested, 40);
    assert!(events.iter().any(|one| one.kind() == v1::EventKind::Committed && one.tokens == 9));
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn a_slow_watcher_is_told_how_many_denials_it_missed_and_misses_no_entry() {
    let sidecar = Sidecar::start(&one_limit(5));
    let mut client = sidecar.client().await;
    let mut watch = sidecar.running.watch(v1::WatchEventsRequest::default()).unwrap().unwrap();
    client.reserve(reserve("granted", 5)).await.unwrap();
    for number in 0..1_500 {
        client.reserve(reserve(&format!("d{number}"), 5)).await.unwrap();
    }
    let (mut told, mut dropped, mut granted) = (0, 0, 0);
    while told + dropped < 1_500 || granted < 1 {
        let said = next(&mut watch);
        let denials = said.events.iter().filter(|one| one.kind() == v1::EventKind::Denied).count();
        told += u64::try_from(denials).unwrap();
        granted += said.events.len() - denials;
        dropped += said.denials_dropped;
    }
    assert_eq!((told + dropped, granted), (1_500, 1));
    assert!(dropped > 0, "more came than are kept");
}

#[tokio::test]
async fn only_so_many_watch_and_all_of_them_end_with_the_sidecar() {
    let sidecar = Sidecar::start(&one_limit(5));
    let watch = || sidecar.running.watch(v1::WatchEventsRequest::default()).unwrap();
    let mut watching: Vec<_> = (0..WATCHERS_MAX).map(|_| watch().unwrap()).collect();
    assert!(watch().is_none(), "one more is too many");
    drop(watching.pop());
    assert!(watch().is_some(), "the place is free again");
    sidecar.running.stop(Duration::from_secs(10));
    for mut each in watching {
        assert!(each.next(Duration::from_secs(30)).unwrap().is_none());
    }
}
