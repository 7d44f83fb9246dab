//! Callers that send too much, or too little.

use bursar_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;
use tonic::metadata::MetadataValue;

use crate::sidecar::{Sidecar, commit, grant, line, one_limit, reserve};

#[tokio::test]
async fn a_message_larger_than_its_call_may_carry_is_refused() {
    let sidecar = Sidecar::start(&one_limit(1 << 40));
    let mut client = sidecar.client().await;
    client.reserve(reserve("r1", 1)).await.unwrap();
    let source = "a".repeat(64 << 10);
    let large = v1::CommitRequest {
        lines: vec![v1::Line { source, ..line(v1::Meter::Input, 1) }],
        ..commit("r1", 1)
    };
    assert_eq!(client.commit(large).await.unwrap_err().code(), Code::OutOfRange);
    let text = |bytes| v1::ReserveRequest {
        input: Some(v1::reserve_request::Input::InputText("a".repeat(bytes))),
        model: "other/model".into(),
        ..reserve("r2", 0)
    };
    assert_eq!(client.reserve(text(8 << 20)).await.unwrap_err().code(), Code::OutOfRange);
    let answer = client.reserve(text(8_000_000)).await.unwrap().into_inner();
    assert_eq!(grant(&answer).unwrap().input_tokens, 8_000_000);
}

#[tokio::test]
async fn too_many_bytes_of_headers_fail_their_call_and_no_neighbour() {
    let sidecar = Sidecar::start(&one_limit(100));
    let mut neighbour = sidecar.tcp_client().await;
    neighbour.reserve(reserve("r1", 1)).await.unwrap();
    let mut request = tonic::Request::new(reserve("r2", 1));
    let value: MetadataValue<_> = "a".repeat(32 << 10).parse().unwrap();
    request.metadata_mut().insert("x-large", value);
    assert!(sidecar.tcp_client().await.reserve(request).await.is_err());
    neighbour.reserve(reserve("r3", 1)).await.unwrap();
    assert_eq!(sidecar.standing("everything").reserved, 2);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let sidecar = Sidecar::start(&one_limit(1));
    let address = sidecar.running.listen_address().unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    // Whatever the server said first, its end comes within the deadline and some.
    let mut said = Vec::new();
    for connection in [&mut silent, &mut slow] {
        let end = connection.read_to_end(&mut said);
        let limit = std::time::Duration::from_secs(20);
        // An end or a reset: either way it is gone.
        let _ = tokio::time::timeout(limit, end).await.unwrap();
    }
    sidecar.client().await.reserve(reserve("r1", 1)).await.unwrap();
}

/// The value of a metric.
fn metric(sidecar: &Sidecar, name: &str) -> u64 {
    let page = sidecar.running.metrics().unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_connection_past_a_bound_is_closed_at_once_and_no_caller_takes_every_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut few = crate::sidecar::settings(folder.path(), &one_limit(100));
    few.transport.connections_max = 3;
    few.transport.connections_per_caller_max = 2;
    let running = bursar_server::Server::start(few).unwrap();
    let sidecar = Sidecar { running, folder };
    let mut first = sidecar.client().await;
    first.reserve(reserve("r1", 1)).await.unwrap();
    let mut second = sidecar.client().await;
    second.reserve(reserve("r2", 1)).await.unwrap();
    let mut third = UnixStream::connect(sidecar.socket()).await.unwrap();
    assert_eq!(third.read(&mut [0]).await.unwrap(), 0, "two of this user are all there may be");
    let mut other = sidecar.tcp_client().await;
    other.reserve(reserve("r3", 1)).await.unwrap();
    let address = sidecar.running.listen_address().unwrap();
    let mut fourth = TcpStream::connect(address).await.unwrap();
    let end = fourth.read(&mut [0]).await;
    assert!(matches!(end, Ok(0) | Err(_)), "three are all there may be");
    assert_eq!(metric(&sidecar, "bursar_connections_refused_total{cause=\"of_caller\"}"), 1);
    assert_eq!(metric(&sidecar, "bursar_connections_refused_total{cause=\"in_all\"}"), 1);
    drop(second);
    while metric(&sidecar, "bursar_connections") > 2 {
        tokio::task::yield_now().await;
    }
    sidecar.client().await.reserve(reserve("r4", 1)).await.unwrap();
}
