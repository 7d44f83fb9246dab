//! What rounds give: medians, with the least and the greatest.

use bursar_load::Round;

/// The least, the median and the greatest.
pub(crate) fn middle(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

/// `median (least–greatest)` of values.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let (low, half, high) = middle(values);
    format!("{half:.2} ({low:.2}–{high:.2})")
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1_000.0
}

/// Calls a second.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn rate(round: &Round) -> f64 {
    round.count as f64 * 1e9 / round.elapsed_ns as f64
}

/// The medians over rounds of what half of the calls and what 99 of 100 took, in microseconds.
pub(crate) fn half_and_tail<'a>(rounds: impl Iterator<Item = &'a Round> + Clone) -> String {
    let (_, half, _) = middle(rounds.clone().map(|round| us(round.p50_ns)));
    let (_, tail, _) = middle(rounds.map(|round| us(round.p99_ns)));
    format!("{half:.1}/{tail:.1}")
}
