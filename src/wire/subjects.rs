//! Every subject, built and parsed side by side. Nothing else in the crate spells one.
//!
//! ```text
//! INTAKE   sv.submit.<tenant>.<agent>.<task>      sv.cmd.<tenant>.<task>.<nonce>   sv.submits.<tenant>
//! REPORTS  sv.report.<tenant>.<task>              sv.reports.<agent>.<instance>
//! JOURNAL  sv.journal.<shard>
//! SNAPSHOTS  sv.snapshot.<shard>.<rev>.<n>   sv.snapshot.<shard>.<rev>.manifest
//! ARCHIVE  sv.archive.<shard>
//! RESULTS  sv.result.<tenant>.<task>
//! STEPS    sv.step.<tenant>.<task>.<hash>.<chunk>
//! EVENTS   sv.event.<tenant>.<task>
//! TOPICS   sv.topic.<tenant>.<topic>              a topic is one to eight names
//! core     sv.beat.<agent>.<instance>    sv.accept.<agent>.<instance>
//!          sv.offer.<agent>.<instance>   sv.ctl.<agent>.<instance>
//!          sv.call.<tenant>.<agent>      sv.subcall.<tenant>.<agent>
//!          sv.owner.<shard>   sv.ask.<shard>   sv.done.<tenant>.<task>   sv.api.<tenant>.<verb>
//! ```

use crate::task::{
    AgentName, InstanceId, NameError, ObjectHash, TaskId, TaskKey, TenantName,
    trigger::topic::{Topic, TopicFilter},
};

/// Which part of the keyspace a coordinator owns. One shard exists for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u16);

/// Stream filter for submits.
pub const SUBMIT_ALL: &str = "sv.submit.*.*.*";
/// Stream filter for submits of several tasks in one message.
pub const SUBMITS_ALL: &str = "sv.submits.*";
/// Stream filter for commands.
pub const CMD_ALL: &str = "sv.cmd.*.*.*";
/// Stream filter for reports.
pub const REPORT_ALL: &str = "sv.report.*.*";
/// Stream filter for reports of several tasks in one message.
pub const REPORTS_ALL: &str = "sv.reports.*.*";
/// Stream filter for the journal.
pub const JOURNAL_ALL: &str = "sv.journal.*";
/// Stream filter for snapshots.
pub const SNAPSHOT_ALL: &str = "sv.snapshot.*.*.*";
/// Stream filter for the archive.
pub const ARCHIVE_ALL: &str = "sv.archive.*";
/// Stream filter for large results.
pub const RESULT_ALL: &str = "sv.result.*.*";
/// Stream filter for large results of steps.
pub const STEP_ALL: &str = "sv.step.*.*.*.*";
/// Stream filter for events.
pub const EVENT_ALL: &str = "sv.event.*.*";
/// Stream filter for topics.
pub const TOPIC_ALL: &str = "sv.topic.*.>";
/// What every heartbeat's subject starts with.
pub const BEAT_PREFIX: &str = "sv.beat.";
/// Every heartbeat.
pub const BEAT_ALL: &str = "sv.beat.*.*";
/// Every acceptance.
pub const ACCEPT_ALL: &str = "sv.accept.*.*";
/// Every call from outside.
pub const CALL_ALL: &str = "sv.call.*.*";
/// Every call by a handler.
pub const SUBCALL_ALL: &str = "sv.subcall.*.*";
/// Every owner's announcement.
pub const OWNER_ALL: &str = "sv.owner.*";
/// Every query.
pub const API_ALL: &str = "sv.api.*.*";

/// Where a task is submitted.
pub fn submit(tenant: &TenantName, agent: &AgentName, task: &TaskId) -> String {
    ["sv.submit.", tenant.as_str(), ".", agent.as_str(), ".", task.as_str()].concat()
}

/// Where several tasks of a tenant are submitted at once.
pub fn submits(tenant: &TenantName) -> String {
    format!("sv.submits.{tenant}")
}

/// Where a command to a task goes; the nonce makes a repeat recognisable.
pub fn cmd(tenant: &TenantName, task: &TaskId, nonce: &TaskId) -> String {
    format!("sv.cmd.{tenant}.{task}.{nonce}")
}

/// Where a running task reports.
pub fn report(tenant: &TenantName, task: &TaskId) -> String {
    ["sv.report.", tenant.as_str(), ".", task.as_str()].concat()
}

/// Where an instance reports for several running tasks at once.
pub fn reports(agent: &AgentName, instance: &InstanceId) -> String {
    format!("sv.reports.{agent}.{instance}")
}

/// The journal of a shard.
pub fn journal(shard: Shard) -> String {
    format!("sv.journal.{}", shard.0)
}

/// Where a chunk of the snapshot at a revision is kept; `n` counts from 1.
pub fn snapshot_chunk(shard: Shard, rev: u64, n: u32) -> String {
    format!("sv.snapshot.{}.{rev}.{n}", shard.0)
}

/// Where the manifest of the snapshot at a revision is kept: without it the chunks are no snapshot.
pub fn snapshot_manifest(shard: Shard, rev: u64) -> String {
    format!("sv.snapshot.{}.{rev}.manifest", shard.0)
}

/// Every manifest of a shard.
pub fn snapshot_manifests(shard: Shard) -> String {
    format!("sv.snapshot.{}.*.manifest", shard.0)
}

/// Everything of the snapshot at a revision.
pub fn snapshot(shard: Shard, rev: u64) -> String {
    format!("sv.snapshot.{}.{rev}.*", shard.0)
}

/// Everything of a shard's snapshots.
pub fn snapshots(shard: Shard) -> String {
    format!("sv.snapshot.{}.*.*", shard.0)
}

/// The revision a snapshot's subject names.
pub fn snapshot_rev(subject: &str) -> Option<u64> {
    let mut tokens = subject.strip_prefix("sv.snapshot.")?.split('.').skip(1);
    tokens.next()?.parse().ok()
}

/// Where a shard's ended tasks are kept.
pub fn archive(shard: Shard) -> String {
    format!("sv.archive.{}", shard.0)
}

/// Where a task's result is kept that is too large for the index.
pub fn result(tenant: &TenantName, task: &TaskId) -> String {
    format!("sv.result.{tenant}.{task}")
}

/// Where a chunk of a step's large result is kept; `chunk` counts from 0.
pub fn step_chunk(tenant: &TenantName, task: &TaskId, hash: &ObjectHash, chunk: u32) -> String {
    format!("sv.step.{tenant}.{task}.{hash}.{chunk}")
}

/// Everything that is kept of a task's steps.
pub fn steps_of_task(task: &TaskKey) -> String {
    format!("sv.step.{}.{}.*.*", task.tenant, task.id)
}

/// The task in `sv.step.<tenant>.<task>.<hash>.<chunk>`; `None` for what names none.
pub fn step_task(subject: &str) -> Option<TaskKey> {
    let mut tokens = subject.strip_prefix("sv.step.")?.split('.');
    key(tokens.next()?, tokens.next()?).ok()
}

/// Where a running task emits events.
pub fn event(tenant: &TenantName, task: &TaskId) -> String {
    format!("sv.event.{tenant}.{task}")
}

/// Where a message about a topic is published.
pub fn topic(tenant: &TenantName, topic: &Topic) -> String {
    format!("sv.topic.{tenant}.{topic}")
}

/// What a tenant publishes about some topics.
pub fn topics(tenant: &TenantName, filter: &TopicFilter) -> String {
    format!("sv.topic.{tenant}.{filter}")
}

/// The topic in `sv.topic.<tenant>.<topic>`; `None` for what is no topic.
pub fn topic_of(subject: &str) -> Option<&str> {
    subject.strip_prefix("sv.topic.")?.split_once('.').map(|(_, topic)| topic)
}

/// Where an instance says that it lives.
pub fn beat(agent: &AgentName, instance: &InstanceId) -> String {
    format!("sv.beat.{agent}.{instance}")
}

/// Where an instance accepts offers.
pub fn accept(agent: &AgentName, instance: &InstanceId) -> String {
    format!("sv.accept.{agent}.{instance}")
}

/// What all instances of an agent are offered.
pub fn offers_of_agent(agent: &AgentName) -> String {
    format!("sv.offer.{agent}.*")
}

/// What all instances of an agent are told.
pub fn ctl_of_agent(agent: &AgentName) -> String {
    format!("sv.ctl.{agent}.*")
}

/// Where an instance is offered tasks.
pub fn offer(agent: &AgentName, instance: &InstanceId) -> String {
    format!("sv.offer.{agent}.{instance}")
}

/// Where an instance hears verdicts and stops.
pub fn ctl(agent: &AgentName, instance: &InstanceId) -> String {
    format!("sv.ctl.{agent}.{instance}")
}

/// Where an agent is called from outside.
pub fn call(tenant: &TenantName, agent: &AgentName) -> String {
    ["sv.call.", tenant.as_str(), ".", agent.as_str()].concat()
}

/// Where a handler calls another agent, or its own.
pub fn subcall(tenant: &TenantName, agent: &AgentName) -> String {
    ["sv.subcall.", tenant.as_str(), ".", agent.as_str()].concat()
}

/// Where a new owner announces its epoch.
pub fn owner(shard: Shard) -> String {
    format!("sv.owner.{}", shard.0)
}

/// Where other coordinators ask the owner what only it can say.
pub fn ask(shard: Shard) -> String {
    format!("sv.ask.{}", shard.0)
}

/// Where the end of a task is hinted at.
pub fn done(tenant: &TenantName, task: &TaskId) -> String {
    ["sv.done.", tenant.as_str(), ".", task.as_str()].concat()
}

/// The events of a tenant's tasks.
pub fn events_of_tenant(tenant: &TenantName) -> String {
    format!("sv.event.{tenant}.*")
}

/// Every end of a tenant's tasks.
pub fn done_of_tenant(tenant: &TenantName) -> String {
    format!("sv.done.{tenant}.*")
}

/// Where queries go.
pub fn api(tenant: &TenantName, verb: &str) -> String {
    format!("sv.api.{tenant}.{verb}")
}

/// Whether a request may be answered to this reply subject. It decides where *we* publish, with our
/// rights: `sv.` is work and decisions, `$` is the server's, so a request that names one of those
/// wants a message forged.
pub fn may_answer(reply: &str) -> bool {
    !reply.starts_with("sv.") && !reply.starts_with('$')
}

/// Where every tenant's queries of one verb go.
pub fn api_of_all(verb: &str) -> String {
    format!("sv.api.*.{verb}")
}

/// A subject that is none of ours, or holds a bad name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The tokens don't match.
    #[error("the subject is not of the form {expected}")]
    Shape {
        /// The form.
        expected: &'static str,
    },
    /// A token is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What an INTAKE subject says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake {
    /// A submit of this task for this agent.
    Submit(TaskKey, AgentName),
    /// Submits of several tasks of this tenant.
    Submits(TenantName),
    /// A command to this task, with its nonce.
    Cmd(TaskKey, TaskId),
}

/// Parses `sv.submit.…`, `sv.submits.…` and `sv.cmd.…`.
pub fn parse_intake(subject: &str) -> Result<Intake, SubjectError> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["sv", "submit", tenant, agent, task] => {
            Ok(Intake::Submit(key(tenant, task)?, AgentName::new(agent)?))
        }
        ["sv", "submits", tenant] => Ok(Intake::Submits(TenantName::new(tenant)?)),
        ["sv", "cmd", tenant, task, nonce] => Ok(Intake::Cmd(key(tenant, task)?, TaskId::new(nonce)?)),
        _ => Err(SubjectError::Shape {
            expected: "sv.submit.<tenant>.<agent>.<task>, sv.submits.<tenant> or sv.cmd.<tenant>.<task>.<nonce>",
        }),
    }
}

/// What a REPORTS subject says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reported {
    /// One report of this task.
    Task(TaskKey),
    /// Reports of several tasks that this instance runs.
    Instance(AgentName, InstanceId),
}

/// Parses `sv.report.…` and `sv.reports.…`.
pub fn parse_report(subject: &str) -> Result<Reported, SubjectError> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["sv", "report", tenant, task] => Ok(Reported::Task(key(tenant, task)?)),
        ["sv", "reports", agent, instance] => {
            Ok(Reported::Instance(AgentName::new(agent)?, InstanceId::new(instance)?))
        }
        _ => Err(SubjectError::Shape {
            expected: "sv.report.<tenant>.<task> or sv.reports.<agent>.<instance>",
        }),
    }
}

/// Parses `sv.event.<tenant>.<task>`.
pub fn parse_event(subject: &str) -> Result<TaskKey, SubjectError> {
    parse_task(subject, "event", "sv.event.<tenant>.<task>")
}

/// Parses `sv.done.<tenant>.<task>`.
pub fn parse_done(subject: &str) -> Result<TaskKey, SubjectError> {
    parse_task(subject, "done", "sv.done.<tenant>.<task>")
}

fn parse_task(subject: &str, kind: &str, expected: &'static str) -> Result<TaskKey, SubjectError> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["sv", k, tenant, task] if *k == kind => key(tenant, task),
        _ => Err(SubjectError::Shape { expected }),
    }
}

/// Parses `sv.beat.<agent>.<instance>` and `sv.accept.<agent>.<instance>`.
pub fn parse_instance(subject: &str) -> Result<(AgentName, InstanceId), SubjectError> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["sv", "beat" | "accept" | "offer" | "ctl", agent, instance] => {
            Ok((AgentName::new(agent)?, InstanceId::new(instance)?))
        }
        _ => Err(SubjectError::Shape { expected: "sv.beat.<agent>.<instance>" }),
    }
}

/// Whom a call is for, and whether a handler makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Whose call it is.
    pub tenant: TenantName,
    /// Whom it is for.
    pub agent: AgentName,
    /// It came on `sv.subcall`.
    pub by_handler: bool,
}

/// Parses `sv.call.<tenant>.<agent>` and `sv.subcall.<tenant>.<agent>`.
pub fn parse_call(subject: &str) -> Result<Called, SubjectError> {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens.as_slice() {
        ["sv", kind @ ("call" | "subcall"), tenant, agent] => Ok(Called {
            tenant: TenantName::new(tenant)?,
            agent: AgentName::new(agent)?,
            by_handler: *kind == "subcall",
        }),
        _ => Err(SubjectError::Shape { expected: "sv.call.<tenant>.<agent>" }),
    }
}

/// Parses `sv.api.<tenant>.<verb>`; the verb is not checked.
pub fn parse_api(subject: &str) -> Result<(TenantName, &str), SubjectError> {
    match subject.strip_prefix("sv.api.").and_then(|rest| rest.split_once('.')) {
        Some((tenant, verb)) if !verb.is_empty() && !verb.contains('.') => {
            Ok((TenantName::new(tenant)?, verb))
        }
        _ => Err(SubjectError::Shape { expected: "sv.api.<tenant>.<verb>" }),
    }
}

fn key(tenant: &str, task: &str) -> Result<TaskKey, SubjectError> {
    Ok(TaskKey { tenant: TenantName::new(tenant)?, id: TaskId::new(task)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_parses_back() {
        let tenant = TenantName::new("acme").unwrap();
        let agent = AgentName::new("reader").unwrap();
        let task = TaskId::new("t-1").unwrap();
        let key = TaskKey { tenant: tenant.clone(), id: task.clone() };
        let instance = InstanceId::fresh();
        assert_eq!(
            parse_intake(&submit(&tenant, &agent, &task)),
            Ok(Intake::Submit(key.clone(), agent.clone()))
        );
        assert_eq!(parse_intake(&submits(&tenant)), Ok(Intake::Submits(tenant.clone())));
        assert_eq!(parse_intake(&cmd(&tenant, &task, &task)), Ok(Intake::Cmd(key.clone(), task.clone())));
        assert_eq!(parse_report(&report(&tenant, &task)), Ok(Reported::Task(key.clone())));
        assert_eq!(
            parse_report(&reports(&agent, &instance)),
            Ok(Reported::Instance(agent.clone(), instance.clone()))
        );
        assert_eq!(parse_event(&event(&tenant, &task)), Ok(key.clone()));
        assert_eq!(parse_done(&done(&tenant, &task)), Ok(key));
        for by_handler in [false, true] {
            let subject = if by_handler { subcall(&tenant, &agent) } else { call(&tenant, &agent) };
            let (tenant, agent) = (tenant.clone(), agent.clone());
            assert_eq!(parse_call(&subject), Ok(Called { tenant, agent, by_handler }));
        }
        let about = Topic::new("docs.new").unwrap();
        assert_eq!(topic_of(&topic(&tenant, &about)), Some("docs.new"));
        assert_eq!(topic_of("orders.new"), None);
        assert_eq!(parse_instance(&beat(&agent, &instance)), Ok((agent, instance)));
        assert_eq!(parse_api(&api(&tenant, "get")), Ok((tenant, "get")));
        for subject in [snapshot_chunk(Shard(2), 17, 3), snapshot_manifest(Shard(2), 17)] {
            assert_eq!(snapshot_rev(&subject), Some(17));
        }
        assert_eq!(snapshot_rev("sv.snapshot.2"), None);
    }

    #[test]
    fn an_answer_never_goes_to_a_subject_of_ours_or_the_servers() {
        assert!(may_answer("_INBOX_acme.x.1"));
        assert!(!may_answer("sv.submit.globex.reader.x"));
        assert!(!may_answer("sv.journal.0"));
        assert!(!may_answer("$JS.API.STREAM.DELETE.JOURNAL"));
    }

    #[test]
    fn wildcards_and_extra_tokens_are_no_names() {
        for bad in [
            "sv.submit.*.reader.t",
            "sv.submit.a.b.>",
            "sv.submit.a.b",
            "sv.submit.a.b.c.d",
            "x.submit.a.b.c",
        ] {
            assert!(parse_intake(bad).is_err(), "{bad}");
        }
    }
}
