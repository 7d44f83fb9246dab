//! What can be asked without a data plane that runs: is this a policy, would this request be refused whatever
//! the policy, and how many tokens is this text.

use bursar_proto::v1;
use prost::Message;

use crate::fault::Fault;
use crate::running::AskError;
use crate::wire::{answer, ask};
use crate::{count, wire};

/// Every mistake of a policy, given as the bytes of a `bursar.v1.Policy`; none if it has none.
pub fn check_policy(policy: &[u8]) -> Vec<String> {
    wire::policy_from_bytes(policy).err().unwrap_or_default()
}

/// The first wrong field of a call's request, and what is wrong with it: what is refused under any policy and in
/// any state. None if there is nothing.
///
/// # Errors
/// When there is no such call, or the bytes are not its request.
pub fn check_request(method: &str, request: &[u8]) -> Result<Option<(String, String)>, AskError> {
    match method {
        "Reserve" => wrong_field(request, ask::reserve),
        "Commit" => wrong_field(request, ask::commit),
        "Release" => wrong_field(request, ask::release),
        "Record" => wrong_field(request, ask::record),
        "CountTokens" => wrong_field(request, ask::count),
        _ => {
            let problem = format!(
                "got {method:?}; it must be Reserve, Commit, Release, Record or CountTokens"
            );
            Err(AskError::Invalid { field: "method".into(), problem })
        }
    }
}

fn wrong_field<M: Message + Default, Question>(
    request: &[u8],
    read: impl FnOnce(M) -> Result<Question, Fault>,
) -> Result<Option<(String, String)>, AskError> {
    let message = M::decode(request).map_err(|error| AskError::Invalid {
        field: "request".into(),
        problem: format!("not the message expected: {error}"),
    })?;
    match read(message) {
        Ok(_) => Ok(None),
        Err(Fault::Invalid { field, problem }) => Ok(Some((field, problem))),
        Err(other) => Err(other.into()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_right_or_has_a_wrong_field_or_is_none_of_its_call() {
        let release = v1::ReleaseRequest { reservation_id: "r".into(), ..Default::default() };
        assert_eq!(check_request("Release", &release.encode_to_vec()).unwrap(), None);
        let (field, problem) = check_request("Release", b"").unwrap().unwrap();
        assert_eq!(field, "reservation_id");
        assert_eq!(problem, "it has 0 bytes; it must have 1 to 64");
        let unreadable = check_request("Release", b"no message").unwrap_err().to_string();
        assert!(unreadable.starts_with("request: not the message expected"), "{unreadable}");
        let unknown = check_request("release", b"").unwrap_err().to_string();
        assert!(unknown.starts_with("method: got \"release\"; it must be Reserve"), "{unknown}");
    }
}
