//! What a caller did under one id and was told, and what the sidecar must still say of it.

use bursar_proto::v1;
use tonic::Status;

use crate::link::Client;

/// What was acknowledged under one id.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    /// A reservation.
    Reserved(Box<Reservation>),
    /// Usage that had none.
    Recorded(Box<(v1::RecordRequest, v1::RecordResponse)>),
}

/// A reservation and how it was settled, if it was.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) request: v1::ReserveRequest,
    pub(crate) grant: v1::Grant,
    pub(crate) settled: Option<Settled>,
}

/// A settlement that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) enum Settled {
    Committed(Box<(v1::CommitRequest, v1::CommitResponse)>),
    Released(v1::ReleaseRequest, v1::ReleaseResponse),
}

impl Reservation {
    /// Where it must stand at a time, in Unix milliseconds.
    pub(crate) fn state_at(&self, now: i64) -> v1::State {
        match self.settled {
            Some(Settled::Committed(..)) => v1::State::Committed,
            Some(Settled::Released(..)) => v1::State::Released,
            None if self.grant.expires_at_unix_ms <= now => v1::State::Expired,
            None => v1::State::Open,
        }
    }
}

/// Asks again all that was acknowledged, and compares.
///
/// # Errors
/// When the sidecar was killed before it answered.
pub(crate) async fn ask_again(life: &Life, client: &mut Client, now: i64) -> Result<(), Status> {
    match life {
        Life::Recorded(recorded) => {
            let (request, answer) = &**recorded;
            let again = client.record(request.clone()).await?.into_inner();
            assert!(again.replayed, "a record is lost: {request:?}");
            assert_eq!(
                (again.tokens_committed, again.ledger_sequence),
                (answer.tokens_committed, answer.ledger_sequence),
                "{request:?}"
            );
        }
        Life::Reserved(reservation) => {
            let again = client.reserve(reservation.request.clone()).await?.into_inner();
            same_grant(reservation, &again, now);
            match &reservation.settled {
                None => {}
                Some(Settled::Committed(committed)) => {
                    let (request, answer) = &**committed;
                    let again = client.commit(request.clone()).await?.into_inner();
                    same_commit(request, answer, &again);
                }
                Some(Settled::Released(request, answer)) => {
                    let again = client.release(request.clone()).await?.into_inner();
                    assert!(again.replayed, "a release is lost: {request:?}");
                    assert_eq!(
                        (again.tokens_released, again.ledger_sequence),
                        (answer.tokens_released, answer.ledger_sequence),
                        "{request:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn same_grant(reservation: &Reservation, again: &v1::ReserveResponse, now: i64) {
    let Some(v1::reserve_response::Outcome::Grant(grant)) = &again.outcome else {
        panic!("a grant is lost: {reservation:?} became {again:?}");
    };
    assert!(again.replayed, "a grant is lost: {reservation:?} was granted anew");
    let facts = |grant: &v1::Grant| {
        let tokens = (grant.input_tokens, grant.output_tokens_granted, grant.tokens_reserved);
        (grant.reservation_id.clone(), grant.model.clone(), tokens, grant.expires_at_unix_ms)
    };
    assert_eq!(facts(grant), facts(&reservation.grant));
    assert_eq!(grant.state(), reservation.state_at(now), "{reservation:?}");
}

pub(crate) fn same_commit(
    request: &v1::CommitRequest,
    answer: &v1::CommitResponse,
    again: &v1::CommitResponse,
) {
    assert!(again.replayed, "a commit is lost: {request:?}");
    let facts = |answer: &v1::CommitResponse| {
        let tokens = (answer.tokens_committed, answer.tokens_overrun);
        (tokens, answer.late, answer.ledger_sequence)
    };
    assert_eq!(facts(again), facts(answer), "{request:?}");
}
