//! The floor's one writer: gathers what arrived, appends one journal message, then acts.

use std::collections::VecDeque;

use anyhow::Result;
use async_nats::jetstream::{self, consumer::pull, message::PublishMessage};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::{BATCH, OFFERS, SLOTS, State, TENANTS, Task, Touched, VERDICTS, address, client};

/// One line of the journal: what, whose, which.
const ENTRY: usize = 1 + 2 + 8;

pub(super) struct Owner {
    js: jetstream::Context,
    nats: async_nats::Client,
    index: mpsc::UnboundedSender<Touched>,
    queues: Vec<VecDeque<Task>>,
    /// Tenants with a task that waits, in turn.
    ready: VecDeque<usize>,
    free: usize,
    head: u64,
}

/// What one turn took in and decided.
#[derive(Default)]
struct Turn {
    messages: Vec<jetstream::Message>,
    journal: BytesMut,
    offers: BytesMut,
    verdicts: BytesMut,
    ended: Vec<(usize, u64, Bytes)>,
    touched: Vec<Touched>,
}

impl Owner {
    pub(super) fn new(
        js: jetstream::Context,
        nats: async_nats::Client,
        index: mpsc::UnboundedSender<Touched>,
    ) -> Owner {
        let queues = (0..TENANTS).map(|_| VecDeque::new()).collect();
        Owner { js, nats, index, queues, ready: VecDeque::new(), free: SLOTS, head: 0 }
    }

    pub(super) async fn run(mut self, mut submits: pull::Stream, mut ends: pull::Stream) -> Result<()> {
        loop {
            let mut turn = Turn::default();
            tokio::select! {
                Some(message) = ends.next() => self.end(&mut turn, message?),
                Some(message) = submits.next() => self.submit(&mut turn, message?),
                else => return Ok(()),
            }
            while turn.messages.len() < BATCH {
                // Ends first: they free slots.
                if let Some(Some(message)) = ends.next().now_or_never() {
                    self.end(&mut turn, message?);
                } else if let Some(Some(message)) = submits.next().now_or_never() {
                    self.submit(&mut turn, message?);
                } else {
                    break;
                }
            }
            self.dispatch(&mut turn);
            self.append(turn.journal.split().freeze()).await?;
            self.act(turn).await?;
        }
    }

    fn submit(&mut self, turn: &mut Turn, message: jetstream::Message) {
        if let Some((tenant, id)) = address(&message.subject) {
            entry(&mut turn.journal, b'S', tenant, id);
            turn.journal.put_u32(message.payload.len() as u32);
            turn.journal.put_slice(&message.payload);
            if self.queues[tenant].is_empty() {
                self.ready.push_back(tenant);
            }
            self.queues[tenant].push_back(Task { tenant, id, input: message.payload.clone() });
            turn.touched.push(Touched { tenant, id, state: State::Queued });
        }
        turn.messages.push(message);
    }

    fn end(&mut self, turn: &mut Turn, message: jetstream::Message) {
        if let Some((tenant, id)) = address(&message.subject) {
            entry(&mut turn.journal, b'E', tenant, id);
            self.free += 1;
            turn.verdicts.put_u64(id);
            turn.ended.push((tenant, id, message.payload.clone()));
            turn.touched.push(Touched { tenant, id, state: State::Done });
        }
        turn.messages.push(message);
    }

    /// Round robin over the tenants, first in first out within one.
    fn dispatch(&mut self, turn: &mut Turn) {
        while self.free > 0 {
            let Some(tenant) = self.ready.pop_front() else { return };
            let Some(task) = self.queues[tenant].pop_front() else { continue };
            if !self.queues[tenant].is_empty() {
                self.ready.push_back(tenant);
            }
            self.free -= 1;
            entry(&mut turn.journal, b'D', task.tenant, task.id);
            turn.offers.put_u16(task.tenant as u16);
            turn.offers.put_u64(task.id);
            turn.offers.put_u32(task.input.len() as u32);
            turn.offers.put_slice(&task.input);
            turn.touched.push(Touched { tenant: task.tenant, id: task.id, state: State::Running });
        }
    }

    async fn append(&mut self, body: Bytes) -> Result<()> {
        let message = PublishMessage::build().payload(body).expected_last_subject_sequence(self.head);
        self.head = self.js.send_publish("bench.journal", message).await?.await?.sequence;
        Ok(())
    }

    async fn act(&self, mut turn: Turn) -> Result<()> {
        if !turn.offers.is_empty() {
            self.nats.publish(OFFERS, turn.offers.split().freeze()).await?;
        }
        if !turn.verdicts.is_empty() {
            self.nats.publish(VERDICTS, turn.verdicts.split().freeze()).await?;
        }
        for (tenant, id, body) in turn.ended {
            self.nats.publish(client::subject("done", tenant, id), body).await?;
        }
        for message in &turn.messages {
            // Not awaited by the server: it is sent, as the fabric's are.
            if let Err(error) = message.ack().await {
                anyhow::bail!("cannot acknowledge: {error}");
            }
        }
        for change in turn.touched {
            // The index loop ends with the floor only.
            let _ = self.index.send(change);
        }
        Ok(())
    }
}

fn entry(journal: &mut BytesMut, what: u8, tenant: usize, id: u64) {
    journal.reserve(ENTRY);
    journal.put_u8(what);
    journal.put_u16(tenant as u16);
    journal.put_u64(id);
}
