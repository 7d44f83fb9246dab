//! The bounds of every field, checked before anything is kept.

use std::sync::Arc;

use bursar_proto::v1;
use bursar_quota::{Basis, Labels, Line, Meter, Policy};

use crate::fault::Fault;

/// The most bytes of a caller's id.
const ID_BYTES_MAX: usize = 64;
/// The most bytes of a string whose field says nothing else.
const STRING_BYTES_MAX: usize = 256;
/// The most labels of one call.
const LABELS_MAX: usize = 16;
/// The most bytes of a label's key.
const LABEL_KEY_BYTES_MAX: usize = 32;
/// The most bytes of a label's value.
const LABEL_VALUE_BYTES_MAX: usize = 128;
/// The most lines of one usage.
const LINES_MAX: usize = 32;
/// The largest number of tokens anywhere.
pub(super) const TOKENS_MAX: u64 = Line::TOKENS_MAX;

pub(super) fn id(field: &'static str, id: String) -> Result<Arc<str>, Fault> {
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        let problem = format!("it has {} bytes; it must have 1 to {ID_BYTES_MAX}", id.len());
        return Err(Fault::invalid(field, problem));
    }
    Ok(id.into())
}

/// A model that must be named.
pub(super) fn model(field: &str, model: String) -> Result<Arc<str>, Fault> {
    string(field, &model)?;
    let named = model.split_once('/').is_some_and(|(provider, name)| {
        !provider.is_empty() && !name.is_empty() && !model.contains(char::is_whitespace)
    });
    if !named {
        let problem = format!(
            "got {model:?}; it must be `provider/model`, for example `openai/gpt-4.1-mini`"
        );
        return Err(Fault::invalid(field, problem));
    }
    Ok(model.into())
}

/// A model that need not be named.
pub(super) fn model_or_none(field: &str, name: String) -> Result<Option<Arc<str>>, Fault> {
    if name.is_empty() { Ok(None) } else { model(field, name).map(Some) }
}

pub(super) fn string(field: &str, text: &str) -> Result<(), Fault> {
    if text.len() > STRING_BYTES_MAX {
        let problem =
            format!("it has {} bytes; it must have at most {STRING_BYTES_MAX}", text.len());
        return Err(Fault::invalid(field, problem));
    }
    Ok(())
}

pub(super) fn tokens(field: &str, tokens: u64) -> Result<u64, Fault> {
    at_most(field, tokens, TOKENS_MAX)
}

pub(super) fn at_most(field: &str, got: u64, max: u64) -> Result<u64, Fault> {
    if got > max {
        return Err(Fault::invalid(field, format!("got {got}; it must be at most {max}")));
    }
    Ok(got)
}

pub(super) fn list(field: &str, length: usize, max: usize) -> Result<(), Fault> {
    if length > max {
        let problem = format!("it has {length} elements; it must have at most {max}");
        return Err(Fault::invalid(field, problem));
    }
    Ok(())
}

pub(super) fn no_charges(charges: &[v1::Charge]) -> Result<(), Fault> {
    if charges.is_empty() {
        return Ok(());
    }
    Err(Fault::invalid("charges", "they are not served yet by this version; leave them out"))
}

pub(super) fn labels(
    labels: std::collections::BTreeMap<String, String>,
) -> Result<Arc<Labels>, Fault> {
    if labels.len() > LABELS_MAX {
        let problem = format!("got {} labels; there may be at most {LABELS_MAX}", labels.len());
        return Err(Fault::invalid("labels", problem));
    }
    for (key, value) in &labels {
        label(key, value)?;
    }
    Ok(Arc::new(Labels::new(labels)))
}

fn label(key: &str, value: &str) -> Result<(), Fault> {
    if !is_label_key(key) {
        let problem = format!(
            "got the key {key:?}; it must be 1 to {LABEL_KEY_BYTES_MAX} characters a-z, 0-9, `_`, `.`, `-`, \
             the first one a-z"
        );
        return Err(Fault::invalid("labels", problem));
    }
    if Policy::FROM_REQUEST.contains(&key) {
        let problem =
            format!("got the key {key:?}, which comes from the request's own fields: leave it out");
        return Err(Fault::invalid("labels", problem));
    }
    if value.is_empty() || value.len() > LABEL_VALUE_BYTES_MAX {
        let problem = format!(
            "got a value of {} bytes under {key:?}; it must have 1 to {LABEL_VALUE_BYTES_MAX}",
            value.len()
        );
        return Err(Fault::invalid("labels", problem));
    }
    Ok(())
}

fn is_label_key(key: &str) -> bool {
    let rest = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-')
    };
    key.len() <= LABEL_KEY_BYTES_MAX
        && key.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && key.bytes().all(rest)
}

/// The lines of a usage or an input; `unsaid` is the basis of one that does not say.
pub(super) fn lines(field: &str, lines: Vec<v1::Line>, unsaid: Basis) -> Result<Vec<Line>, Fault> {
    list(field, lines.len(), LINES_MAX)?;
    lines.into_iter().enumerate().map(|(at, line)| one_line(field, at, line, unsaid)).collect()
}

fn one_line(field: &str, at: usize, line: v1::Line, unsaid: Basis) -> Result<Line, Fault> {
    let named = |part: &str| format!("{field}[{at}].{part}");
    let meter = u32::try_from(line.meter).ok().and_then(Meter::from_number).ok_or_else(|| {
        let problem = format!(
            "got {}; it must be one of the meters, METER_INPUT to METER_CACHE_WRITE_LONG",
            line.meter
        );
        Fault::invalid(named("meter"), problem)
    })?;
    if line.tokens > TOKENS_MAX {
        tokens(&named("tokens"), line.tokens)?;
    }
    if line.component.len() > STRING_BYTES_MAX {
        string(&named("component"), &line.component)?;
    }
    if line.source.len() > STRING_BYTES_MAX {
        string(&named("source"), &line.source)?;
    }
    let basis = match v1::Basis::try_from(line.basis) {
        Ok(v1::Basis::Unspecified) => unsaid,
        Ok(v1::Basis::Measured) => Basis::Measured,
        Ok(v1::Basis::Estimated) => Basis::Estimated,
        Ok(v1::Basis::Assumed) => Basis::Assumed,
        Err(_) => {
            let problem = format!(
                "got {}; it must be BASIS_MEASURED, BASIS_ESTIMATED or BASIS_ASSUMED",
                line.basis
            );
            return Err(Fault::invalid(named("basis"), problem));
        }
    };
    Ok(Line {
        meter,
        tokens: line.tokens,
        component: line.component.into(),
        source: line.source.into(),
        basis,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_key_is_lower_case_and_short() {
        for key in ["a", "tenant", "prompt_version", "a.b-c9", &"a".repeat(32)] {
            assert!(is_label_key(key), "{key}");
        }
        for key in ["", "9a", "_a", "Tenant", "a b", "ä", &"a".repeat(33)] {
            assert!(!is_label_key(key), "{key}");
        }
    }
}
