//! What a term hears: the streams that are read for its owner, and the subjects that are subscribed to.
//!
//! Puts what it hears into the owner's inputs, and decides nothing. Answers for itself only what is no call at all, and
//! what other coordinators ask of this one's reads.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::{
    Failed, ShardContext,
    term::{READ_AHEAD, Running, until},
};
use crate::{
    bus::{
        Lane, Subscription,
        consume::{self, Budget, PullOptions},
    },
    coordinator::{
        intake::{self, From, Inbound},
        limits,
        perform::refuse_call,
        schemas::Schemas,
        triggers,
    },
    wire::{
        subjects,
        topology::{self, INTAKE, REPORTS},
    },
};

/// Submits and commands held undecided, in bytes. Each counts as a KiB at least, so that submits that wait for room in the
/// journal stay fewer than the engine parks.
const INTAKE_BYTES: usize = 12 << 20;
/// Deliveries pulled at once.
const PULL: usize = 1_024;
/// How long a pull request stands: for so long a frozen former owner is still handed deliveries.
const PULL_EXPIRES: Duration = Duration::from_secs(2);

impl Running<'_> {
    /// Starts the readers of INTAKE and REPORTS.
    pub(super) fn read_streams(&self, asked: mpsc::Sender<Inbound>, reports_budget: &Budget) {
        let durable = topology::owner_consumer(self.context.shard);
        for (from, stream, budget, inputs) in [
            (From::Intake, INTAKE, Budget::new(INTAKE_BYTES), asked),
            (From::Reports, REPORTS, reports_budget.clone(), self.inputs.clone()),
        ] {
            let (deliveries, arrived) = mpsc::channel(READ_AHEAD);
            let mut options = PullOptions::new(stream, durable.clone());
            options.batch = PULL;
            options.expires = PULL_EXPIRES;
            options.budget = budget;
            let pulling = consume::pull(self.context.streams.clone(), options, deliveries, self.over.clone());
            let reading = until(self.over.clone(), intake::read(from, arrived, inputs));
            // One task: a message that wakes the one is read by the other at once.
            self.tasks.spawn(async move {
                tokio::join!(pulling, reading);
            });
        }
    }

    /// Subscribes to instances, callers and other coordinators; follows what operators set, and the topics of triggers.
    pub(super) async fn listen(&self) -> Result<(), Failed> {
        let Self { context, over, tasks, inputs } = self;
        for subject in [subjects::BEAT_ALL, subjects::ACCEPT_ALL] {
            let heard = context.link.main.subscribe(subject).await?;
            tasks.spawn(until(over.clone(), pulses(heard, inputs.clone())));
        }
        for subject in [subjects::CALL_ALL, subjects::SUBCALL_ALL] {
            let heard = context.link.main.subscribe(subject).await?;
            tasks.spawn(until(over.clone(), callers(context.link.main.clone(), heard, inputs.clone())));
        }
        let questions = context.link.main.subscribe(subjects::ask(context.shard)).await?;
        tasks.spawn(until(over.clone(), questions_of_others((*context).clone(), questions)));
        tasks.spawn(limits::follow(context.streams.clone(), inputs.clone(), over.clone()));
        let triggering =
            triggers::Context { js: context.triggers.clone(), clock: context.clock, inputs: inputs.clone() };
        tasks.spawn(triggers::run(triggering, over.clone()));
        Ok(())
    }
}

async fn pulses(mut heard: Subscription, inputs: mpsc::Sender<Inbound>) {
    let mut schemas = Schemas::default();
    while let Some(message) = heard.next().await {
        let reply = message.reply.as_ref().map(|r| r.to_string());
        let Some(mut inbound) = intake::pulse(message.subject.as_str(), reply, &message.payload) else {
            continue;
        };
        let announced = intake::announcement(&mut inbound, &mut schemas);
        for inbound in std::iter::once(inbound).chain(announced) {
            if inputs.send(inbound).await.is_err() {
                return;
            }
        }
    }
}

async fn callers(lane: Lane, mut heard: Subscription, inputs: mpsc::Sender<Inbound>) {
    while let Some(message) = heard.next().await {
        let listens = match intake::call(&message) {
            None => true,
            Some(Ok(inbound)) => inputs.send(inbound).await.is_ok(),
            Some(Err((to, refusal))) => {
                if let Err(error) = refuse_call(&lane, to, refusal).await {
                    tracing::debug!(%error, "a caller could not be told that its call is none");
                }
                true
            }
        };
        if !listens {
            return;
        }
    }
}

/// Answers other coordinators.
async fn questions_of_others(context: ShardContext, mut questions: Subscription) {
    while let Some(message) = questions.next().await {
        let Some(reply) = message.reply.filter(|to| subjects::may_answer(to)) else { continue };
        let told = context.queries.tell(&message.payload).await;
        if let Err(error) = context.link.main.tell(reply.to_string(), told).await {
            tracing::debug!(%error, "an answer to another coordinator could not be sent");
        }
    }
}
