//! Which calls an instance answers now. Used by the runner alone.

use std::{collections::HashMap, sync::Arc};

use super::{
    attempt::Attempt,
    calls::{Answer, as_offer, unheard},
    instance::Instance,
};
use crate::{
    task::{Code, Refusal, Token},
    wire::{
        VERSION,
        calls::{Call, HeldCall},
        messages::Accept,
    },
};

/// See the module.
pub(super) struct Calls {
    held: HashMap<Token, Held>,
    /// Where the server says what nobody listens for, under a number for each call.
    inbox: String,
    next: u64,
    by_number: HashMap<u64, Token>,
    /// What the owner has not been told yet.
    answer: Accept,
}

struct Held {
    attempt: Arc<Attempt>,
    number: u64,
}

impl Calls {
    pub(super) fn new(inbox: String) -> Self {
        Self {
            held: HashMap::new(),
            inbox,
            next: 0,
            by_number: HashMap::new(),
            answer: Accept { v: VERSION, ..Accept::default() },
        }
    }

    /// What to listen to.
    pub(super) fn unheard(&self) -> String {
        format!("{}.*", self.inbox)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// As the heartbeat names them.
    pub(super) fn held(&self) -> Vec<HeldCall> {
        self.held.values().map(|held| held.attempt.held_call()).collect()
    }

    /// A call for this instance: begun, or declined.
    pub(super) fn take(&mut self, instance: &Arc<Instance>, mut call: Call, to: String) {
        if self.held.contains_key(&call.token) {
            return;
        }
        if instance.slots.free_now() == 0 || instance.is_draining() {
            return self.answer.busy.push(call.token);
        }
        self.answer.taken.push(call.token);
        let (token, number) = (call.token, self.next);
        self.next += 1;
        let input = std::mem::take(&mut call.input);
        let answer = Answer::new(instance, &call, to, format!("{}.{number}", self.inbox));
        let offer = as_offer(instance, &call);
        let attempt = Arc::new(Attempt::answering(instance.clone(), offer, Some(answer)));
        self.by_number.insert(number, token);
        self.held.insert(token, Held { attempt: attempt.clone(), number });
        // The call owns it: whoever gives it up drops the handler, which ends the task.
        drop(tokio::spawn(attempt.run_call(input)));
    }

    /// What is to be said of calls that came.
    pub(super) fn answer(&mut self) -> Option<Accept> {
        if self.answer.taken.is_empty() && self.answer.busy.is_empty() {
            return None;
        }
        Some(std::mem::replace(&mut self.answer, Accept { v: VERSION, ..Accept::default() }))
    }

    /// Its handler is gone.
    pub(super) fn release(&mut self, token: &Token) {
        if let Some(held) = self.held.remove(token) {
            self.by_number.remove(&held.number);
        }
    }

    /// The owner ends a call, and tells its caller. False: it is none of these.
    pub(super) fn stop(&self, token: &Token, code: Code) -> bool {
        let Some(held) = self.held.get(token) else { return false };
        end(&held.attempt, Refusal::new(code, "the owner has ended the call"), true);
        true
    }

    /// The server says that nobody listens for what was said there.
    pub(super) fn unheard_by(&self, subject: &str) {
        let number = subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let token = number.and_then(|number: u64| self.by_number.get(&number));
        if let Some(held) = token.and_then(|token| self.held.get(token)) {
            tracing::debug!(call = %held.attempt.offer.task, "the caller is gone");
            end(&held.attempt, unheard(), true);
        }
    }

    /// The instance gives all of them up, and says so.
    pub(super) fn give_up(&self, refusal: &Refusal) {
        self.held.values().for_each(|held| end(&held.attempt, refusal.clone(), false));
    }

    /// The instance ends.
    pub(super) fn drop_all(&mut self) {
        for held in self.held.values() {
            held.attempt.lease_over();
            held.attempt.drop_handler();
        }
        self.held.clear();
    }
}

fn end(attempt: &Attempt, refusal: Refusal, told: bool) {
    if let Some(answer) = &attempt.answer {
        answer.give_up(refusal, told);
    }
    attempt.lease_over();
}

impl Drop for Calls {
    /// An instance that ends leaves no handler behind.
    fn drop(&mut self) {
        self.drop_all();
    }
}
