//! Release and expiry: a reservation ends without saying what was used.

use crate::event::{Event, Settled};
use crate::request::{Past, Refusal, ReleaseAnswer, ReleaseRequest};
use crate::reservation::ReservationState;
use crate::rules::Rules;
use crate::settle::{Changes, Grounds};
use crate::usage::tokens_sum;

impl Rules<'_> {
    /// Gives a reservation back; of one that expired, what that charged.
    ///
    /// # Errors
    /// When nothing is known of the reservation, its call is known to have been made, or it was released
    /// with other content.
    pub fn release(
        &self,
        request: &ReleaseRequest,
        past: Option<&Past>,
    ) -> Result<ReleaseAnswer, Refusal> {
        let grounds = Grounds::find(self, &request.id, past)?;
        match grounds.replaces {
            Some((sequence, settled)) if settled.state == ReservationState::Released => {
                if settled.digest != request.digest {
                    let hint = "it was released already, with another reason";
                    return Err(Refusal::Conflict { id: request.id.clone(), hint });
                }
                return Ok(ReleaseAnswer { replayed: true, sequence, ..answer(settled, None) });
            }
            Some((_, settled))
                if settled.state == ReservationState::Committed || settled.dispatched =>
            {
                return Err(Refusal::NotOpen {
                    id: request.id.clone(),
                    state: settled.state,
                    hint: "its call was made, so it cannot be given back",
                });
            }
            _ => {}
        }
        // From here on it is given back.
        let mut changes = Changes::default();
        self.take_back(&grounds, &mut changes);
        let (effects, uncounted) = self.effects(changes);
        let settled = Settled {
            effects,
            uncounted,
            reason: request.reason.clone(),
            ..grounds.settled(ReservationState::Released, request.digest)
        };
        Ok(answer(&settled, Some(Event::Settled(Box::new(settled.clone())))))
    }

    /// The expiry of a reservation that is open, none otherwise. Whether it is due is known to whoever has the
    /// clock that deadlines are kept on.
    pub fn expire(&self, id: &str) -> Option<Event> {
        let (id, _) = self.state.reservations.get_key_value(id)?;
        let grounds = Grounds::find(self, id, None).ok()?;
        let mut changes = Changes::default();
        self.take_back(&grounds, &mut changes);
        let lines = grounds.assumed(false);
        let call = lines.is_some();
        let lines = lines.unwrap_or_default();
        if call {
            self.count_in_holds(&grounds, tokens_sum(&lines), false, &mut changes);
        }
        let (effects, uncounted) = self.effects(changes);
        Some(Event::Settled(Box::new(Settled {
            effects,
            uncounted,
            lines,
            call,
            ..grounds.settled(ReservationState::Expired, 0)
        })))
    }
}

/// The answer a release's entry gives, now and whenever it is asked for again.
fn answer(settled: &Settled, event: Option<Event>) -> ReleaseAnswer {
    let tokens_released = match settled.replaces_sequence {
        None => settled.tokens_reserved,
        Some(_) => tokens_sum(&settled.replaced_lines),
    };
    ReleaseAnswer { tokens_released, replayed: false, sequence: 0, event }
}
