//! A model behind an OpenAI-compatible API, streamed.

use std::env;

use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

/// What the provider says was used; cached and reasoning tokens are within the other two.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    #[serde(rename = "prompt_tokens")]
    pub prompt: u64,
    #[serde(rename = "completion_tokens")]
    pub completion: u64,
    #[serde(rename = "prompt_tokens_details")]
    pub prompt_details: PromptDetails,
    #[serde(rename = "completion_tokens_details")]
    pub completion_details: CompletionDetails,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct PromptDetails {
    #[serde(rename = "cached_tokens")]
    pub cached: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CompletionDetails {
    #[serde(rename = "reasoning_tokens")]
    pub reasoning: u64,
}

/// What the stream gave: its id, its usage if it came to the end.
#[derive(Default)]
pub struct Answer {
    pub response_id: String,
    pub usage: Option<Usage>,
}

pub enum Failure {
    /// The model did not run; the reason is one that the ledger can keep, of at most 256 bytes.
    NotRun(String),
    /// It may have run.
    CutOff(String),
}

#[derive(Deserialize)]
struct Chunk {
    id: String,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

/// Asks the model, bounded by the output that was granted, and shows the answer as it comes.
pub async fn stream(
    model: &str,
    question: &str,
    output_tokens_max: u64,
    answer: &mut Answer,
    show: impl Fn(&str),
) -> Result<(), Failure> {
    let base = env::var("OPENAI_BASE_URL");
    let base = base.as_deref().unwrap_or("https://api.openai.com/v1");
    let response = Client::new()
        .post(format!("{base}/chat/completions"))
        .bearer_auth(env::var("OPENAI_API_KEY").unwrap_or_default())
        .json(&json!({
            "model": model.trim_start_matches("openai/"),
            "messages": [{"role": "user", "content": question}],
            "max_completion_tokens": output_tokens_max,
            "stream": true,
            "stream_options": {"include_usage": true},
        }))
        .send()
        .await;
    match response {
        Ok(response) if response.status() == StatusCode::OK => read(response, answer, show).await,
        Ok(response) => Err(refused(response.status())),
        Err(error) if error.is_builder() => {
            Err(Failure::NotRun("OPENAI_BASE_URL is no address".to_owned()))
        }
        Err(error) if error.is_connect() => Err(Failure::NotRun("no connection".to_owned())),
        Err(error) => Err(Failure::CutOff(told(&error))),
    }
}

/// Only these say that the model did not run.
fn refused(status: StatusCode) -> Failure {
    let why = format!("status {}", status.as_u16());
    match status.as_u16() {
        400 | 401 | 404 | 429 => Failure::NotRun(why),
        _ => Failure::CutOff(why),
    }
}

/// Takes the answer apart, line by line; the last chunk has the usage.
async fn read(
    mut response: Response,
    answer: &mut Answer,
    show: impl Fn(&str),
) -> Result<(), Failure> {
    let mut got = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(|error| Failure::CutOff(told(&error)))? {
        got.extend_from_slice(&bytes);
        while let Some(end) = got.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = got.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else { continue };
            if data.trim_ascii() == b"[DONE]" {
                return Ok(());
            }
            let chunk: Chunk =
                serde_json::from_slice(data).map_err(|error| Failure::CutOff(error.to_string()))?;
            answer.response_id = chunk.id;
            answer.usage = chunk.usage.or(answer.usage.take());
            chunk
                .choices
                .iter()
                .filter_map(|choice| choice.delta.content.as_deref())
                .for_each(&show);
        }
    }
    Err(Failure::CutOff("it ended in the middle".to_owned()))
}

/// An error with its causes, which reqwest leaves out.
fn told(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
