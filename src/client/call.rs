//! Calling an agent: refused at once, or answered as a stream of parts, straight from its instance.
//!
//! Parts are numbered, so that one that got lost is an error and not silence. Whoever drops the answer has the handler
//! cancelled: the server tells its instance that nobody listens any more.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, Error, Result, check_size};
use crate::{
    bus::{Message, Subscription},
    task::{AgentName, Code, Payload, Refusal, TenantName, Token, millis},
    wire::{
        VERSION,
        calls::{ALIVE_EVERY_MS, CallPart, CallRequest, PartOp},
        codec, subjects,
    },
};

/// Parts above this size are not read.
const MAX_PART: usize = 8 * 1024 * 1024;
/// When to try again while nobody owns the shard, in milliseconds.
const NO_OWNER_MS: u64 = 1_000;

impl Client {
    /// Calls `agent`: await it for the answer, or set more first.
    pub fn call<T: Serialize + ?Sized>(&self, agent: &str, input: &T) -> Call {
        let input = Payload::json(input).map_err(|e| Error::Data(format!("the input is no JSON: {e}")));
        self.calling(agent, input)
    }

    /// The same with an input that is encoded already.
    pub fn call_raw(&self, agent: &str, input: Payload) -> Call {
        self.calling(agent, Ok(input))
    }

    fn calling(&self, agent: &str, input: Result<Payload>) -> Call {
        let wanted = AgentName::new(agent).map_err(Error::from).and_then(|agent| Ok((agent, input?)));
        let patience = Duration::from_millis(ALIVE_EVERY_MS * 5);
        Call { client: self.clone(), wanted, max: None, patience, asker: None }
    }
}

/// A call on its way: await it, or set more first.
#[must_use = "a call does nothing until it is awaited"]
pub struct Call {
    client: Client,
    wanted: Result<(AgentName, Payload)>,
    max: Option<Duration>,
    patience: Duration,
    asker: Option<Token>,
}

impl Call {
    /// How long it may take; the plan's limit is never exceeded.
    pub fn max(self, max: Duration) -> Self {
        Self { max: Some(max), ..self }
    }

    /// How long to wait for a sign of life before it is called lost; 10 s unless set. An instance says that it lives every
    /// two seconds.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Of a handler, on its place.
    #[cfg(feature = "agent")]
    pub(crate) fn asked_by(self, asker: Token) -> Self {
        Self { asker: Some(asker), ..self }
    }

    /// Waits for the end, for the result alone.
    pub async fn result<T: DeserializeOwned>(self) -> Result<T> {
        self.await?.result().await
    }

    async fn begin(self) -> Result<Answer> {
        let (agent, input) = self.wanted?;
        let lane = &self.client.parts.link.main;
        check_size("the input", input.len(), lane.max_payload())?;
        let tenant = self.client.parts.tenant.clone();
        let subject = match self.asker {
            None => subjects::call(&tenant, &agent),
            Some(_) => subjects::subcall(&tenant, &agent),
        };
        let request = CallRequest { v: VERSION, input, max_ms: self.max.map(millis), asker: self.asker };
        let inbox = lane.inbox();
        let parts = lane.subscribe(inbox.clone()).await?;
        lane.tell_answerable(subject, &inbox, codec::pack(&request)).await?;
        Ok(Answer { parts, tenant, agent, patience: self.patience, last: 0, state: State::Open })
    }
}

impl IntoFuture for Call {
    type Output = Result<Answer>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Answer>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.begin())
    }
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// A word of the agent's choosing.
    pub kind: String,
    /// What it holds.
    pub data: Payload,
}

/// The answer to a call, as it comes. Dropping it gives the call up.
pub struct Answer {
    parts: Subscription,
    tenant: TenantName,
    agent: AgentName,
    patience: Duration,
    last: u32,
    state: State,
}

enum State {
    Open,
    Ended(Payload),
    Failed,
}

/// A sign of life of a handler.
#[derive(Debug, Clone, PartialEq)]
pub enum Sign {
    /// It runs and has said nothing for a while.
    Alive,
    /// A part of its answer.
    Chunk(Chunk),
}

impl Answer {
    /// The next part; `None` after the end, and after an error.
    pub async fn next(&mut self) -> Option<Result<Chunk>> {
        loop {
            match self.sign().await? {
                Ok(Sign::Alive) => {}
                Ok(Sign::Chunk(chunk)) => return Some(Ok(chunk)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next part or sign of life: the first of them says that the call has begun. `None` as in [`Answer::next`].
    pub async fn sign(&mut self) -> Option<Result<Sign>> {
        if !matches!(self.state, State::Open) {
            return None;
        }
        match self.part().await {
            Ok(PartOp::Alive {}) => Some(Ok(Sign::Alive)),
            Ok(PartOp::Chunk { kind, data }) => Some(Ok(Sign::Chunk(Chunk { kind, data }))),
            Ok(PartOp::End { result }) => {
                self.state = State::Ended(result);
                None
            }
            Ok(PartOp::Failed(refusal)) => self.failed(refusal.into()),
            Err(error) => self.failed(error),
        }
    }

    /// Waits for the end; parts before it are passed over.
    pub async fn result<T: DeserializeOwned>(self) -> Result<T> {
        let agent = self.agent.clone();
        let result = self.raw_result().await?;
        result.decode().map_err(|e| Error::Data(format!("the result of {agent} does not fit: {e}")))
    }

    /// The same, as it came.
    pub async fn raw_result(mut self) -> Result<Payload> {
        while let Some(part) = self.next().await {
            part?;
        }
        match self.state {
            State::Ended(result) => Ok(result),
            State::Open | State::Failed => Err(self.lost("its answer has failed before".to_owned())),
        }
    }

    fn failed<T>(&mut self, error: Error) -> Option<Result<T>> {
        self.state = State::Failed;
        Some(Err(error))
    }

    fn lost(&self, what: String) -> Error {
        let message = format!("the call of {} is lost: {what}; what it did is not known", self.agent);
        Refusal::new(Code::CallLost, message).into()
    }

    async fn part(&mut self) -> Result<PartOp> {
        loop {
            let next = tokio::time::timeout(self.patience, self.parts.next()).await;
            let message = match next {
                Ok(Some(message)) => message,
                Ok(None) => return Err(self.lost("the connection is closed".to_owned())),
                Err(_) => {
                    let ms = self.patience.as_millis();
                    return Err(self.lost(format!("no sign of life for {ms} ms")));
                }
            };
            if let Some(part) = self.read(&message)? {
                return Ok(part);
            }
        }
    }

    /// `None`: it came before.
    fn read(&mut self, message: &Message) -> Result<Option<PartOp>> {
        if message.status.is_some() {
            let message = format!(
                "no coordinator takes calls of tenant {} now: none owns the shard, or this user may not call",
                self.tenant
            );
            return Err(Refusal::new(Code::Unavailable, message).retry_after(NO_OWNER_MS).into());
        }
        let part: CallPart = codec::decode_any(None, &message.payload, MAX_PART).1.map_err(|e| {
            Error::Data(format!("a part of the answer of {} is not understood: {e}", self.agent))
        })?;
        let expected = match part.op {
            // An owner's word: it knows no numbers.
            PartOp::Failed(_) if part.n == 0 => return Ok(Some(part.op)),
            PartOp::Alive {} => self.last,
            _ => self.last + 1,
        };
        if part.n < expected {
            return Ok(None);
        }
        if part.n > expected {
            return Err(self.lost(format!("part {} came after {}", part.n, self.last)));
        }
        self.last = part.n;
        Ok(Some(part.op))
    }
}
