//! Named points at which a call to the system fails, is held up, or panics, so that tests can do that anywhere.
//!
//! Without the feature `crash-points` a point is nothing. With it, the environment says what happens where:
//! `BURSAR_FAULT_AT="name:kind:n"` at the n-th hit of the point `name`, and
//! `BURSAR_FAULT_WHILE="name:kind:path"` at each hit while something lies at the path. The kinds are `EIO`,
//! `ENOSPC`, `panic`, and `stall`: the point connects to the Unix socket at `BURSAR_FAULT_GATE` and goes on
//! when whoever listens there lets go of the connection. `hold` is for a point that can be asked again and again.

/// Every point there is, with the call that fails in its place.
pub const POINTS: [(&str, &str); 15] = [
    ("open-make", "fallocate of the segment that is begun at the opening"),
    ("turn", "none: a turn's write is not begun while it is held"),
    ("append", "none: between two changes in memory, where only a panic makes sense"),
    ("write", "pwrite of a turn's entries"),
    ("write-short", "the same, which takes half of the bytes"),
    ("rename", "rename of a new segment"),
    ("sync", "fdatasync of a segment"),
    ("sync-folder", "fsync of the ledger's folder"),
    ("segment-make", "statfs and open of the segment that is made ahead"),
    ("segment-write", "pwrite of its zeros"),
    ("segment-sync", "fsync of it"),
    ("index-commit", "LMDB's commit of what the follower took"),
    ("usage-commit", "LMDB's commit of what was handed to the books"),
    ("read", "pread of an old entry"),
    ("open-rewrite", "writing again, at the opening, what is not known durable"),
];

#[cfg(feature = "crash-points")]
mod active {
    use std::io;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;

    /// When a point does what its kind says.
    enum When {
        /// At that hit.
        Hit(u64),
        /// While something lies there.
        Exists(PathBuf),
    }

    struct Plan {
        name: String,
        kind: String,
        when: When,
        hits: AtomicU64,
    }

    fn plan(variable: &str, when: fn(&str) -> Option<When>) -> Option<Plan> {
        let text = std::env::var(variable).ok()?;
        let mut parts = text.splitn(3, ':');
        let (name, kind) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Plan { name, kind, when: when(parts.next()?)?, hits: AtomicU64::new(0) })
    }

    static PLANS: LazyLock<[Option<Plan>; 2]> = LazyLock::new(|| {
        [
            plan("BURSAR_FAULT_AT", |hit| hit.parse().ok().map(When::Hit)),
            plan("BURSAR_FAULT_WHILE", |path| Some(When::Exists(path.into()))),
        ]
    });

    /// Whether a point is to be held up now, without holding up its thread.
    pub fn held(name: &'static str) -> bool {
        PLANS.iter().flatten().any(|plan| {
            let now = matches!(&plan.when, When::Exists(path) if path.exists());
            plan.name == name && plan.kind == "hold" && now
        })
    }

    /// Does what the plan says of this hit.
    pub(crate) fn point(name: &'static str) -> io::Result<()> {
        debug_assert!(
            super::POINTS.iter().any(|(known, _)| *known == name),
            "{name} is not listed"
        );
        for plan in PLANS.iter().flatten().filter(|plan| plan.name == name) {
            let hit = plan.hits.fetch_add(1, Ordering::SeqCst) + 1;
            let now = match &plan.when {
                When::Hit(wanted) => hit == *wanted,
                When::Exists(path) => path.exists(),
            };
            if now {
                fail(name, &plan.kind)?;
            }
        }
        Ok(())
    }

    #[allow(clippy::panic, reason = "that is what a test asked for")]
    fn fail(name: &str, kind: &str) -> io::Result<()> {
        match kind {
            "EIO" => Err(Errno::IO.into()),
            "ENOSPC" => Err(Errno::NOSPC.into()),
            "stall" => {
                let gate = std::env::var_os("BURSAR_FAULT_GATE").unwrap_or_default();
                let mut gate = UnixStream::connect(gate)?;
                gate.read_to_end(&mut Vec::new()).map(|_| ())
            }
            _ => panic!("a panic at the point {name}, as the test asked"),
        }
    }
}

#[cfg(feature = "crash-points")]
pub use active::held;
#[cfg(feature = "crash-points")]
pub(crate) use active::point;

/// Whether a point is to be held up now: never, the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn held(_name: &'static str) -> bool {
    false
}

/// Nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}
