//! What happens at its time, with one timer for all of it: heartbeats, reports published again, handlers dropped.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Runner;
use crate::{
    agent::{JITTER_MS, RunError, instance::Instance, voice},
    bus::link::jitter_below,
    wire::{VERSION, codec, messages::Beat, subjects},
};

/// The least between two heartbeats that say anew how many tasks are taken ahead.
const AHEAD_EVERY: Duration = Duration::from_millis(250);
/// How often it is said again what the instance is, should it have got lost.
const ANNOUNCE: Duration = Duration::from_secs(60);

impl Runner {
    /// Somebody new listens, or somebody may have missed something: beat and report again, soon.
    pub(super) fn speak_up(&mut self) {
        let soon = Instant::now() + Duration::from_millis(jitter_below(JITTER_MS));
        self.beat_at = self.beat_at.min(soon);
        self.announce_at = Instant::now();
        self.leases.all().for_each(|attempt| attempt.hurry(soon));
        self.look_by(soon);
        self.instance.resend.send_modify(|round| *round += 1);
    }

    pub(super) fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When something is to be done next.
    pub(super) fn next_at(&self) -> Instant {
        let drain = self.drain.as_ref().map(|drain| drain.hand_back_at.unwrap_or(drain.over_at));
        [self.look_at, drain, self.waiting.over_at()].into_iter().flatten().fold(self.beat_at, Instant::min)
    }

    pub(super) async fn on_time(&mut self) -> Result<(), RunError> {
        let now = Instant::now();
        let overdue = self.waiting.overdue(now);
        self.decline(overdue).await?;
        if self.drain.as_ref().and_then(|drain| drain.hand_back_at).is_some_and(|at| at <= now) {
            self.hand_back();
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.leases.drop_handlers(now);
            self.repeat(now);
            self.look_at = self.leases.look_at(now);
        }
        if self.beat_at <= now {
            self.beat(self.instance.settings.slots).await?;
        }
        Ok(())
    }

    /// Publishes overdue reports again. While disconnected it does nothing: what was handed over before is
    /// sent by the connection itself when it is back, and the reconnect asks for it again. Nor before the
    /// last round has left: it would only grow.
    fn repeat(&mut self, now: Instant) {
        let lane = &self.instance.link.bulk;
        if !lane.is_connected() || self.repeating.as_ref().is_some_and(|round| !round.is_finished()) {
            return;
        }
        let again = self.leases.overdue(now);
        if !again.is_empty() {
            let round = voice::repeat(lane.clone(), self.instance.reports_to(), again);
            self.repeating = Some(AbortOnDropHandle::new(tokio::spawn(round)));
        }
    }

    /// What is taken ahead is said anew when it is far off, but not all the time.
    pub(super) fn mind_ahead(&mut self) {
        let soon = self.beaten_at + AHEAD_EVERY;
        if self.instance.ahead.is_off() && soon < self.beat_at {
            self.beat_at = soon;
        }
    }

    pub(super) async fn beat(&mut self, slots: u32) -> Result<(), RunError> {
        let Instance { name, id, settings, link, .. } = &*self.instance;
        let beat = Beat {
            v: VERSION,
            slots,
            tokens: self.leases.tokens(),
            lease_ms: settings.lease_ms(),
            draining: self.instance.is_draining(),
            messages: true,
            calls: Some(self.calls.held()),
            ahead: if slots > 0 { self.instance.ahead.say() } else { 0 },
            about: (self.announce_at <= Instant::now() && !settings.about.is_empty())
                .then(|| Box::new(settings.about.clone())),
            call_slots: settings.call_slots().min(slots),
        };
        // While disconnected it would only pile up, to be sent stale: the reconnect beats at once.
        if link.main.is_connected() {
            if beat.about.is_some() {
                self.announce_at = settings.clock.after(ANNOUNCE);
            }
            link.main.tell_answerable(subjects::beat(name, id), &self.inbox, codec::pack(&beat)).await?;
        }
        self.beaten_at = Instant::now();
        let shortest = self.leases.shortest().map(|lease| Duration::from_millis(lease.max(1)));
        let lease = shortest.unwrap_or(settings.lease).min(settings.lease);
        self.beat_at = settings.clock.after(lease / 3);
        Ok(())
    }
}
