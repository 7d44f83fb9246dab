//! Which vocabulary a model uses: a table of families, for the providers that publish theirs.

use crate::Tokenizer::{self, Cl100kBase, O200kBase};

/// The providers whose model names the table below speaks of. On Azure the name is the
/// deployment's: one that is named after its model is known, any other is not.
const PROVIDERS: [&str; 2] = ["openai", "azure"];

/// Families by the stem of their names, as OpenAI's `tiktoken` library maps them (`model.py`,
/// 0.14).
///
/// A name belongs to the family it equals or continues with `-`: `gpt-4-turbo` is `gpt-4`, `gpt-4o`
/// and `gpt-4.1` are not. A stem that ends in `.` takes any continuation. No name belongs to two
/// families with different vocabularies, so the order does not matter.
///
/// `gpt-oss` uses `o200k_harmony`, which is `o200k_base` with more special tokens: the same count
/// for ordinary text. The GPT-3 models on older vocabularies are retired, so they are not here.
const FAMILIES: [(&str, Tokenizer); 18] = [
    ("gpt-5", O200kBase),
    ("gpt-5.", O200kBase),
    ("gpt-4.5", O200kBase),
    ("gpt-4.1", O200kBase),
    ("gpt-4o", O200kBase),
    ("chatgpt-4o", O200kBase),
    ("gpt-oss", O200kBase),
    ("o1", O200kBase),
    ("o3", O200kBase),
    ("o4-mini", O200kBase),
    ("gpt-4", Cl100kBase),
    ("gpt-3.5", Cl100kBase),
    ("gpt-35-turbo", Cl100kBase),
    ("davinci-002", Cl100kBase),
    ("babbage-002", Cl100kBase),
    ("text-embedding-3-small", Cl100kBase),
    ("text-embedding-3-large", Cl100kBase),
    ("text-embedding-ada-002", Cl100kBase),
];

/// The vocabulary of `model` (`provider/model`), if it is public and known here.
///
/// Known are OpenAI's models under `openai/` and `azure/`, dated and fine-tuned ones (`ft:BASE:…`,
/// by their base) included. Names are compared as they are, case and all. A name that is not known
/// is no error: its bytes are counted instead.
#[must_use]
pub fn tokenizer_for(model: &str) -> Option<Tokenizer> {
    let (provider, name) = model.split_once('/')?;
    if !PROVIDERS.contains(&provider) {
        return None;
    }
    // tiktoken takes the first of its `ft:` prefixes that fits, and so counts a tuned gpt-4.1 as
    // gpt-4. The base model's own family is what it was tuned from.
    let base = match name.strip_prefix("ft:") {
        Some(tuned) => tuned.split(':').next().unwrap_or(tuned),
        None => name,
    };
    FAMILIES.iter().find(|(stem, _)| is_of_family(base, stem)).map(|&(_, tokenizer)| tokenizer)
}

fn is_of_family(name: &str, stem: &str) -> bool {
    match name.strip_prefix(stem) {
        Some(rest) if stem.ends_with('.') => !rest.is_empty(),
        Some(rest) => rest.is_empty() || rest.starts_with('-'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_published_families_have_their_vocabulary() {
        let o200k = [
            "openai/gpt-4o",
            "openai/gpt-4o-mini-2024-07-18",
            "openai/chatgpt-4o-latest",
            "openai/gpt-4.1",
            "openai/gpt-4.1-mini",
            "openai/gpt-4.5-preview",
            "openai/gpt-5",
            "openai/gpt-5-nano",
            "openai/gpt-5.1",
            "openai/gpt-5.2-codex",
            "openai/o1",
            "openai/o1-preview",
            "openai/o3-mini",
            "openai/o4-mini",
            "openai/o4-mini-2025-04-16",
            "openai/gpt-oss-120b",
            "openai/ft:gpt-4o-mini-2024-07-18:acme::9abc",
            "openai/ft:gpt-4.1-2025-04-14:acme:support:9abc",
            "azure/gpt-4o",
        ];
        let cl100k = [
            "openai/gpt-4",
            "openai/gpt-4-0613",
            "openai/gpt-4-32k",
            "openai/gpt-4-turbo",
            "openai/gpt-3.5-turbo",
            "openai/gpt-3.5-turbo-0125",
            "openai/gpt-3.5",
            "openai/text-embedding-3-small",
            "openai/text-embedding-3-large",
            "openai/text-embedding-ada-002",
            "openai/davinci-002",
            "openai/ft:gpt-3.5-turbo-0125:acme::9abc",
            "openai/ft:gpt-4-0613:acme::9abc",
            "azure/gpt-35-turbo",
            "azure/gpt-35-turbo-16k",
        ];
        for model in o200k {
            assert_eq!(tokenizer_for(model), Some(O200kBase), "{model}");
        }
        for model in cl100k {
            assert_eq!(tokenizer_for(model), Some(Cl100kBase), "{model}");
        }
    }

    #[test]
    fn a_model_that_is_not_published_has_no_vocabulary() {
        for model in [
            "",
            "/",
            "openai/",
            "gpt-4o",
            "anthropic/claude-sonnet-4-5",
            "google/gemini-2.5-pro",
            "other/gpt-4o",
            "OpenAI/gpt-4o",
            "openai/GPT-4o",
            "openai/gpt-4omni",
            "openai/gpt-6",
            "openai/gpt-50",
            "openai/gpt-5.",
            "openai/gpt-4.2",
            "openai/o12",
            "openai/o2",
            "openai/davinci",
            "openai/ft:",
            "openai/ft:mine",
            "azure/our-deployment",
            "openai//gpt-4o",
        ] {
            assert_eq!(tokenizer_for(model), None, "{model}");
        }
    }

    #[test]
    fn no_name_falls_into_two_families_that_differ() {
        for (stem, tokenizer) in FAMILIES {
            for name in [stem.to_owned(), format!("{stem}-x"), format!("{stem}x")] {
                for (other, different) in FAMILIES {
                    assert!(
                        !is_of_family(&name, other)
                            || different == tokenizer
                            || !is_of_family(&name, stem)
                    );
                }
            }
        }
    }
}
