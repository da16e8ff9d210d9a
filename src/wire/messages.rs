//! The messages of a task's way. Unknown fields are skipped, missing optional ones defaulted.
//!
//! Tenant, agent, task and instance come from the subject, never from a body; but what an owner tells an instance, and an
//! instance reports of several tasks at once, names the tasks, each with the secret of its lease.

mod events;
mod instances;
mod reports;
mod requests;

pub use self::{
    events::{Done, Event, MAX_EVENT_BYTES, MAX_HINT_RESULT},
    instances::{
        Accept, Beat, BeatReply, Ctl, CtlOp, DEFAULT_LEASE_MS, Offer, Offers, OwnerHello, RefusedChild,
        Verdict,
    },
    reports::{End, MAX_REPORTS, Report, ReportOp, Reports, Spawn, TaskReport},
    requests::{Cmd, CmdOp, MAX_SUBMITS, Submit, Submits, TaskSubmit},
};
use super::VERSION;

fn version() -> u32 {
    VERSION
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
