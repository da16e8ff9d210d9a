//! `selvedge bench`: measures the fabric against references that run beside it, and says which targets are missed.
//!
//! ```text
//! case ──▶ rig (NATS, Redis, coordinator, agent: processes of their own) ──▶ load, through the client SDK
//!    │──▶ floor (a bare loop of the same shape, on the same servers, in turn with it)
//!    └──▶ figures: median, min and max of all runs ──▶ report (a table, or a line of JSON each)
//! ```
//!
//! One file per case. Nothing here is used by the fabric, and the floor uses nothing of the fabric. It only loads
//! servers that it started itself. What the figures mean is in `docs/performance.md`.

pub mod agent;
pub mod args;
mod call;
mod clock;
mod counters;
mod events;
mod fifo;
mod figure;
mod floor;
mod fold;
mod growth;
mod latency;
mod limits;
mod list;
mod load;
mod memory;
mod noisy;
mod overload;
mod pace;
mod pause;
mod pollers;
mod probes;
mod query;
mod rebuild;
pub mod reference;
mod resume;
mod retention;
mod rig;
mod soak;
mod start;
mod stats;
mod tell;
mod tenants;
mod throughput;
mod trace;
mod trigger;
mod usage;
mod weights;

use std::process::ExitCode;

use anyhow::Result;

use self::args::{BenchArgs, Case};
use self::figure::Report;
use super::context::Ctx;
use super::failure::{Exit, Failure};

/// Sizes are told in millions of bytes.
const MB: f64 = 1e6;

/// One call of the command.
pub(crate) struct Bench {
    args: BenchArgs,
}

/// Runs it.
pub async fn run(args: BenchArgs, ctx: Ctx) -> Result<ExitCode> {
    let bench = Bench { args: args.resolved() };
    let mut report = Report::new(ctx.output, bench.args.is_full());
    if !bench.args.is_full() {
        report.note("Targets are shown, not judged: that takes a full run of a release build.\n")?;
    }
    let cases = match bench.args.case {
        Case::All => &Case::EACH[..],
        ref one => std::slice::from_ref(one),
    };
    for case in cases {
        let ran = tokio::select! {
            ran = bench.measure(*case, &mut report) => ran,
            // Whatever was started ends with what is dropped here.
            () = ctx.stop.cancelled() => return Ok(Exit::Interrupted.into()),
        };
        ran?;
        report.end(case.name())?;
    }
    if report.missed().is_empty() {
        return Ok(Exit::Ok.into());
    }
    Err(Failure::new(Exit::Failed, "TARGET_MISSED", report.missed().join("; "))
        .help("run it again on a quiet machine; docs/performance.md says what the figures mean")
        .into())
}

impl Bench {
    async fn measure(&self, case: Case, report: &mut Report) -> Result<()> {
        match case {
            Case::All => Ok(()),
            Case::Throughput => throughput::run(self, report).await,
            Case::Latency => latency::run(self, report).await,
            Case::Memory => memory::run(self, report).await,
            Case::Start => start::run(self, report).await,
            Case::Overload => overload::run(self, report).await,
            Case::Soak => soak::run(self, report).await,
            Case::List => list::run(self, report).await,
            Case::Growth => growth::run(self, report).await,
            Case::Noisy => noisy::run(self, report).await,
            Case::Weights => weights::run(self, report).await,
            Case::Limits => limits::run(self, report).await,
            Case::Tenants => tenants::run(self, report).await,
            Case::Pause => pause::run(self, report).await,
            Case::Query => query::run(self, report).await,
            Case::Pollers => pollers::run(self, report).await,
            Case::Call => call::run(self, report).await,
            Case::Tell => tell::run(self, report).await,
            Case::Resume => resume::run(self, report).await,
            Case::Trigger => trigger::run(self, report).await,
            Case::Events => events::run(self, report).await,
            Case::Retention => retention::run(self, report).await,
            Case::Rebuild => rebuild::run(self, report).await,
        }
    }
}
