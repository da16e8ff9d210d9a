//! The words of the other protocol: prompts, parts of answers, errors, heartbeats. Builds and reads them; no I/O.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    task::{AgentName, Code, Payload, Refusal, TenantName},
    wire::headers,
};

/// The version of the protocol that is spoken.
pub const PROTOCOL: &str = "0.3";
/// The name every agent's service has, and the queue group of its endpoints.
pub const SERVICE: &str = "agents";
/// The kind of agent ours are, in subjects and metadata.
pub const KIND: &str = "selvedge";
/// Heartbeats come this often, in seconds.
pub const HEARTBEAT_S: u64 = 30;
/// Kinds of parts that are text of the answer; others are not told.
pub const TEXT_KINDS: [&str; 2] = ["text", "token"];

/// What a prompt holds. Fields that are not known are passed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The text; not empty.
    pub prompt: String,
    /// Files, as they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
    /// Whatever else there is.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

/// An error as callers of the protocol know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptError {
    /// 400, 401, 403, 404, 409, 429 or 500.
    pub status: u16,
    /// In words.
    pub message: String,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl PromptError {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into(), retry_after_ms: None }
    }

    /// The body that goes with the headers.
    pub fn body(&self) -> Bytes {
        let retry = self.retry_after_ms.map(|ms| ms as f64 / 1_000.0);
        let mut body = json!({ "error": self.status.to_string(), "message": self.message });
        if let Some(seconds) = retry {
            body["retry_after_s"] = json!(seconds);
        }
        body.to_string().into()
    }

    /// The text of the header: some clients show nothing else.
    pub fn text(&self) -> String {
        match self.retry_after_ms {
            Some(ms) => format!("{}; retry after {} s", self.message, ms as f64 / 1_000.0),
            None => self.message.clone(),
        }
    }
}

impl From<&Refusal> for PromptError {
    fn from(refusal: &Refusal) -> Self {
        let status = match refusal.code {
            Code::RateExceeded
            | Code::InFlightFull
            | Code::Busy
            | Code::NoInstance
            | Code::Unavailable
            | Code::Unknown
            | Code::Paused
            | Code::TenantSuspended => 429,
            Code::UnknownTenant => 403,
            Code::BadMessage | Code::BadName | Code::TooLarge | Code::NeedsTask => 400,
            _ => 500,
        };
        let retry_after_ms = refusal.retry_after_ms.or((status == 429).then_some(1_000));
        Self { status, message: refusal.to_string(), retry_after_ms }
    }
}

/// Reads a request: JSON if it begins like an object, else text.
pub fn read(body: &[u8]) -> Result<Prompt, PromptError> {
    let prompt = if body.trim_ascii_start().first() == Some(&b'{') {
        serde_json::from_slice::<Prompt>(body)
            .map_err(|error| PromptError::bad(format!("the envelope can't be read: {error}")))?
    } else {
        let text = std::str::from_utf8(body).map_err(|_| PromptError::bad("the prompt is no UTF-8"))?;
        Prompt { prompt: text.to_owned(), attachments: Vec::new(), more: serde_json::Map::new() }
    };
    if prompt.prompt.is_empty() {
        return Err(PromptError::bad("the prompt is empty"));
    }
    Ok(prompt)
}

impl Prompt {
    /// The input of a fabric agent: the text, or with attachments or other fields the whole envelope.
    pub fn into_input(self) -> Payload {
        let value = match self.attachments.is_empty() && self.more.is_empty() {
            true => Value::String(self.prompt),
            false => json!(self),
        };
        Payload::Json(value.to_string().into())
    }

    /// Of the input of a task: a string is the text, an object with a prompt the envelope, anything else its JSON.
    pub fn of_input(input: &Payload) -> Result<Self, String> {
        let Payload::Json(text) = input else { return Err("bytes are no prompt".to_owned()) };
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let plain = |prompt: String| Prompt { prompt, attachments: Vec::new(), more: serde_json::Map::new() };
        let prompt = match value {
            Value::String(prompt) => plain(prompt),
            Value::Object(ref fields) if fields.get("prompt").is_some_and(Value::is_string) => {
                serde_json::from_value(value).map_err(|error| error.to_string())?
            }
            other => plain(other.to_string()),
        };
        if prompt.prompt.is_empty() { Err("the prompt is empty".to_owned()) } else { Ok(prompt) }
    }
}

/// "I am at it": first of all, and again while there is nothing else to say.
pub fn ack() -> Bytes {
    json!({ "type": "status", "data": "ack" }).to_string().into()
}

/// A part of the answer.
pub fn response(text: &str) -> Bytes {
    json!({ "type": "response", "data": text }).to_string().into()
}

/// A value as text: a string is itself.
pub fn as_text(data: &Payload) -> String {
    match data {
        Payload::Json(text) => match serde_json::from_slice::<Value>(text) {
            Ok(Value::String(text)) => text,
            _ => String::from_utf8_lossy(text).into_owned(),
        },
        Payload::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// What an agent of the protocol answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A part of the answer.
    Response(String),
    /// It asks the caller something.
    Query(String),
    /// Nothing that matters here.
    Other,
    /// That was all.
    End,
    /// It went wrong.
    Failed(PromptError),
}

/// Reads a part of an answer.
pub fn said(message_headers: Option<&async_nats::HeaderMap>, body: &[u8]) -> Said {
    let header = |name: &str| message_headers.and_then(|h| h.get(name)).map(|value| value.as_str());
    if let Some(status) = header(headers::SERVICE_ERROR_CODE) {
        let told: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let seconds = told["retry_after_s"].as_f64().filter(|s| s.is_finite() && *s >= 0.0);
        return Said::Failed(PromptError {
            status: status.parse().unwrap_or(500),
            message: header(headers::SERVICE_ERROR).unwrap_or("no reason was given").to_owned(),
            retry_after_ms: seconds.map(|seconds| (seconds * 1_000.0) as u64),
        });
    }
    if body.is_empty() {
        return Said::End;
    }
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |data: &Value| data.as_str().or_else(|| data["text"].as_str()).map(str::to_owned);
    match value["type"].as_str() {
        Some("response") => text(&value["data"]).map_or(Said::Other, Said::Response),
        Some("query") => Said::Query(value["data"]["prompt"].as_str().unwrap_or_default().to_owned()),
        _ => Said::Other,
    }
}

/// Where a fabric agent is prompted, asked for its status, and beats.
pub fn subject(verb: &str, tenant: &TenantName, agent: &str) -> String {
    format!("agents.{verb}.{KIND}.{tenant}.{agent}")
}

/// A hosted agent as services and heartbeats show it.
pub struct Shown<'a> {
    /// Whose.
    pub tenant: &'a TenantName,
    /// Which.
    pub agent: &'a AgentName,
    /// Of its service.
    pub id: &'a str,
}

impl Shown<'_> {
    fn metadata(&self) -> Value {
        json!({
            "agent": KIND, "owner": self.tenant, "session": self.agent, "protocol_version": PROTOCOL,
            "platform": "selvedge",
        })
    }

    fn prompt_metadata() -> Value {
        // Beyond it the fabric refuses the input.
        json!({ "max_payload": "256KB", "attachments_ok": "true" })
    }

    fn endpoints(&self) -> Value {
        let endpoint = |verb: &str, metadata: Value| {
            json!({
                "name": verb, "subject": subject(verb, self.tenant, self.agent.as_str()),
                "queue_group": SERVICE, "metadata": metadata,
            })
        };
        json!([endpoint("prompt", Self::prompt_metadata()), endpoint("status", json!({}))])
    }

    /// The answer to `$SRV.PING`, `$SRV.INFO` or `$SRV.STATS`.
    pub fn service(&self, verb: &str, prompts: u64, failed: u64) -> Value {
        let mut answer = json!({
            "type": format!("io.nats.micro.v1.{verb}_response"),
            "name": SERVICE, "id": self.id, "version": env!("CARGO_PKG_VERSION"), "metadata": self.metadata(),
        });
        if verb != "ping" {
            answer["endpoints"] = self.endpoints();
        }
        if verb == "info" {
            answer["description"] =
                json!(format!("Agent {} of tenant {} on a Selvedge fabric", self.agent, self.tenant));
        }
        if verb == "stats" {
            answer["endpoints"][0]["num_requests"] = json!(prompts);
            answer["endpoints"][0]["num_errors"] = json!(failed);
        }
        answer
    }

    /// A heartbeat, and the answer on its status endpoint.
    pub fn heartbeat(&self, now: &str) -> Value {
        let prompt = subject("prompt", self.tenant, self.agent.as_str());
        json!({
            "agent": KIND, "owner": self.tenant, "session": self.agent, "instance_id": self.id, "ts": now,
            "interval_s": HEARTBEAT_S, "protocol_version": PROTOCOL,
            "endpoints": { "prompt": { "subject": prompt, "metadata": Self::prompt_metadata() } },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_text_or_an_envelope_and_never_empty() {
        assert_eq!(read(b"hello").unwrap().prompt, "hello");
        let full =
            read(br#" {"prompt": "look", "attachments": [{"filename": "a", "content": "YQ=="}]}"#).unwrap();
        assert_eq!((full.prompt.as_str(), full.attachments.len()), ("look", 1));
        for bad in [&b""[..], b"{", b"{\"prompt\": \"\"}", b"{}", &[0xff, 0xfe]] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad:?}");
        }
    }

    #[test]
    fn inputs_and_prompts_are_each_others() {
        assert_eq!(read(b"hello").unwrap().into_input(), Payload::json("hello").unwrap());
        let envelope = Payload::json(&json!({"prompt": "p", "trace": 7})).unwrap();
        let prompt = Prompt::of_input(&envelope).unwrap();
        assert_eq!(prompt.more["trace"], 7);
        assert_eq!(prompt.into_input().decode::<Value>().unwrap(), json!({"prompt": "p", "trace": 7}));
        assert_eq!(Prompt::of_input(&Payload::json(&[1, 2]).unwrap()).unwrap().prompt, "[1,2]");
        assert!(Prompt::of_input(&Payload::json("").unwrap()).is_err());
    }

    #[test]
    fn what_cannot_begin_now_is_429_with_a_time() {
        let busy = PromptError::from(&Refusal::new(Code::Busy, "all slots are busy").retry_after(200));
        assert_eq!((busy.status, busy.retry_after_ms), (429, Some(200)));
        assert!(busy.text().contains("retry after 0.2 s"), "{}", busy.text());
        let value: Value = serde_json::from_slice(&busy.body()).unwrap();
        assert_eq!(value["retry_after_s"], 0.2);
        assert_eq!(PromptError::from(&Refusal::new(Code::HandlerFailed, "no")).status, 500);
    }

    #[test]
    fn parts_of_an_answer_are_told_apart() {
        assert_eq!(said(None, &response("hi")), Said::Response("hi".to_owned()));
        assert_eq!(said(None, &ack()), Said::Other);
        assert_eq!(said(None, b""), Said::End);
        assert_eq!(said(None, br#"{"type":"response","data":{"text":"x"}}"#), Said::Response("x".to_owned()));
        let mut failed = async_nats::HeaderMap::new();
        failed.insert(headers::SERVICE_ERROR_CODE, "429");
        failed.insert(headers::SERVICE_ERROR, "later");
        let expected = PromptError { status: 429, message: "later".to_owned(), retry_after_ms: Some(1_500) };
        assert_eq!(said(Some(&failed), br#"{"retry_after_s": 1.5}"#), Said::Failed(expected));
    }
}
