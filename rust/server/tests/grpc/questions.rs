//! Wrong questions, and questions that get no answer: the table of status codes.

use bursar_proto::v1;
use bursar_proto::v1::reserve_request::Input;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::sidecar::{
    Client, START, Sidecar, commit, denial, grant, line, one_limit, record, release, reserve,
    unix_channel,
};

/// What names every reason to those who write clients.
const CONTRACT: &str = include_str!("../../../../proto/bursar/v1/quota.proto");

/// The reason sent with a status, and the field it names if any.
fn details(status: &Status) -> (String, Option<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "bursar");
    assert!(CONTRACT.contains(&info.reason), "the contract does not name {}", info.reason);
    let field = details.bad_request().and_then(|bad| bad.field_violations.first().cloned());
    (info.reason.clone(), field.map(|violation| violation.field))
}

fn assert_status<Answer: std::fmt::Debug>(
    answer: Result<Answer, Status>,
    code: Code,
    reason: &str,
) -> Status {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), &*details(&status).0), (code, reason), "{status:?}");
    status
}

fn assert_field<Answer: std::fmt::Debug>(answer: Result<Answer, Status>, field: &str) {
    let status = assert_status(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(details(&status).1.as_deref(), Some(field), "{status:?}");
    assert!(status.message().starts_with(field), "{status:?}");
}

async fn sidecar() -> (Sidecar, Client) {
    let sidecar = Sidecar::start(&one_limit(1_000));
    let client = sidecar.client().await;
    (sidecar, client)
}

/// Inputs that are wrong, each with the field that is.
fn wrong_inputs() -> Vec<(&'static str, Input)> {
    let chat = |role: &str, parts| {
        Input::InputChat(v1::Chat {
            messages: vec![v1::ChatMessage { role: role.into(), parts, ..Default::default() }],
            tools: Vec::new(),
        })
    };
    let lines = |lines| Input::InputLines(v1::InputLines { lines });
    vec![
        ("input_tokens", Input::InputTokens((1 << 40) + 1)),
        ("input_bytes", Input::InputBytes(u64::MAX)),
        ("input_lines.lines", lines(Vec::new())),
        ("input_lines.lines[0].meter", lines(vec![line(v1::Meter::Output, 1)])),
        ("input_chat.messages[0].role", chat("", vec![])),
        ("input_chat.messages[0].parts[0].part", chat("user", vec![v1::ChatPart::default()])),
    ]
}

/// A request with these labels.
fn labelled(labels: impl IntoIterator<Item = (String, String)>) -> v1::ReserveRequest {
    v1::ReserveRequest { labels: labels.into_iter().collect(), ..reserve("r1", 10) }
}

#[tokio::test]
async fn a_wrong_reserve_names_its_field_and_changes_nothing() {
    let (sidecar, mut client) = sidecar().await;
    let right = || reserve("r1", 10);
    let label = |key: &str, value: &str| labelled([(key.to_owned(), value.to_owned())]);
    let fallbacks = |names: &[&str]| v1::ReserveRequest {
        fallback_models: names.iter().map(ToString::to_string).collect(),
        ..right()
    };
    let model = |model: &str| v1::ReserveRequest { model: model.into(), ..right() };
    let wrong = [
        ("reservation_id", reserve("", 10)),
        ("reservation_id", reserve(&"a".repeat(65), 10)),
        ("model", model("")),
        ("model", model("gpt-4.1")),
        ("model", model(&format!("a/{}", "b".repeat(255)))),
        ("fallback_models", fallbacks(&["a/b"; 9])),
        ("fallback_models[1]", fallbacks(&["a/b", "c"])),
        ("service_tier", v1::ReserveRequest { service_tier: "a".repeat(257), ..right() }),
        ("labels", label("Tenant", "a")),
        ("labels", label("tenant", "")),
        ("labels", label("tenant", &"a".repeat(129))),
        ("labels", label("model", "a/b")),
        ("labels", labelled((0..17).map(|number| (format!("k{number}"), "v".into())))),
        ("output_tokens_max", v1::ReserveRequest { output_tokens_max: 1 << 41, ..right() }),
        (
            "output_tokens_min",
            v1::ReserveRequest { output_tokens_max: 5, output_tokens_min: Some(6), ..right() },
        ),
        ("choices", v1::ReserveRequest { choices: 129, ..right() }),
        ("charges", v1::ReserveRequest { charges: vec![v1::Charge::default()], ..right() }),
        ("ttl_ms", v1::ReserveRequest { ttl_ms: 999, ..right() }),
        ("ttl_ms", v1::ReserveRequest { ttl_ms: 7 * 24 * 60 * 60 * 1_000 + 1, ..right() }),
        ("durability", v1::ReserveRequest { durability: 3, ..right() }),
    ];
    for (field, request) in wrong {
        assert_field(client.reserve(request).await, field);
    }
    for (field, input) in wrong_inputs() {
        let request = v1::ReserveRequest { input: Some(input), ..right() };
        assert_field(client.reserve(request).await, field);
    }
    assert_eq!(sidecar.running.status().unwrap().ledger.unwrap().sequence, 1);
    assert!(grant(client.reserve(right()).await.unwrap().get_ref()).is_some());
}

#[tokio::test]
async fn a_wrong_commit_names_its_field_and_settles_nothing() {
    let (sidecar, mut client) = sidecar().await;
    client.reserve(reserve("r1", 10)).await.unwrap();
    let right = || commit("r1", 10);
    let input = v1::Meter::Input;
    let basis = v1::Line { basis: 9, ..line(input, 1) };
    let component = v1::Line { component: "a".repeat(257), ..line(input, 1) };
    let wrong = [
        ("reservation_id", v1::CommitRequest { reservation_id: String::new(), ..right() }),
        ("lines", v1::CommitRequest { lines: Vec::new(), ..right() }),
        ("lines", v1::CommitRequest { lines: vec![line(input, 1); 33], ..right() }),
        ("lines[0].meter", v1::CommitRequest { lines: vec![v1::Line::default()], ..right() }),
        (
            "lines[1].tokens",
            v1::CommitRequest { lines: vec![line(input, 1), line(input, 1 << 41)], ..right() },
        ),
        ("lines[0].basis", v1::CommitRequest { lines: vec![basis], ..right() }),
        ("lines[0].component", v1::CommitRequest { lines: vec![component], ..right() }),
        ("outcome", v1::CommitRequest { outcome: 0, ..right() }),
        ("outcome", v1::CommitRequest { outcome: 99, ..right() }),
        ("model", v1::CommitRequest { model: "nothing".into(), ..right() }),
        ("response_id", v1::CommitRequest { response_id: "a".repeat(257), ..right() }),
        ("total_tokens", v1::CommitRequest { total_tokens: Some(1 << 41), ..right() }),
        ("charges", v1::CommitRequest { charges: vec![v1::Charge::default()], ..right() }),
        ("latency_ms", v1::CommitRequest { latency_ms: u64::MAX, ..right() }),
        ("durability", v1::CommitRequest { durability: -1, ..right() }),
    ];
    for (field, request) in wrong {
        assert_field(client.commit(request).await, field);
    }
    assert_eq!(sidecar.standing("everything").reserved, 10);
}

#[tokio::test]
async fn a_wrong_release_or_record_or_count_names_its_field() {
    let (_sidecar, mut client) = sidecar().await;
    assert_field(client.release(release("")).await, "reservation_id");
    let reason = v1::ReleaseRequest { reason: "a".repeat(257), ..release("r1") };
    assert_field(client.release(reason).await, "reason");
    let right = || record("u1", 10);
    let wrong = [
        ("record_id", v1::RecordRequest { record_id: String::new(), ..right() }),
        ("model", v1::RecordRequest { model: String::new(), ..right() }),
        ("lines", v1::RecordRequest { lines: Vec::new(), ..right() }),
        ("occurred_at_unix_ms", v1::RecordRequest { occurred_at_unix_ms: 0, ..right() }),
        ("occurred_at_unix_ms", v1::RecordRequest { occurred_at_unix_ms: START.0 + 1, ..right() }),
        ("charges", v1::RecordRequest { charges: vec![v1::Charge::default()], ..right() }),
    ];
    for (field, request) in wrong {
        assert_field(client.record(request).await, field);
    }
    let both = v1::CountTokensRequest {
        model: "openai/gpt-4o".into(),
        texts: vec!["a".into()],
        chat: Some(v1::Chat::default()),
    };
    assert_field(client.count_tokens(both).await, "chat");
    let many = v1::CountTokensRequest {
        model: "openai/gpt-4o".into(),
        texts: vec![String::new(); 65],
        chat: None,
    };
    assert_field(client.count_tokens(many).await, "texts");
}

#[tokio::test]
async fn an_id_used_with_other_content_is_already_exists() {
    const REASON: &str = "ID_USED_WITH_OTHER_CONTENT";
    let (_sidecar, mut client) = sidecar().await;
    client.reserve(reserve("r1", 10)).await.unwrap();
    assert_status(client.reserve(reserve("r1", 11)).await, Code::AlreadyExists, REASON);
    client.commit(commit("r1", 10)).await.unwrap();
    assert_status(client.commit(commit("r1", 11)).await, Code::AlreadyExists, REASON);
    client.record(record("u1", 10)).await.unwrap();
    assert_status(client.record(record("u1", 11)).await, Code::AlreadyExists, REASON);
    assert_status(client.reserve(reserve("u1", 10)).await, Code::AlreadyExists, REASON);
}

#[tokio::test]
async fn the_same_content_in_another_order_or_at_another_durability_is_the_same_question() {
    let (_sidecar, mut client) = sidecar().await;
    let lines = vec![line(v1::Meter::Input, 5), line(v1::Meter::Output, 3)];
    let backwards = lines.iter().rev().cloned().collect();
    client.reserve(reserve("r1", 10)).await.unwrap();
    let power = v1::Durability::Power.into();
    let again = v1::ReserveRequest { durability: power, choices: 1, ..reserve("r1", 10) };
    assert!(client.reserve(again).await.unwrap().get_ref().replayed);
    let first = v1::CommitRequest { lines, ..commit("r1", 0) };
    let second = v1::CommitRequest {
        lines: backwards,
        durability: v1::Durability::Process.into(),
        ..commit("r1", 0)
    };
    let first = client.commit(first).await.unwrap().into_inner();
    let second = client.commit(second).await.unwrap().into_inner();
    assert!(!first.replayed && second.replayed);
    assert_eq!(first.ledger_sequence, second.ledger_sequence);
    assert_eq!((second.tokens_committed, second.tokens_overrun), (8, 0));
}

#[tokio::test]
async fn what_is_not_known_is_not_found_and_what_is_past_is_a_failed_precondition() {
    let (_sidecar, mut client) = sidecar().await;
    let unknown = "RESERVATION_NOT_FOUND";
    assert_status(client.commit(commit("r1", 1)).await, Code::NotFound, unknown);
    assert_status(client.release(release("r1")).await, Code::NotFound, unknown);
    client.reserve(reserve("r1", 10)).await.unwrap();
    client.commit(commit("r1", 1)).await.unwrap();
    let past = client.release(release("r1")).await;
    assert_status(past, Code::FailedPrecondition, "RESERVATION_NOT_OPEN");
}

#[tokio::test]
async fn what_this_version_does_not_serve_is_unimplemented_by_name() {
    let (_sidecar, mut client) = sidecar().await;
    let extend = client.extend(v1::ExtendRequest::default()).await;
    let status = assert_status(extend, Code::Unimplemented, "NOT_SERVED");
    assert_eq!(status.message(), "Extend is not served by this version");
    let progress = client.progress(v1::ProgressRequest::default()).await;
    assert_status(progress, Code::Unimplemented, "NOT_SERVED");
    let session = client.session(tokio_stream::empty()).await;
    assert_status(session, Code::Unimplemented, "NOT_SERVED");
}

#[tokio::test]
async fn a_sidecar_that_drains_refuses_reservations_with_a_pushback_and_takes_settlements() {
    let (sidecar, mut client) = sidecar().await;
    client.reserve(reserve("r1", 10)).await.unwrap();
    sidecar.running.drain();
    let status =
        assert_status(client.reserve(reserve("r2", 10)).await, Code::Unavailable, "DRAINING");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "100");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    client.commit(commit("r1", 10)).await.unwrap();
    client.record(record("u1", 10)).await.unwrap();
    let status = sidecar.running.status().unwrap();
    assert!(!status.ready && !status.not_ready_reason.is_empty());
}

#[tokio::test]
async fn a_denial_is_an_answer_and_changes_nothing() {
    let (sidecar, mut client) = sidecar().await;
    client.reserve(reserve("r1", 600)).await.unwrap();
    let answer = client.reserve(reserve("r2", 600)).await.unwrap().into_inner();
    let denial = denial(&answer).unwrap();
    assert_eq!(denial.reason(), v1::Reason::Limit);
    assert_eq!(denial.shortfalls[0].requested, 600);
    assert_eq!(denial.shortfalls[0].standing.as_ref().unwrap().remaining, 400);
    assert_eq!(sidecar.standing("everything").reserved, 600);
    assert_eq!(sidecar.running.status().unwrap().ledger.unwrap().sequence, 2);
}

#[tokio::test]
async fn a_dry_run_decides_and_remembers_nothing() {
    let (sidecar, mut client) = sidecar().await;
    let dry = v1::ReserveRequest { dry_run: true, ..reserve("r1", 10) };
    assert!(grant(client.reserve(dry).await.unwrap().get_ref()).is_some());
    assert_eq!(sidecar.running.status().unwrap().ledger.unwrap().sequence, 1);
    let answer = client.reserve(reserve("r1", 20)).await.unwrap().into_inner();
    assert!(!answer.replayed && grant(&answer).is_some());
}

#[tokio::test]
async fn what_is_no_message_of_the_call_is_a_wrong_question() {
    let (sidecar, _) = sidecar().await;
    let mut grpc = tonic::client::Grpc::new(unix_channel(&sidecar.socket()).await);
    for call in ["Reserve", "Commit", "Release", "Record", "CountTokens"] {
        let path = format!("/bursar.v1.QuotaService/{call}").parse().unwrap();
        // Its first field is a number, where each of the calls has a text or a message.
        let other = v1::CountedBy { method: v1::Method::Given.into(), ..Default::default() };
        let codec = tonic_prost::ProstCodec::<v1::CountedBy, v1::CountedBy>::default();
        grpc.ready().await.unwrap();
        let answer = grpc.unary(tonic::Request::new(other), path, codec).await;
        let status = assert_status(answer, Code::InvalidArgument, "MESSAGE_UNREADABLE");
        assert!(status.message().contains("invalid wire type"), "{call}: {status:?}");
    }
    let metrics = sidecar.running.metrics().unwrap();
    assert!(metrics.contains("bursar_faults_total{reason=\"MESSAGE_UNREADABLE\"} 5"), "{metrics}");
}
