//! The calls: each reads its question, asks one thing, and words the answer.

use std::sync::Arc;
use std::time::Instant;

use bursar_proto::v1;
use bursar_proto::v1::quota_service_server::QuotaService;
use bursar_quota::ReserveAnswer;
use tonic::{Request, Response, Status, Streaming};

use crate::count::Counter;
use crate::fault::Fault;
use crate::metrics::Method;
use crate::shared::Shared;
use crate::wire::{answer, ask};

/// The data plane's service; clones share everything.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    counter: Arc<Counter>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, counter: Arc::new(Counter::new()) }
    }

    async fn decide(&self, message: v1::ReserveRequest) -> Result<v1::ReserveResponse, Fault> {
        let ask::Reserve { mut request, models, input, durability } =
            self.read(ask::reserve(message))?;
        request.candidates = self.read(self.counter.candidates(models, input).await)?;
        let decided = self.shared.engine(|engine| engine.reserve(&request))?;
        self.shared.settled(decided.sequence, durability).await?;
        Ok(match decided.answer {
            ReserveAnswer::Granted(grant, _) => answer::granted(&grant, false, decided.now),
            ReserveAnswer::Replayed(grant) => answer::granted(&grant, true, decided.now),
            ReserveAnswer::Denied(denial) => {
                if self.shared.denials.wanted() {
                    self.shared.denials.put(&request, (*denial).clone(), decided.now);
                }
                answer::denied(*denial)
            }
        })
    }

    async fn settle(&self, message: v1::CommitRequest) -> Result<v1::CommitResponse, Fault> {
        let (request, durability) = self.read(ask::commit(message))?;
        let decided = self.shared.engine(|engine| engine.commit(&request))?;
        self.shared.settled(decided.sequence, durability).await?;
        Ok(answer::committed(&decided.answer, decided.sequence))
    }

    async fn give_back(&self, message: v1::ReleaseRequest) -> Result<v1::ReleaseResponse, Fault> {
        let (request, durability) = self.read(ask::release(message))?;
        let decided = self.shared.engine(|engine| engine.release(&request))?;
        self.shared.settled(decided.sequence, durability).await?;
        Ok(answer::released(&decided.answer, decided.sequence))
    }

    async fn enter(&self, message: v1::RecordRequest) -> Result<v1::RecordResponse, Fault> {
        let (request, durability) = self.read(ask::record(message))?;
        let decided = self.shared.engine(|engine| engine.record(&request))?;
        self.shared.settled(decided.sequence, durability).await?;
        Ok(answer::recorded(&decided.answer, decided.sequence))
    }

    async fn count(
        &self,
        message: v1::CountTokensRequest,
    ) -> Result<v1::CountTokensResponse, Fault> {
        let count = self.read(ask::count(message))?;
        let (tokens, counted) = self.read(self.counter.count(count).await)?;
        Ok(v1::CountTokensResponse { tokens, counted_by: Some(answer::counted_by(&counted)) })
    }

    /// Hands a question on, or counts that it was wrong.
    fn read<Question>(&self, question: Result<Question, Fault>) -> Result<Question, Fault> {
        match question {
            Ok(question) => Ok(question),
            Err(fault) => self.shared.engine(|_| Err(fault)),
        }
    }

    /// What is answered where what came could not be read as a question; it is counted like a wrong one.
    pub(crate) fn unreadable(&self, problem: &str) -> Status {
        self.read::<()>(Err(Fault::Unreadable(problem.into())))
            .map_or_else(Status::from, |()| Status::ok(""))
    }

    /// Answers, and takes note of how long that took.
    async fn answer<Answer>(
        &self,
        method: Method,
        work: impl Future<Output = Result<Answer, Fault>>,
    ) -> Result<Response<Answer>, Status> {
        let _call = self.shared.call();
        let began = Instant::now();
        let answer = work.await;
        self.shared.latencies.add(method, began.elapsed());
        Ok(Response::new(answer?))
    }
}

#[tonic::async_trait]
impl QuotaService for Service {
    type SessionStream = tokio_stream::Empty<Result<v1::SessionResponse, Status>>;

    async fn reserve(
        &self,
        request: Request<v1::ReserveRequest>,
    ) -> Result<Response<v1::ReserveResponse>, Status> {
        self.answer(Method::Reserve, self.decide(request.into_inner())).await
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        self.answer(Method::Commit, self.settle(request.into_inner())).await
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        self.answer(Method::Release, self.give_back(request.into_inner())).await
    }

    async fn extend(
        &self,
        _: Request<v1::ExtendRequest>,
    ) -> Result<Response<v1::ExtendResponse>, Status> {
        Err(Fault::NotServed("Extend").into())
    }

    async fn progress(
        &self,
        _: Request<v1::ProgressRequest>,
    ) -> Result<Response<v1::ProgressResponse>, Status> {
        Err(Fault::NotServed("Progress").into())
    }

    async fn record(
        &self,
        request: Request<v1::RecordRequest>,
    ) -> Result<Response<v1::RecordResponse>, Status> {
        self.answer(Method::Record, self.enter(request.into_inner())).await
    }

    async fn count_tokens(
        &self,
        request: Request<v1::CountTokensRequest>,
    ) -> Result<Response<v1::CountTokensResponse>, Status> {
        self.answer(Method::CountTokens, self.count(request.into_inner())).await
    }

    async fn session(
        &self,
        _: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Fault::NotServed("Session").into())
    }
}
