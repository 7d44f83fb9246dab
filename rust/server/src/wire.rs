//! Messages and the rules' own types: the only module of the server that knows both.

pub(crate) mod answer;
pub(crate) mod ask;
mod check;
mod digest;
pub(crate) mod event;
mod policy;

pub(crate) use policy::policy_from_bytes;
