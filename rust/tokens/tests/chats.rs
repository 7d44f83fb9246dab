//! Promises about counting chats, and texts of models that are not known.

use std::iter;

use bursar_tokens::{
    Counted, LARGE_TEXT_BYTES, MESSAGE_TOKENS, MESSAGE_TOKENS_UNKNOWN, Message, Method,
    NAME_TOKENS, REPLY_TOKENS, TOOLS_TOKENS, Tokenizer, count_chat, count_text, is_quick, warm,
};

fn message<'a>(role: &'a str, name: &'a str, text: &'a str) -> Message<'a, iter::Empty<&'a str>> {
    Message { role, name, text, parts: iter::empty() }
}

#[test]
fn a_text_of_a_known_model_is_exact() {
    assert_eq!(
        count_text("openai/gpt-4o", "吾輩は猫である。名前はまだ無い。"),
        Counted { tokens: 14, method: Method::Exact, tokenizer: "o200k_base" }
    );
    assert_eq!(
        count_text("openai/gpt-4", "吾輩は猫である。名前はまだ無い。"),
        Counted { tokens: 21, method: Method::Exact, tokenizer: "cl100k_base" }
    );
}

#[test]
fn a_text_of_an_unknown_model_is_bounded_by_its_bytes() {
    for (text, bytes) in [("", 0), ("hello", 5), ("né", 3), ("👋", 4)] {
        assert_eq!(
            count_text("anthropic/claude-sonnet-4-5", text),
            Counted { tokens: bytes, method: Method::Bound, tokenizer: "" }
        );
    }
}

#[test]
fn a_chat_is_its_texts_and_the_allowances() {
    let chat = [message("system", "", "hello world"), message("user", "example_user", "a")];
    let texts = ["system", "hello world", "user", "example_user", "a"];
    let counted = count_chat("openai/gpt-4", chat, []);
    let expected = texts.iter().map(|text| Tokenizer::Cl100kBase.count(text)).sum::<u64>()
        + 2 * MESSAGE_TOKENS
        + NAME_TOKENS
        + REPLY_TOKENS;
    assert_eq!(
        counted,
        Counted { tokens: expected, method: Method::Estimate, tokenizer: "cl100k_base" }
    );
}

#[test]
fn parts_and_tools_are_counted() {
    let chat = |parts: &'static [&'static str]| {
        [Message { role: "user", name: "", text: "", parts: parts.iter().copied() }]
    };
    let plain = count_chat("openai/gpt-4o", chat(&[]), []).tokens;
    let parted = count_chat("openai/gpt-4o", chat(&["hello world", "a"]), []).tokens;
    assert_eq!(parted, plain + 2 + 1);
    let tool = r#"{"type":"function"}"#;
    let with_tools = count_chat("openai/gpt-4o", chat(&[]), [tool, tool]).tokens;
    assert_eq!(with_tools, plain + TOOLS_TOKENS + 2 * Tokenizer::O200kBase.count(tool));
}

#[test]
fn a_chat_of_an_unknown_model_is_an_estimate_over_bytes() {
    let counted = count_chat("mistral/large", [message("user", "", "né")], ["{}"]);
    let tokens = 2 * MESSAGE_TOKENS_UNKNOWN + 4 + 3 + 2 + TOOLS_TOKENS;
    assert_eq!(counted, Counted { tokens, method: Method::Estimate, tokenizer: "" });
}

#[test]
fn counting_is_quick_for_small_text_once_warm_and_always_for_unknown_models() {
    assert!(is_quick("mistral/large", usize::MAX));
    warm();
    assert!(Tokenizer::ALL.into_iter().all(Tokenizer::is_warm));
    assert!(is_quick("openai/gpt-4o", LARGE_TEXT_BYTES));
    assert!(!is_quick("openai/gpt-4o", LARGE_TEXT_BYTES + 1));
}
