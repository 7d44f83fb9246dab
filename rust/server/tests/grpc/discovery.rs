//! What a stranger can ask: health, and what is served.

use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::sidecar::{Sidecar, one_limit, unix_channel};

const SERVICE: &str = "bursar.v1.QuotaService";

async fn health(sidecar: &Sidecar, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(unix_channel(&sidecar.socket()).await);
    let request = HealthCheckRequest { service: service.into() };
    client.check(request).await.unwrap().get_ref().status()
}

async fn reflect(sidecar: &Sidecar, question: MessageRequest) -> Result<MessageResponse, Status> {
    let mut client = ServerReflectionClient::new(unix_channel(&sidecar.socket()).await);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    Ok(answers.into_inner().next().await.unwrap()?.message_response.unwrap())
}

#[tokio::test]
async fn health_is_serving_until_the_sidecar_drains() {
    let sidecar = Sidecar::start(&one_limit(1));
    for service in ["", SERVICE] {
        assert_eq!(health(&sidecar, service).await, ServingStatus::Serving);
    }
    sidecar.running.drain();
    for service in ["", SERVICE] {
        assert_eq!(health(&sidecar, service).await, ServingStatus::NotServing);
    }
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let sidecar = Sidecar::start(&one_limit(1));
    let answer = reflect(&sidecar, MessageRequest::ListServices(String::new())).await.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|service| &*service.name).collect();
    for name in [SERVICE, "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
        let symbol = MessageRequest::FileContainingSymbol(name.into());
        let answer = reflect(&sidecar, symbol).await.unwrap();
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
    }
    let private = MessageRequest::FileContainingSymbol("bursar.ledger.v1.Body".into());
    let status = reflect(&sidecar, private).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}
