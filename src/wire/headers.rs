//! Header names, in one place.

/// `application/json` or `application/msgpack`; decides the encoding of the answer.
pub const CONTENT_TYPE: &str = "Content-Type";

/// Refusal code as a number, by the convention of NATS services.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Refusal text, by the convention of NATS services.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";

/// How long the asker of a query waits, in milliseconds: then nobody works for it any more.
pub const WITHIN_MS: &str = "Selvedge-Within-Ms";

/// What makes two messages of a topic the same: triggers make one task of them. Not the server's `Nats-Msg-Id`, which
/// forgets and crosses tenants.
pub const MESSAGE_ID: &str = "Selvedge-Message-Id";

/// How many triggers lie behind the task that published a message.
pub const HOPS: &str = "Selvedge-Hops";

/// Compare-and-set on the last message of a subject.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";

/// On everything that only a coordinator writes: journal messages and leases. Whoever may publish to
/// a stream can have the server's acknowledgement sent to any subject, these included; but an
/// acknowledgement has no headers.
pub const COORDINATOR: &str = "Selvedge-Coordinator";

/// JSON.
pub const JSON: &str = "application/json";

/// Bytes of whatever kind.
pub const OCTETS: &str = "application/octet-stream";

/// MessagePack.
pub const MSGPACK: &str = "application/msgpack";
