//! What an owner says: verdicts, stops, messages and calls, a new owner, the answer to a heartbeat.
//!
//! Touches leases and calls by what they are told; what comes from a deposed owner is passed over.

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::Runner;
use crate::{
    agent::{RunError, attempt::Heard},
    bus::Message,
    task::Token,
    wire::{
        VERSION,
        calls::CallOver,
        codec,
        messages::{Accept, BeatReply, Ctl, CtlOp, OwnerHello, Verdict},
        subjects,
    },
};

/// Messages above this size are not ours.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

impl Runner {
    pub(super) fn hear_ctl(&mut self, message: &Message) {
        let Some(ctl) = self.read::<Ctl>("ctl", message) else { return };
        if !self.heed(ctl.epoch) {
            return;
        }
        for op in ctl.ops {
            match op {
                CtlOp::Verdict(verdict) => self.hear_verdict(verdict),
                CtlOp::Message { token, mail } => {
                    if let Some(attempt) = self.leases.get(&token) {
                        attempt.told(mail);
                    }
                }
                CtlOp::Stop { token, code } => {
                    tracing::info!(?token, %code, "a lease or a call is over");
                    if self.waiting.remove(&token) {
                        self.stopped.push(token);
                    } else if !self.calls.stop(&token, code) {
                        self.stop(token);
                    }
                }
                CtlOp::Call(call) => {
                    let to = message.reply.as_ref().map(ToString::to_string);
                    if let Some(to) = to.filter(|to| subjects::may_answer(to)) {
                        self.calls.take(&self.instance, *call, to);
                    }
                }
            }
        }
    }

    /// Says which calls are taken and which are not; they begin at once: whoever waits is answered first.
    pub(super) async fn answer_calls(&mut self) -> Result<(), RunError> {
        match self.calls.answer() {
            Some(answer) => self.tell_accept(answer).await,
            None => Ok(()),
        }
    }

    /// Handlers of calls are gone: their slots are free.
    pub(super) async fn call_over(&mut self, first: CallOver) -> Result<(), RunError> {
        let mut over = vec![first];
        while let Some(Some(next)) = self.hears.over.recv().now_or_never() {
            over.push(next);
        }
        over.iter().for_each(|over| self.calls.release(&over.token));
        self.tell_accept(Accept { v: VERSION, over, ..Accept::default() }).await
    }

    async fn tell_accept(&self, answer: Accept) -> Result<(), RunError> {
        let subject = subjects::accept(&self.instance.name, &self.instance.id);
        Ok(self.instance.link.main.tell(subject, codec::pack(&answer)).await?)
    }

    fn hear_verdict(&mut self, verdict: Verdict) {
        let (token, now) = (verdict.token, Instant::now());
        let Some(attempt) = self.leases.get(&token) else { return };
        match attempt.hear(verdict, now) {
            Heard::Noted => {}
            Heard::Gap => self.look_by(now),
            Heard::Released => self.leases.release(token),
            Heard::Stale => self.stop(token),
        }
    }

    pub(super) fn hear_owner(&mut self, message: &Message) {
        let Some(hello) = self.read::<OwnerHello>("owner", message) else { return };
        if hello.epoch > self.epoch {
            self.epoch = hello.epoch;
            self.speak_up();
        }
    }

    pub(super) fn hear_reply(&mut self, message: &Message) {
        // Without a coordinator the server itself answers, with a status and no content.
        if message.payload.is_empty() {
            return;
        }
        let Some(reply) = self.read::<BeatReply>("heartbeat reply", message) else { return };
        if self.heed(reply.epoch) {
            for token in reply.stop {
                self.stop(token);
            }
        }
    }

    /// A lease is over. Its handler may notice, and is dropped if it does not.
    pub(super) fn stop(&mut self, token: Token) {
        let Some(attempt) = self.leases.get(&token) else { return };
        if attempt.lease_over() {
            return self.release_dead(token);
        }
        let grace = self.instance.settings.clock.after(self.instance.settings.grace);
        self.leases.drop_handler_at(&token, grace);
        self.look_by(grace);
    }

    /// The owner counts a dead lease as a taken slot until a heartbeat comes without it.
    pub(super) fn release_dead(&mut self, token: Token) {
        self.leases.release(token);
        self.beat_at = Instant::now();
    }

    /// Whether a message of this epoch counts.
    pub(super) fn heed(&mut self, epoch: u64) -> bool {
        if epoch < self.epoch {
            tracing::debug!(epoch, highest = self.epoch, "ignoring a deposed owner");
            return false;
        }
        self.epoch = epoch;
        true
    }

    pub(super) fn read<T: DeserializeOwned>(&self, what: &str, message: &Message) -> Option<T> {
        match codec::decode_any(None, &message.payload, MAX_MESSAGE).1 {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(what, subject = %message.subject, %error, "a message is not understood");
                None
            }
        }
    }
}
