//! Places: what a handler records and waits for, and gets back when it runs again from its start.
//!
//! [`Ctx::step`], [`Ctx::recv`], [`Ctx::wait_signal`], [`Ctx::tell`], [`Ctx::signal`] and [`Ctx::sleep`] are counted in the
//! order in which they are first polled, so a handler has to call the same in the same order whenever it runs. What is
//! recorded at a place is given back there; something else there is a `STEP_CHANGED`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{AgentError, Ctx, attempt::Attempt, calls::needs_task, error::refused, objects::given_back};
use crate::{
    client::Error,
    task::{
        Code, MAX_MAIL_MESSAGE, Millis, Payload, Refusal, TaskId, WaitFor, check_label, child_id, millis,
    },
    wire::{
        api::TaskReply,
        history::{Did, Mail, Step, TellRequest},
        messages::ReportOp,
    },
};

/// A message to a task, as its handler gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its name, of a signal.
    pub signal: Option<String>,
    /// Who says it, as the sender says: a task's id, if it was told by a handler.
    pub from: Option<String>,
    /// When the coordinator took it in, Unix milliseconds.
    pub at: Millis,
    /// What is said.
    pub payload: Payload,
}

impl Message {
    /// What is said, as a `T`. A fatal error if it is no such: another try would find the same message.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, AgentError> {
        self.payload.decode().map_err(|e| AgentError::fatal(format!("the message does not fit: {e}")))
    }
}

impl From<&Mail> for Message {
    fn from(mail: &Mail) -> Self {
        let Mail { signal, from, at, message, .. } = mail.clone();
        Self { signal, from, at, payload: message }
    }
}

/// What an attempt knows of its task's history.
#[derive(Default)]
pub(super) struct Places {
    next: u32,
    recorded: BTreeMap<u32, Step>,
    mail: BTreeMap<u32, Mail>,
    taken: BTreeSet<u32>,
    /// Reports that were refused, by number.
    refused: BTreeMap<u32, Refusal>,
}

impl Places {
    /// A message was told. Twice is once.
    pub(super) fn told(&mut self, mail: Mail) {
        self.mail.entry(mail.seq).or_insert(mail);
    }

    pub(super) fn refused(&mut self, n: u32, refusal: Refusal) {
        self.refused.insert(n, refusal);
    }

    fn give_back(&mut self, step: Step) {
        if let Did::Took(seq) = step.did {
            self.taken.insert(seq);
        }
        self.recorded.insert(step.place, step);
    }

    /// Bytes of large results that are recorded.
    pub(super) fn kept(&self) -> u64 {
        let kept = self.recorded.values().map(|step| match step.did {
            Did::Kept(object) => object.bytes,
            _ => 0,
        });
        kept.fold(0, u64::saturating_add)
    }

    /// The first message of this name that is not taken. Behind a gap nothing counts: one may have got lost on its way.
    fn next_of(&self, signal: Option<&str>) -> Option<u32> {
        let known = (1..).zip(&self.mail).take_while(|(expected, (seq, _))| expected == *seq);
        let mut open = known.filter(|(seq, _)| !self.taken.contains(seq));
        open.find(|(_, (_, mail))| mail.signal.as_deref() == signal).map(|(seq, _)| seq)
    }

    fn message(&self, seq: u32) -> Result<Message, AgentError> {
        let mail = self.mail.get(&seq).map(Message::from);
        mail.ok_or_else(|| AgentError::retryable(format!("message {seq} was not given back")))
    }
}

/// What a handler calls at a place.
enum Call<'a> {
    Step(&'a str),
    Message(Option<&'a str>),
    Sleep,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(name) => write!(f, "step `{name}`"),
            Self::Message(Some(name)) => write!(f, "a wait for signal `{name}`"),
            Self::Message(None) => f.write_str("a wait for a message"),
            Self::Sleep => f.write_str("a sleep"),
        }
    }
}

impl<'a> Call<'a> {
    /// What was called when this was recorded.
    fn of(step: &'a Step) -> Self {
        match step.did {
            Did::Result(_) | Did::Kept(_) => Self::Step(&step.name),
            Did::Took(_) | Did::TimedOut {} => {
                Self::Message((!step.name.is_empty()).then_some(step.name.as_str()))
            }
            Did::Slept {} => Self::Sleep,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Step(a), Self::Step(b)) => a == b,
            (Self::Message(a), Self::Message(b)) => a == b,
            (Self::Sleep, Self::Sleep) => true,
            _ => false,
        }
    }
}

impl Ctx {
    /// Runs something once in the life of the task: its result is recorded, and given back whenever the handler comes here
    /// again. Returns when the result is recorded. An error is not: it ends the attempt if it is passed on.
    ///
    /// Between the work and its record the process may die: the work is then done again.
    ///
    /// A result above 64 KiB of JSON is kept beside the journal, up to 64 MiB each and 256 MiB for each task. If there is no
    /// room for it now the error says `STEPS_FULL`; if it is gone when it should be given back, `STEP_LOST`, and the work is not
    /// done again.
    pub async fn step<T, F, Fut>(&self, name: &str, run: F) -> Result<T, AgentError>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, AgentError>>,
    {
        let place = self.place();
        check_label("step", name).map_err(refused)?;
        match self.recorded(place, &Call::Step(name)).await?.map(|step| step.did) {
            Some(Did::Result(result)) => return given_back(name, &result),
            Some(Did::Kept(object)) => return self.fetch(name, object).await,
            _ => {}
        }
        let value = run().await?;
        let (did, value) = self.result_of(name, value).await?;
        self.record(Step { place, name: name.to_owned(), did }).await?;
        Ok(value)
    }

    /// The next message to this task that has no name. Each is given to the handler once, in the order they were told. While
    /// there is none it returns an error that the handler must pass on with `?`: the slot is free, and the handler runs again
    /// from its start when one has come.
    pub async fn recv(&self) -> Result<Message, AgentError> {
        match self.take(None, None).await? {
            Some(message) => Ok(message),
            None => Err(AgentError::changed("a wait without an end was recorded as over".to_owned())),
        }
    }

    /// The same, for no longer than this: `None` then, and whenever the handler comes here again.
    pub async fn recv_within(&self, within: Duration) -> Result<Option<Message>, AgentError> {
        self.take(None, Some(within)).await
    }

    /// The next signal of this name, as [`Ctx::recv`] gives messages; with a time limit `None` when it has passed.
    pub async fn wait_signal(
        &self,
        name: &str,
        within: impl Into<Option<Duration>>,
    ) -> Result<Option<Message>, AgentError> {
        check_label("signal", name).map_err(refused)?;
        self.take(Some(name), within.into()).await
    }

    /// Waits without a slot: returns an error to pass on, and the handler runs again from its start when the time has passed.
    /// No try is counted. See [`Ctx::sleep_here`] for a short one.
    pub async fn sleep(&self, duration: Duration) -> Result<(), AgentError> {
        let place = self.place();
        match self.recorded(place, &Call::Sleep).await? {
            Some(_) => Ok(()),
            None => Err(AgentError::wait(WaitFor::Time { place, ms: millis(duration) })),
        }
    }

    /// Puts a message into the mailbox of another task of the tenant's, once, however often the handler runs.
    pub async fn tell<T: Serialize + ?Sized>(&self, task: &TaskId, message: &T) -> Result<(), AgentError> {
        self.tell_named(task, None, message).await
    }

    /// The same with a name.
    pub async fn signal<T: Serialize + ?Sized>(
        &self,
        task: &TaskId,
        name: &str,
        message: &T,
    ) -> Result<(), AgentError> {
        self.tell_named(task, Some(name.to_owned()), message).await
    }

    async fn tell_named<T: Serialize + ?Sized>(
        &self,
        task: &TaskId,
        name: Option<String>,
        message: &T,
    ) -> Result<(), AgentError> {
        let message =
            Payload::json(message).map_err(|e| AgentError::fatal(format!("the message is no JSON: {e}")))?;
        if message.len() > MAX_MAIL_MESSAGE {
            let (bytes, limit) = (message.len() as u64, MAX_MAIL_MESSAGE as u64);
            let text = format!("the message has {bytes} bytes, at most {limit} are taken");
            return Err(refused(Refusal::over(Code::TooLarge, text, bytes, limit)));
        }
        // The same message in whatever attempt: should this one die before it is recorded, the next tells the same.
        let next = self.0.state().places.next;
        let request = TellRequest {
            task: task.clone(),
            name,
            message,
            from: Some(self.task().to_string()),
            nonce: Some(child_id(self.task(), "tell", next)),
        };
        self.step(&format!("tell {task}"), || async {
            match self.client().send(&request).await {
                Ok(TaskReply { state: Some(_), .. }) => Ok(()),
                // Not there, or over: it will be so the next time.
                Err(Error::Refused(refusal)) if !refusal.code.is_retryable() => Err(refused(refusal)),
                Err(error) => Err(error.into()),
                Ok(_) => Err(AgentError::retryable(format!("a message to {task} is not decided yet"))),
            }
        })
        .await
    }

    async fn take(
        &self,
        signal: Option<&str>,
        within: Option<Duration>,
    ) -> Result<Option<Message>, AgentError> {
        let place = self.place();
        match self.recorded(place, &Call::Message(signal)).await?.map(|step| step.did) {
            Some(Did::Took(seq)) => return self.0.state().places.message(seq).map(Some),
            Some(_) => return Ok(None),
            None => {}
        }
        let settings = &self.0.instance.settings;
        let linger = within.map_or(settings.linger, |within| within.min(settings.linger));
        tokio::select! {
            biased;
            taken = self.0.take_message(place, signal) => taken.map(Some),
            () = settings.clock.sleep(linger) => Err(AgentError::wait(WaitFor::Message {
                place,
                signal: signal.map(str::to_owned),
                within_ms: within.map(millis),
            })),
        }
    }

    /// Number of this call in the handler.
    fn place(&self) -> u32 {
        let mut state = self.0.state();
        let place = state.places.next;
        state.places.next += 1;
        place
    }

    /// What is recorded at a place, which must be what is called there now.
    async fn recorded(&self, place: u32, call: &Call<'_>) -> Result<Option<Step>, AgentError> {
        if self.is_call() {
            return Err(needs_task(&call.to_string()));
        }
        if self.0.offer.recorded > 0 || self.0.offer.told > 0 {
            self.0.history.get_or_try_init(|| self.load()).await?;
        }
        let step = self.0.state().places.recorded.get(&place).cloned();
        match step {
            Some(step) if !Call::of(&step).is_same(call) => {
                let was = Call::of(&step);
                Err(AgentError::changed(format!(
                    "place {place}: the handler calls {call}, and {was} is recorded there; a handler has to call the same \
                     in the same order whenever it runs"
                )))
            }
            step => Ok(step),
        }
    }

    /// Asks for everything that was recorded and told before this attempt.
    async fn load(&self) -> Result<(), AgentError> {
        let (mut place, mut after) = (0, 0);
        loop {
            let page = self.asked("its history", || self.client().history(self.task(), place, after)).await?;
            let mut state = self.0.state();
            page.messages.into_iter().for_each(|mail| state.places.told(mail));
            page.steps.into_iter().for_each(|step| state.places.give_back(step));
            match page.next {
                Some(next) if next != (place, after) => (place, after) = next,
                _ => break,
            }
        }
        let state = self.0.state();
        let places = &state.places;
        let whole = places.recorded.len() >= self.0.offer.recorded as usize
            && places.mail.range(..=self.0.offer.told).count() == self.0.offer.told as usize;
        if whole { Ok(()) } else { Err(AgentError::snooze(Duration::from_millis(200))) }
    }

    /// Reports what was done at a place, and waits until that is decided.
    async fn record(&self, step: Step) -> Result<(), AgentError> {
        let name = step.name.clone();
        let kept = matches!(step.did, Did::Kept(_)).then(|| step.clone());
        let n = self.0.report(ReportOp::Step(step)).await?;
        let refusal = self.0.decided(n).await?;
        match refusal {
            None => {
                kept.into_iter().for_each(|step| self.0.state().places.give_back(step));
                Ok(())
            }
            Some(refusal) if matches!(refusal.code, Code::StepsExceeded | Code::TooLarge) => {
                Err(AgentError::coded(refusal.code, refusal.message, false))
            }
            Some(refusal) => Err(AgentError::retryable(format!("step `{name}`: {refusal}"))),
        }
    }
}

impl Attempt {
    /// Takes the next message of this name as soon as there is one.
    async fn take_message(&self, place: u32, signal: Option<&str>) -> Result<Message, AgentError> {
        self.until(|state| {
            if state.is_closed() {
                return Some(Err(super::attempt::nothing_more()));
            }
            if !state.reports.has_room() {
                return None;
            }
            let seq = state.places.next_of(signal)?;
            let step = Step { place, name: signal.unwrap_or_default().to_owned(), did: Did::Took(seq) };
            // Told in order: whatever is reported later counts only if this does.
            self.say(state, ReportOp::Step(step.clone()));
            state.places.give_back(step);
            Some(state.places.message(seq))
        })
        .await
    }

    /// Waits for the verdict on a report.
    async fn decided(&self, n: u32) -> Result<Option<Refusal>, AgentError> {
        self.until(|state| {
            if state.is_over() {
                return Some(Err(super::attempt::nothing_more()));
            }
            state.reports.is_decided(n).then(|| Ok(state.places.refused.remove(&n)))
        })
        .await
    }

    /// A message to this task has come.
    pub(super) fn told(&self, mail: Mail) {
        self.state().places.told(mail);
        self.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(seq: u32, signal: Option<&str>) -> Mail {
        let signal = signal.map(str::to_owned);
        Mail { seq, signal, from: None, at: 0, message: Payload::json(&seq).unwrap() }
    }

    #[test]
    fn a_message_behind_a_gap_waits_for_the_one_before_it() {
        let mut places = Places::default();
        places.told(mail(1, Some("go")));
        places.told(mail(3, None));
        assert_eq!((places.next_of(None), places.next_of(Some("go"))), (None, Some(1)));
        places.told(mail(2, None));
        assert_eq!(places.next_of(None), Some(2));
        places.give_back(Step { place: 0, name: String::new(), did: Did::Took(2) });
        assert_eq!(places.next_of(None), Some(3));
    }

    #[test]
    fn what_was_recorded_names_itself() {
        let step = |name: &str, did| Step { place: 0, name: name.to_owned(), did };
        let calls = [
            (step("pay", Did::Result(Payload::default())), Call::Step("pay"), "step `pay`"),
            (step("go", Did::Took(1)), Call::Message(Some("go")), "a wait for signal `go`"),
            (step("", Did::TimedOut {}), Call::Message(None), "a wait for a message"),
            (step("", Did::Slept {}), Call::Sleep, "a sleep"),
        ];
        for (at, (step, call, text)) in calls.iter().enumerate() {
            assert_eq!(Call::of(step).to_string(), *text);
            for (other, (_, called, _)) in calls.iter().enumerate() {
                assert_eq!(Call::of(step).is_same(called), at == other, "{call} and {called}");
            }
        }
    }
}
