//! Every metric, once: its name, kind and meaning.
//!
//! Names begin with `selvedge_`, count in base units (seconds, bytes) and end in `_total` if they only grow. Labels
//! have few values: `agent`, `state`, `code`, `reason`, `stream`, `outcome`, `verb`, `event`, `of`, `trigger`, `plan`; never a task or an
//! instance: their number is not ours to bound. `tenant` stands on three gauges only, for the first 200 with work; the
//! others are summed up under `_other`.

use metrics::Unit;

/// Label: the agent a task is for.
pub const AGENT: &str = "agent";
/// Label: the code of a refusal.
pub const CODE: &str = "code";
/// Label: one of the owner's collections.
pub const OF: &str = "of";
/// Label: what happened to a connection.
pub const EVENT: &str = "event";
/// Label: how an attempt ended.
pub const OUTCOME: &str = "outcome";
/// Label: the plan of a tenant.
pub const PLAN: &str = "plan";
/// Label: why.
pub const REASON: &str = "reason";
/// Label: the state of a task.
pub const STATE: &str = "state";
/// Label: the JetStream stream.
pub const STREAM: &str = "stream";
/// Label: the tenant whose work it is.
pub const TENANT: &str = "tenant";
/// Label: the trigger, of which there are few.
pub const TRIGGER: &str = "trigger";
/// Label: the verb of a query.
pub const VERB: &str = "verb";

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Is distributed.
    Histogram,
}

/// What is known about a metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does over time.
    pub kind: MetricKind,
    /// What it counts.
    pub unit: Unit,
    /// What it means, for a reader of `/metrics`.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// All of them.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: MetricKind::$kind, unit: Unit::$unit, help: $help }),*];
    };
}

metrics! {
    // The way of a task.
    TASKS_ADMITTED = "selvedge_tasks_admitted_total", Counter, Count, "Tasks admitted, by agent.";
    TASKS_REFUSED = "selvedge_tasks_refused_total", Counter, Count, "Submits, spawns, commands and reports refused, by code.";
    TASKS_ENDED = "selvedge_tasks_ended_total", Counter, Count, "Tasks that reached a terminal state, by agent and state.";
    TRIES_LOST = "selvedge_tries_lost_total", Counter, Count, "Tries that failed or lost their lease, by agent and code.";
    OFFERS = "selvedge_offers_total", Counter, Count, "Offers made, by agent.";
    OFFERS_WITHDRAWN = "selvedge_offers_withdrawn_total", Counter, Count, "Offers taken back because nobody accepted them, by agent.";
    OFFERS_AGED = "selvedge_offers_aged_total", Counter, Count, "Offers of tasks whose class had risen because they waited, by agent.";
    ATTEMPTS_STOPPED = "selvedge_attempts_stopped_total", Counter, Count, "Attempts stopped because an operator paused what they belong to, by agent.";
    LEASES_EXPIRED = "selvedge_leases_expired_total", Counter, Count, "Leases that were not renewed in time, by agent.";
    REPORTS_STALE = "selvedge_reports_stale_total", Counter, Count, "Reports refused because their lease is over.";
    INTAKE_AGE = "selvedge_intake_age_seconds", Histogram, Seconds, "Time between a submit being stored and being decided.";
    QUEUE_WAIT = "selvedge_queue_wait_seconds", Histogram, Seconds, "Time between admission and first dispatch, by agent.";
    RUN_TIME = "selvedge_run_seconds", Histogram, Seconds, "Time an attempt held its lease, by agent and outcome; attempts that were cancelled are not in it.";
    CALLS_BEGUN = "selvedge_calls_begun_total", Counter, Count, "Calls given to an instance, by agent.";
    CALLS_REFUSED = "selvedge_calls_refused_total", Counter, Count, "Calls refused, by code.";
    CALLS_ENDED = "selvedge_calls_ended_total", Counter, Count, "Calls that are over, by agent and outcome: answered, or the code of what ended them.";
    CALLS_RUNNING = "selvedge_calls_running", Gauge, Count, "Calls that run.";
    CALL_PLACES = "selvedge_call_places", Gauge, Count, "Places in flight that are held for calls.";
    CALL_TIME = "selvedge_call_seconds", Histogram, Seconds, "Time a call held its slot, by agent.";
    CALL_FIRST = "selvedge_call_first_part_seconds", Histogram, Seconds, "Time from a call's arrival at its instance until the first part of the answer left, by agent.";
    SLOTS = "selvedge_slots", Gauge, Count, "Slots announced by live instances, by agent.";
    SLOTS_FREE = "selvedge_slots_free", Gauge, Count, "Slots free now, by agent.";
    INSTANCES = "selvedge_instances", Gauge, Count, "Instances heard of within their lease, by agent.";

    QUEUED = "selvedge_queued", Gauge, Count, "Tasks that wait for a slot, by agent.";
    RUNNING = "selvedge_running", Gauge, Count, "Live leases, by agent.";
    BLOCKED = "selvedge_blocked", Gauge, Count, "Tasks that wait, by agent and reason: paused, in_flight, rate, or slots if nothing but a free slot is missing.";
    QUEUE_OLDEST = "selvedge_queue_oldest_seconds", Gauge, Seconds, "Time since the admission of the oldest task that waits for a slot, by agent.";
    SERVICE_TIME = "selvedge_service_seconds", Gauge, Seconds, "Time a task holds its slot, a moving average, by agent.";
    TENANT_QUEUED = "selvedge_tenant_queued", Gauge, Count, "Tasks that wait for a slot, by tenant.";
    TENANT_RUNNING = "selvedge_tenant_running", Gauge, Count, "Live leases, by tenant.";
    TENANT_OLDEST = "selvedge_tenant_oldest_seconds", Gauge, Seconds, "Time since the admission of the oldest task that waits for a slot, by tenant.";
    PLAN_OLDEST = "selvedge_plan_oldest_seconds", Gauge, Seconds, "Time since the admission of the oldest task that nothing but a slot keeps waiting, by plan.";
    PLAN_TARGET = "selvedge_plan_target_seconds", Gauge, Seconds, "How soon such tasks should have started, by plan; 0: it does not say.";
    PLAN_LATE = "selvedge_plan_late_seconds", Gauge, Seconds, "How much longer than its tenant's target one of them waits already, by plan.";
    BACKLOG = "selvedge_backlog", Gauge, Count, "Root tasks queued or retrying.";
    LEASES = "selvedge_leases", Gauge, Count, "Live leases.";
    TENANTS = "selvedge_tenants", Gauge, Count, "Tenants the owner knows.";
    TASKS_REMEMBERED = "selvedge_tasks_remembered", Gauge, Count, "Tasks in the owner's memory, ended ones included.";
    OWNER_SIZE = "selvedge_owner_size", Gauge, Count, "Entries, or bytes where the name says so, in each of the owner's collections, by which; all are bounded by configuration.";
    INPUTS_WAITING = "selvedge_inputs_waiting", Gauge, Count, "Inputs the owner has read and not decided yet.";
    REPORTS_HELD = "selvedge_reports_held", Gauge, Count, "Reports that came before their predecessors.";
    TRIGGERS = "selvedge_triggers", Gauge, Count, "Triggers that are run here, paused ones included.";
    TRIGGER_MESSAGES = "selvedge_trigger_messages_total", Counter, Count, "Messages of triggers, by trigger and outcome: made (a task), known, filtered, dead, or missed.";
    TRIGGER_PENDING = "selvedge_trigger_pending", Gauge, Count, "Messages that wait for their trigger, by trigger.";
    // The journal and who may write it.
    JOURNAL_APPENDS = "selvedge_journal_appends_total", Counter, Count, "Journal messages acknowledged.";
    JOURNAL_RECORDS = "selvedge_journal_records_total", Counter, Count, "Journal records acknowledged.";
    JOURNAL_APPEND = "selvedge_journal_append_seconds", Histogram, Seconds, "Time until an append was acknowledged.";
    JOURNAL_REPUBLISHED = "selvedge_journal_republished_total", Counter, Count, "Appends sent again because no acknowledgement came.";
    JOURNAL_BYTES = "selvedge_journal_bytes_total", Counter, Bytes, "Bytes of journal messages acknowledged.";
    JOURNAL_SEQUENCE = "selvedge_journal_sequence", Gauge, Count, "Stream sequence of the last journal message.";
    JOURNAL_NOISE = "selvedge_journal_noise_total", Counter, Count, "Messages skipped in the journal because no coordinator wrote them.";
    JOURNAL_FILL = "selvedge_journal_fill_bytes", Gauge, Bytes, "Bytes in the journal.";
    JOURNAL_MAX = "selvedge_journal_max_bytes", Gauge, Bytes, "Bytes the journal may hold.";
    STEPS_FILL = "selvedge_steps_fill_bytes", Gauge, Bytes, "Bytes of large results of steps, in the stream STEPS.";
    STEPS_MAX = "selvedge_steps_max_bytes", Gauge, Bytes, "Bytes of them that the stream may hold.";
    JOURNAL_PURGED = "selvedge_journal_purged_bytes_total", Counter, Bytes, "Bytes that left the journal because a snapshot covers them.";
    JOURNAL_CARRIED = "selvedge_journal_carried_messages_total", Counter, Count, "Old journal messages whose payloads that are still needed were journaled again.";
    PAYLOAD_READS = "selvedge_payload_reads_total", Counter, Count, "Journal messages read back for their payloads.";
    SNAPSHOTS_TAKEN = "selvedge_snapshots_total", Counter, Count, "Snapshots written, read back and published.";
    SNAPSHOTS_FAILED = "selvedge_snapshots_failed_total", Counter, Count, "Snapshots given up.";
    SNAPSHOTS_REFUSED = "selvedge_snapshots_refused_total", Counter, Count, "Snapshots found broken at a start.";
    SNAPSHOT_BYTES = "selvedge_snapshot_bytes", Gauge, Bytes, "Size of the newest snapshot.";
    SNAPSHOT_AGE = "selvedge_snapshot_age_seconds", Gauge, Seconds, "Age of the newest snapshot.";
    SNAPSHOT_TIME = "selvedge_snapshot_seconds", Histogram, Seconds, "Time from the beginning of a snapshot until it was published.";
    SNAPSHOT_RESTORE = "selvedge_snapshot_restore_seconds", Histogram, Seconds, "Time to restore a snapshot at a start.";
    ARCHIVED_TASKS = "selvedge_archived_tasks_total", Counter, Count, "Ended tasks written to the archive.";
    ARCHIVED_BYTES = "selvedge_archived_bytes_total", Counter, Bytes, "Bytes written to the archive.";
    ARCHIVE_BROKEN = "selvedge_archive_broken_messages_total", Counter, Count, "Messages of the archive that could not be read.";
    ARCHIVE_LOST = "selvedge_archive_lost_tasks_total", Counter, Count, "Ended tasks that did not get into the archive because it took nothing for too long.";
    TERMS_LOST = "selvedge_terms_lost_total", Counter, Count, "Terms of ownership that ended unasked.";
    OWNER = "selvedge_owner", Gauge, Count, "1 if this coordinator owns the shard.";
    OWNER_EPOCH = "selvedge_owner_epoch", Gauge, Count, "Epoch of this coordinator's latest term.";
    TAKEOVERS = "selvedge_takeovers_total", Counter, Count, "Times this coordinator became the owner.";
    STEP_DOWNS = "selvedge_step_downs_total", Counter, Count, "Times this coordinator stopped being the owner, by reason.";
    REPLAY = "selvedge_replay_seconds", Histogram, Seconds, "Time to replay the journal at a start.";

    // Redis.
    INDEX_WRITES = "selvedge_index_writes_total", Counter, Count, "Records written to the index.";
    INDEX_DROPPED = "selvedge_index_dropped_total", Counter, Count, "Patches the index already had.";
    INDEX_FAILURES = "selvedge_index_failures_total", Counter, Count, "Failed writes to the index, by reason.";
    INDEX_REBUILDS = "selvedge_index_rebuilds_total", Counter, Count, "Times the index was built anew.";
    INDEX_DEGRADED = "selvedge_index_degraded", Gauge, Count, "1 while the index cannot be written.";
    INDEX_DIRTY = "selvedge_index_dirty_tasks", Gauge, Count, "Tasks the index does not show as they are.";
    INDEX_UPTO = "selvedge_index_upto_seq", Gauge, Count, "Journal sequence up to which the index is complete.";
    INDEX_LAG = "selvedge_index_lag_messages", Gauge, Count, "Journal messages the index is behind.";
    EVENTS_WRITTEN = "selvedge_events_written_total", Counter, Count, "Events written to their stream.";
    EVENTS_REFUSED = "selvedge_events_refused_total", Counter, Count, "Events the stream already had, or had newer ones than.";
    EVENTS_LOST = "selvedge_events_lost_total", Counter, Count, "Events missing from a stream: gaps shown to watchers.";
    EVENTS_MALFORMED = "selvedge_events_malformed_total", Counter, Count, "Events that could not be read, by reason.";
    EVENT_WRITE_FAILURES = "selvedge_event_write_failures_total", Counter, Count, "Failed writes of events, by reason.";
    EVENT_EXPIRE_FAILURES = "selvedge_event_expire_failures_total", Counter, Count, "Events stored whose stream's expiry could not be renewed.";

    // Queries and connections.
    QUERIES = "selvedge_queries_total", Counter, Count, "Queries answered, by verb and code.";
    QUERY_TIME = "selvedge_query_seconds", Histogram, Seconds, "Time to answer a query, by verb.";
    HOT_PAGES = "selvedge_query_pages_total", Counter, Count, "Lists and counts answered, by outcome: kept for a moment, or read.";
    INPUTS_MALFORMED = "selvedge_inputs_malformed_total", Counter, Count, "Messages that could not be read, by stream.";
    UNATTRIBUTABLE = "selvedge_unattributable_messages_total", Counter, Count, "Messages whose subject names no task.";
    UNREADABLE_PULSES = "selvedge_unreadable_pulses_total", Counter, Count, "Heartbeats and acceptances that could not be read.";
    NATS_EVENTS = "selvedge_nats_events_total", Counter, Count, "What happened to connections to NATS, by event.";
    PULL_RESTARTS = "selvedge_pull_restarts_total", Counter, Count, "Consumers started anew after missing heartbeats, by stream.";
    PULL_STUCK = "selvedge_pull_stuck_total", Counter, Count, "Deliveries that nobody acknowledged and that were asked for again, by stream.";
    NATS_RECONNECTS = "selvedge_nats_reconnects_total", Counter, Count, "Connections to NATS made again.";
    NATS_SLOW_CONSUMER = "selvedge_nats_slow_consumer_total", Counter, Count, "Times messages were dropped because we were slow.";
}

/// Tells the recorder in use what each metric means. Call it after installing one.
pub fn describe() {
    for metric in ALL {
        let (name, unit, help) = (metric.name, metric.unit, metric.help);
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(name, unit, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, unit, help),
            MetricKind::Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_kind_and_unit() {
        let mut seen = std::collections::HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is there twice");
            assert!(name.starts_with("selvedge_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), metric.unit == Unit::Seconds, "{name}");
            assert_eq!(
                name.trim_end_matches("_total").ends_with("_bytes"),
                metric.unit == Unit::Bytes,
                "{name}"
            );
            assert!(metric.help.ends_with('.'), "{name}");
        }
    }
}
