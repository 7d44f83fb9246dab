//! Widths of numbers: sizes in memory and on disk, converted without a cast that wraps.

/// A size in memory as a size on disk.
pub(crate) fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// A size on disk as a size in memory; what cannot be in memory is larger than any buffer.
pub(crate) fn narrow(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
