//! The floor: a tonic server that answers every call with the same words and does nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bursar_proto::v1::quota_service_server::{QuotaService, QuotaServiceServer};
use bursar_proto::v1::{
    CommitRequest, CommitResponse, CountTokensRequest, CountTokensResponse, ExtendRequest,
    ExtendResponse, ProgressRequest, ProgressResponse, RecordRequest, RecordResponse,
    ReleaseRequest, ReleaseResponse, ReserveRequest, ReserveResponse, SessionRequest,
    SessionResponse,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::{LoadError, calls};

/// A bare echo that serves on a thread of its own until it is dropped: the sidecar's messages, transport
/// and runtime, and no decision.
#[derive(Debug)]
pub struct Echo {
    listen: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Binds and serves; port 0 takes a free one. Returns once it serves.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn start(socket: Option<PathBuf>, listen: Option<SocketAddr>) -> Result<Self, LoadError> {
        let (started, starting) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("bursar-echo".into())
            .spawn(move || live(socket, listen, &started, stopped))
            .map_err(LoadError::system("cannot start a thread"))?;
        let listen =
            starting.recv().map_err(|_| LoadError::Bug("the echo did not start".into()))??;
        Ok(Self { listen, stop: Some(stop), thread: Some(thread) })
    }

    /// The TCP address as bound.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.listen
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Whether it ended well is nothing that anyone could act on.
            let _ = thread.join();
        }
    }
}

/// What whoever started it waits for.
type Started = mpsc::SyncSender<Result<Option<SocketAddr>, LoadError>>;

/// The echo's life, on its own thread.
fn live(
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    started: &Started,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime.map_err(LoadError::system("cannot start a runtime")) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let address = match serve(socket, listen).await {
            Ok(address) => Ok(address),
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(address);
        // It ends when the other half is dropped.
        let _ = stopped.await;
    });
}

/// Binds both, and serves in the background.
async fn serve(
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
) -> Result<Option<SocketAddr>, LoadError> {
    let server = || {
        let echo = EchoService { reserved: calls::grant(), committed: calls::committed() };
        tonic::transport::Server::builder().add_service(QuotaServiceServer::new(echo))
    };
    if let Some(path) = socket {
        let listener = UnixListener::bind(&path)
            .map_err(LoadError::system(format!("cannot listen on unix:{}", path.display())))?;
        tokio::spawn(server().serve_with_incoming(UnixListenerStream::new(listener)));
    }
    let Some(wanted) = listen else { return Ok(None) };
    let cannot = || LoadError::system(format!("cannot listen on {wanted}"));
    let listener = TcpListener::bind(wanted).await.map_err(cannot())?;
    let address = listener.local_addr().map_err(cannot())?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server().serve_with_incoming(incoming));
    Ok(Some(address))
}

struct EchoService {
    reserved: ReserveResponse,
    committed: CommitResponse,
}

/// What the echo says to a call that nobody measures.
fn not_measured() -> Status {
    Status::unimplemented("the echo answers Reserve, Commit and Release only")
}

#[tonic::async_trait]
impl QuotaService for EchoService {
    type SessionStream = tokio_stream::Empty<Result<SessionResponse, Status>>;

    async fn reserve(
        &self,
        _: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        Ok(Response::new(self.reserved.clone()))
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        Ok(Response::new(self.committed.clone()))
    }

    async fn release(
        &self,
        _: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        Ok(Response::new(ReleaseResponse {
            tokens_released: calls::RESERVED_TOKENS,
            ..ReleaseResponse::default()
        }))
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
