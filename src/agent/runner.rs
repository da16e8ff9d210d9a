//! One instance: hears offers, verdicts and owners, says that it lives, runs attempts, drains.
//!
//! One task owns which leases are held. A lease is in every heartbeat from its acceptance until its
//! attempt is released; it is never started twice, however often it is offered.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Agent, Ctx, Handler, RunError, Settings,
    attempt::{Attempt, JITTER_MS, Reporter, Signals, Timers},
    children::Spawned,
    context::Shared,
};
use crate::{
    bus::{
        BusError, Link, Message, Subscription,
        link::jitter_below,
        ordered::{Ordered, SettledBy},
    },
    client::Client,
    task::{AgentName, InstanceId, Payload, Token},
    wire::{
        VERSION, codec,
        messages::{Accept, Beat, BeatReply, Ctl, CtlOp, Offer, Offers, OwnerHello, Verdict},
        subjects,
    },
};

/// Reports and events that one attempt has outstanding, at most; the owner keeps no more either.
const WINDOW: usize = 64;

/// Commands of one handler that wait for their attempt.
const COMMANDS: usize = 64;

/// Released leases that are remembered; offers are repeated for a second or so only.
const RELEASED: usize = 1_024;

/// Verdicts that wait for an attempt.
const VERDICTS: usize = 128;

/// Messages above this size are not ours.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// How long the server may take to take what is flushed.
const FLUSH: Duration = Duration::from_secs(2);

/// A lease this instance has accepted and that is not released.
struct Held {
    verdicts: mpsc::Sender<Box<Verdict>>,
    stop: CancellationToken,
    /// Cleared by the attempt when its handler is gone.
    busy: Arc<AtomicBool>,
    lease: Duration,
}

pub(super) struct Runner {
    name: AgentName,
    instance: InstanceId,
    handler: Handler,
    settings: Settings,
    link: Link,
    /// The highest epoch heard; what comes with a lower one is from a deposed owner.
    epoch: u64,
    held: BTreeMap<Token, Held>,
    /// Released leases: an offer that was under way twice must not start one again.
    released: Released,
    attempts: JoinSet<Token>,
    tokens: HashMap<tokio::task::Id, Token>,
    resend: watch::Sender<u64>,
    draining: CancellationToken,
    hand_back: CancellationToken,
    beat_at: Instant,
    inbox: String,
    hears: Hears,
}

/// The last [`RELEASED`] of them.
#[derive(Default)]
struct Released {
    tokens: HashSet<Token>,
    order: VecDeque<Token>,
}

impl Released {
    fn add(&mut self, token: Token) {
        if self.order.len() == RELEASED
            && let Some(oldest) = self.order.pop_front()
        {
            self.tokens.remove(&oldest);
        }
        if self.tokens.insert(token) {
            self.order.push_back(token);
        }
    }
}

struct Hears {
    offers: Subscription,
    ctl: Subscription,
    owners: Subscription,
    replies: Subscription,
    reconnects: watch::Receiver<u64>,
}

impl Runner {
    pub(super) async fn start(agent: Agent, link: Link) -> Result<Self, RunError> {
        let Agent { name, handler, settings } = agent;
        let instance = settings.instance.clone().unwrap_or_else(InstanceId::fresh);
        let lane = &link.main;
        let inbox = lane.inbox();
        let hears = Hears {
            offers: lane.subscribe(subjects::offer(&name, &instance)).await?,
            ctl: lane.subscribe(subjects::ctl(&name, &instance)).await?,
            owners: lane.subscribe(subjects::OWNER_ALL).await?,
            replies: lane.subscribe(inbox.clone()).await?,
            reconnects: link.reconnects(),
        };
        tracing::info!(agent = %name, %instance, slots = settings.slots, "instance started");
        Ok(Self {
            name,
            instance,
            handler,
            settings,
            link,
            epoch: 0,
            held: BTreeMap::new(),
            released: Released::default(),
            attempts: JoinSet::new(),
            tokens: HashMap::new(),
            resend: watch::Sender::new(0),
            draining: CancellationToken::new(),
            hand_back: CancellationToken::new(),
            beat_at: Instant::now(),
            inbox,
            hears,
        })
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), RunError> {
        let mut drain: Option<Drain> = None;
        loop {
            if let Some(drain) = &drain
                && (self.held.is_empty() || drain.is_over())
            {
                return self.leave().await;
            }
            let hand_back_at = drain.as_ref().map(|d| d.hand_back_at);
            let over_at = drain.as_ref().map(|d| d.over_at);
            tokio::select! {
                message = self.hears.offers.next() => self.hear_offers(open(message)?).await?,
                message = self.hears.ctl.next() => {
                    self.hear_ctl(&open(message)?);
                    while let Some(Some(next)) = self.hears.ctl.next().now_or_never() {
                        self.hear_ctl(&next);
                    }
                }
                message = self.hears.owners.next() => self.hear_owner(&open(message)?),
                message = self.hears.replies.next() => self.hear_reply(&open(message)?),
                Ok(()) = self.hears.reconnects.changed() => self.speak_up(),
                () = tokio::time::sleep_until(self.beat_at) => self.beat(self.settings.slots).await?,
                Some(joined) = self.attempts.join_next_with_id() => {
                    self.release(joined);
                    while let Some(joined) = self.attempts.try_join_next_with_id() {
                        self.release(joined);
                    }
                }
                () = stop.cancelled(), if drain.is_none() => {
                    drain = Some(Drain::start(&self.settings));
                    self.draining.cancel();
                    self.beat_at = Instant::now();
                }
                () = at(hand_back_at), if !self.hand_back.is_cancelled() => self.hand_back.cancel(),
                () = at(over_at) => {}
            }
        }
    }

    /// Everything offered by now is answered in one message, which leaves before any handler starts.
    async fn hear_offers(&mut self, first: Message) -> Result<(), RunError> {
        let mut messages = vec![first];
        while let Some(Some(next)) = self.hears.offers.next().now_or_never() {
            messages.push(next);
        }
        let mut answer = Accept { v: VERSION, ..Accept::default() };
        let mut start = Vec::new();
        let mut free = self.free_slots();
        for message in &messages {
            let Some(told) = self.read::<Offers>("offer", message) else { continue };
            if !self.heed(told.epoch) {
                continue;
            }
            for offer in told.offers {
                let known = self.held.contains_key(&offer.token);
                let starting = start.iter().any(|o: &Offer| o.token == offer.token);
                if self.released.tokens.contains(&offer.token) {
                    tracing::debug!(task = %offer.task, attempt = offer.attempt, "an offer came again after its end");
                } else if known || starting {
                    answer.taken.push(offer.token);
                } else if free == 0 || self.draining.is_cancelled() {
                    answer.busy.push(offer.token);
                } else {
                    free -= 1;
                    answer.taken.push(offer.token);
                    start.push(offer);
                }
            }
        }
        if answer.taken.is_empty() && answer.busy.is_empty() {
            return Ok(());
        }
        let lane = self.link.main.clone();
        lane.tell(subjects::accept(&self.name, &self.instance), codec::pack(&answer)).await?;
        if !matches!(tokio::time::timeout(FLUSH, lane.flush()).await, Ok(Ok(()))) {
            // It will leave when the connection is back; until then the lease is in the heartbeats.
            tracing::warn!("an acceptance has not left yet");
        }
        for offer in start {
            self.start_attempt(offer);
        }
        Ok(())
    }

    fn free_slots(&self) -> usize {
        let busy = self.held.values().filter(|held| held.busy.load(Ordering::Acquire)).count();
        (self.settings.slots as usize).saturating_sub(busy)
    }

    fn start_attempt(&mut self, mut offer: Offer) {
        let input: Payload = std::mem::take(&mut offer.input);
        let lease = Duration::from_millis(offer.lease_ms.max(1));
        let (token, tenant, task) = (offer.token, offer.tenant.clone(), offer.task.clone());
        let (commands, command_queue) = mpsc::channel(COMMANDS);
        let (verdicts, verdict_queue) = mpsc::channel(VERDICTS);
        let stop = CancellationToken::new();
        let busy = Arc::new(AtomicBool::new(true));
        let reporter = Reporter {
            agent: self.name.clone(),
            instance: self.instance.clone(),
            token,
            attempt: offer.attempt,
        };
        let ctx = Ctx(Arc::new(Shared {
            offer,
            client: Client::on(self.link.clone(), tenant.clone()),
            clock: self.settings.clock,
            commands,
            cancel: CancellationToken::new(),
            draining: self.draining.clone(),
            spawned: Mutex::new(Spawned::default()),
        }));
        let mut handler = JoinSet::new();
        handler.spawn((self.handler)(ctx.clone(), input));
        let bulk = &self.link.bulk;
        let attempt = Attempt {
            ctx,
            reporter,
            signals: Signals {
                verdicts: verdict_queue,
                stop: stop.clone(),
                hand_back: self.hand_back.clone(),
                resend: self.resend.subscribe(),
                busy: busy.clone(),
            },
            commands: command_queue,
            handler,
            reports: Ordered::new(bulk.clone(), subjects::report(&tenant, &task), WINDOW, SettledBy::Verdict),
            events: Ordered::new(bulk.clone(), subjects::event(&tenant, &task), WINDOW, SettledBy::Ack),
            timers: Timers::new(
                self.settings.clock,
                lease / 3,
                self.settings.grace,
                self.settings.drain / 20,
            ),
            undecided: Vec::new(),
        };
        tracing::debug!(%tenant, %task, attempt = attempt.reporter.attempt, "attempt started");
        let running = self.attempts.spawn(attempt.run());
        self.tokens.insert(running.id(), token);
        self.held.insert(token, Held { verdicts, stop, busy, lease });
    }

    fn hear_ctl(&mut self, message: &Message) {
        let Some(ctl) = self.read::<Ctl>("ctl", message) else { return };
        if !self.heed(ctl.epoch) {
            return;
        }
        for op in ctl.ops {
            match op {
                CtlOp::Verdict(verdict) => {
                    if let Some(held) = self.held.get(&verdict.token) {
                        // Without room it is lost; the attempt asks again.
                        let _full = held.verdicts.try_send(Box::new(verdict));
                    }
                }
                CtlOp::Stop { token, code } => {
                    tracing::info!(?token, %code, "a lease is over");
                    self.stop(&token);
                }
            }
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
            for token in &reply.stop {
                self.stop(token);
            }
        }
    }

    fn stop(&mut self, token: &Token) {
        if let Some(held) = self.held.get(token) {
            held.stop.cancel();
        }
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
        self.resend.send_modify(|round| *round += 1);
    }

    async fn beat(&mut self, slots: u32) -> Result<(), RunError> {
        let beat = Beat {
            v: VERSION,
            slots,
            tokens: self.held.keys().copied().collect(),
            lease_ms: self.settings.lease_ms(),
            draining: self.draining.is_cancelled(),
        };
        let subject = subjects::beat(&self.name, &self.instance);
        // While disconnected it would only pile up, to be sent stale: the reconnect beats at once.
        if self.link.main.is_connected() {
            self.link.main.tell_answerable(subject, &self.inbox, codec::pack(&beat)).await?;
        }
        let shortest = self.held.values().map(|held| held.lease).min();
        let lease = shortest.unwrap_or(self.settings.lease).min(self.settings.lease);
        self.beat_at = self.settings.clock.after(lease / 3);
        Ok(())
    }

    fn release(&mut self, joined: Result<(tokio::task::Id, Token), tokio::task::JoinError>) {
        let id = match joined {
            Ok((id, _)) => id,
            Err(error) => {
                tracing::error!(%error, "an attempt broke");
                error.id()
            }
        };
        let Some(token) = self.tokens.remove(&id) else { return };
        self.released.add(token);
        if let Some(held) = self.held.remove(&token)
            && held.stop.is_cancelled()
        {
            // The owner counts a dead lease as a taken slot until a heartbeat comes without it.
            self.beat_at = Instant::now();
        }
    }

    async fn leave(&mut self) -> Result<(), RunError> {
        if !self.held.is_empty() {
            tracing::warn!(tasks = self.held.len(), "leaving with tasks that could not be handed back");
        }
        self.attempts.shutdown().await;
        self.held.clear();
        self.beat(0).await?;
        // Best effort: without it the owner notices a lease later.
        let _late = tokio::time::timeout(FLUSH, self.link.main.flush()).await;
        tracing::info!(agent = %self.name, instance = %self.instance, "instance stopped");
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

/// The last part of an instance's life.
struct Drain {
    hand_back_at: Instant,
    over_at: Instant,
}

impl Drain {
    fn start(settings: &Settings) -> Self {
        Self {
            hand_back_at: settings.clock.after(settings.drain.mul_f64(0.8)),
            over_at: settings.clock.after(settings.drain),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.over_at
    }
}

fn open(message: Option<Message>) -> Result<Message, BusError> {
    message.ok_or_else(|| BusError::Closed("a subscription ended".to_owned()))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
