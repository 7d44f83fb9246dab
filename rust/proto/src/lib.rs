//! The messages and services of bursar, generated from `proto/` when this crate is built.

/// The public contract, `bursar.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("bursar.v1");
}

/// What an entry of the ledger holds, `bursar.ledger.v1`: private to the store.
pub mod ledger {
    /// The first version of the entries' bodies.
    #[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("bursar.ledger.v1");
    }
}

/// The descriptors of every file compiled here, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
