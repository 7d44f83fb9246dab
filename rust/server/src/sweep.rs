//! The sweep: reservations expire when they are due, also where nobody asks anything, and what no decision
//! can reach any more is forgotten in small steps.

use std::time::Duration;

use crate::engine::Engine;
use crate::fault::Fault;
use crate::shared::Shared;

/// The longest the sweep sleeps. No reservation lives shorter, so none is made while it sleeps that is due
/// before it wakes.
const NAP_MS_MAX: u64 = 1_000;

/// How many rows of each kind are forgotten before calls are let in again.
const FORGET_STEPS: usize = 1_024;

/// Sweeps as long as the sidecar serves.
pub(crate) async fn sweep(shared: &Shared) {
    loop {
        match shared.engine(|engine| once(engine, FORGET_STEPS)) {
            Ok((true, _)) => tokio::task::yield_now().await,
            Ok((false, nap_ms)) => tokio::time::sleep(Duration::from_millis(nap_ms)).await,
            // Poisoned: whoever waits for that stops the server.
            Err(_) => tokio::time::sleep(Duration::from_millis(NAP_MS_MAX)).await,
        }
    }
}

/// One step: says whether there may be more to forget, and how long nothing is due, in milliseconds.
pub(crate) fn once(engine: &mut Engine, steps_max: usize) -> Result<(bool, u64), Fault> {
    let now = engine.begin()?;
    let more = engine.state.forget(now, &engine.bounds, steps_max);
    let lived = engine.clock.lived();
    let nap_ms = engine.deadlines.next().map_or(NAP_MS_MAX, |at| lived.until(at).0);
    Ok((more, nap_ms.clamp(1, NAP_MS_MAX)))
}
