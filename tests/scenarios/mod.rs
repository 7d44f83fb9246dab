//! Promises told as tables: one parser, one driver, three back ends (see `README.md` beside this file).
//!
//! A runner includes this file by its path, gives [`run_all`] a way to open its back end, and prints what
//! it counted: the number of executed lines is the same in all of them.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "shared by test programs: each uses its part, and a table that cannot be read must fail"
)]

pub mod driver;
pub mod facts;
pub mod parser;

pub use driver::{Backend, run_all};
