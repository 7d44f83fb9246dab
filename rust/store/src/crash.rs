//! Named points at which the process kills itself, so that tests can crash it anywhere.
//!
//! Without the feature `crash-points` a point is nothing. With it, `BURSAR_CRASH_AT="name:n"` in the
//! environment makes the n-th hit of the point `name` send SIGKILL to the process itself.

/// Every point there is, in the order an entry meets them.
pub const POINTS: [&str; 14] = [
    "append",
    "write",
    "written",
    "change-write",
    "change-rename",
    "change-done",
    "sync",
    "synced",
    "follow",
    "followed",
    "open-locked",
    "open-rewrite",
    "open-rename",
    "open-cut",
];

/// Ends the process if this is the hit it was told to die at.
#[cfg(feature = "crash-points")]
pub(crate) fn point(name: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static AT: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var("BURSAR_CRASH_AT").ok()?;
        let (name, hit) = text.rsplit_once(':')?;
        Some((name.to_owned(), hit.parse().ok()?))
    });
    static HITS: AtomicU64 = AtomicU64::new(0);

    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    if let Some((wanted, hit)) = &*AT
        && wanted == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *hit
    {
        // Nothing runs after this: no destructor, no buffer is written out.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing: the feature `crash-points` is off.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_name: &'static str) {}
