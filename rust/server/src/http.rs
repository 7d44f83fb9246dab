//! The HTTP/2 server: its services, and a limit for everything a caller could make grow.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bursar_proto::v1::quota_service_server::{QuotaServiceServer, SERVICE_NAME};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_health::server::HealthReporter;

use crate::accept::Connection;
use crate::service::Service;
use crate::settings::Transport;

/// The most calls in flight on one connection.
const STREAMS_MAX: u32 = 1_024;
/// The most streams that may be reset for a caller's mistakes before its connection is closed.
const ERROR_RESETS_MAX: usize = 256;
/// The most streams that a caller may reset before they were taken up.
const PENDING_RESETS_MAX: usize = 256;
/// The most bytes of a call's headers.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// What one connection may send before it is read: h2 takes many small frames against a small window for an
/// attack, and cuts off a thousand small calls at once.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// What one call may send before it is read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The most bytes of a message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// The most bytes of a message that may carry text to be counted.
const TEXT_MESSAGE_BYTES_MAX: usize = 8 << 20;
/// The calls that may carry text to be counted.
const TEXT_CALLS: [&str; 2] =
    ["/bursar.v1.QuotaService/Reserve", "/bursar.v1.QuotaService/CountTokens"];

/// The package of what is private to the store: reflection does not show it.
const PRIVATE_PACKAGE: &str = "bursar.ledger.v1";

/// Serves what is accepted until told to stop; then the calls in flight end, and their connections.
pub(crate) async fn serve(
    service: Service,
    health: HealthReporter,
    transport: Transport,
    accepted: mpsc::Receiver<io::Result<Connection>>,
    stop: oneshot::Receiver<()>,
) -> Result<(), String> {
    let reflection = reflection().map_err(|error| format!("reflection: {error}"))?;
    let reflection_alpha = reflection_alpha().map_err(|error| format!("reflection: {error}"))?;
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_keepalive_interval(Some(transport.keepalive))
        .http2_keepalive_timeout(Some(transport.keepalive_answer))
        .max_connection_age(transport.age_max)
        .max_connection_age_grace(transport.age_grace)
        .timeout(transport.call_max)
        .add_service(BySize::new(service))
        .add_service(tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(health),
        ))
        .add_service(reflection)
        .add_service(reflection_alpha)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), async {
            // Told to, or the one who could tell is gone.
            let _ = stop.await;
        })
        .await
        .map_err(|error| format!("serving failed: {error}"))
}

fn configured() -> tonic_reflection::server::Builder<'static> {
    let mut contract = prost_types::FileDescriptorSet::decode(bursar_proto::FILE_DESCRIPTOR_SET)
        .unwrap_or_default();
    contract.file.retain(|file| file.package() != PRIVATE_PACKAGE);
    tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(contract)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE_NAME)
        .with_service_name("grpc.health.v1.Health")
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
    tonic_reflection::server::Error,
> {
    configured().build_v1()
}

fn reflection_alpha() -> Result<
    tonic_reflection::server::v1alpha::ServerReflectionServer<
        impl tonic_reflection::server::v1alpha::ServerReflection,
    >,
    tonic_reflection::server::Error,
> {
    configured().build_v1alpha()
}

/// The service behind two limits on the size of a message, by what the call may carry. What is no message at all
/// is a wrong question.
#[derive(Clone)]
struct BySize {
    service: Service,
    small: QuotaServiceServer<Service>,
    text: QuotaServiceServer<Service>,
}

impl BySize {
    fn new(service: Service) -> Self {
        let limited =
            |bytes| QuotaServiceServer::new(service.clone()).max_decoding_message_size(bytes);
        let (small, text) = (limited(MESSAGE_BYTES_MAX), limited(TEXT_MESSAGE_BYTES_MAX));
        Self { service, small, text }
    }
}

impl NamedService for BySize {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for BySize {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = if TEXT_CALLS.contains(&request.uri().path()) {
            self.text.call(request)
        } else {
            self.small.call(request)
        };
        let service = self.service.clone();
        Box::pin(async move {
            let response = answer.await?;
            let unreadable = problem_of_message(&response);
            Ok(unreadable.map_or(response, |problem| service.unreadable(&problem).into_http()))
        })
    }
}

/// What was wrong with the message, where an answer says that it could not be read. tonic calls that INTERNAL, and
/// so does gRPC; of the failures that are ours none is without details.
fn problem_of_message(response: &http::Response<Body>) -> Option<String> {
    // Only an answer without a message has its status here.
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return None;
    }
    let status = Status::from_header_map(response.headers())?;
    let unread = status.code() == Code::Internal && status.details().is_empty();
    unread.then(|| status.message().to_owned())
}
