//! The query plane as a NATS service: `selvedge`, one endpoint per verb, visible to `nats micro`.
//!
//! Discovery (`$SRV.PING|INFO|STATS`) and replies are done by hand: the client library's service
//! counts every reply as a request and sends errors without a body. Requests run at once up to a
//! bound, shared by tenants (`places`); beyond it they are shed with `BUSY`, and nothing queues here. Each has a deadline, the asker's own if
//! that is earlier: then the work for it is dropped, and nobody waits for an asker who has gone. What a verb
//! means is the handler's business.
//!
//! ```text
//! sv.api.<tenant>.<verb> --> at hand? --> place? --> handler --> reply, encoded in kind
//!                              \            \          \--> TIMED_OUT, the handler is dropped
//!                               \--> reply   \--> BUSY, retry_after_ms
//! ```

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures_util::{StreamExt, stream::select_all};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    task::{Code, Millis, Refusal, TenantName},
    wire::{Format, api::verb, headers, schema, subjects},
};

mod places;
mod stats;

use places::{Full, Places};
use stats::Stats;

/// The service's name and the queue group all coordinators share.
pub const SERVICE: &str = "selvedge";
/// When a shed request may be tried again.
const RETRY_AFTER_MS: Millis = 250;
/// Bytes of the headers of an answer that is no error, at most: the server counts them.
const OK_HEADERS: usize = 128;

/// A request, with its subject already read.
#[derive(Debug, Clone)]
pub struct Query {
    /// Whose, from the subject.
    pub tenant: TenantName,
    /// One of [`verb::ALL`].
    pub verb: &'static str,
    /// How the body is encoded, and the answer will be.
    pub format: Format,
    /// The body; not yet decoded, not yet bounded.
    pub body: Bytes,
}

/// What the handler says: a body encoded in the query's format, or a refusal.
pub type Answer = Result<Bytes, Refusal>;

/// Gives the answers.
pub trait Handler: Send + Sync + 'static {
    /// An answer that needs no work: it is given where the request is read, and takes no place.
    fn at_hand(&self, query: &Query) -> Option<Bytes> {
        let _ = query;
        None
    }

    /// The answer.
    fn answer(&self, query: Query) -> impl Future<Output = Answer> + Send;
}

impl<H, F> Handler for H
where
    H: Fn(Query) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    fn answer(&self, query: Query) -> impl Future<Output = Answer> + Send {
        self(query)
    }
}

/// How the service presents itself.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// Requests handled at once; more are shed.
    pub concurrency: usize,
    /// How long a request may take.
    pub deadline: Duration,
    /// How long one may take that waits for a decision ([`verb::DECIDED`]).
    pub decision_deadline: Duration,
    /// SemVer.
    pub version: String,
    /// Shown by `nats micro info`.
    pub metadata: BTreeMap<String, String>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            concurrency: 64,
            deadline: Duration::from_secs(4),
            decision_deadline: Duration::from_secs(12),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata: BTreeMap::from([("protocol".to_owned(), crate::wire::VERSION.to_string())]),
        }
    }
}

/// The service could not be registered.
#[derive(Debug, thiserror::Error)]
#[error("cannot subscribe to {subject}: {reason}")]
pub struct ServiceError {
    /// Where.
    pub subject: String,
    /// Why.
    pub reason: String,
}

struct Service<H> {
    client: Client,
    config: ServiceConfig,
    id: String,
    started: SystemTime,
    stats: Stats,
    places: Arc<Places>,
    handler: H,
}

/// Serves until `stop`, then takes nothing new and lets what runs finish. Returns early only if the
/// subscriptions can't be made or the connection is closed for good.
pub async fn serve<H: Handler>(
    client: Client,
    config: ServiceConfig,
    handler: H,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut requests = Vec::new();
    for verb in verb::ALL {
        let subject = endpoint_subject(verb);
        let subscribed = client.queue_subscribe(subject.clone(), SERVICE.to_owned()).await;
        requests.push(
            subscribed
                .map_err(|e| ServiceError { subject, reason: e.to_string() })?
                .map(move |message| (Some(verb), message))
                .boxed(),
        );
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    for subject in discovery_subjects(&id) {
        let subscribed = client.subscribe(subject.clone()).await;
        let messages = subscribed.map_err(|e| ServiceError { subject, reason: e.to_string() })?;
        requests.push(messages.map(|message| (None, message)).boxed());
    }
    let service = Arc::new(Service {
        client,
        id,
        started: SystemTime::now(),
        stats: Stats::default(),
        places: Arc::new(Places::new(config.concurrency)),
        config,
        handler,
    });
    let running = TaskTracker::new();
    let mut requests = select_all(requests);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = requests.next() => next,
        };
        match next {
            Some((Some(verb), message)) => service.take(verb, message, &running).await,
            Some((None, message)) => service.present(message).await,
            None => break,
        }
    }
    drop(requests);
    running.close();
    running.wait().await;
    // Replies still in the client's buffer belong to what was answered.
    let _ = tokio::time::timeout(Duration::from_secs(1), service.client.flush()).await;
    Ok(())
}

/// `sv.api.*.<verb>`
pub fn endpoint_subject(verb: &str) -> String {
    subjects::api_of_all(verb)
}

fn discovery_subjects(id: &str) -> Vec<String> {
    let forms = |verb: &str| {
        [format!("$SRV.{verb}"), format!("$SRV.{verb}.{SERVICE}"), format!("$SRV.{verb}.{SERVICE}.{id}")]
    };
    ["PING", "INFO", "STATS"].iter().flat_map(|verb| forms(verb)).collect()
}

impl<H: Handler> Service<H> {
    async fn take(self: &Arc<Self>, verb: &'static str, message: Message, running: &TaskTracker) {
        let safe = message.reply.as_ref().is_some_and(|reply| subjects::may_answer(reply));
        if !safe {
            self.stats.error(verb, Code::BadMessage);
            return;
        }
        let begun = std::time::Instant::now();
        let content_type =
            message.headers.as_ref().and_then(|h| h.get(headers::CONTENT_TYPE)).map(|v| v.as_str());
        let format = Format::of(content_type, &message.payload);
        let tenant = match subjects::parse_api(&message.subject) {
            Ok((tenant, _)) => tenant,
            Err(error) => {
                let refusal = Refusal::new(Code::BadName, error.to_string());
                return self.answer(verb, &message, format, Err(refusal), begun).await;
            }
        };
        let query = Query { tenant, verb, format, body: message.payload.clone() };
        if let Some(body) = self.handler.at_hand(&query) {
            return self.answer(verb, &message, format, Ok(body), begun).await;
        }
        let place = match self.places.take(&query.tenant) {
            Ok(place) => place,
            Err(full) => {
                let refusal = busy(&query.tenant, &full);
                return self.answer(verb, &message, format, Err(refusal), begun).await;
            }
        };
        let service = Arc::clone(self);
        let within = self.within(verb, &message);
        running.spawn(async move {
            let answer = match tokio::time::timeout(within, service.handler.answer(query)).await {
                Ok(answer) => answer,
                Err(_) => {
                    let text = format!(
                        "not answered within {} ms; asking again at once makes it worse",
                        within.as_millis()
                    );
                    Err(Refusal::new(Code::TimedOut, text))
                }
            };
            service.answer(verb, &message, format, answer, begun).await;
            drop(place);
        });
    }

    /// How long this request may take: as long as its asker waits, and never beyond the deadline.
    fn within(&self, verb: &str, message: &Message) -> Duration {
        let most = match verb::DECIDED.contains(&verb) {
            true => self.config.decision_deadline,
            false => self.config.deadline,
        };
        let said = message.headers.as_ref().and_then(|all| all.get(headers::WITHIN_MS));
        let asked = said.and_then(|ms| ms.as_str().parse().ok()).map(Duration::from_millis);
        asked.unwrap_or(most).min(most)
    }

    async fn answer(
        &self,
        verb: &'static str,
        message: &Message,
        format: Format,
        answer: Answer,
        begun: std::time::Instant,
    ) {
        let Some(reply) = message.reply.clone() else { return };
        let mut reply_headers = HeaderMap::new();
        reply_headers.insert(headers::CONTENT_TYPE, format.content_type());
        let most = self.client.server_info().max_payload.saturating_sub(OK_HEADERS);
        let answer = answer.and_then(|body| sendable(verb, body, most));
        let body = match answer {
            Ok(body) => {
                self.stats.answered(verb, begun.elapsed());
                body
            }
            Err(refusal) => {
                self.stats.answered(verb, begun.elapsed());
                self.stats.error(verb, refusal.code);
                reply_headers.insert(headers::SERVICE_ERROR_CODE, refusal.code.status().to_string());
                reply_headers.insert(headers::SERVICE_ERROR, refusal.code.as_str());
                format.encode(&refusal)
            }
        };
        // A reply that can't be sent is a timeout for the caller; there is nobody else to tell.
        if let Err(error) = self.client.publish_with_headers(reply, reply_headers, body).await {
            tracing::debug!(%verb, %error, "reply not sent");
        }
    }

    /// Answers `$SRV.*`.
    async fn present(&self, message: Message) {
        let Some(reply) = message.reply.filter(|reply| subjects::may_answer(reply)) else { return };
        let mut answer = json!({
            "name": SERVICE,
            "id": self.id,
            "version": self.config.version,
            "metadata": self.config.metadata,
        });
        let kind = message.subject.split('.').nth(1).unwrap_or_default().to_ascii_lowercase();
        answer["type"] = json!(format!("io.nats.micro.v1.{kind}_response"));
        match kind.as_str() {
            "info" => {
                answer["description"] = json!("Query plane of a Selvedge fabric");
                answer["endpoints"] = verb::ALL.iter().map(|verb| endpoint(verb)).collect();
            }
            "stats" => {
                answer["started"] = json!(rfc3339(self.started));
                answer["endpoints"] = verb::ALL
                    .iter()
                    .map(|verb| {
                        let mut numbers = self.stats.of(verb);
                        merge(&mut numbers, endpoint(verb));
                        numbers
                    })
                    .collect();
            }
            _ => {}
        }
        let _ = self.client.publish(reply, Bytes::from(answer.to_string())).await;
    }
}

/// The answer, if the server takes it: else its asker would wait in vain.
fn sendable(verb: &str, body: Bytes, most: usize) -> Answer {
    if body.len() <= most {
        return Ok(body);
    }
    let text = format!(
        "the answer to {verb} has {} bytes, and the server takes {most} (max_payload); ask in MessagePack, which is \
         shorter, or for less at once",
        body.len()
    );
    Err(Refusal::over(Code::TooLarge, text, body.len() as u64, most as u64))
}

fn busy(tenant: &TenantName, full: &Full) -> Refusal {
    let (limit, text) = match full {
        Full::All { most } => (*most, format!("{most} queries are being answered already; try again")),
        Full::Share { holds, most } => {
            let text = format!(
                "{holds} queries of tenant {tenant} are being answered already, its share of {most} for all \
                 tenants; try again"
            );
            (*holds, text)
        }
    };
    Refusal { limit: Some(limit as u64), ..Refusal::new(Code::Busy, text) }.retry_after(RETRY_AFTER_MS)
}

fn endpoint(verb: &str) -> Value {
    let mut metadata = json!({"format": "application/json, application/msgpack"});
    if let Some((request, answer)) = schema::of(verb) {
        // Values of metadata are texts.
        metadata["request_schema"] = json!(request.to_string());
        metadata["response_schema"] = json!(answer.to_string());
    }
    json!({
        "name": verb,
        "subject": endpoint_subject(verb),
        "queue_group": SERVICE,
        "metadata": metadata,
    })
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from.into_iter().filter(|(key, _)| key != "metadata"));
    }
}

/// UTC, seconds. By hand: the one place that needs a date, and a dependency is dearer.
/// A time as RFC 3339 has it, UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let secs = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Civil date from a day count, in 400-year eras that begin on 1 March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_the_server_would_not_take_is_an_error_that_it_takes() {
        let body = Bytes::from_static(b"12345");
        assert_eq!(sendable("kept", body.clone(), 5), Ok(body.clone()));
        let refusal = sendable("kept", body, 4).unwrap_err();
        assert_eq!((refusal.code, refusal.limit, refusal.actual), (Code::TooLarge, Some(4), Some(5)));
        assert!(refusal.message.contains("kept") && refusal.message.contains("max_payload"), "{refusal}");
    }

    #[test]
    fn dates_are_right_around_leap_days_and_years() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)), text);
        }
    }
}
