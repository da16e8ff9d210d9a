//! A trigger that runs: pulled messages are read, asked for, settled in order, noted, acknowledged.
//!
//! While the tenant has no room the first message is asked for again and again, and nothing more is taken: the channel
//! fills, and pulling stops. What has no task because it can't be one is noted before it is acknowledged.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{
    batch::{Batch, Gather, Place},
    notes::Notes,
    reading::{self, Arrived, Read},
    runner::{Over, Runner},
    window::{Ask, Item, OwnerGone, Settled, Window},
};
use crate::{
    bus::{
        consume::{self, Ack, Budget, Delivery, PullOptions},
        triggers::{consumer_progress, source_stream},
    },
    task::{
        Code, Refusal, TaskId, TaskKey, TriggerName,
        trigger::{TriggerRate, TriggerSettings, state::Doing},
        triggered_id,
    },
    wire::topology,
};

/// Messages under way at once.
const WINDOW: usize = 256;
/// Messages read ahead, and pulled at once.
const READ_AHEAD: usize = 256;
/// Bytes of messages a trigger may hold.
const HELD_BYTES: usize = 2 << 20;
/// How long a pull request stands.
const PULL_EXPIRES: Duration = Duration::from_secs(2);
/// How often it is looked at the consumer and its stream.
const LOOK: Duration = Duration::from_secs(2);
/// Between two tries of a message that finds no room.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A paused trigger: it keeps its place, and shows how far behind it is.
pub(super) async fn paused(runner: &Runner, notes: &mut Notes) -> Over {
    notes.doing(Doing::Paused, None);
    loop {
        if let Err(error) = notes.save_if_changed().await {
            return error.into();
        }
        tokio::select! {
            () = runner.stop.cancelled() => return Over::Stopped,
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Err(over) = look(runner, notes).await {
            return over;
        }
    }
}

/// Whether stream and consumer are still there, and how far.
async fn look(runner: &Runner, notes: &mut Notes) -> Result<(), Over> {
    let (js, stream) = (&runner.context.js, runner.stream());
    let gone = |what: &str| Over::Broken(Refusal::new(Code::NotFound, format!("{what} is gone")));
    let found = source_stream(js, stream).await?.ok_or_else(|| gone("the stream"))?;
    if found.created != notes.state().created {
        return Err(gone("the stream, and another one of its name is there: it"));
    }
    let progress = consumer_progress(js, stream, &runner.name).await?.ok_or_else(|| gone("the consumer"))?;
    notes.at(progress, found.last_seq, &runner.done);
    Ok(())
}

/// Runs until it is stopped or something fails.
pub(super) async fn run(runner: &Runner, notes: &mut Notes) -> Over {
    let (deliveries, arrived) = mpsc::channel(READ_AHEAD);
    let mut options = PullOptions::new(runner.stream(), topology::trigger_consumer(&runner.name));
    (options.batch, options.expires, options.budget) = (READ_AHEAD, PULL_EXPIRES, Budget::new(HELD_BYTES));
    let pulling = runner.stop.child_token();
    let pull = tokio::spawn(consume::pull(runner.context.js.clone(), options, deliveries, pulling.clone()));
    notes.doing(Doing::Running, None);
    let over = Life::new(runner, notes, arrived).run().await;
    pulling.cancel();
    if pull.await.is_err() {
        tracing::error!(trigger = %runner.name, "pulling failed");
    }
    over
}

struct Life<'a> {
    runner: &'a Runner,
    notes: &'a mut Notes,
    arrived: mpsc::Receiver<Delivery>,
    /// Taken out of the channel.
    next: VecDeque<Delivery>,
    window: Window,
    gather: Option<Gather>,
    /// Settled, and not acknowledged yet.
    settled: Vec<(u64, Ack)>,
    /// Up to here it was all taken in: what comes again below it is known.
    high: u64,
    /// There is no room: when it is asked again, and the pause after that.
    full: Option<(Instant, Duration)>,
    throttle: Option<Throttle>,
    look: tokio::time::Interval,
}

impl<'a> Life<'a> {
    fn new(runner: &'a Runner, notes: &'a mut Notes, arrived: mpsc::Receiver<Delivery>) -> Self {
        let settings = &runner.trigger.settings;
        let gather = settings.batch.map(|batch| {
            let within = runner.context.clock.real_duration(Duration::from_millis(batch.within_ms));
            Gather::new(batch.count, within, notes.state().cut)
        });
        Self {
            runner,
            notes,
            arrived,
            next: VecDeque::new(),
            window: Window::default(),
            gather,
            settled: Vec::new(),
            high: 0,
            full: None,
            throttle: settings.rate.map(Throttle::new),
            look: tokio::time::interval_at(Instant::now() + LOOK, LOOK),
        }
    }

    async fn run(mut self) -> Over {
        loop {
            match self.turn().await {
                Ok(()) => {}
                Err(End::Over(over)) => return over,
                // The term is over: whoever owns the shard next begins where this ends.
                Err(End::OwnerGone) => return Over::Stopped,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        self.take().await?;
        let batch_due = self.gather.as_ref().filter(|_| self.window.is_empty()).and_then(Gather::due);
        let throttled = self.throttle.as_ref().and_then(Throttle::until).filter(|_| !self.next.is_empty());
        let wants = self.next.is_empty() && self.has_room();
        tokio::select! {
            biased;
            () = self.runner.stop.cancelled() => Err(End::Over(Over::Stopped)),
            _ = self.look.tick() => look(self.runner, self.notes).await.map_err(End::Over),
            () = at(self.notes.due()) => {
                self.notes.save().await?;
                self.acknowledge().await
            }
            ready = self.window.ready() => {
                ready?;
                self.settle().await
            }
            () = at(self.full.map(|(again, _)| again)) => self.ask_again().await,
            () = at(batch_due) => self.close().await,
            () = at(throttled) => Ok(()),
            delivery = self.arrived.recv(), if wants => {
                let Some(delivery) = delivery else {
                    let refusal = Refusal::new(Code::Unavailable, "pulling has ended");
                    return Err(End::Over(Over::Broken(refusal)));
                };
                self.next.push_back(delivery);
                while self.next.len() < READ_AHEAD && let Ok(more) = self.arrived.try_recv() {
                    self.next.push_back(more);
                }
                Ok(())
            }
        }
    }

    fn has_room(&self) -> bool {
        let room = match &self.gather {
            Some(_) => self.window.is_empty(),
            None => self.window.len() < WINDOW,
        };
        room && self.full.is_none() && self.settled.len() < WINDOW
    }

    /// Takes in what has arrived, as far as there is room.
    async fn take(&mut self) -> Result<(), End> {
        while self.has_room() && self.throttle.as_ref().is_none_or(|throttle| throttle.until().is_none()) {
            let Some(delivery) = self.next.pop_front() else { break };
            if delivery.stream_seq <= self.high {
                self.again(delivery.stream_seq, delivery.ack).await;
                continue;
            }
            if let Some(gather) = &self.gather {
                let batched = self.notes.state().batched;
                match gather.place(delivery.stream_seq, delivery.payload.len(), batched) {
                    Place::In => {}
                    Place::Done => {
                        self.high = delivery.stream_seq;
                        self.settled.push((delivery.stream_seq, delivery.ack));
                        continue;
                    }
                    Place::Behind => {
                        self.next.push_front(delivery);
                        self.close().await?;
                        continue;
                    }
                }
            }
            self.high = delivery.stream_seq;
            self.take_one(delivery).await?;
        }
        if self.window.is_empty() {
            self.acknowledge().await?;
        }
        Ok(())
    }

    async fn take_one(&mut self, delivery: Delivery) -> Result<(), End> {
        let (seq, subject, bytes) = (delivery.stream_seq, delivery.subject.clone(), delivery.payload.len());
        let inputs = &self.runner.context.inputs;
        match reading::read(&self.runner.trigger, delivery) {
            Arrived::Message(read) => match &mut self.gather {
                Some(gather) => {
                    if !gather.add(*read) {
                        self.notes.count(|counts| counts.known += 1);
                    }
                    self.close_if_complete().await?;
                }
                None => self.one(*read).await?,
            },
            Arrived::Passed(ack) => {
                self.notes.count(|counts| counts.filtered += 1);
                let ack = match &mut self.gather {
                    Some(gather) => gather.pass(seq, bytes, ack),
                    None => {
                        let item = Item::settled(seq, ack, subject, Settled::Passed);
                        self.window.push(item, false, inputs).await?;
                        None
                    }
                };
                self.settled.extend(ack.map(|ack| (seq, ack)));
                self.close_if_complete().await?;
            }
            Arrived::Dead(ack, refusal) => match &mut self.gather {
                Some(gather) => {
                    let ack = gather.pass(seq, bytes, ack);
                    self.notes.bury(seq, subject, refusal);
                    self.settled.extend(ack.map(|ack| (seq, ack)));
                    self.close_if_complete().await?;
                }
                None => {
                    let item = Item::settled(seq, ack, subject, Settled::Dead(refusal));
                    self.window.push(item, false, inputs).await?;
                }
            },
        }
        Ok(())
    }

    /// A message for a task of its own.
    async fn one(&mut self, read: Read) -> Result<(), End> {
        let (trigger, inputs) = (&self.runner.trigger, &self.runner.context.inputs);
        let input = match trigger.template.payload(&read.scope) {
            Ok(input) => input,
            Err(error) => {
                let refusal = Refusal::new(Code::TemplateFailed, error.to_string());
                let item = Item::settled(read.seq, read.ack, read.scope.subject, Settled::Dead(refusal));
                return Ok(self.window.push(item, false, inputs).await?);
            }
        };
        let created = self.notes.state().created.clone();
        let id = match &read.key {
            Some(key) => self.id(&["id", key]),
            None => self.id(&["seq", &created, &read.seq.to_string()]),
        };
        let ask = self.ask(id, input, read.hops);
        let item = Item::to_ask(vec![(read.seq, read.ack)], read.scope.subject, 1, ask);
        self.spend();
        Ok(self.window.push(item, self.full.is_some(), inputs).await?)
    }

    async fn close_if_complete(&mut self) -> Result<(), End> {
        match self.gather.as_ref().is_some_and(Gather::is_complete) {
            true => self.close().await,
            false => Ok(()),
        }
    }

    /// Makes a batch of what is gathered.
    async fn close(&mut self) -> Result<(), End> {
        let Some(gather) = &mut self.gather else { return Ok(()) };
        let Some(Batch { cut, scope, hops, acks }) = gather.close() else {
            // Of a batch that was cut before nothing comes any more: it was made, and acknowledged.
            if let Some(cut) = gather.forget_cut() {
                self.notes.uncut(cut);
            }
            return Ok(());
        };
        self.notes.cut(cut).await?;
        let subject = scope.subject.clone();
        let input = match self.runner.trigger.template.payload(&scope) {
            Ok(input) => input,
            Err(error) => {
                let said = format!("{error}; the batch has {} messages, from {} on", cut.count, cut.first);
                self.notes.bury(cut.last, subject, Refusal::new(Code::TemplateFailed, said));
                self.notes.uncut(cut);
                self.settled.extend(acks);
                return Ok(());
            }
        };
        let created = self.notes.state().created.clone();
        let id = self.id(&["batch", &created, &cut.first.to_string(), &cut.last.to_string()]);
        let ask = self.ask(id, input, hops);
        let item = Item::to_ask(acks, subject, cut.count.into(), ask);
        self.spend();
        Ok(self.window.push(item, false, &self.runner.context.inputs).await?)
    }

    fn id(&self, parts: &[&str]) -> TaskId {
        let name: &TriggerName = &self.runner.name;
        triggered_id(&self.settings().tenant, name, parts)
    }

    fn ask(&self, id: TaskId, input: crate::task::Payload, hops: u32) -> Ask {
        let settings = self.settings();
        Ask { key: TaskKey { tenant: settings.tenant.clone(), id }, spec: settings.spec(input), hops }
    }

    fn settings(&self) -> &TriggerSettings {
        &self.runner.trigger.settings
    }

    fn spend(&mut self) {
        if let Some(throttle) = &mut self.throttle {
            throttle.spend();
        }
    }

    /// Takes out what is decided, and notes it.
    async fn settle(&mut self) -> Result<(), End> {
        let (done, why) = self.window.settle();
        let moved = done.iter().any(|(_, settled)| *settled != Settled::Passed);
        for (item, settled) in done {
            let (last, messages) = (item.last(), item.messages);
            match settled {
                Settled::Made => self.notes.count(|counts| {
                    counts.made += 1;
                    counts.messages += messages;
                }),
                Settled::Known => self.notes.count(|counts| counts.known += messages),
                // Counted when it was read.
                Settled::Passed => {}
                Settled::Dead(refusal) => self.notes.bury(last, item.subject, refusal),
            }
            if let Some(cut) = self.notes.state().cut.filter(|cut| cut.last <= last) {
                self.notes.uncut(cut);
            }
            self.settled.extend(item.acks);
        }
        if moved && self.full.take().is_some() {
            // There is room again.
            self.window.ask_again(true, &self.runner.context.inputs).await?;
        }
        if self.window.is_held() && self.full.is_none() {
            self.full = Some((Instant::now() + PAUSES.0, PAUSES.0 * 2));
        }
        match (why, &self.full) {
            (Some(why), Some(_)) => self.notes.doing(Doing::Waiting, Some(why)),
            (None, None) if moved => self.notes.doing(Doing::Running, None),
            _ => {}
        }
        self.acknowledge().await
    }

    async fn ask_again(&mut self) -> Result<(), End> {
        if let Some((_, pause)) = self.full {
            self.full = Some((Instant::now() + pause, (pause * 2).min(PAUSES.1)));
        }
        Ok(self.window.ask_again(false, &self.runner.context.inputs).await?)
    }

    /// Acknowledges what is settled, unless something must be written first.
    async fn acknowledge(&mut self) -> Result<(), End> {
        if self.settled.is_empty() || self.notes.holds_acks() {
            return Ok(());
        }
        let settled = std::mem::take(&mut self.settled);
        let (last, before) = settled.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
        let Some((_, last)) = last else { return Ok(()) };
        if !last.covers_earlier() {
            for (_, ack) in before {
                ack.ack().await;
            }
        }
        last.ack().await;
        Ok(())
    }

    /// A message that was taken in has come again: pulling has begun anew.
    async fn again(&mut self, seq: u64, ack: Ack) {
        let ack = self.window.replace(seq, ack);
        let ack = match (ack, &mut self.gather) {
            (Some(ack), Some(gather)) => gather.replace(seq, ack),
            (ack, _) => ack,
        };
        let Some(ack) = ack else { return };
        match self.settled.iter_mut().find(|(known, _)| *known == seq) {
            Some((_, known)) => *known = ack,
            // It was acknowledged, and that got lost.
            None => ack.ack().await,
        }
    }
}

enum End {
    Over(Over),
    OwnerGone,
}

impl From<OwnerGone> for End {
    fn from(_: OwnerGone) -> Self {
        Self::OwnerGone
    }
}

impl From<crate::bus::entries::EntriesError> for End {
    fn from(error: crate::bus::entries::EntriesError) -> Self {
        Self::Over(error.into())
    }
}

/// Waits for an instant, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// So many tasks a second: each moves the time from which there is room by its share.
struct Throttle {
    each: Duration,
    burst: u32,
    next: Instant,
}

impl Throttle {
    fn new(rate: TriggerRate) -> Self {
        let each = Duration::from_secs(1) / rate.rate.max(1);
        Self { each, burst: rate.burst, next: Instant::now() }
    }

    /// When there is room; `None`: now.
    fn until(&self) -> Option<Instant> {
        let ahead = self.next.saturating_duration_since(Instant::now());
        let allowed = self.each * self.burst.saturating_sub(1);
        (ahead > allowed).then(|| Instant::now() + (ahead - allowed))
    }

    fn spend(&mut self) {
        self.next = self.next.max(Instant::now()) + self.each;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_throttle_gives_its_burst_at_once_and_then_its_rate() {
        let mut throttle = Throttle::new(TriggerRate { rate: 10, burst: 3 });
        let begin = Instant::now();
        for _ in 0..23 {
            if let Some(until) = throttle.until() {
                tokio::time::sleep_until(until).await;
            }
            throttle.spend();
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1_900) && took <= Duration::from_millis(2_100), "{took:?}");
    }
}
