//! Asks a model one question within a budget: reserve, stream the answer, commit what was used.

mod model;
mod sidecar;

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use model::{Answer, Usage};
use sidecar::{Failure, Quota};
use uuid::Uuid;

#[allow(clippy::all, reason = "generated")]
mod bursar {
    tonic::include_proto!("bursar.v1");
}
use bursar::reserve_request::Input;
use bursar::reserve_response::Outcome as Decision;
use bursar::{
    Chat, ChatMessage, CommitRequest, Denial, Grant, Line, Meter, Outcome, ReleaseRequest,
    ReserveRequest, Shortfall,
};

const MODEL: &str = "openai/gpt-4.1-mini";

const NO: u8 = 1;
const WRONG: u8 = 2;
const UNDECIDED: u8 = 3;

/// A call to a model waits for the decision, so it gets half a second; nobody waits for a settlement.
const RESERVE_WITHIN_MS: &str = "500";
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

const USAGE: &str = "usage: chat QUESTION
BURSAR_TARGET says where the sidecar is: unix:///run/bursar/bursar.sock or 127.0.0.1:7420";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let (Some(question), None) = (words.next(), words.next()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(WRONG);
    };
    let within = env::var("RESERVE_WITHIN_MS").unwrap_or_else(|_| RESERVE_WITHIN_MS.to_owned());
    let Ok(within_ms) = within.parse() else {
        eprintln!("error: RESERVE_WITHIN_MS is no number of milliseconds: {within}");
        return ExitCode::from(WRONG);
    };
    // An error only if one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let target = env::var("BURSAR_TARGET").unwrap_or_else(|_| "127.0.0.1:7420".to_owned());
    match sidecar::connect(&target) {
        Ok(quota) => {
            let code = run(&quota, &question, Duration::from_millis(within_ms)).await;
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("error: BURSAR_TARGET: {error}");
            ExitCode::from(WRONG)
        }
    }
}

async fn run(quota: &Quota, question: &str, within: Duration) -> u8 {
    let grant = match reserve(quota, question, within).await {
        Ok(grant) => grant,
        Err(code) => return code,
    };
    eprintln!("granted: {} tokens in, {} out", grant.input_tokens, grant.output_tokens_granted);
    let mut answer = Answer::default();
    let show = |text: &str| {
        print!("{text}");
        // As it comes; whoever closed our output has seen enough.
        let _ = io::stdout().flush();
    };
    let streamed =
        model::stream(&grant.model, question, grant.output_tokens_granted, &mut answer, show).await;
    println!();
    match streamed {
        Ok(()) => commit(quota, grant.reservation_id, answer, Outcome::Completed).await,
        Err(model::Failure::NotRun(why)) => {
            eprintln!("error: the model did not run: {why}");
            release(quota, grant.reservation_id, why).await
        }
        Err(model::Failure::CutOff(why)) => {
            eprintln!("error: the answer was cut off: {why}");
            commit(quota, grant.reservation_id, answer, Outcome::Failed).await
        }
    }
}

/// Asks whether the call may run; without a grant it gives the exit code.
async fn reserve(quota: &Quota, question: &str, within: Duration) -> Result<Grant, u8> {
    let tenant = env::var("TENANT").unwrap_or_default();
    let message =
        ChatMessage { role: "user".to_owned(), text: question.to_owned(), ..Default::default() };
    let request = ReserveRequest {
        // The caller's own, so that the call may be repeated; one that begins with the time keeps the index small.
        reservation_id: Uuid::now_v7().to_string(),
        model: MODEL.to_owned(),
        labels: [("tenant".to_owned(), tenant), ("feature".to_owned(), "chat".to_owned())].into(),
        input: Some(Input::InputChat(Chat { messages: vec![message], tools: vec![] })),
        output_tokens_max: 200,
        output_tokens_min: Some(20),
        ..Default::default()
    };
    let id = request.reservation_id.clone();
    let send = |request| async move { quota.clone().reserve(request).await };
    match sidecar::call(within, request, send).await.map(|response| response.outcome) {
        Ok(Some(Decision::Grant(grant))) => Ok(grant),
        Ok(Some(Decision::Denial(denial))) => {
            tell(&denial);
            Err(NO)
        }
        Ok(None) => {
            eprintln!("error: no decision: the answer is of a later contract than this client");
            Err(UNDECIDED)
        }
        Err(failure) => {
            eprintln!("error: no decision: {failure}");
            Err(undecided(quota, id, &failure, within).await)
        }
    }
}

/// Says what refused and when to try again.
fn tell(denial: &Denial) {
    eprintln!("denied: {}: {}", denial.reason().as_str_name(), denial.hint);
    for shortfall in &denial.shortfalls {
        let standing = shortfall.standing.clone().unwrap_or_default();
        let (limit, left, unit) = (&standing.limit, standing.remaining, standing.unit());
        eprintln!(
            "refused by {limit}: {} {} needed, {left} left",
            shortfall.requested,
            unit.as_str_name()
        );
    }
    let settles =
        |refused: &Shortfall| refused.retry_after_ms.is_some() || refused.clears_on_settle;
    match denial.retry_after_ms {
        Some(retry_after_ms) => eprintln!("try again in {retry_after_ms} ms"),
        None if !denial.shortfalls.is_empty() && denial.shortfalls.iter().all(settles) => {
            eprintln!("try again when another call has been settled");
        }
        None => eprintln!("trying again does not help"),
    }
}

/// Tells a question that was wrong from one that nobody answered; gives the exit code.
async fn undecided(
    quota: &Quota,
    reservation_id: String,
    failure: &Failure,
    within: Duration,
) -> u8 {
    match failure.reason.as_deref() {
        Some("INVALID_FIELD") => WRONG,
        Some(_) => UNDECIDED,
        None => {
            // It may have been granted all the same. The model was not called, so give it back, if anyone listens.
            let reason = "no answer in time".to_owned();
            let request = ReleaseRequest { reservation_id, reason, ..Default::default() };
            let send = |request| async move { quota.clone().release(request).await };
            let _ = sidecar::call(within, request, send).await;
            UNDECIDED
        }
    }
}

/// Settles with what was used. Usage is never refused, so it gets more time.
async fn commit(quota: &Quota, reservation_id: String, answer: Answer, outcome: Outcome) -> u8 {
    let request = CommitRequest {
        reservation_id,
        outcome: outcome.into(),
        // Without lines the policy decides what a call that failed is charged.
        lines: answer.usage.as_ref().map(lines).unwrap_or_default(),
        response_id: answer.response_id,
        ..Default::default()
    };
    let send = |request| async move { quota.clone().commit(request).await };
    match sidecar::call(SETTLE_WITHIN, request, send).await {
        Ok(response) => {
            eprintln!("committed: {} tokens", response.tokens_committed);
            if outcome == Outcome::Completed { 0 } else { NO }
        }
        Err(failure) => {
            eprintln!("error: not committed, the reservation will expire: {failure}");
            UNDECIDED
        }
    }
}

/// Gives everything back.
async fn release(quota: &Quota, reservation_id: String, reason: String) -> u8 {
    let request = ReleaseRequest { reservation_id, reason, ..Default::default() };
    let send = |request| async move { quota.clone().release(request).await };
    match sidecar::call(SETTLE_WITHIN, request, send).await {
        Ok(response) => {
            eprintln!("released: {} tokens", response.tokens_released);
            NO
        }
        Err(failure) => {
            eprintln!("error: not released, the reservation will expire: {failure}");
            UNDECIDED
        }
    }
}

/// Makes the provider's usage disjoint: what it reports inside another number is taken out of it.
fn lines(used: &Usage) -> Vec<Line> {
    let (cached, reasoning) = (used.prompt_details.cached, used.completion_details.reasoning);
    let disjoint = [
        (Meter::Input, used.prompt.saturating_sub(cached)),
        (Meter::CacheRead, cached),
        (Meter::Output, used.completion.saturating_sub(reasoning)),
        (Meter::Reasoning, reasoning),
    ];
    let used = disjoint.into_iter().filter(|&(_, tokens)| tokens > 0);
    used.map(|(meter, tokens)| Line { meter: meter.into(), tokens, ..Default::default() }).collect()
}
