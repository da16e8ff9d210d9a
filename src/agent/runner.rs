//! One instance: hears offers, verdicts and owners, says that it lives, runs attempts, drains.
//!
//! One task owns which leases are held. A lease is in every heartbeat from its acceptance until its
//! attempt is released; it is never started twice, however often it is offered. What has to happen at some
//! time, for the instance or for any attempt, waits for the one timer of this loop.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Agent, JITTER_MS, RunError,
    ahead::Waiting,
    answers::Calls,
    attempt::{Attempt, Heard},
    calls::lost,
    instance::Instance,
    leases::{Known, Leases},
    voice,
};
use crate::{
    bus::{BusError, Link, Message, Subscription, link::jitter_below},
    task::{Payload, Token},
    wire::{
        VERSION,
        calls::CallOver,
        codec,
        messages::{Accept, Beat, BeatReply, Ctl, CtlOp, Offer, Offers, OwnerHello, Verdict},
        subjects,
    },
};

/// Messages above this size are not ours.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The least between two heartbeats that say anew how many tasks are taken ahead.
const AHEAD_EVERY: Duration = Duration::from_millis(250);

/// How often it is said again what the instance is, should it have got lost.
const ANNOUNCE: Duration = Duration::from_secs(60);

/// How long the server may take to take what is flushed.
const FLUSH: Duration = Duration::from_secs(2);

pub(super) struct Runner {
    instance: Arc<Instance>,
    /// The highest epoch heard; what comes with a lower one is from a deposed owner.
    epoch: u64,
    leases: Leases,
    waiting: Waiting,
    /// Offers that were over while they waited; not answered yet.
    stopped: Vec<Token>,
    calls: Calls,
    drain: Option<Drain>,
    beat_at: Instant,
    beaten_at: Instant,
    /// When it says what it is again.
    announce_at: Instant,
    /// When overdue reports and handlers are looked for; `None` while no lease is held.
    look_at: Option<Instant>,
    inbox: String,
    hears: Hears,
    /// Publishes reports; ends with the runner.
    _voice: AbortOnDropHandle<()>,
    /// The last round of reports that were published again.
    repeating: Option<AbortOnDropHandle<()>>,
}

struct Hears {
    offers: Subscription,
    ctl: Subscription,
    owners: Subscription,
    replies: Subscription,
    reconnects: watch::Receiver<u64>,
    gone: mpsc::UnboundedReceiver<Token>,
    over: mpsc::UnboundedReceiver<CallOver>,
    /// Parts of answers that nobody listens for.
    unheard: Subscription,
}

/// The last part of an instance's life.
struct Drain {
    /// When what still runs is handed back; `None` once it is.
    hand_back_at: Option<Instant>,
    over_at: Instant,
}

impl Drain {
    fn is_over(&self, now: Instant) -> bool {
        self.hand_back_at.is_none() && self.over_at <= now
    }
}

impl Runner {
    pub(super) async fn start(agent: Agent, link: Link) -> Result<Self, RunError> {
        let Agent { name, handler, settings } = agent;
        settings.about.check().map_err(RunError::About)?;
        let (instance, from_attempts) = Instance::new(name, handler, settings, link);
        let (name, id) = (&instance.name, &instance.id);
        let lane = &instance.link.main;
        let inbox = lane.inbox();
        let calls = Calls::new(lane.inbox());
        let hears = Hears {
            offers: lane.subscribe(subjects::offer(name, id)).await?,
            ctl: lane.subscribe(subjects::ctl(name, id)).await?,
            owners: lane.subscribe(subjects::OWNER_ALL).await?,
            replies: lane.subscribe(inbox.clone()).await?,
            reconnects: instance.link.reconnects(),
            gone: from_attempts.gone,
            over: from_attempts.over,
            unheard: lane.subscribe(calls.unheard()).await?,
        };
        tracing::info!(agent = %name, instance = %id, slots = instance.settings.slots, "instance started");
        let voice = voice::speak(instance.link.bulk.clone(), instance.reports_to(), from_attempts.said);
        Ok(Self {
            instance: Arc::new(instance),
            epoch: 0,
            leases: Leases::default(),
            waiting: Waiting::default(),
            stopped: Vec::new(),
            calls,
            drain: None,
            beat_at: Instant::now(),
            beaten_at: Instant::now(),
            announce_at: Instant::now(),
            look_at: None,
            inbox,
            hears,
            _voice: AbortOnDropHandle::new(tokio::spawn(voice)),
            repeating: None,
        })
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        loop {
            if let Some(drain) = &self.drain
                && (self.leases.len() + self.calls.len() == 0 || drain.is_over(Instant::now()))
            {
                return self.leave().await;
            }
            let next_at = self.next_at();
            tokio::select! {
                message = self.hears.offers.next() => self.hear_offers(open(message)?).await?,
                message = self.hears.ctl.next() => {
                    self.hear_ctl(&open(message)?);
                    while let Some(Some(next)) = self.hears.ctl.next().now_or_never() {
                        self.hear_ctl(&next);
                    }
                    let busy = std::mem::take(&mut self.stopped);
                    self.begin(Accept { v: VERSION, busy, ..Accept::default() }, Vec::new()).await?;
                    self.answer_calls().await?;
                    self.mind_ahead();
                }
                message = self.hears.owners.next() => self.hear_owner(&open(message)?),
                message = self.hears.replies.next() => self.hear_reply(&open(message)?),
                Ok(()) = self.hears.reconnects.changed() => self.speak_up(),
                Some(token) = self.hears.gone.recv() => self.release_dead(token),
                () = self.instance.slots.freed(), if !self.waiting.is_empty() => self.serve_waiting().await?,
                Some(over) = self.hears.over.recv() => self.call_over(over).await?,
                message = self.hears.unheard.next() => self.calls.unheard_by(&open(message)?.subject),
                () = tokio::time::sleep_until(next_at) => self.on_time().await?,
                () = stop.cancelled(), if self.drain.is_none() => {
                    self.start_drain();
                    let waiting = self.waiting.drain();
                    self.decline(waiting).await?;
                }
            }
        }
    }

    /// Everything offered by now is answered in one message, which leaves before any handler starts.
    async fn hear_offers(&mut self, first: Message) -> Result<(), RunError> {
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
    async fn begin(&mut self, answer: Accept, start: Vec<(Arc<Attempt>, Payload)>) -> Result<(), RunError> {
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

    fn accept(&mut self, mut offer: Offer, answer: &mut Accept, start: &mut Vec<(Arc<Attempt>, Payload)>) {
        tracing::debug!(tenant = %offer.tenant, task = %offer.task, attempt = offer.attempt, "offer accepted");
        answer.taken.push(offer.token);
        let input = std::mem::take(&mut offer.input);
        let attempt = Arc::new(Attempt::new(self.instance.clone(), offer));
        self.look_by(Instant::now() + attempt.look_every());
        self.leases.take(attempt.clone());
        start.push((attempt, input));
    }

    /// Slots are free: the offers that wait for them are accepted.
    async fn serve_waiting(&mut self) -> Result<(), RunError> {
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
    async fn decline(&mut self, busy: Vec<Token>) -> Result<(), RunError> {
        if busy.is_empty() {
            return Ok(());
        }
        self.instance.ahead.declined();
        self.beat_at = Instant::now();
        self.begin(Accept { v: VERSION, busy, ..Accept::default() }, Vec::new()).await
    }

    fn hear_ctl(&mut self, message: &Message) {
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
    async fn answer_calls(&mut self) -> Result<(), RunError> {
        match self.calls.answer() {
            Some(answer) => self.tell_accept(answer).await,
            None => Ok(()),
        }
    }

    /// Handlers of calls are gone: their slots are free.
    async fn call_over(&mut self, first: CallOver) -> Result<(), RunError> {
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

    fn hear_owner(&mut self, message: &Message) {
        let Some(hello) = self.read::<OwnerHello>("owner", message) else { return };
        if hello.epoch > self.epoch {
            self.epoch = hello.epoch;
            self.speak_up();
        }
    }

    fn hear_reply(&mut self, message: &Message) {
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
    fn stop(&mut self, token: Token) {
        let Some(attempt) = self.leases.get(&token) else { return };
        if attempt.lease_over() {
            return self.release_dead(token);
        }
        let grace = self.instance.settings.clock.after(self.instance.settings.grace);
        self.leases.drop_handler_at(&token, grace);
        self.look_by(grace);
    }

    /// The owner counts a dead lease as a taken slot until a heartbeat comes without it.
    fn release_dead(&mut self, token: Token) {
        self.leases.release(token);
        self.beat_at = Instant::now();
    }

    /// Whether a message of this epoch counts.
    fn heed(&mut self, epoch: u64) -> bool {
        if epoch < self.epoch {
            tracing::debug!(epoch, highest = self.epoch, "ignoring a deposed owner");
            return false;
        }
        self.epoch = epoch;
        true
    }

    /// Somebody new listens, or somebody may have missed something: beat and report again, soon.
    fn speak_up(&mut self) {
        let soon = Instant::now() + Duration::from_millis(jitter_below(JITTER_MS));
        self.beat_at = self.beat_at.min(soon);
        self.announce_at = Instant::now();
        self.leases.all().for_each(|attempt| attempt.hurry(soon));
        self.look_by(soon);
        self.instance.resend.send_modify(|round| *round += 1);
    }

    fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When something is to be done next.
    fn next_at(&self) -> Instant {
        let drain = self.drain.as_ref().map(|drain| drain.hand_back_at.unwrap_or(drain.over_at));
        [self.look_at, drain, self.waiting.over_at()].into_iter().flatten().fold(self.beat_at, Instant::min)
    }

    async fn on_time(&mut self) -> Result<(), RunError> {
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
    fn mind_ahead(&mut self) {
        let soon = self.beaten_at + AHEAD_EVERY;
        if self.instance.ahead.is_off() && soon < self.beat_at {
            self.beat_at = soon;
        }
    }

    async fn beat(&mut self, slots: u32) -> Result<(), RunError> {
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

    fn start_drain(&mut self) {
        let settings = &self.instance.settings;
        self.drain = Some(Drain {
            hand_back_at: Some(settings.clock.after(settings.drain.mul_f64(0.8))),
            over_at: settings.clock.after(settings.drain),
        });
        self.instance.drain();
        self.beat_at = Instant::now();
    }

    /// The process ends soon. Handlers may still come to an end of their own, for a moment.
    fn hand_back(&mut self) {
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

    async fn leave(mut self) -> Result<(), RunError> {
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

    fn read<T: DeserializeOwned>(&self, what: &str, message: &Message) -> Option<T> {
        match codec::decode_any(None, &message.payload, MAX_MESSAGE).1 {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(what, subject = %message.subject, %error, "a message is not understood");
                None
            }
        }
    }
}

fn open(message: Option<Message>) -> Result<Message, BusError> {
    message.ok_or_else(|| BusError::Closed("a subscription ended".to_owned()))
}
