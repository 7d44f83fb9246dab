//! What is on disk: the ledger, and LMDB as its follower; it stores and does not decide.
