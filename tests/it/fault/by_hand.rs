//! A worker that does only what a test tells it to, and speaks JSON.

use std::collections::VecDeque;

use futures_util::StreamExt;
use selvedge::bus::{Link, Subscription};
use selvedge::task::{AgentName, Code, InstanceId, Outcome, Payload, Token};
use selvedge::wire::messages::{
    Accept, Beat, Ctl, CtlOp, End, Offer, Offers, OwnerHello, Report, ReportOp, Reports, Spawn, TaskReport,
    Verdict,
};
use selvedge::wire::{Format, VERSION, codec, subjects};
use serde::de::DeserializeOwned;

use super::work::AGENT;
use crate::harness::fabric::Fabric;
use crate::harness::soon;

/// One instance of the agent.
pub struct ByHand {
    pub agent: AgentName,
    pub instance: InstanceId,
    pub slots: u32,
    pub lease_ms: u64,
    /// Of the owner that made the last offer.
    pub epoch: u64,
    link: Link,
    offers: Subscription,
    /// Offers and verdicts that came with the ones looked at.
    waiting: (VecDeque<(u64, Offer)>, VecDeque<CtlOp>),
    ctl: Subscription,
    owners: Subscription,
}

impl ByHand {
    /// Listens, and says nothing yet.
    pub async fn new(fabric: &Fabric, slots: u32, lease_ms: u64) -> ByHand {
        let link = Link::connect(&fabric.stack.nats_options(), "by-hand").await.expect("own server");
        let (agent, instance) = (AgentName::new(AGENT).unwrap(), InstanceId::fresh());
        let lane = &link.main;
        let offers = lane.subscribe(subjects::offer(&agent, &instance)).await.unwrap();
        let ctl = lane.subscribe(subjects::ctl(&agent, &instance)).await.unwrap();
        let owners = lane.subscribe(subjects::OWNER_ALL).await.unwrap();
        let waiting = Default::default();
        ByHand { agent, instance, slots, lease_ms, epoch: 0, link, offers, waiting, ctl, owners }
    }

    /// One heartbeat with these leases.
    pub async fn beat(&self, tokens: &[Token]) {
        let beat = Beat {
            v: VERSION,
            slots: self.slots,
            tokens: tokens.to_vec(),
            lease_ms: self.lease_ms,
            draining: false,
            messages: false,
            calls: None,
            ahead: 0,
            about: None,
            call_slots: 0,
        };
        let body = Format::Json.encode(&beat);
        self.link.main.tell(subjects::beat(&self.agent, &self.instance), body).await.unwrap();
    }

    /// The next offer to an instance that holds nothing: it beats until there is one.
    pub async fn offered(&mut self) -> Offer {
        for _ in 0..100 {
            self.beat(&[]).await;
            let offer = self.next_offer();
            if let Ok(offer) = tokio::time::timeout(std::time::Duration::from_millis(200), offer).await {
                return offer;
            }
        }
        panic!("nothing was offered in 20 s");
    }

    /// The next offer.
    pub async fn next_offer(&mut self) -> Offer {
        loop {
            if let Some((epoch, offer)) = self.waiting.0.pop_front() {
                self.epoch = epoch;
                return offer;
            }
            let Offers { epoch, offers, .. } = next(&mut self.offers, "an offer").await;
            self.waiting.0.extend(offers.into_iter().map(|offer| (epoch, offer)));
        }
    }

    /// Takes or declines.
    pub async fn accept(&self, taken: &[Token], busy: &[Token]) {
        let accept = Accept { v: VERSION, taken: taken.to_vec(), busy: busy.to_vec(), over: vec![] };
        let subject = subjects::accept(&self.agent, &self.instance);
        self.link.main.tell(subject, Format::Json.encode(&accept)).await.unwrap();
    }

    /// Stores a report of an offer's lease.
    pub async fn report(&self, offer: &Offer, n: u32, op: ReportOp) {
        let report = Report {
            v: VERSION,
            token: offer.token,
            attempt: offer.attempt,
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            n,
            op,
        };
        let (subject, body) = (subjects::report(&offer.tenant, &offer.task), Format::Json.encode(&report));
        self.link.bulk.store(&subject, body, std::time::Duration::from_secs(10)).await.expect("stored");
    }

    /// Stores the reports of several leases in one message.
    pub async fn report_together(&self, reports: Vec<TaskReport>) {
        let subject = subjects::reports(&self.agent, &self.instance);
        let body = Format::Json.encode(&Reports { v: VERSION, reports });
        self.link.bulk.store(&subject, body, std::time::Duration::from_secs(10)).await.expect("stored");
    }

    /// Reports a result.
    pub async fn complete(&self, offer: &Offer, n: u32, result: u64) {
        let outcome = Outcome::Completed { result: Payload::json(&result).unwrap() };
        self.report(offer, n, ReportOp::End(End { last_event: 0, outcome, used: None })).await;
    }

    /// Reports children.
    pub async fn spawn(&self, offer: &Offer, n: u32, spawn: Spawn) {
        self.report(offer, n, ReportOp::Spawn(spawn)).await;
    }

    /// The verdict on report `n` of a lease. Stops and other verdicts are passed over.
    pub async fn verdict(&mut self, token: Token, n: u32) -> Verdict {
        loop {
            if let CtlOp::Verdict(verdict) = self.told("a verdict").await
                && verdict.token == token
                && verdict.n == n
            {
                return verdict;
            }
        }
    }

    /// The stop of a lease. Everything else is passed over.
    pub async fn stopped(&mut self, token: Token) -> Code {
        loop {
            if let CtlOp::Stop { token: stopped, code } = self.told("a stop").await
                && stopped == token
            {
                return code;
            }
        }
    }

    async fn told(&mut self, what: &str) -> CtlOp {
        loop {
            if let Some(op) = self.waiting.1.pop_front() {
                return op;
            }
            let ctl: Ctl = next(&mut self.ctl, what).await;
            self.waiting.1.extend(ctl.ops);
        }
    }

    /// The next owner that announces itself with more than this epoch.
    pub async fn owner_after(&mut self, epoch: u64) -> u64 {
        loop {
            let hello: OwnerHello = next(&mut self.owners, "an owner").await;
            if hello.epoch > epoch {
                return hello.epoch;
            }
        }
    }
}

async fn next<T: DeserializeOwned>(subscription: &mut Subscription, what: &str) -> T {
    let message = soon(what, subscription.next()).await.expect("subscribed");
    codec::decode_any(None, &message.payload, 8 * 1024 * 1024).1.expect("well-formed")
}
