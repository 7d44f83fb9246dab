//! The connection to the sidecar: what gRPC does by itself in other languages, and how a failed call is told.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::bursar::quota_service_client::QuotaServiceClient;

pub type Quota = QuotaServiceClient<Channel>;

const ATTEMPTS_MAX: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);

/// Why a call got no answer that counts.
pub struct Failure {
    /// The name that bursar gave the reason; none: the call did not come as far as an answer.
    pub reason: Option<String>,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.reason.as_deref().unwrap_or("NO_ANSWER"), self.message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let named = status.get_details_error_info().filter(|info| info.domain == "bursar");
        let message = match status.message() {
            "" => status.code().to_string(),
            message => message.to_owned(),
        };
        Self { reason: named.map(|info| info.reason), message }
    }
}

/// Makes a client that connects at its first call, over TCP or (`unix:`) a socket.
pub fn connect(target: &str) -> Result<Quota, Error> {
    let target = if target.starts_with("unix:") { target } else { &format!("http://{target}") };
    let endpoint = Endpoint::from_shared(target.to_owned())?;
    Ok(QuotaServiceClient::new(endpoint.connect_lazy()))
}

/// Makes a call of at most this long, three times at most while the sidecar is unavailable: tonic repeats none by
/// itself, and every call may be repeated, because its id is the caller's.
pub async fn call<Asked, Answer, Answering>(
    within: Duration,
    asked: Asked,
    send: impl Fn(Request<Asked>) -> Answering,
) -> Result<Answer, Failure>
where
    Asked: Clone,
    Answering: Future<Output = Result<Response<Answer>, Status>>,
{
    let deadline = Instant::now() + within;
    let attempts = async {
        let (mut attempt, mut backoff) = (1, FIRST_BACKOFF);
        loop {
            let mut request = Request::new(asked.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            match send(request).await {
                Err(status) if status.code() == Code::Unavailable && attempt < ATTEMPTS_MAX => {
                    sleep(pushback(&status).unwrap_or(backoff)).await;
                    attempt += 1;
                    backoff *= 2;
                }
                answered => return answered,
            }
        }
    };
    let late = format!("nothing within {} ms", within.as_millis());
    let answered = timeout_at(deadline, attempts).await;
    let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded(late)))?;
    Ok(answered.into_inner())
}

/// How long the sidecar says to wait.
fn pushback(status: &Status) -> Option<Duration> {
    let said = status.metadata().get("grpc-retry-pushback-ms")?.to_str().ok()?;
    said.parse().ok().map(Duration::from_millis)
}
