//! A chat's tokens: its texts, and an allowance for what the provider's template puts around them.
//!
//! For OpenAI's models the allowances are those of the OpenAI Cookbook, "How to count tokens with
//! tiktoken", which found them by comparing with what the API bills: its example counts here as it
//! was billed, 129 tokens for gpt-4 and 124 for gpt-4o. Providers change their templates without
//! notice and add prompts of their own, so a chat's count is an estimate, never exact. Only text is
//! counted: the tokens of images, audio and files are for the caller to add.

use crate::{Counted, Method, tokenizer_for};

/// What a known model's template adds to each message, in tokens.
pub const MESSAGE_TOKENS: u64 = 3;
/// What a message's name adds, beside its own text, in tokens.
pub const NAME_TOKENS: u64 = 1;
/// What opens the model's reply, once for each chat, in tokens.
pub const REPLY_TOKENS: u64 = 3;
/// What closes the tool definitions, once for each chat that has any, in tokens. What the template
/// writes for each tool is shorter than the JSON counted in its place.
pub const TOOLS_TOKENS: u64 = 12;
/// What an unknown model's template is taken to add to each message, and to the chat, in tokens.
/// The published templates (ChatML, Llama, Gemma) add four or five.
pub const MESSAGE_TOKENS_UNKNOWN: u64 = 8;

/// One message of a chat. What it lacks is empty.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a, Parts> {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: &'a str,
    /// The speaker's name, if any.
    pub name: &'a str,
    /// The message's text.
    pub text: &'a str,
    /// The texts of a message made of parts, counted one by one as the provider does.
    pub parts: Parts,
}

/// Counts the tokens of a chat and its tool definitions (JSON texts, as sent) for `model`
/// (`provider/model`).
///
/// Always an estimate. For a model that is not known, bytes stand for the texts' tokens, which is
/// usually three to four times too many, and still no bound, since what its template adds is not
/// known.
pub fn count_chat<'a, Parts>(
    model: &str,
    messages: impl IntoIterator<Item = Message<'a, Parts>>,
    tools: impl IntoIterator<Item = &'a str>,
) -> Counted
where
    Parts: IntoIterator<Item = &'a str>,
{
    let tokenizer = tokenizer_for(model);
    let count = |text: &str| tokenizer.map_or(text.len() as u64, |tokenizer| tokenizer.count(text));
    let (message_tokens, reply_tokens) = match tokenizer {
        Some(_) => (MESSAGE_TOKENS, REPLY_TOKENS),
        None => (MESSAGE_TOKENS_UNKNOWN, MESSAGE_TOKENS_UNKNOWN),
    };

    let mut tokens = reply_tokens;
    for message in messages {
        tokens += message_tokens + count(message.role) + count(message.text);
        if !message.name.is_empty() {
            tokens += NAME_TOKENS + count(message.name);
        }
        tokens += message.parts.into_iter().map(count).sum::<u64>();
    }
    let mut tools = tools.into_iter().peekable();
    if tools.peek().is_some() {
        tokens += TOOLS_TOKENS;
    }
    tokens += tools.map(count).sum::<u64>();

    Counted {
        tokens,
        method: Method::Estimate,
        tokenizer: tokenizer.map_or("", |tokenizer| tokenizer.name()),
    }
}
