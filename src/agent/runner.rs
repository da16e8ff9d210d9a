//! One instance: hears offers, verdicts and owners, says that it lives, runs attempts, drains.
//!
//! One task owns which leases are held. A lease is in every heartbeat from its acceptance until its
//! attempt is released; it is never started twice, however often it is offered. What has to happen at some
//! time, for the instance or for any attempt, waits for the one timer of this loop.

mod drain;
mod hears;
mod offers;
mod timer;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::drain::Drain;
use super::{Agent, RunError, ahead::Waiting, answers::Calls, instance::Instance, leases::Leases, voice};
use crate::{
    bus::{BusError, Link, Message, Subscription},
    task::Token,
    wire::{VERSION, calls::CallOver, messages::Accept, subjects},
};

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
}

fn open(message: Option<Message>) -> Result<Message, BusError> {
    message.ok_or_else(|| BusError::Closed("a subscription ended".to_owned()))
}
