//! Following one task: its events in order, each once, holes named, and its end last.
//!
//! ```text
//! subscribe events + done ─▶ get ─▶ history pages ─▶ live
//!                                        ▲            │  a jump in n, a reconnect, the end before
//!                                        └────────────┘  the last event: look into the history again
//! ```
//!
//! What neither live nor history brings within [`PATIENCE`] is reported as a gap.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::{Client, Ended, Result, wait::Pause};
use crate::{
    bus::{BusError, Message, Subscription},
    task::{Phase, TaskId},
    wire::{
        codec,
        messages::{Done, Event, MAX_EVENT_BYTES},
        subjects,
    },
};

/// How long a missing event is looked for before it is called a gap.
const PATIENCE: Duration = Duration::from_secs(3);

/// Pause between two looks into the history for missing events.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Live events held back while earlier ones are looked for; beyond it the hole is given up.
const MAX_HELD: usize = 4_096;

/// Hints above this size are not ours.
const MAX_HINT: usize = 1024 * 1024;

/// What a watcher sees.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// The task is in another state than said before.
    State(Phase),
    /// Progress, a token, a log line.
    Event(Event),
    /// Events `from ..= to` of `attempt` are lost.
    Gap {
        /// Of which attempt.
        attempt: u32,
        /// First missing one.
        from: u32,
        /// Last missing one.
        to: u32,
    },
    /// The end; nothing follows.
    End(Ended),
}

impl Client {
    /// Follows a task from its first event to its end. It need not exist yet.
    pub async fn watch(&self, task: &TaskId) -> Result<Watch> {
        self.watch_after(task, (0, 0)).await
    }

    /// Follows a task from after the event (attempt, n).
    pub async fn watch_after(&self, task: &TaskId, after: (u32, u32)) -> Result<Watch> {
        let lane = &self.link().main;
        let live = lane.subscribe(subjects::event(self.tenant_name(), task)).await?;
        let hints = lane.subscribe(subjects::done(self.tenant_name(), task)).await?;
        Ok(Watch {
            client: self.clone(),
            task: task.clone(),
            live,
            hints,
            reconnects: self.link().reconnects(),
            order: Order::after(after),
            state: None,
            end: None,
            look_at: Instant::now(),
            missing_since: None,
            looked_since_end: false,
            pause: Pause::new(),
            over: false,
        })
    }
}

/// A task being followed; see [`Client::watch`].
pub struct Watch {
    client: Client,
    task: TaskId,
    live: Subscription,
    hints: Subscription,
    reconnects: watch::Receiver<u64>,
    order: Order,
    state: Option<Phase>,
    end: Option<Ended>,
    /// When to ask for state and history next.
    look_at: Instant,
    /// Since when something is known to be missing.
    missing_since: Option<Instant>,
    looked_since_end: bool,
    pause: Pause,
    over: bool,
}

impl Watch {
    /// The next item; `None` after [`WatchItem::End`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.over {
            return None;
        }
        loop {
            if let Some(item) = self.order.out.pop_front() {
                self.over = matches!(item, WatchItem::End(_));
                return Some(Ok(item));
            }
            if let Some(end) = self.finished() {
                self.state = Some(end.state);
                self.order.out.push_back(WatchItem::State(end.state));
                self.order.out.push_back(WatchItem::End(end));
                continue;
            }
            if let Err(error) = self.listen().await {
                self.over = true;
                return Some(Err(error));
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchItem>> + Send {
        stream::unfold(self, |mut watch| async move { watch.next().await.map(|item| (item, watch)) })
    }

    /// The end, once every event before it was delivered or given up.
    fn finished(&mut self) -> Option<Ended> {
        let end = self.end.as_ref()?;
        // Only a completed attempt has told how many events it had; otherwise the history has to be asked.
        let told = end.state == Phase::Completed || self.looked_since_end;
        if !told {
            return None;
        }
        if self.order.is_holding() || !self.order.has_reached((end.attempt, end.last_event)) {
            self.missing_since.get_or_insert_with(Instant::now);
            return None;
        }
        self.end.clone()
    }

    async fn listen(&mut self) -> Result<()> {
        if self.order.is_holding() {
            self.missing_since.get_or_insert_with(Instant::now);
        }
        if self.missing_since.is_some() {
            self.look_at = self.look_at.min(Instant::now() + LOOK_AGAIN);
        }
        let closed = || BusError::Closed("the subscription ended".to_owned());
        tokio::select! {
            biased;
            message = self.live.next() => self.hear_event(&message.ok_or_else(closed)?),
            message = self.hints.next() => self.hear_hint(&message.ok_or_else(closed)?),
            Ok(()) = self.reconnects.changed() => self.look_at = Instant::now(),
            () = tokio::time::sleep_until(self.look_at) => self.look().await?,
        }
        Ok(())
    }

    fn hear_event(&mut self, message: &Message) {
        match codec::decode_any::<Event>(None, &message.payload, MAX_EVENT_BYTES).1 {
            Ok(event) => self.order.take(event),
            Err(error) => tracing::debug!(task = %self.task, %error, "an event is not understood"),
        }
        if !self.order.is_holding() && self.end.is_none() {
            self.missing_since = None;
        }
    }

    fn hear_hint(&mut self, message: &Message) {
        let done = match codec::decode_any::<Done>(None, &message.payload, MAX_HINT).1 {
            Ok(done) if done.refuses_a_submission() || done.answers_a_message() => return,
            Ok(done) => done,
            Err(error) => return tracing::debug!(task = %self.task, %error, "a hint is not understood"),
        };
        let seen = Ended::of_hint(self.task.clone(), done);
        if seen.state.is_terminal() && !seen.is_whole() {
            self.look_at = Instant::now(); // the result is in `get` only
        } else {
            self.saw(seen);
        }
    }

    fn saw(&mut self, seen: Ended) {
        if self.end.is_some() {
            return;
        }
        if seen.state.is_terminal() {
            // Events may still be on their way into the history: look at once.
            self.end = Some(seen);
            self.look_at = Instant::now();
        } else if self.state != Some(seen.state) {
            self.state = Some(seen.state);
            self.order.out.push_back(WatchItem::State(seen.state));
        }
    }

    /// Asks for what the subscriptions did not bring. Answers are taken in only when they are whole,
    /// so dropping the future here only means that the question is asked again.
    async fn look(&mut self) -> Result<()> {
        if self.end.is_none() {
            match self.client.get(&self.task).await {
                Ok(view) => self.saw(Ended::of_view(view)),
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            let page = match self.client.events(&self.task, self.order.cursor()).await {
                Ok(page) => page,
                Err(error) if error.is_transient() => break,
                Err(error) => return Err(error),
            };
            let empty = page.events.is_empty();
            for event in page.events {
                self.order.take_stored(event);
            }
            if empty || !page.more {
                break;
            }
        }
        if self.missing_since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            let end = self.end.as_ref().map(|end| (end.attempt, end.last_event));
            self.order.give_up(end);
            self.missing_since = None;
        } else if !self.order.is_holding() && self.end.is_none() {
            self.missing_since = None;
        }
        self.looked_since_end = self.end.is_some();
        self.look_at = Instant::now() + self.pause.next();
        Ok(())
    }
}

/// Puts events in order: each once, by (attempt, n).
struct Order {
    /// The last event delivered.
    at: (u32, u32),
    /// Live events after a hole.
    held: BTreeMap<(u32, u32), Event>,
    out: VecDeque<WatchItem>,
}

impl Order {
    fn after(at: (u32, u32)) -> Self {
        Self { at, held: BTreeMap::new(), out: VecDeque::new() }
    }

    fn cursor(&self) -> Option<(u32, u32)> {
        (self.at != (0, 0)).then_some(self.at)
    }

    fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    fn has_reached(&self, last: (u32, u32)) -> bool {
        last.1 == 0 || self.at >= last
    }

    /// An event from the live subscription.
    fn take(&mut self, event: Event) {
        let id = (event.attempt, event.n);
        if id <= self.at {
            return;
        }
        self.held.insert(id, event);
        self.release();
        if self.held.len() > MAX_HELD {
            self.give_up(None);
        }
    }

    /// Within an attempt the next number follows. Where an attempt starts, the one before may still have
    /// events in the history: only the first event ever, or a look into the history, may pass there.
    fn release(&mut self) {
        while let Some(entry) = self.held.first_entry() {
            let id = *entry.key();
            let follows = id.0 == self.at.0 && id.1 == self.at.1 + 1;
            let first = self.at == (0, 0) && id == (1, 1);
            if id > self.at && !follows && !first {
                return;
            }
            let event = entry.remove();
            if id > self.at {
                self.at = id;
                self.out.push_back(WatchItem::Event(event));
            }
        }
    }

    /// An event from the history, which is complete before it unless it was trimmed: a jump is a gap.
    fn take_stored(&mut self, event: Event) {
        let id = (event.attempt, event.n);
        if id <= self.at {
            return;
        }
        self.held.insert(id, event);
        self.deliver_through(id);
        self.release();
    }

    /// Delivers what is held up to `last`, naming every hole before and between.
    fn deliver_through(&mut self, last: (u32, u32)) {
        while let Some(entry) = self.held.first_entry()
            && *entry.key() <= last
        {
            let (id, event) = entry.remove_entry();
            self.pass_to(id);
            self.at = id;
            self.out.push_back(WatchItem::Event(event));
        }
    }

    /// Names the hole between the last event and `id`.
    fn pass_to(&mut self, id: (u32, u32)) {
        let from = if id.0 == self.at.0 { self.at.1 + 1 } else { 1 };
        if id.1 > from {
            self.out.push_back(WatchItem::Gap { attempt: id.0, from, to: id.1 - 1 });
        }
    }

    /// Nothing more will come from before what is held, nor from before the end.
    fn give_up(&mut self, end: Option<(u32, u32)>) {
        self.deliver_through((u32::MAX, u32::MAX));
        if let Some(end) = end
            && !self.has_reached(end)
        {
            self.pass_to((end.0, end.1 + 1));
            self.at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Payload;

    fn event(attempt: u32, n: u32) -> Event {
        Event { v: 1, attempt, n, at: 0, kind: "log".into(), data: Payload::default() }
    }

    fn shown(order: &mut Order) -> Vec<String> {
        let show = |item| match item {
            WatchItem::Event(e) => format!("{}-{}", e.attempt, e.n),
            WatchItem::Gap { attempt, from, to } => format!("gap {attempt}: {from}..={to}"),
            other => format!("{other:?}"),
        };
        order.out.drain(..).map(show).collect()
    }

    #[test]
    fn duplicates_are_dropped_and_order_is_kept() {
        let mut order = Order::after((0, 0));
        for (a, n) in [(1, 1), (1, 1), (1, 3), (1, 2), (1, 2)] {
            order.take(event(a, n));
        }
        assert_eq!(shown(&mut order), ["1-1", "1-2", "1-3"]);
        assert!(!order.is_holding());
    }

    #[test]
    fn a_hole_is_filled_from_the_history_or_named() {
        let mut order = Order::after((0, 0));
        order.take(event(1, 1));
        order.take(event(1, 4));
        assert_eq!(shown(&mut order), ["1-1"]);
        order.take_stored(event(1, 2));
        assert_eq!(shown(&mut order), ["1-2"]);
        order.give_up(None);
        assert_eq!(shown(&mut order), ["gap 1: 3..=3", "1-4"]);
    }

    #[test]
    fn a_new_attempt_waits_for_the_history_of_the_old_one() {
        let mut order = Order::after((0, 0));
        order.take(event(1, 1));
        order.take(event(2, 1));
        assert_eq!(shown(&mut order), ["1-1"]);
        order.take_stored(event(1, 2));
        order.take_stored(event(2, 1));
        assert_eq!(shown(&mut order), ["1-2", "2-1"]);
    }

    #[test]
    fn the_end_names_the_events_that_never_came() {
        let mut order = Order::after((0, 0));
        order.take(event(1, 1));
        assert!(!order.has_reached((1, 3)));
        order.give_up(Some((1, 3)));
        assert_eq!(shown(&mut order), ["1-1", "gap 1: 2..=3"]);
        assert!(order.has_reached((1, 3)));
    }
}
