//! Brings the topology into being, and notices when somebody changed it.
//!
//! Creates what is missing, if asked to; never updates, weakens or recreates what is there: a stream
//! that differs is a stream whose promises differ, and only a person may decide about that. Called
//! at start, periodically by the coordinator, and by `selvedge nats check`.

use std::{fmt, str::FromStr, time::Duration};

use async_nats::jetstream::{Context, ErrorCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{self, ApiError};
use crate::wire::topology::{ConsumerDef, EVENTS, StreamDef, Topology};

/// What to do about streams and consumers at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provision {
    /// Create what is missing; refuse what breaks a promise; report the rest.
    #[default]
    Auto,
    /// Create nothing; refuse any difference.
    Check,
    /// Create nothing; refuse what is missing or breaks a promise; report the rest.
    Never,
}

impl FromStr for Provision {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "check" => Ok(Self::Check),
            "never" => Ok(Self::Never),
            _ => Err("provision is one of auto, check, never"),
        }
    }
}

/// How much a difference matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It is not there at all.
    Missing,
    /// Accepted work or the journal could be lost: never run with it.
    BreaksPromise,
    /// Another size, copy count or description than configured.
    Differs,
}

/// One difference between what is defined and what the server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// `JOURNAL` or `INTAKE/owner-0`.
    pub asset: String,
    /// The field, as the server calls it; empty if the asset is missing.
    pub field: String,
    /// As defined, in JSON.
    pub expected: String,
    /// As found, in JSON.
    pub found: String,
    /// How much it matters.
    pub severity: Severity,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Severity::Missing => write!(f, "{}: missing", self.asset),
            Severity::BreaksPromise => write!(
                f,
                "{}: {} is {}, must be {}: accepted work could be lost",
                self.asset, self.field, self.found, self.expected
            ),
            Severity::Differs => {
                write!(f, "{}: {} is {}, configured {}", self.asset, self.field, self.found, self.expected)
            }
        }
    }
}

/// What provisioning did and saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Provisioned {
    /// Assets that were missing and now exist.
    pub created: Vec<String>,
    /// Differences one can run with; worth a warning.
    pub drift: Vec<Drift>,
}

/// Why the topology is not what it must be.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// Streams or consumers are missing or differ. Exit code 78.
    #[error("NATS streams or consumers are not as they must be:\n{}", lines(.0))]
    Drifted(Vec<Drift>),
    /// JetStream has less room than the streams reserve. Exit code 78.
    #[error(
        "the stream {stream} can't be made: JetStream has no room for its {bytes} bytes; all streams together reserve {all}, \
         and without max_file_store a server gives away three quarters of the disk space that was free when it started"
    )]
    NoRoom {
        /// Which one.
        stream: String,
        /// What it reserves.
        bytes: i64,
        /// What all of them reserve.
        all: i64,
    },
    /// The server did not answer, or refused to create something.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ProvisionError {
    /// The exit code of a process that ends because of this: 78 (configuration) or 69 (unavailable).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Drifted(_) | Self::NoRoom { .. } => 78,
            Self::Api(error) if error.is_unavailable() => 69,
            Self::Api(_) => 78,
        }
    }
}

fn lines(drift: &[Drift]) -> String {
    drift.iter().map(|d| format!("  {d}")).collect::<Vec<_>>().join("\n")
}

/// Brings the server to `topology` as far as `mode` allows, and verifies the result.
pub async fn provision(
    js: &Context,
    mode: Provision,
    topology: &Topology,
) -> Result<Provisioned, ProvisionError> {
    let mut found = drift(js, topology).await?;
    let mut created = Vec::new();
    if mode == Provision::Auto && found.iter().any(|d| d.severity == Severity::Missing) {
        created = create_missing(js, topology, &found).await?;
        found = drift(js, topology).await?;
    }
    if breaking(&found).is_some() || (mode == Provision::Check && !found.is_empty()) {
        return Err(ProvisionError::Drifted(found));
    }
    Ok(Provisioned { created, drift: found })
}

/// Every difference between `topology` and what the server has now. Changes nothing.
pub async fn drift(js: &Context, topology: &Topology) -> Result<Vec<Drift>, ApiError> {
    let mut all = Vec::new();
    for stream in topology.all_streams() {
        match api::call(js, &format!("STREAM.INFO.{}", stream.name), &json!({})).await {
            Ok(info) => compare_stream(stream, &info["config"], &mut all),
            Err(e) if e.is(ErrorCode::STREAM_NOT_FOUND) => all.push(missing(&stream.name)),
            Err(e) => return Err(e),
        }
    }
    for consumer in &topology.consumers {
        let call = format!("CONSUMER.INFO.{}.{}", consumer.stream, consumer.name);
        match api::call(js, &call, &json!({})).await {
            Ok(info) => compare_consumer(consumer, &info["config"], &mut all),
            Err(e) if e.is(ErrorCode::CONSUMER_NOT_FOUND) || e.is(ErrorCode::STREAM_NOT_FOUND) => {
                all.push(missing(&asset_name(consumer)));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// Compares again every `every` until `stop`, and tells each result: how a coordinator learns that
/// somebody edits its streams while it runs.
pub async fn watch_drift(
    js: &Context,
    topology: &Topology,
    every: Duration,
    stop: &CancellationToken,
    mut tell: impl FnMut(Result<Vec<Drift>, ApiError>),
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        tell(drift(js, topology).await);
    }
}

/// The differences one must not run with, one a line; `None` if there are none.
pub fn breaking(drift: &[Drift]) -> Option<String> {
    let breaks: Vec<Drift> = drift.iter().filter(|d| d.severity != Severity::Differs).cloned().collect();
    (!breaks.is_empty()).then(|| lines(&breaks))
}

/// Creating is idempotent for an equal definition, so coordinators may start together. A name taken
/// by another definition is left alone; the drift check that follows names the difference.
async fn create_missing(
    js: &Context,
    topology: &Topology,
    found: &[Drift],
) -> Result<Vec<String>, ProvisionError> {
    let is_missing = |asset: &str| found.iter().any(|d| d.severity == Severity::Missing && d.asset == asset);
    let mut created = Vec::new();
    for stream in topology.all_streams().filter(|s| is_missing(&s.name)) {
        match api::call(js, &format!("STREAM.CREATE.{}", stream.name), stream).await {
            Ok(_) => created.push(stream.name.clone()),
            Err(e) if e.is(ErrorCode::STREAM_NAME_EXIST) => {}
            Err(e) if is_no_room(&e) => return Err(no_room(topology, stream)),
            Err(e) => return Err(e.into()),
        }
    }
    for consumer in topology.consumers.iter().filter(|c| is_missing(&asset_name(c))) {
        let call = format!("CONSUMER.CREATE.{}.{}", consumer.stream, consumer.name);
        let body = json!({"stream_name": consumer.stream, "config": consumer, "action": "create"});
        match api::call(js, &call, &body).await {
            Ok(_) => created.push(asset_name(consumer)),
            Err(e) if e.is(ErrorCode::CONSUMER_ALREADY_EXISTS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(created)
}

fn is_no_room(error: &ApiError) -> bool {
    [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ]
    .into_iter()
    .any(|code| error.is(code))
}

fn no_room(topology: &Topology, stream: &StreamDef) -> ProvisionError {
    let all = topology.all_streams().map(|stream| stream.max_bytes.max(0)).sum();
    ProvisionError::NoRoom { stream: stream.name.clone(), bytes: stream.max_bytes, all }
}

fn asset_name(consumer: &ConsumerDef) -> String {
    format!("{}/{}", consumer.stream, consumer.name)
}

fn missing(asset: &str) -> Drift {
    Drift {
        asset: asset.to_owned(),
        field: String::new(),
        expected: String::new(),
        found: String::new(),
        severity: Severity::Missing,
    }
}

/// Fields a definition leaves out when they are off, and that change what a stream promises.
const STREAM_FIELDS_OFF: &[&str] = &[
    "allow_atomic",
    "allow_batched",
    "allow_msg_counter",
    "allow_msg_schedules",
    "allow_msg_ttl",
    "allow_rollup_hdrs",
    "deny_delete",
    "deny_purge",
    "discard_new_per_subject",
    "max_msg_size",
    "max_msgs",
    "max_msgs_per_subject",
    "mirror",
    "no_ack",
    "persist_mode",
    "republish",
    "sealed",
    "sources",
    "subject_delete_marker_ttl",
    "subject_transform",
];

/// The same for consumers.
const CONSUMER_FIELDS_OFF: &[&str] = &[
    "backoff",
    "deliver_subject",
    "filter_subject",
    "filter_subjects",
    "headers_only",
    "inactive_threshold",
    "max_batch",
    "max_bytes",
    "max_expires",
    "pause_until",
    "priority_groups",
    "rate_limit_bps",
];

/// What an operator may choose. On a truth stream `max_bytes` must still be a limit.
const FREE_FIELDS: &[&str] = &["description", "max_bytes", "num_replicas", "duplicate_window"];

fn compare_stream(def: &StreamDef, found: &Value, all: &mut Vec<Drift>) {
    let expected = json!(def);
    let severity = |field: &str, found: &Value| match field {
        "max_bytes" if def.truth && is_off(found) => Severity::BreaksPromise,
        _ if FREE_FIELDS.contains(&field) || !def.truth => Severity::Differs,
        _ => Severity::BreaksPromise,
    };
    compare(&def.name, &expected, found, STREAM_FIELDS_OFF, severity, all);
}

fn compare_consumer(def: &ConsumerDef, found: &Value, all: &mut Vec<Drift>) {
    let severity = |field: &str, found: &Value| match field {
        // A slower or narrower consumer is slower, not wrong.
        "ack_wait" | "max_ack_pending" | "description" | "num_replicas" => Severity::Differs,
        // As it was made before: it is read all the same.
        "ack_policy" if def.stream == EVENTS && found == "explicit" => Severity::Differs,
        _ => Severity::BreaksPromise,
    };
    compare(&asset_name(def), &json!(def), found, CONSUMER_FIELDS_OFF, severity, all);
}

fn compare(
    asset: &str,
    expected: &Value,
    found: &Value,
    off: &[&str],
    severity: impl Fn(&str, &Value) -> Severity,
    all: &mut Vec<Drift>,
) {
    let defined = expected.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    let left_out = off.iter().copied().filter(|field| expected.get(field).is_none());
    for field in defined.chain(left_out) {
        let (want, have) = (&expected[field], &found[field]);
        if want != have && !(is_off(want) && is_off(have)) {
            all.push(Drift {
                asset: asset.to_owned(),
                field: field.to_owned(),
                expected: shown(want),
                found: shown(have),
                severity: severity(field, have),
            });
        }
    }
}

/// The server leaves out, zeroes or sets to -1 what is not limited or not switched on.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64().is_some_and(|n| n <= 0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn shown(value: &Value) -> String {
    if value.is_null() { "absent".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        subjects::{self, Shard},
        topology::{STEPS, Sizing},
    };

    fn found_with(field: &str, value: Value) -> Vec<Drift> {
        let topology = Topology::new(&Sizing::default());
        let journal = &topology.streams[2];
        let mut found = json!(journal);
        found[field] = value;
        let mut all = Vec::new();
        compare_stream(journal, &found, &mut all);
        all
    }

    #[test]
    fn the_event_writer_of_an_earlier_version_goes_on_and_no_other_reader_may_be_acknowledged() {
        for consumer in &Topology::new(&Sizing::default()).consumers {
            let mut found = json!(consumer);
            found["ack_policy"] = json!("explicit");
            let mut all = Vec::new();
            compare_consumer(consumer, &found, &mut all);
            let may = if consumer.stream == EVENTS { Severity::Differs } else { Severity::BreaksPromise };
            assert_eq!(
                (all.len(), &*all[0].field, all[0].severity),
                (1, "ack_policy", may),
                "{}",
                consumer.stream
            );
        }
    }

    #[test]
    fn a_stream_there_is_no_room_for_is_named_with_its_size_and_that_of_all() {
        let topology = Topology::new(&Sizing { steps_bytes: 77, ..Sizing::default() });
        let steps = topology.streams.iter().find(|stream| stream.name == STEPS).unwrap();
        let error = no_room(&topology, steps);
        let all: i64 = topology.all_streams().map(|stream| stream.max_bytes.max(0)).sum();
        let said = error.to_string();
        assert!(
            said.contains(STEPS) && said.contains("77 bytes") && said.contains(&all.to_string()),
            "{said}"
        );
        assert_eq!(error.exit_code(), 78);
    }

    #[test]
    fn an_equal_stream_has_no_drift() {
        assert_eq!(found_with("max_msgs", json!(-1)), []);
        assert_eq!(found_with("sealed", json!(false)), []);
    }

    #[test]
    fn what_could_lose_accepted_work_breaks_a_promise() {
        for (field, value) in [
            ("discard", json!("old")),
            ("max_age", json!(1_000_000_000)),
            ("retention", json!("interest")),
            ("max_bytes", json!(-1)),
            ("max_msgs", json!(10)),
            ("max_msgs_per_subject", json!(1)),
            ("allow_msg_ttl", json!(true)),
            ("allow_rollup_hdrs", json!(true)),
            ("deny_delete", json!(false)),
            ("storage", json!("memory")),
            ("subjects", json!([subjects::journal(Shard(1))])),
        ] {
            let drift = found_with(field, value);
            assert_eq!(drift.len(), 1, "{field}");
            assert_eq!((drift[0].field.as_str(), drift[0].severity), (field, Severity::BreaksPromise));
        }
    }

    #[test]
    fn another_size_only_differs() {
        let drift = found_with("max_bytes", json!(1_000_000));
        assert_eq!(drift[0].severity, Severity::Differs);
        assert_eq!(drift[0].to_string(), "JOURNAL: max_bytes is 1000000, configured 2147483648");
    }
}
