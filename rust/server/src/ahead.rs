//! What can be asked without a data plane that runs: is this a policy, and how many tokens is this text.

use bursar_proto::v1;

use crate::running::AskError;
use crate::wire::{answer, ask};
use crate::{count, wire};

/// Every mistake of a policy, given as the bytes of a `bursar.v1.Policy`; none if it has none.
pub fn check_policy(policy: &[u8]) -> Vec<String> {
    wire::policy_from_bytes(policy).err().unwrap_or_default()
}

/// Counts as the call `CountTokens` does, on the thread that asks.
///
/// # Errors
/// When the question is wrong.
pub fn count_tokens(request: v1::CountTokensRequest) -> Result<v1::CountTokensResponse, AskError> {
    let count = ask::count(request)?;
    let (tokens, counted) = count::count_tokens(&count);
    Ok(v1::CountTokensResponse { tokens, counted_by: Some(answer::counted_by(&counted)) })
}
