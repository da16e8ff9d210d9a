//! Offers: which are taken, which wait for a slot, and which are declined. Answers them, and begins what was taken.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::{FLUSH, Runner};
use crate::{
    agent::{RunError, attempt::Attempt, leases::Known},
    bus::Message,
    task::{Payload, Token},
    wire::{
        VERSION, codec,
        messages::{Accept, Offer, Offers},
        subjects,
    },
};

impl Runner {
    /// Everything offered by now is answered in one message, which leaves before any handler starts.
    pub(super) async fn hear_offers(&mut self, first: Message) -> Result<(), RunError> {
        let mut answer = Accept { v: VERSION, ..Accept::default() };
        let mut start = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            let told = self.read::<Offers>("offer", &message).filter(|told| self.heed(told.epoch));
            for offer in told.into_iter().flat_map(|told| told.offers) {
                self.consider(offer, &mut answer, &mut start);
            }
            next = self.hears.offers.next().now_or_never().flatten();
        }
        self.begin(answer, start).await
    }

    /// Says which offers are taken and which are not; what is taken begins once that has left.
    pub(super) async fn begin(
        &mut self,
        answer: Accept,
        start: Vec<(Arc<Attempt>, Payload)>,
    ) -> Result<(), RunError> {
        self.instance.slots.await_free(!self.waiting.is_empty());
        if answer.taken.is_empty() && answer.busy.is_empty() {
            return Ok(());
        }
        let lane = &self.instance.link.main;
        let subject = subjects::accept(&self.instance.name, &self.instance.id);
        lane.tell(subject, codec::pack(&answer)).await?;
        if !matches!(tokio::time::timeout(FLUSH, lane.flush()).await, Ok(Ok(()))) {
            // It will leave when the connection is back; until then the lease is in the heartbeats.
            tracing::warn!("an acceptance has not left yet");
        }
        for (attempt, input) in start {
            // The lease owns it: whoever gives up the lease drops the handler, which ends the task.
            drop(tokio::spawn(attempt.run(input)));
        }
        Ok(())
    }

    fn consider(&mut self, offer: Offer, answer: &mut Accept, start: &mut Vec<(Arc<Attempt>, Payload)>) {
        match self.leases.know(&offer.token) {
            Known::Released => {
                tracing::debug!(task = %offer.task, attempt = offer.attempt, "an offer came again after its end");
            }
            Known::Held => answer.taken.push(offer.token),
            Known::New if self.waiting.has(&offer.token) => {}
            Known::New if self.instance.is_draining() => answer.busy.push(offer.token),
            Known::New if self.waiting.is_empty() && self.instance.slots.free_for_tasks() > 0 => {
                self.accept(offer, answer, start);
            }
            Known::New if self.waiting.len() < self.instance.ahead.expected() as usize => {
                self.waiting.push(offer, Instant::now());
            }
            Known::New => answer.busy.push(offer.token),
        }
    }

    pub(super) fn accept(
        &mut self,
        mut offer: Offer,
        answer: &mut Accept,
        start: &mut Vec<(Arc<Attempt>, Payload)>,
    ) {
        tracing::debug!(tenant = %offer.tenant, task = %offer.task, attempt = offer.attempt, "offer accepted");
        answer.taken.push(offer.token);
        let input = std::mem::take(&mut offer.input);
        let attempt = Arc::new(Attempt::new(self.instance.clone(), offer));
        self.look_by(Instant::now() + attempt.look_every());
        self.leases.take(attempt.clone());
        start.push((attempt, input));
    }

    /// Slots are free: the offers that wait for them are accepted.
    pub(super) async fn serve_waiting(&mut self) -> Result<(), RunError> {
        let mut answer = Accept { v: VERSION, ..Accept::default() };
        let mut start = Vec::new();
        while self.instance.slots.free_for_tasks() > 0
            && let Some(offer) = self.waiting.pop()
        {
            self.accept(offer, &mut answer, &mut start);
        }
        self.begin(answer, start).await
    }

    /// Offers that waited are declined. The heartbeat behind it says that it is well all the same.
    pub(super) async fn decline(&mut self, busy: Vec<Token>) -> Result<(), RunError> {
        if busy.is_empty() {
            return Ok(());
        }
        self.instance.ahead.declined();
        self.beat_at = Instant::now();
        self.begin(Accept { v: VERSION, busy, ..Accept::default() }, Vec::new()).await
    }
}
