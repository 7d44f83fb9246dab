//! Questions to a data directory that need no sidecar: what the ledger says of usage, and whether all agrees.

use std::collections::BTreeMap;
use std::path::Path;

use bursar_proto::v1;
use bursar_quota::{Event, UsageKey, UsageSums, group};
use bursar_store::{Options, UsagePage};

use crate::door::Wrong;

/// Sums usage from the ledger's first entry, by hour and the rollup keys each entry was counted by.
pub(crate) fn usage(directory: &Path) -> Result<v1::UsageBatch, Wrong> {
    let mut rollups: BTreeMap<u64, Vec<Box<str>>> = BTreeMap::new();
    let mut groups: BTreeMap<UsageKey, UsageSums> = BTreeMap::new();
    let mut through_sequence = 0;
    bursar_store::scan(directory, 1, |sequence, _, event| {
        through_sequence = sequence;
        if let Event::Activated(activated) = event {
            rollups.insert(activated.version, activated.rollups.clone());
        }
        let keys = event.policy_version().and_then(|version| rollups.get(&version));
        for (key, sums) in group(event, keys.map_or(&[][..], Vec::as_slice)) {
            groups.entry(key).or_default().add(&sums);
        }
    })?;
    let groups = groups.into_iter().filter(|(_, sums)| !sums.is_zero()).collect();
    Ok(UsagePage { through_sequence, groups, ..UsagePage::default() }.to_message())
}

/// Recomputes everything from the first entry and compares it with the index.
pub(crate) fn verify(directory: &Path, options: &Options) -> Result<bursar_store::Report, Wrong> {
    Ok(bursar_store::verify(directory, options)?)
}
