//! Arguments of `selvedge bench`, and of the agent process it starts.

use clap::{Args, ValueEnum};

use crate::cli::dev::ServerArgs;
use crate::task::TenantName;

/// Arguments of `bench`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  selvedge bench throughput
  selvedge bench latency --runs 5
  selvedge bench all --json > figures.jsonl
  selvedge bench all --quick                    (a minute; sizes too small to judge by)

Starts NATS, Redis, a coordinator and an agent of its own, on loopback, in a temporary directory,
and removes them again. References (a bare loop of the same shape, or bare requests) run in turn
with the fabric. Targets are judged in a full run of a release build; otherwise they are only
shown. Ends with 1 if one is missed.")]
pub struct BenchArgs {
    /// What to measure
    pub case: Case,

    /// How often; the median is shown, with the smallest and the largest
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub runs: u16,

    /// Part of the full sizes and times to run with
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = share)]
    pub scale: f64,

    /// The same as --scale 0.01 --runs 1
    #[arg(long, conflicts_with_all = ["runs", "scale"])]
    pub quick: bool,

    /// Which servers.
    #[command(flatten)]
    pub servers: ServerArgs,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// All of the following
    All,
    /// 100,000 tasks as fast as they go, in a window and one by one, until the index shows their ends
    Throughput,
    /// From a task's due time to its start and to its end being seen, at 200 and 1,000 tasks a second
    Latency,
    /// 1,000,000 tasks queued: what the coordinator holds for them, and whether another tenant notices
    Memory,
    /// 1,000,000 tasks queued: from the start of a coordinator's process to its first offer
    Start,
    /// Ten times as much as it can run, for a minute: what is bounded, what is refused, how soon it is over
    Overload,
    /// 2,000,000 tasks at full speed: sizes at the end beside those after a tenth
    Soak,
    /// The 10 newest of 1,000, 100,000 and 1,000,000 tasks
    List,
    /// What a task costs as there are more tenants, slots, instances and tasks waiting
    Growth,
    /// 20 tasks of one tenant behind 5,000 of another, behind 200,000, and among 1,000 flooding tenants
    Noisy,
    /// What tenants of weights 1, 2 and 4 get of the slots when all have more than they can run
    Weights,
    /// Throughput with every limit set, none of which binds, beside none set
    Limits,
    /// 10,000 tenants with 10 queued tasks each, beside one tenant with all of them
    Tenants,
    /// Everything paused while 200 instances are at work: what still starts, and when the last one is told
    Pause,
    /// A page of 10 from 1,000 to 1,000,000 tasks, read and kept, beside bare requests and fetching 200
    Query,
    /// 4,000 lists a second while tasks run at full speed, beside burning as much CPU
    Pollers,
    /// From a call to the first part of its answer, beside a bare request; 100 answers at once
    Call,
    /// From a message being told to a running handler having it, beside a task's submit and its start
    Tell,
    /// From the last child's end to its parent running again, and back behind 1,000 recorded steps
    Resume,
    /// Messages that a trigger makes tasks of, beside plain submits, and over a kill of the owner
    Trigger,
    /// Events into Redis beside a bare loop, and from being emitted to a watcher
    Events,
    /// 1,000,000 tasks of 10 events through a retention of 10,000: memory of Redis at the end
    Retention,
    /// 500,000 tasks in the index, and Redis forgets everything: how fast it is whole again
    Rebuild,
}

impl Case {
    /// The cases, in the order they are run.
    pub const EACH: [Case; 22] = [
        Case::Throughput,
        Case::Latency,
        Case::Memory,
        Case::Start,
        Case::Overload,
        Case::Soak,
        Case::List,
        Case::Growth,
        Case::Noisy,
        Case::Weights,
        Case::Limits,
        Case::Tenants,
        Case::Pause,
        Case::Query,
        Case::Pollers,
        Case::Call,
        Case::Tell,
        Case::Resume,
        Case::Trigger,
        Case::Events,
        Case::Retention,
        Case::Rebuild,
    ];

    /// As it is called on the command line and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Case::All => "all",
            Case::Throughput => "throughput",
            Case::Latency => "latency",
            Case::Memory => "memory",
            Case::Start => "start",
            Case::Overload => "overload",
            Case::Soak => "soak",
            Case::List => "list",
            Case::Growth => "growth",
            Case::Noisy => "noisy",
            Case::Weights => "weights",
            Case::Limits => "limits",
            Case::Tenants => "tenants",
            Case::Pause => "pause",
            Case::Query => "query",
            Case::Pollers => "pollers",
            Case::Call => "call",
            Case::Tell => "tell",
            Case::Resume => "resume",
            Case::Trigger => "trigger",
            Case::Events => "events",
            Case::Retention => "retention",
            Case::Rebuild => "rebuild",
        }
    }
}

impl BenchArgs {
    /// With `--quick` spelled out.
    pub fn resolved(mut self) -> BenchArgs {
        if self.quick {
            (self.runs, self.scale) = (1, 0.01);
        }
        self
    }

    /// A full size at this scale, but never below `least`.
    pub fn scaled(&self, full: u64, least: u64) -> u64 {
        ((full as f64 * self.scale).round() as u64).max(least.min(full))
    }

    /// Whether the sizes are those the targets are meant for.
    pub fn is_full(&self) -> bool {
        self.scale >= 1.0 && !cfg!(debug_assertions)
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("expected a number above 0, at most 1".to_owned()),
    }
}

/// Arguments of the hidden `bench-agent`.
#[derive(Debug, Clone, Args)]
pub struct BenchAgentArgs {
    /// Which agent
    pub name: String,

    /// Tasks it runs at once
    #[arg(long, default_value_t = 256)]
    pub slots: u32,

    /// Instances of it in this process
    #[arg(long, default_value_t = 1)]
    pub instances: u32,

    /// What its handler does
    #[arg(long, value_enum, default_value_t = Work::None)]
    pub work: Work,

    /// Events each task emits
    #[arg(long, default_value_t = 0)]
    pub events: u32,
}

/// Arguments of the hidden `bench-reference`.
#[derive(Debug, Clone, Args)]
pub struct BenchReferenceArgs {
    /// Bytes of a bare answer
    #[arg(long)]
    pub bytes: usize,

    /// Whose tasks it reads; without, it reads none
    #[arg(long)]
    pub tenant: Option<TenantName>,
}

/// What the handler of the measured agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// It says when it was called
    None,
    /// It takes as long as its input says, and tells when
    Timed,
    /// It answers with as many parts as its input says
    Stream,
    /// It takes as many messages as its input says, and tells when
    Listen,
    /// It spawns children of the agent that its input names, waits for them, and says when it went on
    Parent,
    /// It takes as many milliseconds as its input says, and says when it ended
    Child,
    /// It records as many steps and waits for as many signals as its input says, and tells when it is behind the steps
    Steps,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_small_and_only_a_full_release_run_is_judged() {
        let args =
            BenchArgs { case: Case::All, runs: 3, scale: 1.0, quick: true, servers: ServerArgs::default() };
        let quick = args.resolved();
        assert_eq!((quick.runs, quick.scaled(100_000, 500), quick.scaled(1_000, 500)), (1, 1_000, 500));
        assert!(!quick.is_full());
        assert!(share("0").is_err() && share("1.5").is_err() && share("0.5").is_ok());
    }
}
