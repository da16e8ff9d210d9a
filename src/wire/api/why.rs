//! `why`: what holds a task back, in a closed set of reasons, each with its numbers.

use serde::{Deserialize, Serialize};

use crate::task::{AgentName, InstanceId, Millis, Phase, TaskId, TenantName};

/// `why`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyRequest {
    /// Which task.
    pub task: TaskId,
}

/// Answer to `why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Whose.
    pub tenant: TenantName,
    /// Which.
    pub task: TaskId,
    /// Who is to run it.
    pub agent: AgentName,
    /// Where it is.
    pub state: Phase,
    /// What holds it back, all of it: what stands first has to change first. At least one.
    #[serde(deserialize_with = "crate::task::grown")]
    pub reasons: Vec<Hold>,
    /// Children it waits for, at most ten of them.
    #[serde(deserialize_with = "crate::task::grown", default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<TaskId>,
    /// Runs on, or is offered to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Of a running one: since when, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Millis>,
    /// Expires at this time unless it is over, or has started, by then: Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// When the owner said so, Unix milliseconds.
    pub at: Millis,
}

/// One rule or resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// Which.
    pub reason: Reason,
    /// For people, with the numbers.
    pub message: String,
    /// What is allowed or needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<u64>,
    /// When it lets the task pass at the earliest, Unix milliseconds; absent: nobody can know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal;)*) => {
        /// Why a task is where it is. Each has its line in `docs/protocol.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A reason of a newer version.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl Reason {
            /// Every reason this version can give.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown => "unknown",
                }
            }
        }
    };
}

reasons! {
    /// An operator has paused everything.
    AllPaused = "all_paused";
    /// An operator has paused the tenant, or its plan.
    TenantPaused = "tenant_paused";
    /// An operator has paused the agent.
    AgentPaused = "agent_paused";
    /// Somebody has paused the task's tree.
    TreePaused = "tree_paused";
    /// Its delay is not over, or its time to run has not come.
    NotBefore = "not_before";
    /// A try went wrong; the pause before the next is not over.
    Backoff = "backoff";
    /// Its handler asked to be run again later.
    Snoozed = "snoozed";
    /// It waits for a message or a signal.
    Message = "message";
    /// It waits for children.
    Children = "children";
    /// Live leases of the shard are at their cap.
    ShardInFlight = "shard_in_flight";
    /// Live leases of the tenant are at their cap.
    TenantInFlight = "tenant_in_flight";
    /// Live leases of the tenant at this agent are at their cap.
    TenantAgentInFlight = "tenant_agent_in_flight";
    /// Live leases of the agent are at their cap.
    AgentInFlight = "agent_in_flight";
    /// The tenant has no dispatch left for now.
    TenantRate = "tenant_rate";
    /// The agent has no dispatch left for now.
    AgentRate = "agent_rate";
    /// The tenant lacks the cells that one of its next tasks costs.
    TenantCells = "tenant_cells";
    /// The agent lacks the cells that its next task costs.
    AgentCells = "agent_cells";
    /// No instance of the agent takes work.
    NoInstance = "no_instance";
    /// Every slot of the agent is busy.
    NoFreeSlot = "no_free_slot";
    /// Tasks of the same tenant at the same agent go first.
    OwnTasksFirst = "own_tasks_first";
    /// Tenants that have had less of the agent than their share go first.
    OtherTenantsFirst = "other_tenants_first";
    /// Nothing: it is the next.
    Next = "next";
    /// It is on its way to an instance that has not accepted it yet.
    Offered = "offered";
    /// It runs.
    Running = "running";
    /// It is over.
    Ended = "ended";
}
