//! The index: LMDB, a follower of the ledger.

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// LMDB said so.
    #[error("the index: {0}")]
    Lmdb(#[from] heed::Error),
}
