//! Inputs that the sidecar counts.

use bursar_proto::v1;
use bursar_proto::v1::reserve_request::Input;

use crate::sidecar::{Sidecar, grant, one_limit, reserve};

async fn granted(sidecar: &Sidecar, id: &str, model: &str, input: Input) -> v1::Grant {
    let request = v1::ReserveRequest { model: model.into(), input: Some(input), ..reserve(id, 0) };
    let answer = sidecar.client().await.reserve(request).await.unwrap().into_inner();
    grant(&answer).unwrap().clone()
}

#[tokio::test]
async fn a_grant_says_how_its_input_was_counted() {
    let sidecar = Sidecar::start(&one_limit(1 << 40));
    let text = || Input::InputText("hello world".into());
    let exact = granted(&sidecar, "r1", "openai/gpt-4o", text()).await;
    let by = exact.counted_by.as_ref().unwrap();
    assert_eq!(
        (exact.input_tokens, by.method(), &*by.tokenizer),
        (2, v1::Method::Exact, "o200k_base")
    );
    let bound = granted(&sidecar, "r2", "anthropic/claude-sonnet-4-5", text()).await;
    assert_eq!((bound.input_tokens, bound.counted_by.unwrap().method()), (11, v1::Method::Bound));
    let given = granted(&sidecar, "r3", "openai/gpt-4o", Input::InputTokens(7)).await;
    assert_eq!((given.input_tokens, given.counted_by.unwrap().method()), (7, v1::Method::Given));
    let bytes = granted(&sidecar, "r4", "openai/gpt-4o", Input::InputBytes(7)).await;
    assert_eq!((bytes.input_tokens, bytes.counted_by.unwrap().method()), (7, v1::Method::Bound));
    let message =
        v1::ChatMessage { role: "user".into(), text: "hello world".into(), ..Default::default() };
    let chat = v1::Chat { messages: vec![message], tools: Vec::new() };
    let chat = granted(&sidecar, "r5", "openai/gpt-4o", Input::InputChat(chat)).await;
    // The text's two, one for the role, three around the message, three for the reply.
    assert_eq!((chat.input_tokens, chat.counted_by.unwrap().method()), (9, v1::Method::Estimate));
}

#[tokio::test]
async fn a_large_text_is_counted_while_others_are_answered() {
    let sidecar = Sidecar::start(&one_limit(1 << 40));
    let large = Input::InputText("hello world ".repeat(500_000));
    let mut client = sidecar.client().await;
    let (large, small) = tokio::join!(granted(&sidecar, "large", "openai/gpt-4o", large), async {
        client.reserve(reserve("small", 1)).await.unwrap().into_inner()
    });
    assert!(large.input_tokens >= 1_000_000, "{}", large.input_tokens);
    assert!(grant(&small).is_some());
}

#[tokio::test]
async fn texts_are_counted_one_by_one() {
    let sidecar = Sidecar::start(&one_limit(1));
    let request = v1::CountTokensRequest {
        model: "openai/gpt-4".into(),
        texts: vec!["hello world".into(), String::new(), "hello".into()],
        chat: None,
    };
    let answer = sidecar.client().await.count_tokens(request).await.unwrap().into_inner();
    assert_eq!(answer.tokens, [2, 0, 1]);
    let by = answer.counted_by.unwrap();
    assert_eq!((by.method(), &*by.tokenizer), (v1::Method::Exact, "cl100k_base"));
}
