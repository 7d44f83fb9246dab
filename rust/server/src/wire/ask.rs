//! What is asked, from messages: every field checked, then turned into the rules' own types.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{
    Basis, CommitRequest, Line, Meter, Milliseconds, Outcome, RecordRequest, ReleaseRequest,
    ReserveRequest, Timestamp,
};

use super::{check, digest};
use crate::fault::Fault;

/// The most models to fall back to.
const FALLBACK_MODELS_MAX: usize = 8;
/// The most choices.
const CHOICES_MAX: u64 = 128;
/// The shortest and the longest life of a reservation, in milliseconds.
const TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=7 * 24 * 60 * 60 * 1_000;
/// The longest latency that is believed, in milliseconds: a year.
const LATENCY_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1_000;
/// The most messages of a chat.
const CHAT_MESSAGES_MAX: usize = 4_096;
/// The most elements of a list whose field says nothing else.
const LIST_MAX: usize = 64;

/// What an answer must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The process's death.
    Process,
    /// A loss of power.
    Power,
}

/// A Reserve as checked, its input perhaps still to be counted.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// All but the candidates, which the count fills in.
    pub(crate) request: ReserveRequest,
    /// The model wanted, and those to fall back to.
    pub(crate) models: Vec<Arc<str>>,
    /// The input as it came.
    pub(crate) input: Input,
    /// What the answer must survive.
    pub(crate) durability: Durability,
}

/// An input as a caller has it.
#[derive(Debug)]
pub(crate) enum Input {
    /// None: zero tokens.
    None,
    /// Counted by the caller.
    Tokens(u64),
    /// An upper bound.
    Bytes(u64),
    /// To be counted.
    Text(String),
    /// To be counted.
    Chat(v1::Chat),
    /// Counted by the caller, by meter.
    Lines(Vec<Line>),
}

/// Texts to be counted for a model.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) model: Arc<str>,
    pub(crate) texts: Vec<String>,
    pub(crate) chat: Option<v1::Chat>,
}

pub(crate) fn reserve(message: v1::ReserveRequest) -> Result<Reserve, Fault> {
    check::no_charges(&message.charges)?;
    check::string("service_tier", &message.service_tier)?;
    let output_tokens_max = check::tokens("output_tokens_max", message.output_tokens_max)?;
    if let Some(least) = message.output_tokens_min.filter(|least| *least > output_tokens_max) {
        let problem =
            format!("got {least}; it must be at most output_tokens_max, {output_tokens_max}");
        return Err(Fault::invalid("output_tokens_min", problem));
    }
    check::at_most("choices", u64::from(message.choices), CHOICES_MAX)?;
    let mut asked = Reserve {
        durability: durability(message.durability, Durability::Process)?,
        models: models(message.model, message.fallback_models)?,
        input: input(message.input)?,
        request: ReserveRequest {
            id: check::id("reservation_id", message.reservation_id)?,
            digest: 0,
            candidates: Vec::new(),
            service_tier: message.service_tier.into(),
            labels: check::labels(message.labels)?,
            output_tokens_max,
            output_tokens_min: message.output_tokens_min,
            choices: message.choices.max(1),
            ttl: ttl(message.ttl_ms)?,
            dry_run: message.dry_run,
        },
    };
    asked.request.digest = digest::reserve(&asked.request, &asked.models, &asked.input);
    Ok(asked)
}

fn models(wanted: String, fallbacks: Vec<String>) -> Result<Vec<Arc<str>>, Fault> {
    check::list("fallback_models", fallbacks.len(), FALLBACK_MODELS_MAX)?;
    let mut models = Vec::with_capacity(1 + fallbacks.len());
    models.push(check::model("model", wanted)?);
    for (at, fallback) in fallbacks.into_iter().enumerate() {
        models.push(check::model(&format!("fallback_models[{at}]"), fallback)?);
    }
    Ok(models)
}

fn input(input: Option<v1::reserve_request::Input>) -> Result<Input, Fault> {
    use v1::reserve_request::Input as Sent;
    Ok(match input {
        None => Input::None,
        Some(Sent::InputTokens(tokens)) => Input::Tokens(check::tokens("input_tokens", tokens)?),
        Some(Sent::InputBytes(bytes)) => Input::Bytes(check::tokens("input_bytes", bytes)?),
        Some(Sent::InputText(text)) => Input::Text(text),
        Some(Sent::InputChat(chat)) => {
            check_chat("input_chat", &chat)?;
            Input::Chat(chat)
        }
        Some(Sent::InputLines(lines)) => Input::Lines(input_lines(lines)?),
    })
}

fn input_lines(lines: v1::InputLines) -> Result<Vec<Line>, Fault> {
    const FIELD: &str = "input_lines.lines";
    if lines.lines.is_empty() {
        return Err(Fault::invalid(FIELD, "it is empty; it must have 1 to 32 lines"));
    }
    let lines = check::lines(FIELD, lines.lines, Basis::Estimated)?;
    for (at, line) in lines.iter().enumerate() {
        if matches!(
            line.meter,
            Meter::Output | Meter::Reasoning | Meter::AudioOutput | Meter::ImageOutput
        ) {
            let meter = v1::Meter::try_from(line.meter as i32).unwrap_or_default();
            let problem = format!(
                "got {}, which is output; it must be a meter of input: say output by output_tokens_max",
                meter.as_str_name()
            );
            return Err(Fault::invalid(format!("{FIELD}[{at}].meter"), problem));
        }
    }
    Ok(lines)
}

fn ttl(ttl_ms: u64) -> Result<Option<Milliseconds>, Fault> {
    if ttl_ms == 0 {
        return Ok(None);
    }
    if !TTL_MS.contains(&ttl_ms) {
        let problem = format!(
            "got {ttl_ms}; it must be {} (1 s) to {} (7 days), or 0 for the policy's",
            TTL_MS.start(),
            TTL_MS.end()
        );
        return Err(Fault::invalid("ttl_ms", problem));
    }
    Ok(Some(Milliseconds(ttl_ms)))
}

fn durability(number: i32, unsaid: Durability) -> Result<Durability, Fault> {
    match v1::Durability::try_from(number) {
        Ok(v1::Durability::Unspecified) => Ok(unsaid),
        Ok(v1::Durability::Process) => Ok(Durability::Process),
        Ok(v1::Durability::Power) => Ok(Durability::Power),
        Err(_) => {
            let problem =
                format!("got {number}; it must be DURABILITY_PROCESS or DURABILITY_POWER");
            Err(Fault::invalid("durability", problem))
        }
    }
}

fn outcome(number: i32, unsaid: Option<Outcome>) -> Result<Outcome, Fault> {
    let said = match v1::Outcome::try_from(number) {
        Ok(v1::Outcome::Unspecified) => unsaid,
        Ok(v1::Outcome::Completed) => Some(Outcome::Completed),
        Ok(v1::Outcome::Cancelled) => Some(Outcome::Cancelled),
        Ok(v1::Outcome::Failed) => Some(Outcome::Failed),
        Ok(v1::Outcome::Unknown) => Some(Outcome::Unknown),
        Err(_) => None,
    };
    said.ok_or_else(|| {
        let problem = format!(
            "got {number}; it must be OUTCOME_COMPLETED, OUTCOME_CANCELLED, OUTCOME_FAILED or OUTCOME_UNKNOWN"
        );
        Fault::invalid("outcome", problem)
    })
}

/// A Commit with what its answer must survive.
pub(crate) fn commit(message: v1::CommitRequest) -> Result<(CommitRequest, Durability), Fault> {
    check::no_charges(&message.charges)?;
    check::string("model_version", &message.model_version)?;
    check::string("service_tier", &message.service_tier)?;
    check::string("response_id", &message.response_id)?;
    check::at_most("latency_ms", message.latency_ms, LATENCY_MS_MAX)?;
    check::at_most("first_token_ms", message.first_token_ms, LATENCY_MS_MAX)?;
    if let Some(total) = message.total_tokens {
        check::tokens("total_tokens", total)?;
    }
    let durability = durability(message.durability, Durability::Power)?;
    let mut request = CommitRequest {
        id: check::id("reservation_id", message.reservation_id)?,
        digest: 0,
        lines: check::lines("lines", message.lines, Basis::Measured)?,
        outcome: outcome(message.outcome, None)?,
        model: check::model_or_none("model", message.model)?,
        model_version: message.model_version.into(),
        service_tier: Some(message.service_tier).filter(|tier| !tier.is_empty()).map(Arc::from),
        response_id: message.response_id.into(),
        labels: check::labels(message.labels)?,
        total_tokens: message.total_tokens,
        latency_ms: message.latency_ms,
        first_token_ms: message.first_token_ms,
    };
    lines_fit_outcome(&request.lines, request.outcome)?;
    request.digest = digest::commit(&request);
    Ok((request, durability))
}

fn lines_fit_outcome(lines: &[Line], outcome: Outcome) -> Result<(), Fault> {
    if !lines.is_empty() || matches!(outcome, Outcome::Failed | Outcome::Unknown) {
        return Ok(());
    }
    let problem = format!(
        "there are none; a call that is {} has at least one: where usage is not known, \
         say OUTCOME_FAILED or OUTCOME_UNKNOWN",
        if outcome == Outcome::Completed { "completed" } else { "cancelled" }
    );
    Err(Fault::invalid("lines", problem))
}

/// A Release with what its answer must survive.
pub(crate) fn release(message: v1::ReleaseRequest) -> Result<(ReleaseRequest, Durability), Fault> {
    check::string("reason", &message.reason)?;
    let durability = durability(message.durability, Durability::Process)?;
    let mut request = ReleaseRequest {
        id: check::id("reservation_id", message.reservation_id)?,
        digest: 0,
        reason: message.reason.into(),
    };
    request.digest = digest::release(&request);
    Ok((request, durability))
}

/// A Record with what its answer must survive.
pub(crate) fn record(message: v1::RecordRequest) -> Result<(RecordRequest, Durability), Fault> {
    check::no_charges(&message.charges)?;
    check::string("model_version", &message.model_version)?;
    check::string("service_tier", &message.service_tier)?;
    check::string("response_id", &message.response_id)?;
    check::at_most("latency_ms", message.latency_ms, LATENCY_MS_MAX)?;
    if let Some(total) = message.total_tokens {
        check::tokens("total_tokens", total)?;
    }
    if message.occurred_at_unix_ms <= 0 {
        let problem = format!(
            "got {}; it must be the instant the call was made, in milliseconds since 1970 UTC",
            message.occurred_at_unix_ms
        );
        return Err(Fault::invalid("occurred_at_unix_ms", problem));
    }
    if message.lines.is_empty() {
        return Err(Fault::invalid("lines", "there are none; a record has 1 to 32"));
    }
    let durability = durability(message.durability, Durability::Power)?;
    let mut request = RecordRequest {
        id: check::id("record_id", message.record_id)?,
        digest: 0,
        model: check::model("model", message.model)?,
        model_version: message.model_version.into(),
        service_tier: message.service_tier.into(),
        labels: check::labels(message.labels)?,
        lines: check::lines("lines", message.lines, Basis::Measured)?,
        outcome: outcome(message.outcome, Some(Outcome::Completed))?,
        occurred_at: Timestamp(message.occurred_at_unix_ms),
        response_id: message.response_id.into(),
        total_tokens: message.total_tokens,
        latency_ms: message.latency_ms,
    };
    request.digest = digest::record(&request);
    Ok((request, durability))
}

/// Texts or a chat to be counted.
pub(crate) fn count(message: v1::CountTokensRequest) -> Result<Count, Fault> {
    let model = check::model("model", message.model)?;
    check::list("texts", message.texts.len(), LIST_MAX)?;
    if let Some(chat) = &message.chat {
        if !message.texts.is_empty() {
            return Err(Fault::invalid(
                "chat",
                "there are texts too; give texts or a chat, not both",
            ));
        }
        check_chat("chat", chat)?;
    } else if message.texts.is_empty() {
        return Err(Fault::invalid("texts", "there are none, and no chat; give one of them"));
    }
    Ok(Count { model, texts: message.texts, chat: message.chat })
}

fn check_chat(field: &str, chat: &v1::Chat) -> Result<(), Fault> {
    check::list(&format!("{field}.messages"), chat.messages.len(), CHAT_MESSAGES_MAX)?;
    check::list(&format!("{field}.tools"), chat.tools.len(), LIST_MAX)?;
    for (at, message) in chat.messages.iter().enumerate() {
        let named = |part: &str| format!("{field}.messages[{at}].{part}");
        if message.role.is_empty() {
            let problem = "it is empty; it must say who speaks: system, user, assistant, tool";
            return Err(Fault::invalid(named("role"), problem));
        }
        check::string(&named("role"), &message.role)?;
        check::string(&named("name"), &message.name)?;
        check::list(&named("parts"), message.parts.len(), LIST_MAX)?;
        for (part_at, part) in message.parts.iter().enumerate() {
            let named = |part: &str| format!("{field}.messages[{at}].parts[{part_at}].{part}");
            match &part.part {
                None => {
                    let problem = "it is not set; it must be text or a tool call";
                    return Err(Fault::invalid(named("part"), problem));
                }
                Some(v1::chat_part::Part::ToolCall(call)) => {
                    tool_name(&named("tool_call.name"), &call.name)?;
                }
                Some(v1::chat_part::Part::Text(_)) => {}
            }
        }
    }
    for (at, tool) in chat.tools.iter().enumerate() {
        tool_name(&format!("{field}.tools[{at}].name"), &tool.name)?;
    }
    Ok(())
}

fn tool_name(field: &str, name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::invalid(field, "it is empty; it must be the tool's name"));
    }
    check::string(field, name)
}
