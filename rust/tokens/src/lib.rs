//! Text in, number of tokens out: exactly where the model's vocabulary is public, as an upper bound
//! elsewhere.
//!
//! Nothing here reads a clock, a file or the network, and everything may be called from any thread.
//! The first count with a vocabulary loads it, which takes a tenth of a second and tens of
//! megabytes: [`warm`] does so ahead of time, and [`is_quick`] tells a caller that must not block
//! whether to count elsewhere.
//!
//! Text that looks like a special token (`<|endoftext|>`) is counted as the ordinary text it is, as
//! providers do with what a user wrote: it never collapses into one token, so it cannot be used to
//! look small.

mod chat;
mod model;
mod vocabulary;

pub use chat::{
    MESSAGE_TOKENS, MESSAGE_TOKENS_UNKNOWN, Message, NAME_TOKENS, REPLY_TOKENS, TOOLS_TOKENS,
    count_chat,
};
pub use model::tokenizer_for;
pub use vocabulary::{Tokenizer, warm};

/// Text longer than this, in bytes, is for a thread that may block.
///
/// Measured in a release build on one server core: text of this length takes 10 to 50 µs, and 200
/// µs at worst (a run of punctuation), and longer text in proportion.
pub const LARGE_TEXT_BYTES: usize = 1024;

/// How far a count can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// What the model's own vocabulary gives for this text.
    Exact,
    /// The text, plus an allowance for what the provider wraps around it: near, and possibly below
    /// what is billed.
    Estimate,
    /// Not less than the text's tokens, which are at most one for each byte.
    Bound,
}

/// A number of tokens, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    /// How many tokens.
    pub tokens: u64,
    /// How far the number can be trusted.
    pub method: Method,
    /// The vocabulary's published name, `o200k_base` or `cl100k_base`; empty where bytes were
    /// counted.
    pub tokenizer: &'static str,
}

/// Counts the tokens of one text for `model` (`provider/model`).
///
/// Exact where [`tokenizer_for`] knows the model. Otherwise the text's length in bytes, as a bound:
/// a token covers at least one byte of what is tokenized. Whatever a model adds to the text or
/// expands in it beforehand (a start-of-text token, a leading space, compatibility forms written
/// out) comes on top of the bound.
#[must_use]
pub fn count_text(model: &str, text: &str) -> Counted {
    match tokenizer_for(model) {
        Some(tokenizer) => Counted {
            tokens: tokenizer.count(text),
            method: Method::Exact,
            tokenizer: tokenizer.name(),
        },
        None => Counted { tokens: text.len() as u64, method: Method::Bound, tokenizer: "" },
    }
}

/// Tells whether counting texts of `bytes` in all for `model` is quick enough for a thread that
/// others wait on.
///
/// Always for a model that is not known, whose bytes are not looked at. Otherwise when its
/// vocabulary is loaded and there is no more text than [`LARGE_TEXT_BYTES`].
#[must_use]
pub fn is_quick(model: &str, bytes: usize) -> bool {
    tokenizer_for(model).is_none_or(|tokenizer| tokenizer.is_warm() && bytes <= LARGE_TEXT_BYTES)
}
