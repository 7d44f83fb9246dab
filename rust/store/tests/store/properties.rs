//! Whatever happens, and wherever it is interrupted: the state is a function of the ledger.

use bursar_quota::Timestamp;
use bursar_store::{Options, verify};
use proptest::prelude::*;

use crate::engine::{
    Engine, commit_request, id, options, policy, record_request, reserve_request, small_bounds,
};

#[derive(Debug, Clone)]
enum Step {
    Activate(u64),
    Reserve { tenant: u8, input: u64, output: u64, ttl_s: Option<u64> },
    Commit { which: u64, input: u64, output: u64 },
    Unknown { which: u64 },
    Release { which: u64 },
    Record { tenant: u8, tokens: u64, ago_ms: i64 },
    Tick { ms: i64 },
    CatchUp,
    Reopen { in_order: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1_000..50_000_u64).prop_map(Step::Activate),
        8 => (0..3_u8, 1..900_u64, 1..900_u64, prop::option::of(1..120_u64)).prop_map(
            |(tenant, input, output, ttl_s)| Step::Reserve { tenant, input, output, ttl_s }
        ),
        6 => (0..40_u64, 1..900_u64, 0..900_u64)
            .prop_map(|(which, input, output)| Step::Commit { which, input, output }),
        1 => (0..40_u64).prop_map(|which| Step::Unknown { which }),
        3 => (0..40_u64).prop_map(|which| Step::Release { which }),
        3 => (0..3_u8, 1..900_u64, 0..90_000_i64)
            .prop_map(|(tenant, tokens, ago_ms)| Step::Record { tenant, tokens, ago_ms }),
        5 => (1..200_000_i64).prop_map(|ms| Step::Tick { ms }),
        1 => Just(Step::CatchUp),
        2 => any::<bool>().prop_map(|in_order| Step::Reopen { in_order }),
    ]
}

fn run(engine: &mut Engine, step: &Step, issued: &mut u64) {
    let tenant = |tenant: &u8| ["acme", "bolt", "coil"][usize::from(*tenant)];
    // The latest ids are the ones that something can still happen to.
    let pick = |which: &u64| id(issued.saturating_sub(*which));
    match step {
        Step::Activate(amount) => engine.activate(&policy(*amount)),
        Step::Reserve { tenant: of, input, output, ttl_s } => {
            *issued += 1;
            let mut request = reserve_request(&id(*issued), tenant(of), *input, *output);
            request.ttl = ttl_s.map(|ttl| bursar_quota::Milliseconds(ttl * 1_000));
            engine.reserve(&request);
        }
        Step::Commit { which, input, output } => {
            engine.commit(&commit_request(&pick(which), *input, *output));
        }
        Step::Unknown { which } => {
            let mut request = commit_request(&pick(which), 0, 0);
            (request.lines, request.outcome) = (Vec::new(), bursar_quota::Outcome::Unknown);
            engine.commit(&request);
        }
        Step::Release { which } => {
            engine.release(&pick(which));
        }
        Step::Record { tenant: of, tokens, ago_ms } => {
            *issued += 1;
            let at = Timestamp(engine.now.0 - ago_ms);
            engine.record(&record_request(&id(*issued), tenant(of), *tokens, at));
        }
        Step::Tick { ms } => engine.set_now(Timestamp(engine.now.0 + ms)),
        Step::CatchUp => engine.settle_disk(),
        Step::Reopen { in_order } => {
            let before = engine.dump();
            engine.reopen(*in_order);
            assert_eq!(engine.dump(), before);
        }
    }
    engine.flush();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn index_and_tail_equal_a_replay_from_the_first_segment(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { bounds: small_bounds(), segment_bytes: 4 << 10, ..options() };
        let mut engine = Engine::open(folder.path(), options.clone());
        let mut issued = 0;
        engine.activate(&policy(20_000));
        engine.flush();
        for step in &steps {
            run(&mut engine, step, &mut issued);
        }
        let live = engine.dump();
        prop_assert_eq!(&live, &engine.replayed());
        engine.settle_disk();
        engine.reopen(false);
        prop_assert_eq!(engine.recovery.entries_replayed, 0);
        prop_assert_eq!(&live, &engine.dump());
        drop(engine);
        let report = verify(folder.path(), &options).unwrap();
        prop_assert_eq!(&report.problems, &Vec::<String>::new());
        prop_assert_eq!(report.index_sequence, Some(report.last_sequence));
    }
}
