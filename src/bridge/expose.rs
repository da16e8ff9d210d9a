//! Fabric agents as agents of the other protocol: a prompt becomes a call, its parts the answer.
//!
//! One task hears prompts, looks for agents and beats; each prompt is answered in a task of its own. Which agents there are is
//! heard from their heartbeats, or given. Nothing is queued here: what the fabric refuses is refused with its own numbers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::prompt::{self, HEARTBEAT_S, PromptError, SERVICE, Shown, TEXT_KINDS};
use crate::{
    bus::{BusError, Lane, Message, service::rfc3339},
    client::{Answer, Client, Error, Sign},
    task::{AgentName, InstanceId, TenantName},
    wire::{codec, messages::Beat, subjects},
};

/// Prompts that are answered at once, at most: beyond it the answer is 429.
const MOST: usize = 4_096;
/// An agent of which nothing was heard for so many of its leases is gone.
const LEASES: u32 = 3;
/// How often the caller is told that the answer is being worked on.
const ACK_EVERY: Duration = Duration::from_secs(20);
/// Heartbeats above this size are not read.
const MAX_BEAT: usize = 1024 * 1024;

/// Which agents are shown.
#[derive(Debug, Clone)]
pub enum Which {
    /// These, whether anybody serves them or not.
    These(Vec<AgentName>),
    /// All that are heard of and take calls.
    Heard,
}

struct Hosted {
    id: String,
    /// When it is gone unless it is heard of; `None`: never.
    until: Option<Instant>,
    prompts: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Hosted {
    fn new(until: Option<Instant>) -> Self {
        let id = InstanceId::fresh().to_string();
        Self { id, until, prompts: Arc::default(), failed: Arc::default() }
    }
}

struct Bridge {
    client: Client,
    lane: Lane,
    tenant: TenantName,
    hosted: BTreeMap<AgentName, Hosted>,
    answering: JoinSet<()>,
}

/// Shows a tenant's agents until `stop`, then finishes what is being answered.
pub async fn run(client: Client, which: Which, stop: CancellationToken) -> Result<(), BusError> {
    let (lane, tenant) = (client.link().main.clone(), client.tenant_name().clone());
    let mut bridge = Bridge {
        client,
        lane: lane.clone(),
        tenant: tenant.clone(),
        hosted: BTreeMap::new(),
        answering: JoinSet::new(),
    };
    let mut beats = stream::pending().boxed();
    match which {
        Which::These(agents) => {
            bridge.hosted.extend(agents.into_iter().map(|agent| (agent, Hosted::new(None))));
        }
        Which::Heard => beats = lane.subscribe(subjects::BEAT_ALL).await?.boxed(),
    }
    let mut prompts = lane.subscribe_queue(prompt::subject("prompt", &tenant, "*"), SERVICE).await?;
    let mut statuses = lane.subscribe_queue(prompt::subject("status", &tenant, "*"), SERVICE).await?;
    let mut asked = Vec::new();
    for verb in ["PING", "INFO", "STATS"] {
        for subject in
            [format!("$SRV.{verb}"), format!("$SRV.{verb}.{SERVICE}"), format!("$SRV.{verb}.{SERVICE}.*")]
        {
            asked.push(lane.subscribe(subject).await?);
        }
    }
    let mut asked = stream::select_all(asked);
    let mut beat = tokio::time::interval(Duration::from_secs(HEARTBEAT_S));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = beat.tick() => bridge.beat().await?,
            Some(message) = beats.next() => bridge.heard(&message).await?,
            Some(message) = asked.next() => bridge.present(&message).await?,
            Some(message) = statuses.next() => bridge.status(&message).await?,
            Some(message) = prompts.next() => bridge.prompted(message),
            Some(_) = bridge.answering.join_next() => {}
            else => return Err(BusError::Closed("the subscriptions ended".to_owned())),
        }
    }
    drop(prompts);
    while bridge.answering.join_next().await.is_some() {}
    Ok(())
}

impl Bridge {
    fn shown<'a>(&'a self, agent: &'a AgentName, hosted: &'a Hosted) -> Shown<'a> {
        Shown { tenant: &self.tenant, agent, id: &hosted.id }
    }

    /// A fabric agent's heartbeat.
    async fn heard(&mut self, message: &Message) -> Result<(), BusError> {
        let Ok((agent, _)) = subjects::parse_instance(&message.subject) else { return Ok(()) };
        let Ok(beat) = codec::decode_any::<Beat>(None, &message.payload, MAX_BEAT).1 else { return Ok(()) };
        if beat.calls.is_none() || beat.slots == 0 {
            return Ok(());
        }
        let until =
            Some(Instant::now() + Duration::from_millis(beat.lease_ms.clamp(1_000, 3_600_000)) * LEASES);
        if let Some(known) = self.hosted.get_mut(&agent) {
            known.until = known.until.max(until);
            return Ok(());
        }
        tracing::info!(%agent, tenant = %self.tenant, "an agent is shown");
        self.hosted.insert(agent.clone(), Hosted::new(until));
        self.beat_of(&agent).await
    }

    async fn beat(&mut self) -> Result<(), BusError> {
        let now = Instant::now();
        self.hosted.retain(|_, hosted| hosted.until.is_none_or(|until| until > now));
        for agent in self.hosted.keys().cloned().collect::<Vec<_>>() {
            self.beat_of(&agent).await?;
        }
        Ok(())
    }

    async fn beat_of(&self, agent: &AgentName) -> Result<(), BusError> {
        let Some(hosted) = self.hosted.get(agent) else { return Ok(()) };
        let body = self.shown(agent, hosted).heartbeat(&rfc3339(SystemTime::now())).to_string();
        self.lane.tell(prompt::subject("hb", &self.tenant, agent.as_str()), body.into()).await
    }

    /// Answers `$SRV.*` for every agent, or for the one that is meant.
    async fn present(&self, message: &Message) -> Result<(), BusError> {
        let Some(reply) = message.reply.as_ref().filter(|to| subjects::may_answer(to)) else { return Ok(()) };
        let mut tokens = message.subject.split('.').skip(1);
        let verb = tokens.next().unwrap_or_default().to_ascii_lowercase();
        let id = tokens.nth(1);
        for (agent, hosted) in self.hosted.iter().filter(|(_, hosted)| id.is_none_or(|id| id == hosted.id)) {
            let numbers = (hosted.prompts.load(Ordering::Relaxed), hosted.failed.load(Ordering::Relaxed));
            let answer = self.shown(agent, hosted).service(&verb, numbers.0, numbers.1);
            self.lane.tell(reply.to_string(), answer.to_string().into()).await?;
        }
        Ok(())
    }

    async fn status(&self, message: &Message) -> Result<(), BusError> {
        let Some(reply) = message.reply.as_ref().filter(|to| subjects::may_answer(to)) else { return Ok(()) };
        let found = agent_of(&message.subject).and_then(|agent| self.hosted.get_key_value(&agent));
        match found {
            Some((agent, hosted)) => {
                let body = self.shown(agent, hosted).heartbeat(&rfc3339(SystemTime::now())).to_string();
                self.lane.tell(reply.to_string(), body.into()).await
            }
            None => tell_failed(&self.lane, reply, &not_here()).await,
        }
    }

    fn prompted(&mut self, message: Message) {
        let Some(to) = message.reply.as_ref().filter(|to| subjects::may_answer(to)).map(ToString::to_string)
        else {
            return;
        };
        let found = agent_of(&message.subject).and_then(|agent| self.hosted.get_key_value(&agent));
        let counts = found.map(|(_, hosted)| (hosted.prompts.clone(), hosted.failed.clone()));
        let agent = found.map(|(agent, _)| agent.clone());
        let full = self.answering.len() >= MOST;
        let (client, lane) = (self.client.clone(), self.lane.clone());
        self.answering.spawn(async move {
            let outcome = match agent {
                None => Err(not_here()),
                Some(_) if full => Err(too_many()),
                Some(agent) => answer(&client, &lane, &agent, &message.payload, &to).await,
            };
            if let Some((prompts, failed)) = counts {
                prompts.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
            }
            let told = match outcome {
                Ok(()) => Ok(()),
                Err(error) => tell_failed(&lane, &to, &error).await,
            };
            let ended = match told {
                // Nothing in it, and no headers: that was all.
                Ok(()) => lane.tell(to, Bytes::new()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "the end of an answer could not be sent");
            }
        });
    }
}

fn agent_of(subject: &str) -> Option<AgentName> {
    AgentName::new(subject.rsplit('.').next()?).ok()
}

fn not_here() -> PromptError {
    PromptError { status: 404, message: "no such agent is shown here".to_owned(), retry_after_ms: None }
}

fn too_many() -> PromptError {
    PromptError {
        status: 429,
        message: "too many prompts are being answered".to_owned(),
        retry_after_ms: Some(1_000),
    }
}

async fn tell_failed(lane: &Lane, to: &str, error: &PromptError) -> Result<(), BusError> {
    lane.tell_error(to.to_owned(), error.status, &error.text(), error.body()).await
}

/// Calls the agent and tells the parts of its answer. It is acknowledged once the fabric has given it to an instance.
async fn answer(
    client: &Client,
    lane: &Lane,
    agent: &AgentName,
    body: &[u8],
    to: &str,
) -> Result<(), PromptError> {
    let input = prompt::read(body)?.into_input();
    let mut parts = client.call_raw(agent.as_str(), input).await.map_err(|error| failed(&error))?;
    let mut acked: Option<Instant> = None;
    let mut texts = 0u64;
    while let Some(sign) = parts.sign().await {
        let sign = sign.map_err(|error| failed(&error))?;
        if acked.is_none_or(|at| at.elapsed() >= ACK_EVERY) {
            tell(lane, to, prompt::ack()).await?;
            acked = Some(Instant::now());
        }
        if let Sign::Chunk(chunk) = sign
            && TEXT_KINDS.contains(&chunk.kind.as_str())
        {
            texts += 1;
            tell(lane, to, prompt::response(&prompt::as_text(&chunk.data))).await?;
        }
    }
    finish(lane, to, parts, acked.is_none(), texts).await
}

/// The result is the answer, unless that was streamed already.
async fn finish(lane: &Lane, to: &str, parts: Answer, ack: bool, texts: u64) -> Result<(), PromptError> {
    let result = parts.raw_result().await.map_err(|error| failed(&error))?;
    if ack {
        tell(lane, to, prompt::ack()).await?;
    }
    if texts == 0 {
        tell(lane, to, prompt::response(&prompt::as_text(&result))).await?;
    }
    Ok(())
}

async fn tell(lane: &Lane, to: &str, body: Bytes) -> Result<(), PromptError> {
    let told = lane.tell(to.to_owned(), body).await;
    told.map_err(|error| PromptError { status: 500, message: error.to_string(), retry_after_ms: None })
}

fn failed(error: &Error) -> PromptError {
    match error {
        Error::Refused(refusal) => PromptError::from(refusal),
        other => PromptError { status: 500, message: other.to_string(), retry_after_ms: None },
    }
}
