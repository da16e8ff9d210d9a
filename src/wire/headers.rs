//! Header names, in one place.

/// `application/json` or `application/msgpack`; decides the encoding of the answer.
pub const CONTENT_TYPE: &str = "Content-Type";

/// Refusal code as a number, by the convention of NATS services.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Refusal text, by the convention of NATS services.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";

/// How long the asker of a query waits, in milliseconds: then nobody works for it any more.
pub const WITHIN_MS: &str = "Selvedge-Within-Ms";

/// Compare-and-set on the last message of a subject.
pub const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";

/// On everything that only a coordinator writes: journal messages and leases. Whoever may publish to
/// a stream can have the server's acknowledgement sent to any subject, these included; but an
/// acknowledgement has no headers.
pub const COORDINATOR: &str = "Selvedge-Coordinator";

/// JSON.
pub const JSON: &str = "application/json";

/// MessagePack.
pub const MSGPACK: &str = "application/msgpack";
