//! The vocabularies, loaded on first use and kept for the life of the process.

use std::sync::OnceLock;

/// A public vocabulary, and the rule by which text is split before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// GPT-4o and later, the o series, and gpt-oss.
    O200kBase,
    /// GPT-4, GPT-3.5, and the embedding models.
    Cl100kBase,
}

/// Set once the vocabulary is loaded: `bpe_openai` loads on first use too, but cannot be asked
/// whether it has.
static O200K_BASE: OnceLock<&'static bpe_openai::Tokenizer> = OnceLock::new();
static CL100K_BASE: OnceLock<&'static bpe_openai::Tokenizer> = OnceLock::new();

impl Tokenizer {
    /// Every vocabulary there is.
    pub const ALL: [Self; 2] = [Self::O200kBase, Self::Cl100kBase];

    /// The name its publisher gave it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::O200kBase => "o200k_base",
            Self::Cl100kBase => "cl100k_base",
        }
    }

    /// The number of tokens of `text`, exactly, special tokens read as ordinary text. Time grows no
    /// faster than n log n with the text, whatever it holds. Loads the vocabulary if this is its
    /// first use.
    #[must_use]
    pub fn count(self, text: &str) -> u64 {
        let vocabulary = self.loaded();
        vocabulary.split(text).map(|piece| count_piece(vocabulary, piece.as_bytes())).sum::<usize>()
            as u64
    }

    /// Loads the vocabulary unless it is loaded; returns once it is. Threads that come meanwhile
    /// wait for the first.
    pub fn warm(self) {
        self.loaded();
    }

    /// Tells whether the vocabulary is loaded, so that counting starts at once.
    #[must_use]
    pub fn is_warm(self) -> bool {
        self.cell().get().is_some()
    }

    fn loaded(self) -> &'static bpe_openai::Tokenizer {
        self.cell().get_or_init(|| {
            let tokenizer = match self {
                Self::O200kBase => bpe_openai::o200k_base(),
                Self::Cl100kBase => bpe_openai::cl100k_base(),
            };
            // The splitting rule builds part of its automaton as it meets text: let that not be the
            // first caller's.
            tokenizer.count("Hello, world 123!\n  'tis 日本語 é\u{301} 👋\r\n");
            tokenizer
        })
    }

    fn cell(self) -> &'static OnceLock<&'static bpe_openai::Tokenizer> {
        match self {
            Self::O200kBase => &O200K_BASE,
            Self::Cl100kBase => &CL100K_BASE,
        }
    }
}

/// From this length on, in bytes, a piece of punctuation is merged pair by pair.
const LONG_PUNCTUATION_BYTES: usize = 32;

/// Counts one piece, as split off by the vocabulary's rule, by whichever of two exact ways is safe
/// for it.
///
/// Backtracking is the faster by far for nearly every text. But a run of one mark (`-----`,
/// `=====`) it tries in every length that has a token of its own, at 0.8 ms for each KiB; merging
/// pair by pair holds that to 0.2 ms.
fn count_piece(vocabulary: &bpe_openai::Tokenizer, piece: &[u8]) -> usize {
    // The first byte may be the space that is split off along with what follows it.
    let is_punctuation = piece.get(1).is_some_and(u8::is_ascii_punctuation);
    if piece.len() >= LONG_PUNCTUATION_BYTES && is_punctuation {
        vocabulary.bpe.encode_via_bitfield(piece).len()
    } else {
        vocabulary.bpe.count(piece)
    }
}

/// Loads every vocabulary, one after the other; returns once all are loaded.
pub fn warm() {
    for tokenizer in Tokenizer::ALL {
        tokenizer.warm();
    }
}
