//! The content of a question as one number: every field but the id and the durability, maps and lines in any
//! order, so that the same question sent twice is known for what it is. The numbers are kept in the ledger:
//! what is digested, and in which order, never changes.

use std::hash::Hasher as _;

use bursar_proto::v1;
use bursar_quota::{CommitRequest, Labels, Line, RecordRequest, ReleaseRequest};
use siphasher::sip::SipHasher13;

use super::ask::Input;

/// Writes fields one after the other, each so that no two different contents write the same bytes.
struct Content(SipHasher13);

impl Content {
    /// Begins the content of one kind of question.
    fn of(kind: u64) -> Self {
        let mut content = Self(SipHasher13::new());
        content.number(kind);
        content
    }

    fn number(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    fn optional(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.write(text.as_bytes());
    }

    fn optional_text(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or(""));
    }

    fn labels(&mut self, labels: &Labels) {
        self.number(labels.len() as u64);
        for (key, value) in labels.iter() {
            self.text(key);
            self.text(value);
        }
    }

    fn lines(&mut self, lines: &[Line]) {
        let mut sorted: Vec<&Line> = lines.iter().collect();
        sorted.sort_unstable();
        self.number(sorted.len() as u64);
        for line in sorted {
            self.number(u64::from(line.meter as u8));
            self.number(line.tokens);
            self.text(&line.component);
            self.text(&line.source);
            self.number(u64::from(line.basis as u8));
        }
    }

    /// The digest; never 0, which the ledger keeps for what nobody asked.
    fn digest(self) -> u64 {
        self.0.finish().max(1)
    }
}

/// The digest of a Reserve, whose input may still be text.
pub(super) fn reserve(
    request: &bursar_quota::ReserveRequest,
    models: &[std::sync::Arc<str>],
    input: &Input,
) -> u64 {
    let mut content = Content::of(1);
    content.number(models.len() as u64);
    for model in models {
        content.text(model);
    }
    content.text(&request.service_tier);
    content.labels(&request.labels);
    match input {
        Input::None => content.number(0),
        Input::Tokens(tokens) => {
            content.number(1);
            content.number(*tokens);
        }
        Input::Bytes(bytes) => {
            content.number(2);
            content.number(*bytes);
        }
        Input::Text(text) => {
            content.number(3);
            content.text(text);
        }
        Input::Chat(chat) => {
            content.number(4);
            chat_content(&mut content, chat);
        }
        Input::Lines(lines) => {
            content.number(5);
            content.lines(lines);
        }
    }
    content.number(request.output_tokens_max);
    content.optional(request.output_tokens_min);
    content.number(u64::from(request.choices));
    content.optional(request.ttl.map(|ttl| ttl.0));
    content.number(u64::from(request.dry_run));
    content.digest()
}

fn chat_content(content: &mut Content, chat: &v1::Chat) {
    content.number(chat.messages.len() as u64);
    for message in &chat.messages {
        content.text(&message.role);
        content.text(&message.name);
        content.text(&message.text);
        content.number(message.parts.len() as u64);
        for part in &message.parts {
            match &part.part {
                None => content.number(0),
                Some(v1::chat_part::Part::Text(text)) => {
                    content.number(1);
                    content.text(text);
                }
                Some(v1::chat_part::Part::ToolCall(call)) => {
                    content.number(2);
                    content.text(&call.name);
                    content.text(&call.arguments_json);
                }
            }
        }
    }
    content.number(chat.tools.len() as u64);
    for tool in &chat.tools {
        content.text(&tool.name);
        content.text(&tool.description);
        content.text(&tool.parameters_json);
    }
}

/// The digest of a Commit.
pub(super) fn commit(request: &CommitRequest) -> u64 {
    let mut content = Content::of(2);
    content.lines(&request.lines);
    content.number(u64::from(request.outcome as u8));
    content.optional_text(request.model.as_deref());
    content.text(&request.model_version);
    content.optional_text(request.service_tier.as_deref());
    content.text(&request.response_id);
    content.labels(&request.labels);
    content.optional(request.total_tokens);
    content.number(request.latency_ms);
    content.number(request.first_token_ms);
    content.digest()
}

/// The digest of a Release.
pub(super) fn release(request: &ReleaseRequest) -> u64 {
    let mut content = Content::of(3);
    content.text(&request.reason);
    content.digest()
}

/// The digest of a Record.
pub(super) fn record(request: &RecordRequest) -> u64 {
    let mut content = Content::of(4);
    content.text(&request.model);
    content.text(&request.model_version);
    content.text(&request.service_tier);
    content.labels(&request.labels);
    content.lines(&request.lines);
    content.number(u64::from(request.outcome as u8));
    content.number(request.occurred_at.0.cast_unsigned());
    content.text(&request.response_id);
    content.optional(request.total_tokens);
    content.number(request.latency_ms);
    content.digest()
}
