//! A delivery becomes something to make a task of, or is passed over, or is dead.

use serde_json::{Value, json};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{
    bus::consume::{Ack, Delivery},
    coordinator::intake::is_servers,
    task::{Code, Refusal, trigger::Trigger, trigger::scope::Scope},
    wire::{headers, subjects},
};

/// A message that counts.
pub(super) struct Read {
    pub seq: u64,
    pub hops: u32,
    /// What makes it the same as another; `None`: its place in the stream.
    pub key: Option<String>,
    pub scope: Scope,
    pub bytes: usize,
    pub ack: Ack,
}

/// What a delivery is.
pub(super) enum Arrived {
    /// A message to make a task of.
    Message(Box<Read>),
    /// It is not what the filter asks for, or nobody's.
    Passed(Ack),
    /// No task can be made of it.
    Dead(Ack, Refusal),
}

/// Reads it.
pub(super) fn read(trigger: &Trigger, delivery: Delivery) -> Arrived {
    let settings = &trigger.settings;
    let topic = subjects::topic_of(&delivery.subject);
    // Whoever may publish to a stream can have the server's acknowledgement sent to any subject.
    if topic.is_some() && !delivery.has_headers && is_servers(&delivery.payload) {
        return Arrived::Passed(delivery.ack);
    }
    let scope = Scope {
        message: value_of(delivery.content_type.as_deref(), &delivery.payload),
        batch: Vec::new(),
        topic: topic.unwrap_or_default().to_owned(),
        subject: delivery.subject,
        seq: delivery.stream_seq,
        time: delivery.timestamp,
        id: delivery.message_id.clone().unwrap_or_default(),
    };
    if !trigger.filter.iter().all(|condition| condition.holds(&scope)) {
        return Arrived::Passed(delivery.ack);
    }
    let hops = delivery.hops.saturating_add(1);
    if hops > settings.max_hops {
        let (hops, most) = (u64::from(hops), u64::from(settings.max_hops));
        let message =
            format!("{hops} triggers lie behind its task > cap {most}: do they trigger each other?");
        return Arrived::Dead(delivery.ack, Refusal::over(Code::HopsExceeded, message, hops, most));
    }
    let key = match &trigger.dedupe {
        None => Ok(delivery.message_id),
        Some(template) => template.render(&scope).map(|key| match key {
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        }),
    };
    match key {
        Err(error) => {
            let refusal = Refusal::new(Code::TemplateFailed, format!("dedupe: {error}"));
            Arrived::Dead(delivery.ack, refusal)
        }
        Ok(key) => Arrived::Message(Box::new(Read {
            seq: delivery.stream_seq,
            hops,
            key,
            scope,
            bytes: delivery.payload.len(),
            ack: delivery.ack,
        })),
    }
}

/// JSON, or text, or bytes as payloads show them. MessagePack if it says so.
fn value_of(content_type: Option<&str>, body: &[u8]) -> Value {
    let bytes = || json!({"$bytes": BASE64.encode(body)});
    match content_type {
        Some(kind) if kind.starts_with(headers::MSGPACK) => {
            crate::wire::codec::unpack(body).unwrap_or_else(|_| bytes())
        }
        Some(kind) if kind.starts_with(headers::OCTETS) => bytes(),
        _ => match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => std::str::from_utf8(body).map_or_else(|_| bytes(), Into::into),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::trigger::TriggerSettings;

    fn trigger(more: Value) -> Trigger {
        let mut settings = json!({"source": {"topic": "docs.>"}, "tenant": "acme", "agent": "reader"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value::<TriggerSettings>(settings).unwrap().compile().unwrap()
    }

    fn delivery(body: &str) -> Delivery {
        Delivery {
            subject: subjects::topic(&"acme".parse().unwrap(), &"docs.new".parse().unwrap()),
            content_type: None,
            message_id: Some("m-1".into()),
            hops: 0,
            has_headers: true,
            payload: bytes::Bytes::copy_from_slice(body.as_bytes()),
            stream_seq: 7,
            timestamp: 1,
            delivered: 1,
            pending: 0,
            ack: Ack::none(),
        }
    }

    #[test]
    fn a_body_is_json_or_text_or_bytes() {
        assert_eq!(value_of(None, b"{\"a\":1}"), json!({"a": 1}));
        assert_eq!(value_of(None, b"hello"), json!("hello"));
        assert_eq!(value_of(None, b""), Value::Null);
        assert_eq!(value_of(None, &[0xff]), json!({"$bytes": "/w=="}));
        assert_eq!(value_of(Some(headers::OCTETS), b"1"), json!({"$bytes": "MQ=="}));
        assert_eq!(value_of(Some(headers::MSGPACK), b"\x81\xa1a\x01"), json!({"a": 1}));
    }

    #[test]
    fn a_message_too_many_triggers_deep_is_dead_and_says_so() {
        let mut deep = delivery("1");
        deep.hops = 2;
        let Arrived::Dead(_, refusal) = read(&trigger(json!({"max_hops": 2})), deep) else { panic!("dead") };
        assert_eq!((refusal.code, refusal.actual, refusal.limit), (Code::HopsExceeded, Some(3), Some(2)));
        // A header that can't be read is no licence.
        let mut forged = delivery("1");
        forged.hops = u32::MAX;
        assert!(matches!(read(&trigger(json!({})), forged), Arrived::Dead(..)));
        let Arrived::Message(fine) = read(&trigger(json!({})), delivery("1")) else { panic!("a message") };
        assert_eq!((fine.hops, fine.key.as_deref()), (1, Some("m-1")));
    }

    #[test]
    fn what_the_filter_does_not_want_and_what_the_server_wrote_is_passed_over() {
        let only = trigger(json!({"filter": ["message.kind=report"]}));
        assert!(matches!(read(&only, delivery("{\"kind\":\"letter\"}")), Arrived::Passed(_)));
        assert!(matches!(read(&only, delivery("{\"kind\":\"report\"}")), Arrived::Message(_)));
        let mut ack = delivery("{\"stream\":\"ORDERS\",\"seq\":3}");
        ack.has_headers = false;
        assert!(matches!(read(&trigger(json!({})), ack), Arrived::Passed(_)));
    }

    #[test]
    fn a_dedupe_key_is_made_of_the_message() {
        let keyed = trigger(json!({"dedupe": "{{message.order}}/{{message.n}}"}));
        let Arrived::Message(read_one) = read(&keyed, delivery("{\"order\":\"a\",\"n\":2}")) else {
            panic!("a message")
        };
        assert_eq!(read_one.key.as_deref(), Some("a/2"));
        let Arrived::Dead(_, refusal) = read(&keyed, delivery("{\"n\":2}")) else { panic!("dead") };
        assert!(refusal.message.contains("message.order"), "{refusal}");
    }
}
