//! The floor: a tonic server that answers every Reserve with the same grant and does nothing else.

use std::path::Path;

use bursar_proto::v1::quota_service_server::{QuotaService, QuotaServiceServer};
use bursar_proto::v1::{
    CommitRequest, CommitResponse, CountTokensRequest, CountTokensResponse, ExtendRequest,
    ExtendResponse, ProgressRequest, ProgressResponse, RecordRequest, RecordResponse,
    ReleaseRequest, ReleaseResponse, ReserveRequest, ReserveResponse, SessionRequest,
    SessionResponse,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{Failure, request};

/// Serves until killed, and says so on standard output.
pub(crate) fn serve(socket: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(socket)?);
        println!("serving");
        let echo = Echo { answer: request::answer() };
        tonic::transport::Server::builder()
            .add_service(QuotaServiceServer::new(echo))
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    })
}

struct Echo {
    answer: ReserveResponse,
}

/// What the echo says to every call but Reserve.
fn not_measured() -> Status {
    Status::unimplemented("the echo answers Reserve only")
}

#[tonic::async_trait]
impl QuotaService for Echo {
    type SessionStream = tokio_stream::Empty<Result<SessionResponse, Status>>;

    async fn reserve(
        &self,
        _: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        Err(not_measured())
    }

    async fn release(
        &self,
        _: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        Err(not_measured())
    }

    async fn extend(&self, _: Request<ExtendRequest>) -> Result<Response<ExtendResponse>, Status> {
        Err(not_measured())
    }

    async fn progress(
        &self,
        _: Request<ProgressRequest>,
    ) -> Result<Response<ProgressResponse>, Status> {
        Err(not_measured())
    }

    async fn record(&self, _: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        Err(not_measured())
    }

    async fn count_tokens(
        &self,
        _: Request<CountTokensRequest>,
    ) -> Result<Response<CountTokensResponse>, Status> {
        Err(not_measured())
    }

    async fn session(
        &self,
        _: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(not_measured())
    }
}
