//! What a call used: tokens by meter, component and data source.

/// A disjoint class of tokens; the numbers are those of `bursar.v1.Meter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the contract's, explained there")]
pub enum Meter {
    Input = 1,
    CacheRead = 2,
    CacheWrite = 3,
    Output = 4,
    Reasoning = 5,
    Embedding = 6,
    AudioInput = 7,
    AudioOutput = 8,
    ImageInput = 9,
    ImageOutput = 10,
    CacheWriteLong = 11,
}

impl Meter {
    /// Every meter, by number.
    pub const ALL: [Self; 11] = [
        Self::Input,
        Self::CacheRead,
        Self::CacheWrite,
        Self::Output,
        Self::Reasoning,
        Self::Embedding,
        Self::AudioInput,
        Self::AudioOutput,
        Self::ImageInput,
        Self::ImageOutput,
        Self::CacheWriteLong,
    ];

    /// The meter of a number of `bursar.v1.Meter`; none for 0 and for numbers not known.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|meter| u32::from(*meter as u8) == number)
    }
}

/// How a number of tokens is known; the numbers are those of `bursar.v1.Basis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Basis {
    /// The provider said so.
    Measured = 1,
    /// Somebody counted or guessed.
    Estimated = 2,
    /// Nobody said, and a rule filled it in.
    Assumed = 3,
}

/// How a call ended; the numbers are those of `bursar.v1.Outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The model answered.
    Completed = 1,
    /// The client hung up.
    Cancelled = 2,
    /// It failed after it was dispatched.
    Failed = 3,
    /// Nobody knows.
    Unknown = 4,
}

/// One meter's amount within one usage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// The class of the tokens.
    pub meter: Meter,
    /// How many, at most [`Line::TOKENS_MAX`].
    pub tokens: u64,
    /// What of the request they were: prompt, history, retrieval, tools, …; may be empty.
    pub component: Box<str>,
    /// The data source they came from; may be empty.
    pub source: Box<str>,
    /// How the number is known.
    pub basis: Basis,
}

impl Line {
    /// The most tokens one line may have.
    pub const TOKENS_MAX: u64 = 1 << 40;

    /// A line without component and source.
    pub fn plain(meter: Meter, tokens: u64, basis: Basis) -> Self {
        Self { meter, tokens, component: "".into(), source: "".into(), basis }
    }
}

/// Tokens of an input, and of so much output for every choice.
pub(crate) fn tokens_reserved(input: &[Line], output_tokens_granted: u64, choices: u32) -> u64 {
    tokens_sum(input).saturating_add(output_tokens_granted.saturating_mul(u64::from(choices)))
}

/// All tokens of some lines; lines are bounded in number and size, so the sum is exact.
pub fn tokens_sum(lines: &[Line]) -> u64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.tokens))
}
