//! Counting an input: at once where that is quick, elsewhere than on the data plane's thread where it is not.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{Basis, Candidate, Counted, Line, Meter, Method};
use tokio::sync::Semaphore;

use crate::fault::{Fault, Unavailable};
use crate::wire::ask::{Count, Input};

/// The most large texts that are counted or wait for it; each may have a message's size.
const COUNTS_MAX: usize = 64;

/// Where large texts wait to be counted.
pub(crate) struct Counter {
    slots: Semaphore,
}

impl Counter {
    pub(crate) fn new() -> Self {
        Self { slots: Semaphore::new(COUNTS_MAX) }
    }

    /// The models with the input as counted for each.
    pub(crate) async fn candidates(
        &self,
        models: Vec<Arc<str>>,
        input: Input,
    ) -> Result<Vec<Candidate>, Fault> {
        let bytes = match &input {
            Input::Text(text) => text.len(),
            Input::Chat(chat) => chat_texts(chat).map(str::len).sum(),
            _ => 0,
        };
        let quick = bytes == 0 || models.iter().all(|model| bursar_tokens::is_quick(model, bytes));
        let count = move || candidates(models, &input);
        if quick { Ok(count()) } else { self.elsewhere(count).await }
    }

    /// The tokens of each text, or of the chat, and how they were counted.
    pub(crate) async fn count(&self, count: Count) -> Result<(Vec<u64>, Counted), Fault> {
        let bytes = count.texts.iter().map(String::len).sum::<usize>()
            + count.chat.iter().flat_map(chat_texts).map(str::len).sum::<usize>();
        let quick = bursar_tokens::is_quick(&count.model, bytes);
        let work = move || count_tokens(&count);
        if quick { Ok(work()) } else { self.elsewhere(work).await }
    }

    async fn elsewhere<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Fault> {
        let _slot =
            self.slots.try_acquire().map_err(|_| Fault::Unavailable(Unavailable::TooManyCounts))?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Fault::Bug(format!("counting a text failed: {error}")))
    }
}

/// Counts texts or a chat for a model, wherever it is called.
pub(crate) fn count_tokens(count: &Count) -> (Vec<u64>, Counted) {
    if let Some(chat) = &count.chat {
        let tokens = count_chat(&count.model, chat);
        return (vec![tokens.tokens], counted(tokens));
    }
    let counts: Vec<_> =
        count.texts.iter().map(|text| bursar_tokens::count_text(&count.model, text)).collect();
    let how =
        counts.first().copied().unwrap_or_else(|| bursar_tokens::count_text(&count.model, ""));
    (counts.iter().map(|count| count.tokens).collect(), counted(how))
}

/// The models with the input as counted for each, on whichever thread asks.
pub(crate) fn candidates(models: Vec<Arc<str>>, input: &Input) -> Vec<Candidate> {
    models.into_iter().map(|model| candidate(model, input)).collect()
}

fn candidate(model: Arc<str>, input: &Input) -> Candidate {
    let given = |method| Counted { method, tokenizer: "".into() };
    let (input, counted) = match input {
        Input::None => (Vec::new(), given(Method::Given)),
        Input::Tokens(tokens) => (vec![input_line(*tokens)], given(Method::Given)),
        Input::Bytes(bytes) => (vec![input_line(*bytes)], given(Method::Bound)),
        Input::Lines(lines) => (lines.clone(), given(Method::Given)),
        Input::Text(text) => {
            let tokens = bursar_tokens::count_text(&model, text);
            (vec![input_line(tokens.tokens)], counted(tokens))
        }
        Input::Chat(chat) => {
            let tokens = count_chat(&model, chat);
            (vec![input_line(tokens.tokens)], counted(tokens))
        }
    };
    Candidate { model, input: input.into(), counted }
}

fn input_line(tokens: u64) -> Line {
    Line::plain(Meter::Input, tokens, Basis::Estimated)
}

fn counted(count: bursar_tokens::Counted) -> Counted {
    let method = match count.method {
        bursar_tokens::Method::Exact => Method::Exact,
        bursar_tokens::Method::Estimate => Method::Estimate,
        bursar_tokens::Method::Bound => Method::Bound,
    };
    Counted { method, tokenizer: count.tokenizer.into() }
}

fn count_chat(model: &str, chat: &v1::Chat) -> bursar_tokens::Counted {
    let messages = chat.messages.iter().map(|message| bursar_tokens::Message {
        role: &message.role,
        name: &message.name,
        text: &message.text,
        parts: message.parts.iter().flat_map(part_texts),
    });
    bursar_tokens::count_chat(model, messages, chat.tools.iter().flat_map(tool_texts))
}

fn part_texts(part: &v1::ChatPart) -> impl Iterator<Item = &str> {
    let texts = match &part.part {
        None => ["", ""],
        Some(v1::chat_part::Part::Text(text)) => [&**text, ""],
        Some(v1::chat_part::Part::ToolCall(call)) => [&*call.name, &*call.arguments_json],
    };
    texts.into_iter()
}

fn tool_texts(tool: &v1::ToolDefinition) -> impl Iterator<Item = &str> {
    [&*tool.name, &*tool.description, &*tool.parameters_json].into_iter()
}

fn chat_texts(chat: &v1::Chat) -> impl Iterator<Item = &str> {
    let messages = chat.messages.iter().flat_map(|message| {
        let said = [&*message.role, &*message.name, &*message.text];
        said.into_iter().chain(message.parts.iter().flat_map(part_texts))
    });
    messages.chain(chat.tools.iter().flat_map(tool_texts))
}
