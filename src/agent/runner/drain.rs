//! The last part of an instance's life: no new work, what still runs handed back, leave.

use tokio::time::Instant;

use super::{FLUSH, Runner};
use crate::{
    agent::{RunError, calls::lost, leases::Leases},
    task::Token,
};

/// The last part of an instance's life.
pub(super) struct Drain {
    /// When what still runs is handed back; `None` once it is.
    pub(super) hand_back_at: Option<Instant>,
    pub(super) over_at: Instant,
}

impl Drain {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.hand_back_at.is_none() && self.over_at <= now
    }
}

impl Runner {
    pub(super) fn start_drain(&mut self) {
        let settings = &self.instance.settings;
        self.drain = Some(Drain {
            hand_back_at: Some(settings.clock.after(settings.drain.mul_f64(0.8))),
            over_at: settings.clock.after(settings.drain),
        });
        self.instance.drain();
        self.beat_at = Instant::now();
    }

    /// The process ends soon. Handlers may still come to an end of their own, for a moment.
    pub(super) fn hand_back(&mut self) {
        self.instance.hand_back();
        let settings = &self.instance.settings;
        if let Some(drain) = &mut self.drain {
            drain.hand_back_at = None;
            // A process that was held up comes here late, and has its time for handing back all the same.
            drain.over_at = drain.over_at.max(settings.clock.after(settings.drain / 5));
        }
        let at = settings.clock.after(settings.drain / 20);
        let running: Vec<Token> =
            self.leases.all().filter(|attempt| attempt.cancel()).map(|attempt| attempt.offer.token).collect();
        for token in running {
            self.leases.drop_handler_at(&token, at);
        }
        self.calls.give_up(&lost("its instance is leaving"));
        self.look_by(at);
    }

    pub(super) async fn leave(mut self) -> Result<(), RunError> {
        if self.leases.len() > 0 {
            tracing::warn!(tasks = self.leases.len(), "leaving with tasks that could not be handed back");
        }
        self.leases = Leases::default();
        self.calls.drop_all();
        self.beat(0).await?;
        // Best effort: without it the owner notices a lease later.
        let _late = tokio::time::timeout(FLUSH, self.instance.link.main.flush()).await;
        tracing::info!(agent = %self.instance.name, instance = %self.instance.id, "instance stopped");
        Ok(())
    }
}
