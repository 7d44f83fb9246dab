//! Starting, time passing, stopping, starting again.

use std::time::Duration;

use bursar_proto::v1;
use bursar_server::{End, StartError};
use tokio::task::JoinSet;
use tonic::Code;

use crate::sidecar::{
    self, Client, GRACE, Sidecar, commit, grant, one_limit, refusal, reserve, settings,
};

#[tokio::test]
async fn a_reservation_that_nobody_settles_is_charged_its_input_when_it_is_due() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    let request = v1::ReserveRequest { output_tokens_max: 50, ttl_ms: 1_000, ..reserve("r1", 10) };
    client.reserve(request).await.unwrap();
    assert_eq!(sidecar.standing("everything").reserved, 60);
    sidecar.at(Duration::from_millis(999));
    assert_eq!(sidecar.standing("everything").reserved, 60);
    sidecar.at(Duration::from_millis(1_000));
    let standing = sidecar.standing("everything");
    assert_eq!((standing.committed, standing.reserved), (10, 0));
    let late = client.commit(commit("r1", 25)).await.unwrap().into_inner();
    assert!(late.late && !late.replayed);
    assert_eq!(sidecar.standing("everything").committed, 25);
}

#[tokio::test]
async fn an_answer_at_power_is_durable_when_it_is_given() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    client.reserve(reserve("r1", 10)).await.unwrap();
    let answer = client.commit(commit("r1", 10)).await.unwrap().into_inner();
    let ledger = sidecar.running.status().unwrap().ledger.unwrap();
    assert!(ledger.durable_sequence >= answer.ledger_sequence, "{ledger:?}");
}

#[tokio::test]
async fn a_policy_comes_into_force_once_and_again_only_when_it_differs() {
    let mut sidecar = Sidecar::start(&one_limit(100));
    let version = |sidecar: &Sidecar| sidecar.running.policy().unwrap().version;
    assert_eq!(version(&sidecar), 1);
    sidecar = sidecar.restart(&one_limit(100));
    assert_eq!(version(&sidecar), 1);
    sidecar = sidecar.restart(&one_limit(50));
    assert_eq!(version(&sidecar), 2);
    let policy = sidecar.running.policy().unwrap();
    assert_eq!(policy.policy, Some(one_limit(50)));
    assert_eq!(policy.source, "policy: test");
}

#[tokio::test]
async fn what_was_reserved_and_used_is_there_after_a_restart() {
    let mut sidecar = Sidecar::start(&one_limit(100));
    let mut client = sidecar.client().await;
    client.reserve(reserve("open", 10)).await.unwrap();
    client.reserve(reserve("settled", 20)).await.unwrap();
    client.commit(commit("settled", 15)).await.unwrap();
    drop(client);
    sidecar = sidecar.restart(&one_limit(100));
    let standing = sidecar.standing("everything");
    assert_eq!((standing.committed, standing.reserved), (15, 10));
    let mut client = sidecar.client().await;
    assert!(client.commit(commit("settled", 15)).await.unwrap().get_ref().replayed);
    let again = client.reserve(reserve("settled", 20)).await.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(grant(&again).unwrap().state(), v1::State::Committed);
    client.commit(commit("open", 10)).await.unwrap();
    assert_eq!(sidecar.standing("everything").committed, 25);
}

/// Reserves and commits until the sidecar answers no more; gives what was acknowledged.
async fn use_until_it_stops(mut client: Client, worker: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let id = format!("{worker}-{number}");
        if client.reserve(reserve(&id, 3)).await.is_err() {
            break;
        }
        match client.commit(commit(&id, 2)).await {
            Ok(_) => acknowledged.push(id),
            Err(_) => break,
        }
    }
    acknowledged
}

#[tokio::test]
async fn a_stop_under_load_loses_nothing_that_was_acknowledged() {
    let sidecar = Sidecar::start(&one_limit(1 << 40));
    let mut workers = JoinSet::new();
    for worker in 0..32 {
        workers.spawn(use_until_it_stops(sidecar.client().await, worker));
    }
    // Some answers first, so that the stop falls into the middle of the work.
    while sidecar.running.status().unwrap().ledger.unwrap().durable_sequence < 500 {
        tokio::task::yield_now().await;
    }
    let Sidecar { running, folder } = sidecar;
    let stopping = tokio::task::spawn_blocking(move || running.stop(GRACE));
    let acknowledged: Vec<String> = workers.join_all().await.concat();
    assert_eq!(stopping.await.unwrap(), End::Stopped);
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());

    let running = bursar_server::Server::start(settings(folder.path(), &one_limit(1 << 40)));
    let sidecar = Sidecar { running: running.unwrap(), folder };
    let mut client = sidecar.client().await;
    for id in acknowledged {
        let again = client.commit(commit(&id, 2)).await.unwrap().into_inner();
        assert!(again.replayed, "{id}");
    }
}

#[tokio::test]
async fn a_stopped_sidecar_leaves_no_socket_and_answers_nothing() {
    let sidecar = Sidecar::start(&one_limit(1));
    assert!(sidecar.socket().exists());
    assert_eq!(sidecar.running.wait(Duration::ZERO), None);
    assert_eq!(sidecar.running.stop(GRACE), End::Stopped);
    assert_eq!(sidecar.running.wait(Duration::ZERO), Some(End::Stopped));
    assert!(!sidecar.socket().exists());
    assert!(sidecar.running.status().is_err());
}

#[tokio::test]
async fn the_bound_of_the_disk_stops_reservations_and_not_settlements() {
    let folder = tempfile::tempdir().unwrap();
    let mut small = settings(folder.path(), &one_limit(1 << 40));
    small.segment_bytes = 64 << 10;
    small.ledger_bytes_max = 256 << 10;
    let running = bursar_server::Server::start(small).unwrap();
    let sidecar = Sidecar { running, folder };
    let mut client = sidecar.client().await;
    let mut granted = Vec::new();
    let refused = loop {
        let id = format!("r{}", granted.len());
        match client.reserve(reserve(&id, 1)).await {
            Ok(_) => granted.push(id),
            Err(status) => break status,
        }
        assert!(granted.len() < 100_000, "the bound was never met");
    };
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(!sidecar.running.status().unwrap().ready);
    for id in granted.iter().take(50) {
        client.commit(commit(id, 1)).await.unwrap();
    }
    assert_eq!(sidecar.standing("everything").committed, 50);
}

#[test]
fn what_cannot_be_served_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let policy = one_limit(1);
    let mut wrong = settings(folder.path(), &policy);
    wrong.listen = Some("0.0.0.0:0".parse().unwrap());
    let error = refusal(wrong);
    assert!(matches!(error, StartError::Listen(_)), "{error}");
    assert!(error.to_string().contains("not a loopback address"), "{error}");

    let mut mistaken = policy.clone();
    mistaken.time_zone = "Mars/Olympus".into();
    mistaken.limits[0].amounts[0].unit = v1::Unit::Cost.into();
    let calendar = v1::CalendarWindow {
        unit: v1::CalendarUnit::Month.into(),
        week_starts_on: 1,
        month_starts_on: 29,
        ..Default::default()
    };
    mistaken.limits[0].window =
        Some(v1::Window { kind: Some(v1::window::Kind::Calendar(calendar)) });
    mistaken.limits[0].overrides = vec![v1::Override {
        amounts: mistaken.limits[0].amounts.clone(),
        unlimited: true,
        ..Default::default()
    }];
    let error = refusal(settings(folder.path(), &mistaken));
    let StartError::BadPolicy(mistakes) = &error else { panic!("{error}") };
    for part in [
        "Mars/Olympus",
        "cost is not served",
        "week_starts_on does not go with this calendar",
        "month_starts_on must be 1 to 28 (got 29)",
        "overrides[0]: unlimited is never written beside amounts",
    ] {
        assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{mistakes:?}");
    }

    let serving = Sidecar::start(&policy);
    let mut second = settings(serving.folder.path(), &policy);
    second.socket = Some(serving.folder.path().join("other.sock"));
    let error = refusal(second);
    assert!(matches!(error, StartError::Store(bursar_store::OpenError::Locked { .. })), "{error}");
}

#[tokio::test]
async fn what_is_counted_is_on_the_page_of_metrics() {
    let policy = v1::Policy { rollups: vec!["feature".into(), "model".into()], ..one_limit(10) };
    let sidecar = Sidecar::start(&policy);
    let mut client = sidecar.client().await;
    client.reserve(reserve("r1", 10)).await.unwrap();
    client.reserve(reserve("r2", 10)).await.unwrap();
    client.commit(commit("r1", 14)).await.unwrap();
    client.commit(sidecar::commit("r3", 10)).await.unwrap_err();
    let page = sidecar.running.metrics().unwrap();
    for family in bursar_server::FAMILIES {
        let said = format!("# TYPE {} {}", family.name, family.kind);
        assert_eq!(page.matches(&said).count(), 1, "{said}");
    }
    assert_eq!(page.matches("# TYPE ").count(), bursar_server::FAMILIES.len());
    for line in [
        "bursar_decisions_total{outcome=\"granted\",reason=\"\"} 1",
        "bursar_decisions_total{outcome=\"denied\",reason=\"LIMIT\"} 1",
        "bursar_settlements_total{kind=\"committed\"} 1",
        "bursar_faults_total{reason=\"RESERVATION_NOT_FOUND\"} 1",
        "bursar_connections 1",
        "bursar_poisoned 0",
        "bursar_limit_refusals_total{limit=\"everything\"} 1",
        "bursar_limits_matched_bucket{le=\"0\"} 0",
        "bursar_limits_matched_bucket{le=\"1\"} 1",
        "bursar_limits_matched_sum 1",
        "bursar_faults_total{reason=\"BUG\"} 0",
        "bursar_tokens_total{kind=\"reserved\"} 10",
        "bursar_tokens_total{kind=\"committed\"} 14",
        "bursar_tokens_total{kind=\"overrun\"} 4",
        "bursar_overruns_total 1",
        "bursar_ready 1",
        "bursar_not_ready{reason=\"poisoned\"} 0",
        "bursar_unattributed_total{label=\"feature\"} 1",
        "bursar_answer_seconds_count{method=\"Reserve\"} 2",
        "bursar_answer_seconds_count{method=\"Commit\"} 2",
        "bursar_answer_seconds_count{method=\"Record\"} 0",
    ] {
        assert!(page.lines().any(|written| written == line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn standings_come_in_pages_that_leave_nothing_out() {
    let mut policy = one_limit(1_000);
    policy.limits[0].scope = vec!["tenant".into()];
    let sidecar = Sidecar::start(&policy);
    let mut client = sidecar.client().await;
    for number in 0..25 {
        let request = v1::ReserveRequest {
            labels: [("tenant".to_owned(), format!("t{number:02}"))].into(),
            ..reserve(&format!("r{number}"), 1)
        };
        client.reserve(request).await.unwrap();
    }
    let mut request = v1::ListStandingsRequest { page_size: 10, ..Default::default() };
    let mut tenants = Vec::new();
    for expected in [10, 10, 5] {
        let page = sidecar.running.standings(request.clone()).unwrap();
        assert_eq!(page.standings.len(), expected);
        tenants.extend(page.standings.iter().map(|standing| standing.scope["tenant"].clone()));
        request.page_token = page.next_page_token;
    }
    assert_eq!(request.page_token, "");
    assert_eq!(tenants, (0..25).map(|number| format!("t{number:02}")).collect::<Vec<_>>());
    request.scope = [("tenant".into(), "t07".into())].into();
    assert_eq!(sidecar.running.standings(request.clone()).unwrap().standings.len(), 1);
    request.page_size = 1_001;
    assert!(sidecar.running.standings(request).is_err());
}
