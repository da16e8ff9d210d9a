//! Streams, durable consumers and key-value buckets as data: the one definition.
//!
//! Provisioning creates exactly this, the drift check compares against it, and `nats/` holds it as
//! the JSON that `nats stream add --config` and `nats consumer add --config` accept: snake_case,
//! durations in nanoseconds. Plain data, no I/O. The number of assets is O(shards), never
//! O(tenants), O(agents) or O(tasks); beside them stands one consumer for each trigger an operator has set up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::subjects::{self, Shard};

/// Submits and commands on their way to the owner; purged as they are decided.
pub const INTAKE: &str = "INTAKE";
/// Reports on their way to the owner; purged as they are decided.
pub const REPORTS: &str = "REPORTS";
/// The truth.
pub const JOURNAL: &str = "JOURNAL";
/// The state at points of the journal, in chunks; what lies before may leave the journal.
pub const SNAPSHOTS: &str = "SNAPSHOTS";
/// Ended tasks with their results, for an index that has to be made anew.
pub const ARCHIVE: &str = "ARCHIVE";
/// Large results.
pub const RESULTS: &str = "RESULTS";
/// Large results of steps, as long as their tasks live.
pub const STEPS: &str = "STEPS";
/// Progress on its way to watchers and the event writer.
pub const EVENTS: &str = "EVENTS";
/// What agents and clients publish about topics, for triggers.
pub const TOPICS: &str = "TOPICS";
/// Bucket of triggers (`trigger.<name>`) and how they are doing (`state.<name>`).
pub const TRIGGERS_BUCKET: &str = "selvedge_triggers";
/// Bucket of plans (`plan.<name>`), tenants (`tenant.<name>`) and schedules (`schedule.<name>`).
pub const LIMITS_BUCKET: &str = "selvedge_limits";
/// Bucket of the shard leases, one key per shard.
pub const OWNER_BUCKET: &str = "selvedge_owner";
/// The event writer's durable consumer of [`EVENTS`].
pub const EVENT_WRITER: &str = "event-writer";

/// Name of the owner's durable consumers of [`INTAKE`] and [`REPORTS`].
pub fn owner_consumer(shard: Shard) -> String {
    format!("owner-{}", shard.0)
}

/// Key of a shard's lease in [`OWNER_BUCKET`].
pub fn owner_key(shard: Shard) -> String {
    format!("shard.{}", shard.0)
}

/// Key in [`OWNER_BUCKET`] under which it is noted how far a shard's journal has come.
pub fn witness_key(shard: Shard) -> String {
    format!("witness.{}", shard.0)
}

/// Where a plan is kept in [`LIMITS_BUCKET`].
pub fn plan_key(plan: &crate::task::PlanName) -> String {
    format!("plan.{plan}")
}

/// Where an agent's settings are kept in [`LIMITS_BUCKET`].
pub fn agent_key(agent: &crate::task::AgentName) -> String {
    format!("agent.{agent}")
}

/// Where what an operator says about everything is kept in [`LIMITS_BUCKET`].
pub const ALL_KEY: &str = "all";

/// Where a tenant's settings are kept in [`LIMITS_BUCKET`].
pub fn tenant_key(tenant: &crate::task::TenantName) -> String {
    format!("tenant.{tenant}")
}

/// Where a schedule is kept in [`LIMITS_BUCKET`].
pub fn schedule_key(schedule: &crate::task::ScheduleName) -> String {
    format!("schedule.{schedule}")
}

/// Where a trigger is kept in [`TRIGGERS_BUCKET`].
pub fn trigger_key(trigger: &crate::task::TriggerName) -> String {
    format!("trigger.{trigger}")
}

/// Where it is noted in [`TRIGGERS_BUCKET`] how a trigger is doing.
pub fn trigger_state_key(trigger: &crate::task::TriggerName) -> String {
    format!("state.{trigger}")
}

/// Name of a trigger's durable consumer. Operators make triggers, so there are as many consumers as they want, up to
/// [`MAX_TRIGGERS`](crate::task::trigger::MAX_TRIGGERS).
pub fn trigger_consumer(trigger: &crate::task::TriggerName) -> String {
    format!("trigger-{trigger}")
}

/// The stream under a bucket.
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject under a bucket's key.
pub fn bucket_subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

const MIB: i64 = 1024 * 1024;
const MINUTE: Duration = Duration::from_secs(60);
/// The least the server accepts; 0 would mean two minutes. Duplicates are the owner's business.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);
/// How long the trace of an expired lease stays; watchers see it within milliseconds.
const LEASE_MARKER_TTL: Duration = MINUTE;

/// What an operator may choose about the streams. Everything else is fixed by what is promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizing {
    /// Copies of every stream and bucket: 1, or 3 in a cluster.
    pub replicas: u8,
    /// Largest INTAKE; beyond it submits are refused with `BACKPRESSURE`.
    pub intake_bytes: i64,
    /// Largest REPORTS.
    pub reports_bytes: i64,
    /// Largest JOURNAL.
    pub journal_bytes: i64,
    /// Largest SNAPSHOTS: three of the state must fit, the two that are kept and one being written.
    pub snapshots_bytes: i64,
    /// Largest ARCHIVE; the oldest make room.
    pub archive_bytes: i64,
    /// How long an ended task stays in ARCHIVE, and its result in RESULTS, at most.
    pub archive_age: Duration,
    /// Largest RESULTS; the oldest make room.
    pub results_bytes: i64,
    /// Largest STEPS; beyond it a step with a large result fails with `STEPS_FULL`, to be tried again.
    pub steps_bytes: i64,
    /// Largest EVENTS; the oldest make room.
    pub events_bytes: i64,
    /// How long an event waits for the event writer at most.
    pub events_age: Duration,
    /// Largest TOPICS; beyond it publishing is refused with `BACKPRESSURE`.
    pub topics_bytes: i64,
    /// How long a message of a topic waits for its triggers at most.
    pub topics_age: Duration,
}

impl Default for Sizing {
    fn default() -> Self {
        Self {
            replicas: 1,
            intake_bytes: 512 * MIB,
            reports_bytes: 512 * MIB,
            journal_bytes: 2048 * MIB,
            snapshots_bytes: 2048 * MIB,
            archive_bytes: 1024 * MIB,
            archive_age: 30 * 24 * 60 * MINUTE,
            results_bytes: 1024 * MIB,
            steps_bytes: 2048 * MIB,
            events_bytes: 256 * MIB,
            events_age: 15 * MINUTE,
            topics_bytes: 512 * MIB,
            topics_age: 7 * 24 * 60 * MINUTE,
        }
    }
}

/// What happens to a message nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// Kept until a limit removes it, or a purge.
    Limits,
}

/// What gives way when a stream is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The newcomer is refused, with an error.
    New,
    /// The oldest message is deleted, silently.
    Old,
}

/// A stream, in the server's own words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamDef {
    /// Name of the stream.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it takes in.
    pub subjects: Vec<String>,
    /// When messages go.
    pub retention: Retention,
    /// What gives way.
    pub discard: Discard,
    /// Always `file`.
    pub storage: &'static str,
    /// Copies.
    pub num_replicas: u8,
    /// Size limit; never absent on a truth stream.
    pub max_bytes: i64,
    /// Age limit in nanoseconds; 0: none.
    #[serde(with = "nanos")]
    pub max_age: Duration,
    /// History per key, for buckets.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_msgs_per_subject: i64,
    /// Nanoseconds.
    #[serde(with = "nanos")]
    pub duplicate_window: Duration,
    /// Single messages can't be deleted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deny_delete: bool,
    /// Any replica may answer reads by subject or sequence.
    pub allow_direct: bool,
    /// Buckets need it for `purge`; elsewhere a header could delete what is stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_rollup_hdrs: bool,
    /// Leases and results need it; elsewhere a header could let accepted work expire.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_msg_ttl: bool,
    /// How long the marker of an expired key stays, in nanoseconds.
    #[serde(with = "nanos", skip_serializing_if = "Duration::is_zero")]
    pub subject_delete_marker_ttl: Duration,
    /// Whether accepted work or the journal is in it: drift is then refused, not just reported.
    #[serde(skip)]
    pub truth: bool,
}

/// A durable pull consumer, in the server's own words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConsumerDef {
    /// Of which stream.
    #[serde(skip)]
    pub stream: &'static str,
    /// Its name, again: the server wants both.
    pub name: String,
    /// Its name.
    pub durable_name: String,
    /// For people.
    pub description: String,
    /// Always `all`: consumers can be reset then.
    pub deliver_policy: &'static str,
    /// `none`: the owner purges what is decided. `explicit` where nobody purges.
    pub ack_policy: &'static str,
    /// Always `instant`.
    pub replay_policy: &'static str,
    /// Nanoseconds. Long, because a take-over resets the consumer instead of waiting for it. Absent without
    /// acknowledgements.
    #[serde(with = "nanos", skip_serializing_if = "Duration::is_zero")]
    pub ack_wait: Duration,
    /// How many messages the owner may hold unacknowledged. Absent without acknowledgements.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_ack_pending: i64,
    /// -1: no limit. A parked message would be a lost task; poison is handled by the owner.
    pub max_deliver: i64,
    /// Copies; the stream's.
    pub num_replicas: u8,
}

/// Everything NATS must hold for a fabric.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// The nine streams.
    pub streams: Vec<StreamDef>,
    /// The streams under the three buckets.
    pub buckets: Vec<StreamDef>,
    /// The durable consumers.
    pub consumers: Vec<ConsumerDef>,
}

impl Topology {
    /// Of one shard, the only one for now.
    pub fn new(sizing: &Sizing) -> Self {
        Self { streams: streams(sizing), buckets: buckets(sizing), consumers: consumers(sizing, Shard(0)) }
    }

    /// Streams, then the ones under the buckets.
    pub fn all_streams(&self) -> impl Iterator<Item = &StreamDef> {
        self.streams.iter().chain(&self.buckets)
    }
}

fn streams(sizing: &Sizing) -> Vec<StreamDef> {
    let stream = |name: &str, description: &str, subjects: &[&str], max_bytes| StreamDef {
        name: name.to_owned(),
        description: description.to_owned(),
        subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
        retention: Retention::Limits,
        discard: Discard::New,
        storage: "file",
        num_replicas: sizing.replicas,
        max_bytes,
        max_age: Duration::ZERO,
        max_msgs_per_subject: 0,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: false,
        allow_direct: true,
        allow_rollup_hdrs: false,
        allow_msg_ttl: false,
        subject_delete_marker_ttl: Duration::ZERO,
        truth: true,
    };
    vec![
        stream(
            INTAKE,
            "Submits and commands waiting for the owner's decision",
            &[subjects::SUBMIT_ALL, subjects::SUBMITS_ALL, subjects::CMD_ALL],
            sizing.intake_bytes,
        ),
        stream(
            REPORTS,
            "What running attempts report, waiting for the owner's decision",
            &[subjects::REPORT_ALL, subjects::REPORTS_ALL],
            sizing.reports_bytes,
        ),
        StreamDef {
            deny_delete: true,
            ..stream(
                JOURNAL,
                "Every decision in order: the truth. Never set max_age here",
                &[subjects::JOURNAL_ALL],
                sizing.journal_bytes,
            )
        },
        StreamDef {
            deny_delete: true,
            ..stream(
                SNAPSHOTS,
                "The state at points of the journal: the truth about what was purged. Never set max_age here",
                &[subjects::SNAPSHOT_ALL],
                sizing.snapshots_bytes,
            )
        },
        StreamDef {
            discard: Discard::Old,
            max_age: sizing.archive_age,
            deny_delete: true,
            truth: false,
            ..stream(
                ARCHIVE,
                "Ended tasks with their results, for an index that has to be made anew",
                &[subjects::ARCHIVE_ALL],
                sizing.archive_bytes,
            )
        },
        StreamDef {
            discard: Discard::Old,
            // Noise has no time to live of its own, and must not take the place of what it lies on.
            max_age: sizing.archive_age,
            // Each lives as long as its task is kept.
            allow_msg_ttl: true,
            truth: false,
            ..stream(
                RESULTS,
                "Results too large for the index, as long as their tasks are kept",
                &[subjects::RESULT_ALL],
                sizing.results_bytes,
            )
        },
        stream(
            STEPS,
            "Results of steps too large for the journal, as long as their tasks live. Never set max_age here",
            &[subjects::STEP_ALL],
            sizing.steps_bytes,
        ),
        StreamDef {
            discard: Discard::Old,
            max_age: sizing.events_age,
            truth: false,
            ..stream(
                EVENTS,
                "Progress and tokens on their way to watchers",
                &[subjects::EVENT_ALL],
                sizing.events_bytes,
            )
        },
        StreamDef {
            // A publisher hears that it is full; nothing gives way silently to what is newer.
            max_age: sizing.topics_age,
            deny_delete: true,
            truth: false,
            ..stream(
                TOPICS,
                "Messages about topics on their way to triggers",
                &[subjects::TOPIC_ALL],
                sizing.topics_bytes,
            )
        },
    ]
}

fn buckets(sizing: &Sizing) -> Vec<StreamDef> {
    let bucket = |name: &str, description: &str, history| StreamDef {
        name: bucket_stream(name),
        description: description.to_owned(),
        subjects: vec![bucket_subject(name, ">")],
        retention: Retention::Limits,
        discard: Discard::New,
        storage: "file",
        num_replicas: sizing.replicas,
        max_bytes: 64 * MIB,
        max_age: Duration::ZERO,
        max_msgs_per_subject: history,
        duplicate_window: DUPLICATE_WINDOW,
        deny_delete: true,
        allow_direct: true,
        allow_rollup_hdrs: true,
        allow_msg_ttl: false,
        subject_delete_marker_ttl: Duration::ZERO,
        truth: true,
    };
    vec![
        bucket(LIMITS_BUCKET, "Plans and tenants, with their history", 16),
        StreamDef { max_bytes: 16 * MIB, ..bucket(TRIGGERS_BUCKET, "Triggers, and how they are doing", 1) },
        StreamDef {
            max_bytes: 4 * MIB,
            allow_msg_ttl: true,
            subject_delete_marker_ttl: LEASE_MARKER_TTL,
            ..bucket(OWNER_BUCKET, "Which coordinator owns a shard now", 1)
        },
    ]
}

fn consumers(sizing: &Sizing, shard: Shard) -> Vec<ConsumerDef> {
    let consumer = |stream, name: &str, description: &str| ConsumerDef {
        stream,
        name: name.to_owned(),
        durable_name: name.to_owned(),
        description: description.to_owned(),
        deliver_policy: "all",
        ack_policy: "none",
        replay_policy: "instant",
        ack_wait: Duration::ZERO,
        max_ack_pending: 0,
        max_deliver: -1,
        num_replicas: sizing.replicas,
    };
    let owner = owner_consumer(shard);
    vec![
        consumer(INTAKE, &owner, "The owner's; rewound at every take-over"),
        consumer(REPORTS, &owner, "The owner's; rewound at every take-over"),
        consumer(EVENTS, EVENT_WRITER, "Read by the owner only: an id that arrives late is refused"),
    ]
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

mod nanos {
    use std::time::Duration;

    pub(super) fn serialize<S: serde::Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        // 584 years fit.
        s.serialize_u64(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_streams_refuse_newcomers_and_never_age() {
        let topology = Topology::new(&Sizing::default());
        for stream in topology.all_streams().filter(|s| s.truth) {
            assert_eq!(stream.discard, Discard::New, "{}", stream.name);
            assert_eq!(stream.max_age, Duration::ZERO, "{}", stream.name);
            assert!(stream.max_bytes > 0, "{}", stream.name);
        }
        let truth: Vec<&str> = topology.streams.iter().filter(|s| s.truth).map(|s| s.name.as_str()).collect();
        assert_eq!(truth, [INTAKE, REPORTS, JOURNAL, SNAPSHOTS, STEPS]);
    }

    #[test]
    fn durations_are_nanoseconds_and_flags_that_are_off_are_absent() {
        let topology = Topology::new(&Sizing::default());
        let events = serde_json::to_value(topology.streams.iter().find(|s| s.name == EVENTS)).unwrap();
        assert_eq!(events["max_age"], 900_000_000_000_u64);
        assert_eq!(events["duplicate_window"], 100_000_000);
        assert_eq!(events["retention"], "limits");
        assert!(events.get("allow_msg_ttl").is_none());
        assert!(events.get("truth").is_none());
        let intake = serde_json::to_value(&topology.streams[0]).unwrap();
        assert_eq!(intake["retention"], "limits");
    }

    #[test]
    fn the_number_of_assets_depends_on_nothing() {
        let topology = Topology::new(&Sizing { replicas: 3, ..Sizing::default() });
        assert_eq!((topology.all_streams().count(), topology.consumers.len()), (12, 3));
    }
}
