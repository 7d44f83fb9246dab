//! Callers that reserve and commit until nobody answers, and what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bursar_proto::v1;
use bursar_quota::Event;
use bursar_store::{scan, verify};
use tokio::task::JoinSet;
use tonic::Status;

use crate::served::{self, Child, Client, commit, reserve};
use crate::settings;

/// How many callers there are; each has one call in flight.
const CALLERS: usize = 16;

/// What callers were told.
#[derive(Default)]
pub(crate) struct Told {
    granted: BTreeSet<String>,
    committed: BTreeSet<String>,
    /// The last word each caller got.
    refusals: Vec<Status>,
}

impl std::fmt::Display for Told {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (granted, committed) = (self.granted.len(), self.committed.len());
        let said = self.refusals.iter().filter(|status| !served::reason(status).is_empty()).count();
        write!(out, "{granted} grants and {committed} commits kept, {said} of {CALLERS} told why")
    }
}

/// Has callers reserve and commit until each of them gets no answer.
pub(crate) async fn call_until_it_ends(child: &Child) -> Told {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = child.client().await;
        callers.spawn(call(client, caller));
    }
    let mut all = Told::default();
    for told in callers.join_all().await {
        all.granted.extend(told.granted);
        all.committed.extend(told.committed);
        all.refusals.extend(told.refusals);
    }
    all
}

async fn call(mut client: Client, caller: usize) -> Told {
    let mut told = Told::default();
    for number in 0.. {
        let name = format!("{caller}-{number}");
        if let Err(status) = client.reserve(reserve(&name, v1::Durability::Process)).await {
            told.refusals.push(status);
            break;
        }
        told.granted.insert(name.clone());
        if let Err(status) = client.commit(commit(&name)).await {
            told.refusals.push(status);
            break;
        }
        told.committed(&name);
    }
    told
}

impl Told {
    /// Takes note of a commit that was acknowledged.
    pub(crate) fn committed(&mut self, name: &str) {
        self.granted.insert(name.into());
        self.committed.insert(name.into());
    }

    /// Every caller was told that there is no answer, most of them why; the rest found nobody there any more.
    pub(crate) fn check_refusals(&self, fault: &str) {
        let mut explained = 0;
        for status in &self.refusals {
            match served::reason(status).as_str() {
                "POISONED" => explained += 1,
                "" => {}
                reason => panic!("{fault}: {reason}: {status:?}"),
            }
        }
        assert_eq!(self.refusals.len(), CALLERS, "{fault}");
        assert!(explained > 0, "{fault}: {:?}", self.refusals);
    }

    /// Whatever was acknowledged is answered as a repetition, and what was only granted can be committed.
    pub(crate) async fn check_after_restart(&self, child: &Child) {
        let mut client = child.client().await;
        for name in &self.granted {
            let again = client.reserve(reserve(name, v1::Durability::Process)).await.unwrap();
            assert!(again.get_ref().replayed, "{name} was granted and is not known");
        }
        for name in &self.committed {
            let again = client.commit(commit(name)).await.unwrap().into_inner();
            assert_eq!((again.replayed, again.tokens_committed), (true, 7), "{name}");
        }
        for name in self.granted.difference(&self.committed) {
            let now = client.commit(commit(name)).await.unwrap().into_inner();
            assert_eq!(now.tokens_committed, 7, "{name}");
        }
    }

    /// The ledger has each commit that was acknowledged once, and none twice; the index agrees with it.
    pub(crate) fn check_ledger(&self, folder: &Path) {
        let data = folder.join("data");
        let mut settled = BTreeMap::<String, u64>::new();
        scan(&data, 1, |_, _, event| {
            if let Event::Settled(event) = event {
                *settled.entry(event.id.to_string()).or_default() += 1;
            }
        })
        .unwrap();
        for name in &self.committed {
            assert_eq!(settled.get(name), Some(&1), "{name}");
        }
        assert!(settled.values().all(|count| *count == 1), "{settled:?}");
        let report = verify(&data, &settings::options()).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
}
