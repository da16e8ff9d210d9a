//! What running attempts report, one by one or several in one message.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::version;
use crate::{
    task::{AgentName, InstanceId, Outcome, Spec, TaskId, TaskKey, TenantName, Token},
    wire::{VERSION, codec, history::Step},
};

/// `sv.report.<tenant>.<task>`: what a running attempt tells the coordinator, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// The lease.
    pub token: Token,
    /// The attempt the lease is for.
    pub attempt: u32,
    /// Who runs it.
    pub agent: AgentName,
    /// Which process.
    pub instance: InstanceId,
    /// 1, 2, … per lease.
    pub n: u32,
    /// What happened.
    pub op: ReportOp,
}

/// Reports in one message, at most.
pub const MAX_REPORTS: usize = 256;

/// `sv.reports.<agent>.<instance>`: what several of an instance's attempts say, in one message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reports {
    /// Protocol version.
    #[serde(default = "version")]
    pub v: u32,
    /// At least one, at most [`MAX_REPORTS`].
    #[serde(deserialize_with = "crate::task::grown")]
    pub reports: Vec<TaskReport>,
}

impl Reports {
    /// The message of reports that are encoded already, each a [`TaskReport`] in MessagePack; at least one, at most
    /// [`MAX_REPORTS`]. The same bytes as encoding them anew.
    pub fn of_encoded(each: &[Bytes]) -> Bytes {
        let length: usize = each.iter().map(Bytes::len).sum();
        let mut out = Vec::with_capacity(length + 16);
        // A map of two: "v", a small number, and "reports", an array.
        out.extend_from_slice(b"\x82\xa1v");
        codec::pack_into(&VERSION, &mut out);
        out.extend_from_slice(b"\xa7reports");
        match each.len() {
            n if n < 16 => out.push(0x90 | n as u8),
            n => {
                out.push(0xdc);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
        }
        each.iter().for_each(|report| out.extend_from_slice(report));
        out.into()
    }
}

/// One of them. It names its task as the offer did, and counts only with that task's token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Whose task.
    pub tenant: TenantName,
    /// Which task.
    pub task: TaskId,
    /// The lease.
    pub token: Token,
    /// The attempt the lease is for.
    pub attempt: u32,
    /// 1, 2, … per lease.
    pub n: u32,
    /// What happened.
    pub op: ReportOp,
}

impl TaskReport {
    /// As if it had come alone.
    pub fn of(self, v: u32, agent: AgentName, instance: InstanceId) -> (TaskKey, Report) {
        let TaskReport { tenant, task, token, attempt, n, op } = self;
        (TaskKey { tenant, id: task }, Report { v, token, attempt, agent, instance, n, op })
    }
}

/// The content of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportOp {
    /// Children to create or adopt.
    Spawn(Spawn),
    /// What the handler did at one of its places, to be told when it runs again.
    Step(Step),
    /// The attempt is over.
    End(End),
}

/// Children of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spawn {
    /// Names the place in the handler; with the index it decides the child's id.
    pub step: String,
    /// Index of the first child.
    #[serde(default)]
    pub first: u32,
    /// In order of index.
    #[serde(deserialize_with = "crate::task::grown")]
    pub children: Vec<Spec>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Number of the attempt's last event, 0 if none: watchers know when they have seen all.
    #[serde(default)]
    pub last_event: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Cells the attempt used; absent: as many as were set aside for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_put_together_encoded_are_the_message_of_these_reports() {
        for n in [1, 15, 16, MAX_REPORTS] {
            let one = |n: usize| TaskReport {
                tenant: "acme".parse().unwrap(),
                task: format!("t-{n}").parse().unwrap(),
                token: Token(n as u128),
                attempt: 1,
                n: n as u32,
                op: ReportOp::End(End {
                    last_event: 0,
                    outcome: Outcome::Snooze { ms: n as u64 },
                    used: None,
                }),
            };
            let reports: Vec<_> = (0..n).map(one).collect();
            let encoded: Vec<_> = reports.iter().map(codec::pack).collect();
            assert_eq!(Reports::of_encoded(&encoded), codec::pack(&Reports { v: VERSION, reports }));
        }
    }
}
