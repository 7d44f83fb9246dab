//! What the clients were told, summed: their half of every audit.

use bursar_proto::v1;

/// Calls and tokens as the answers had them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Reservations granted.
    pub granted: u64,
    /// Tokens reserved by them.
    pub tokens_granted: u64,
    /// Reservations committed.
    pub committed: u64,
    /// Tokens committed by them.
    pub tokens_committed: u64,
    /// Reservations released.
    pub released: u64,
    /// Tokens given back by them.
    pub tokens_released: u64,
}

impl Tally {
    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        self.granted += other.granted;
        self.tokens_granted += other.tokens_granted;
        self.committed += other.committed;
        self.tokens_committed += other.tokens_committed;
        self.released += other.released;
        self.tokens_released += other.tokens_released;
    }

    pub(crate) fn grant(&mut self, grant: &v1::Grant) {
        self.granted += 1;
        self.tokens_granted += grant.tokens_reserved;
    }

    pub(crate) fn commit(&mut self, answer: &v1::CommitResponse) {
        self.committed += 1;
        self.tokens_committed += answer.tokens_committed;
    }

    pub(crate) fn release(&mut self, answer: &v1::ReleaseResponse) {
        self.released += 1;
        self.tokens_released += answer.tokens_released;
    }
}
