//! Promises about exact counts: against OpenAI's own library, against an independent engine, and at
//! the worst.

use std::thread;

use bursar_tokens::Tokenizer::{self, Cl100kBase, O200kBase};
use proptest::prelude::*;
use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

const MEGABYTE: usize = 1 << 20;

/// Texts with their counts, `o200k_base` then `cl100k_base`, by OpenAI's Python library `tiktoken`
/// 0.14 (`encode_ordinary`). Its `o200k_harmony` gives the first column too.
const COUNTED: &[(&str, u64, u64)] = &[
    ("", 0, 0),
    ("a", 1, 1),
    ("hello world", 2, 2),
    ("Hello, world!", 4, 4),
    (
        "The quick brown fox jumps over the lazy dog. It wasn't quick enough; they'll say it's over, I'd guess.",
        23,
        27,
    ),
    (
        "fn main() {\n    let total: u64 = (0..10).map(|n| n * n).sum();\n    println!(\"{total}\");\n}\n",
        32,
        32,
    ),
    (
        "def settle(self, usage):\n\tfor line in usage.lines:\n\t\tself.tokens -= line.tokens  # exact\n",
        22,
        22,
    ),
    (
        "{\"tenant\": \"acme\", \"limits\": [{\"name\": \"minute\", \"tokens\": 100000, \"ratio\": 0.25, \"on\": true, \"off\": null}]}",
        42,
        42,
    ),
    ("吾輩は猫である。名前はまだ無い。", 14, 21),
    ("今天天气很好,我们去公园散步吧。", 13, 20),
    ("مرحبا بالعالم، كيف حالك اليوم؟", 10, 23),
    ("สวัสดีชาวโลก", 7, 13),
    ("Привет, мир! Как дела?", 8, 12),
    ("नमस्ते दुनिया", 5, 13),
    ("👩\u{200d}👩\u{200d}👧\u{200d}👦 family 🇩🇪 flag 👍🏽 thumb", 21, 32),
    ("0123456789 3.14159 1,000,000 2026-11-23T20:17:00Z", 29, 29),
    ("one\r\ntwo\r\n\r\nthree\r\n", 6, 6),
    ("line  \n\n\n   \t indented \u{a0}\u{3000} end   ", 9, 9),
    ("trailing \n   ", 4, 4),
    ("<|endoftext|>", 7, 7),
    ("<|im_start|>user<|im_sep|>hi<|im_end|>", 20, 20),
    ("<|start|>assistant<|channel|>final<|message|>", 17, 17),
    ("e\u{301} é ﷺ ſ's I'ſ", 9, 13),
    ("\u{feff}\u{0}\u{1}�\u{200b}\u{202e}", 6, 7),
    ("\u{10ffff}\u{e000}\u{378}", 8, 9),
    ("don't DON'T can’t O'Reilly's 'tis", 10, 13),
    ("HTTPServer camelCase snake_case SCREAMING_CASE kebab-case", 13, 13),
    ("----------------------------------------| ====== |____", 7, 7),
    ("https://example.com/a/b?c=d&e=%20#frag", 14, 14),
];

fn oracle(tokenizer: Tokenizer) -> &'static CoreBPE {
    match tokenizer {
        O200kBase => o200k_base_singleton(),
        Cl100kBase => cl100k_base_singleton(),
    }
}

fn assert_agrees(text: &str) {
    for tokenizer in Tokenizer::ALL {
        let expected = oracle(tokenizer).encode_ordinary(text).len() as u64;
        assert_eq!(tokenizer.count(text), expected, "{} of {text:?}", tokenizer.name());
    }
}

#[test]
fn counts_are_those_of_the_publishers_library() {
    for &(text, o200k, cl100k) in COUNTED {
        assert_eq!(O200kBase.count(text), o200k, "o200k_base of {text:?}");
        assert_eq!(Cl100kBase.count(text), cl100k, "cl100k_base of {text:?}");
    }
}

#[test]
fn counts_agree_with_an_independent_engine() {
    for &(text, ..) in COUNTED {
        assert_agrees(text);
        assert_agrees(&text.repeat(7));
        assert_agrees(&format!(" {text}\r\n\t {text}"));
    }
}

#[test]
fn runs_of_one_character_agree_in_every_length() {
    for unit in [
        " ", "\n", "\t", "\r\n", "-", "=", "#", "*", "/", "_", ".", "-=", "| ", "a", "A", "0", "─",
        "あ", "👋",
    ] {
        for count in (0..70).chain([100, 127, 128, 129, 255, 256, 257]) {
            let run = unit.repeat(count);
            assert_agrees(&run);
            assert_agrees(&format!("x {run}y"));
        }
    }
}

#[test]
fn text_that_looks_like_a_special_token_counts_as_ordinary_text() {
    for special in ["<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|return|>"] {
        for tokenizer in Tokenizer::ALL {
            assert!(tokenizer.count(special) > 1, "{} of {special}", tokenizer.name());
        }
    }
}

#[test]
fn bytes_that_are_no_text_count_as_their_replacement_does() {
    assert_agrees(&String::from_utf8_lossy(b"caf\xe9 \xff\xfe\xf0\x9f\x92 \xc3\x28 end"));
}

#[test]
fn a_megabyte_of_anything_finishes() {
    for unit in [" ", "\n", " \n", "a", "A", "0", "-", "=", "-=", "あ", "e\u{301}", "'s", "\0"] {
        let text = unit.repeat(MEGABYTE / unit.len());
        for tokenizer in Tokenizer::ALL {
            let tokens = tokenizer.count(&text);
            assert!((1..=text.len() as u64).contains(&tokens), "{tokens} of {unit:?}");
        }
    }
}

#[test]
fn threads_that_race_to_the_first_count_agree() {
    let counts: Vec<u64> = thread::scope(|scope| {
        let racing: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| O200kBase.count("hello world") + Cl100kBase.count("a")))
            .collect();
        racing.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    assert_eq!(counts, [3; 8]);
}

proptest! {
    #[test]
    fn any_text_agrees_with_an_independent_engine(text in any::<String>()) {
        assert_agrees(&text);
    }

    #[test]
    fn awkward_text_agrees_with_an_independent_engine(
        text in "([ \t\r\n\u{a0}\u{3000}\u{85}]{1,9}|[a-zA-Z]{1,12}|[0-9٣Ⅷ]{1,7}|'(s|S|ſ|LL|re)|[-=/*_#.]{1,40}|[あ漢ア\u{301}ǅʰ]{1,9}|\\PC{1,4}){0,30}"
    ) {
        assert_agrees(&text);
    }

    #[test]
    fn a_count_is_never_above_the_bytes(text in any::<String>()) {
        for tokenizer in Tokenizer::ALL {
            prop_assert!(tokenizer.count(&text) <= text.len() as u64);
        }
    }
}
