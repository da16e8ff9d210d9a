//! From deliveries to inputs: subjects and bodies are read here, off the owner's loop.
//!
//! Nothing is decided. A message whose subject names no task, or that the server wrote, can be
//! attributed to nobody: it is acknowledged, counted and logged without its content. Everything else
//! becomes an input.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use serde::{Deserialize, de::IgnoredAny};
use tokio::sync::{mpsc, oneshot};

use super::schemas::Schemas;
use crate::{
    bus::{
        Message,
        consume::{Ack, Delivery},
    },
    flow::{
        calls::ReplyTo,
        engine::Backlog,
        input::{Input, check_version},
        trigger::Fired,
    },
    task::{Code, MAX_PAYLOAD_BYTES, Refusal, TaskKey},
    telemetry::names,
    wire::{
        calls::CallRequest,
        codec::{self, DecodeError, Format},
        headers,
        messages::{Accept, Beat, MAX_REPORTS, MAX_SUBMITS, Reports, Submits, TaskSubmit},
        subjects::{self, Called, Intake, Reported, SubjectError},
        topology::{INTAKE, REPORTS},
    },
};

/// Envelope around the largest payload, in bytes; JSON may need escapes and base64.
const SUBMIT_LIMIT: usize = 2 * MAX_PAYLOAD_BYTES;
/// A report may carry several children.
const REPORT_LIMIT: usize = 3 * MAX_PAYLOAD_BYTES;
/// A heartbeat lists its leases.
const BEAT_LIMIT: usize = 1024 * 1024;

/// Messages read at once, at most.
const GULP: usize = 256;

/// Inputs of one line that the owner's loop takes at once.
const MOUTHFUL: usize = 1_024;
/// Inputs of one line waiting in the engine above which no more are taken.
const ENOUGH: usize = 8_192;

/// How an input is answered.
#[derive(Debug)]
pub enum Handle {
    /// Acknowledge the stream message.
    Ack(Ack),
    /// Answer the heartbeat there, in this format.
    Beat(String, Format),
    /// Tell the trigger.
    Fired(oneshot::Sender<Fired>),
    /// Nobody is answered; that it is dropped says that the input is decided.
    Counted(Counted),
}

/// Counts inputs that are not decided yet: made with one more, dropped with one less.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// One more of these.
    pub fn new(of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        Self(of.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An input on its way to the owner.
#[derive(Debug)]
pub struct Inbound {
    /// What.
    pub input: Input,
    /// How it is answered, if it is.
    pub handle: Option<Handle>,
    /// For a report: its stream sequence.
    pub report_seq: Option<u64>,
    /// How an instance encodes what it says, and wants to be told.
    pub format: Option<Format>,
}

impl Inbound {
    /// One that no instance and no report brought.
    pub fn of(input: Input, handle: Option<Handle>) -> Self {
        Self { input, handle, report_seq: None, format: None }
    }
}

/// What comes to the owner's loop, in two lines: a flood of submits must not keep reports and heartbeats out.
#[derive(Debug)]
pub struct Inputs {
    /// Submits and commands.
    pub asked: mpsc::Receiver<Inbound>,
    /// Everything else.
    pub others: mpsc::Receiver<Inbound>,
}

/// The readers are gone.
#[derive(Debug)]
pub struct Closed;

impl Inputs {
    /// Reads what has come of each line, unless the engine has enough of it; waits until there is some. Nothing is lost
    /// when it is given up.
    pub async fn read(&mut self, into: &mut Vec<Inbound>, backlog: Backlog) -> Result<(), Closed> {
        poll_fn(|cx| {
            let before = into.len();
            for (line, waiting) in [(&mut self.others, backlog.others), (&mut self.asked, backlog.asked)] {
                if waiting < ENOUGH && matches!(line.poll_recv_many(cx, into, MOUTHFUL), Poll::Ready(0)) {
                    return Poll::Ready(Err(Closed));
                }
            }
            if into.len() > before { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

/// Which stream a delivery is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Submits and commands.
    Intake,
    /// Reports.
    Reports,
}

/// Reads deliveries of one stream into inputs until either end is closed.
pub async fn read(from: From, mut deliveries: mpsc::Receiver<Delivery>, inputs: mpsc::Sender<Inbound>) {
    let mut arrived = Vec::with_capacity(GULP);
    let mut read = Vec::with_capacity(GULP);
    while deliveries.recv_many(&mut arrived, GULP).await > 0 {
        for delivery in arrived.drain(..) {
            read_one(from, delivery, &mut read).await;
        }
        while !read.is_empty() {
            // One message may hold many: never more at once than the owner's channel takes.
            let some = read.len().min(GULP);
            let Ok(room) = inputs.reserve_many(some).await else { return };
            room.zip(read.drain(..some)).for_each(|(place, input)| place.send(input));
        }
    }
}

async fn read_one(from: From, delivery: Delivery, inputs: &mut Vec<Inbound>) {
    match parse(from, &delivery) {
        Ok(Parsed::One(input)) => {
            let input = *input;
            let stream = match &input {
                Input::Submit { body: Err(_), .. } | Input::Cmd { body: Err(_), .. } => Some(INTAKE),
                Input::Report { body: Err(_), .. } => Some(REPORTS),
                _ => None,
            };
            if let Some(stream) = stream {
                metrics::counter!(names::INPUTS_MALFORMED, names::STREAM => stream).increment(1);
            }
            let report_seq = (from == From::Reports).then_some(delivery.stream_seq);
            let handle = Some(Handle::Ack(delivery.ack));
            inputs.push(Inbound { input, handle, report_seq, format: None });
        }
        Ok(Parsed::Many(each)) => {
            let last = each.len() - 1;
            for (at, (input, ack)) in each.into_iter().zip(delivery.ack.split(last + 1)).enumerate() {
                // The message is read when its last part is.
                let report_seq = (at == last && from == From::Reports).then_some(delivery.stream_seq);
                inputs.push(Inbound { input, handle: Some(Handle::Ack(ack)), report_seq, format: None });
            }
        }
        Err(error) => {
            metrics::counter!(names::UNATTRIBUTABLE).increment(1);
            tracing::warn!(seq = delivery.stream_seq, %error, "a message is nobody's; dropped");
            delivery.ack.ack().await;
        }
    }
}

/// Why a message is nobody's.
#[derive(Debug, thiserror::Error)]
enum Foreign {
    /// No task to put it to.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// Submits or reports of several tasks that can't be read: which tasks is not known.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// None of them, or too many.
    #[error("{n} submits or reports in one message; 1 to {max} are taken")]
    Count {
        /// Found.
        n: usize,
        /// Taken.
        max: usize,
    },
    /// An acknowledgement or an answer that somebody's reply subject aimed here. Nobody asked for a
    /// task: at most somebody who may not submit for this tenant.
    #[error("the server's answer to somebody else's request")]
    Server,
}

/// What only the server's answers hold.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerWords {
    stream: Option<IgnoredAny>,
    seq: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
    r#type: Option<IgnoredAny>,
    server: Option<IgnoredAny>,
    // And what only a message of ours holds.
    v: Option<IgnoredAny>,
    input: Option<IgnoredAny>,
    op: Option<IgnoredAny>,
}

/// Whether the server wrote this. Its answers have no headers and are JSON objects.
pub(super) fn is_servers(body: &[u8]) -> bool {
    body.first() == Some(&b'{')
        && Format::Json.decode::<ServerWords>(body, SUBMIT_LIMIT).is_ok_and(|words| {
            let ours = words.v.is_some() || words.input.is_some() || words.op.is_some();
            let stored = words.stream.is_some() && words.seq.is_some();
            let answer = words.error.is_some() || words.r#type.is_some() || words.server.is_some();
            !ours && (stored || answer)
        })
}

/// What a message holds.
enum Parsed {
    One(Box<Input>),
    /// At least one.
    Many(Vec<Input>),
}

fn parse(from: From, delivery: &Delivery) -> Result<Parsed, Foreign> {
    let content_type = delivery.content_type.as_deref();
    let body = &delivery.payload;
    if is_servers(body) {
        return Err(Foreign::Server);
    }
    Ok(match from {
        From::Intake => match subjects::parse_intake(&delivery.subject)? {
            Intake::Submit(key, agent) => Parsed::One(Box::new(Input::Submit {
                key,
                agent,
                body: codec::decode_any(content_type, body, SUBMIT_LIMIT).1,
                stored_at: delivery.timestamp,
            })),
            Intake::Submits(tenant) => {
                let read: Submits = codec::decode_any(content_type, body, SUBMIT_LIMIT).1?;
                several(read.tasks, MAX_SUBMITS, |TaskSubmit { agent, task, submit }| {
                    let key = TaskKey { tenant: tenant.clone(), id: task };
                    Input::Submit { key, agent, body: Ok(submit), stored_at: delivery.timestamp }
                })?
            }
            Intake::Cmd(key, nonce) => Parsed::One(Box::new(Input::Cmd {
                key,
                nonce,
                body: codec::decode_any(content_type, body, SUBMIT_LIMIT).1,
            })),
        },
        From::Reports => match subjects::parse_report(&delivery.subject)? {
            Reported::Task(key) => Parsed::One(Box::new(Input::Report {
                key,
                body: codec::decode_any(content_type, body, REPORT_LIMIT).1,
            })),
            Reported::Instance(agent, instance) => {
                let read: Reports = codec::decode_any(content_type, body, REPORT_LIMIT).1?;
                several(read.reports, MAX_REPORTS, |report| {
                    let (key, report) = report.of(read.v, agent.clone(), instance.clone());
                    Input::Report { key, body: Ok(report) }
                })?
            }
        },
    })
}

/// What a message of several things holds, at most `max` of them.
fn several<T>(each: Vec<T>, max: usize, input: impl Fn(T) -> Input) -> Result<Parsed, Foreign> {
    match each.len() {
        n if n == 0 || n > max => Err(Foreign::Count { n, max }),
        _ => Ok(Parsed::Many(each.into_iter().map(input).collect())),
    }
}

/// A pulse that can be read and speaks our version.
fn heard<T>(body: Result<T, DecodeError>, version: impl Fn(&T) -> u32) -> Result<T, String> {
    let body = body.map_err(|e| e.to_string())?;
    check_version(version(&body)).map_err(|refusal| refusal.to_string())?;
    Ok(body)
}

/// A call, or whom to tell why it is none. `None`: nobody.
pub fn call(message: &Message) -> Option<Result<Inbound, (ReplyTo, Refusal)>> {
    let reply = message.reply.as_ref().map(ToString::to_string).filter(|to| subjects::may_answer(to))?;
    let content_type = message.headers.as_ref().and_then(|headers| headers.get(headers::CONTENT_TYPE));
    let content_type = content_type.map(|value| value.as_str());
    let (format, body) = codec::decode_any::<CallRequest>(content_type, &message.payload, SUBMIT_LIMIT);
    let to = ReplyTo { subject: reply, format };
    Some(match subjects::parse_call(&message.subject) {
        Ok(Called { tenant, agent, by_handler }) => {
            let body = Box::new(body);
            Ok(Inbound::of(Input::Call { tenant, agent, by_handler, body, to }, None))
        }
        Err(error) => Err((to, Refusal::new(Code::BadName, error.to_string()))),
    })
}

/// Takes what an instance says about itself out of its heartbeat; it is to be heard after that.
pub fn announcement(beat: &mut Inbound, schemas: &mut Schemas) -> Option<Inbound> {
    let Input::Beat { agent, instance, body } = &mut beat.input else { return None };
    match schemas.read(*body.about.take()?) {
        Ok(announced) => {
            let (agent, instance) = (agent.clone(), instance.clone());
            Some(Inbound::of(Input::Announced { agent, instance, announced }, None))
        }
        Err(error) => {
            metrics::counter!(names::UNREADABLE_PULSES).increment(1);
            tracing::warn!(%agent, %instance, %error, "what an instance says about itself is not kept");
            None
        }
    }
}

/// A plain message of an instance: a heartbeat or an acceptance. `None`: nobody can be told that it is bad.
pub fn pulse(subject: &str, reply: Option<String>, body: &[u8]) -> Option<Inbound> {
    let read = || -> Result<Inbound, String> {
        let (agent, instance) = subjects::parse_instance(subject).map_err(|e| e.to_string())?;
        let is_beat = subject.starts_with(subjects::BEAT_PREFIX);
        let (format, input) = if is_beat {
            let (format, beat) = codec::decode_any::<Beat>(None, body, BEAT_LIMIT);
            (format, Input::Beat { agent, instance, body: heard(beat, |b| b.v)? })
        } else {
            let (format, accept) = codec::decode_any::<Accept>(None, body, BEAT_LIMIT);
            (format, Input::Accept { agent, instance, body: heard(accept, |a| a.v)? })
        };
        let handle =
            reply.filter(|to| is_beat && subjects::may_answer(to)).map(|reply| Handle::Beat(reply, format));
        Ok(Inbound { input, handle, report_seq: None, format: Some(format) })
    };
    match read() {
        Ok(inbound) => Some(inbound),
        Err(error) => {
            metrics::counter!(names::UNREADABLE_PULSES).increment(1);
            tracing::warn!(%error, "an instance's heartbeat or acceptance can't be read");
            None
        }
    }
}
